"""The check of lesson 23."""

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

LENGTHS = (6, 2, 4, 3)


def reader():
    return gl.LSTM(3, 5, dtype="float64", rng=23)


def sentences(lengths=LENGTHS):
    rng = np.random.default_rng(23)
    return [rng.normal(size=(length, 3)) for length in lengths]


def alone(lstm, sentences):
    """Each sentence read by itself: (sentences, hidden)."""
    return np.array([lstm(sentence[:, None])[0][-1, 0] for sentence in sentences])


def padded(sentences, front=False):
    steps = max(map(len, sentences))
    x = np.zeros((steps, len(sentences), sentences[0].shape[1]))
    for n, sentence in enumerate(sentences):
        start = steps - len(sentence) if front else 0
        x[start : start + len(sentence), n] = sentence
    return x


@exercise("23.read-batch")
def read_batch(read_batch: Function()):
    """The hidden state of each sentence at its own last word, whatever the others' lengths."""
    lstm, given = reader(), sentences()
    found, wanted = read_batch(lstm, given), alone(reader(), sentences())
    if isinstance(found, tuple):
        yield look("That is a pair. Return one array, (sentences, hidden).")
        return
    shape = np.shape(found)
    if shape == (len(given), len(given), 5):
        yield look(
            "y[lengths - 1] takes whole rows, all sentences at each place. Say which sentence goes with which place."
        )
        return
    if shape == (1, len(given), 5):
        yield look("state.h has one axis more, for the layers, and here is one layer: which index takes it away?")
        return
    yield must(same("The shape", shape, wanted.shape, "One hidden state for each sentence: (sentences, hidden)."))
    y = lstm(padded(given))[0]
    steps = np.array([len(one) for one in given])
    mistakes = [
        (y[-1], "The short sentences were read on through their padding, and the zeros have changed their state."),
        (lstm(padded(given, front=True))[0][-1], "The padding stands in front, and is read before the first word."),
        (y.mean(axis=0), "That is a mean over all places, padding included. Asked for is the state at the last word."),
        (y[steps - 2, range(len(steps))], "That is the word before the last one."),
        (y[0], "That is the state at the first word."),
        (lstm(padded(given), lengths=steps)[1].c[0], "That is the cell state c. The hidden state is h."),
        (lstm(padded(given)[: min(steps)])[0][-1], "All were cut to the length of the shortest one."),
        (wanted[np.argsort(steps)], "The sentences came back in another order: sorted by length."),
        (wanted[np.argsort(-steps)], "The sentences came back in another order: sorted by length."),
    ]
    for wrong, words in mistakes:
        if close(found, wrong):
            yield look(f"It is not right yet. {words}")
            return
    values = np.asarray(found, dtype=float)
    if not values[1:].any():
        yield look(
            "The short ones are all zeros: with lengths, y is zero behind a sentence's end. Where is its last word?"
        )
        return
    yield must(same("The batch of four", found, wanted, "Each should be as if it had been read alone."))
    longer = [*sentences(), np.ones((20, 3))]
    with_longer = np.asarray(read_batch(reader(), longer))
    hint = "The same four sentences, and a fifth one of 20 words, which makes more padding."
    yield must(same("Beside a long sentence, each of them", with_longer[:4], wanted, hint))
    single = sentences((3,))
    yield must(same("One sentence alone", read_batch(reader(), single), alone(reader(), single)))
    yield ok("No result depends on the padding.")


def states(x, lengths, lstm):
    return lstm(x, lengths=lengths)[1].h[0]


def counted(sentences):
    return np.array([len(sentence) for sentence in sentences])


@read_batch.right
def by_lengths():
    return answers(lambda lstm, sentences: states(padded(sentences), counted(sentences), lstm))


@read_batch.right
def by_picking():
    def read(lstm, sentences):
        return lstm(padded(sentences))[0][counted(sentences) - 1, np.arange(len(sentences))]

    return answers(read)


@read_batch.right
def one_by_one():
    return answers(alone)


@read_batch.wrong("the exercise as it stands", says="read on through their padding")
def last_row():
    return answers(lambda lstm, sentences: lstm(padded(sentences))[0][-1])


@read_batch.wrong("the last row, with lengths", says="zero behind a sentence's end")
def last_row_with_lengths():
    def read(lstm, sentences):
        return lstm(padded(sentences), lengths=counted(sentences))[0][-1]

    return answers(read)


@read_batch.wrong("an index too few", says="Say which sentence")
def whole_rows():
    return answers(lambda lstm, sentences: lstm(padded(sentences))[0][counted(sentences) - 1])


@read_batch.wrong("padding in front", says="stands in front")
def in_front():
    return answers(lambda lstm, sentences: lstm(padded(sentences, front=True))[0][-1])


@read_batch.wrong("the mean", says="a mean over all places")
def mean():
    return answers(lambda lstm, sentences: lstm(padded(sentences))[0].mean(axis=0))


@read_batch.wrong("off by one", says="word before the last")
def off_by_one():
    def read(lstm, sentences):
        return lstm(padded(sentences))[0][counted(sentences) - 2, np.arange(len(sentences))]

    return answers(read)


@read_batch.wrong("cut", says="cut to the length")
def cut():
    return answers(lambda lstm, sentences: lstm(padded(sentences)[: counted(sentences).min()])[0][-1])


@read_batch.wrong("the cell state", says="That is the cell state")
def cell_state():
    return answers(lambda lstm, sentences: lstm(padded(sentences), lengths=counted(sentences))[1].c[0])


@read_batch.wrong("all layers", says="one axis more")
def all_layers():
    return answers(lambda lstm, sentences: lstm(padded(sentences), lengths=counted(sentences))[1].h)


@read_batch.wrong("sorted", says="in another order")
def by_length():
    return answers(lambda lstm, sentences: alone(lstm, sorted(sentences, key=len, reverse=True)))


@read_batch.wrong("a fixed number of steps", says="which makes more padding")
def fixed():
    def read(lstm, sentences):
        return alone(lstm, [sentence[:6] for sentence in sentences]) if len(sentences) < 5 else mean_of(lstm, sentences)

    def mean_of(lstm, sentences):
        return lstm(padded(sentences))[0][5]

    return answers(read)


@read_batch.wrong("the state as well", says="That is a pair")
def with_state():
    return answers(lambda lstm, sentences: lstm(padded(sentences), lengths=counted(sentences)))
