"""The checks of lesson 18."""

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

# ---- 18.from-the-end ----


def pair():
    """An LSTM, one with the same weights that reads from the end, and an input whose three sizes all differ."""
    forward = gl.LSTM(3, 2, dtype="float64", rng=18)
    backward = gl.LSTM(3, 2, dtype="float64", reverse=True, rng=18)
    return forward, backward, np.random.default_rng(18).normal(size=(5, 4, 3))


@exercise("18.from-the-end")
def from_the_end(from_the_end: Function()):
    """A forward LSTM made to read from the end, its outputs in the order of time."""
    forward, backward, x = pair()
    wanted = backward(x)[0]
    found = from_the_end(forward, x)
    if isinstance(found, tuple):
        yield look("That is a pair: an LSTM returns (y, state). Return y alone.")
        return
    mistakes = [
        (forward(x)[0], "That is the forward pass: along the first axis, which is time, nothing was turned round."),
        (
            wanted[::-1],
            "The words went in from the end. Now the outputs stand in the order of reading: y[0] is coffee's.",
        ),
        (forward(x)[0][::-1], "The words went in forwards, and only the outputs were turned round."),
        (forward(x[:, ::-1])[0], "The axis that was turned is the batch. Time is the first one."),
        (forward(x[:, :, ::-1])[0], "The axis that was turned is that of the features. Time is the first one."),
    ]
    for wrong, words in mistakes:
        if close(found, wrong):
            yield look(f"y is not right yet. {words}")
            return
    yield must(same("y", found, wanted, "Turn round what goes in, and turn back what comes out."))
    yield ok("It is what gl.LSTM(..., reverse=True) gives.")


@from_the_end.right
def flip_run_flip():
    return answers(lambda lstm, x: lstm(x[::-1])[0][::-1])


@from_the_end.right
def by_np_flip():
    return answers(lambda lstm, x: np.flip(lstm(np.flip(x, 0))[0], 0))


@from_the_end.wrong("the exercise as it stands", says="forward pass")
def unchanged():
    return answers(lambda lstm, x: lstm(x)[0])


@from_the_end.wrong("not turned back", says="order of reading")
def not_back():
    return answers(lambda lstm, x: lstm(x[::-1])[0])


@from_the_end.wrong("only turned back", says="only the outputs")
def only_back():
    return answers(lambda lstm, x: lstm(x)[0][::-1])


@from_the_end.wrong("the batch turned", says="is the batch")
def batch_turned():
    return answers(lambda lstm, x: lstm(x[:, ::-1])[0])


@from_the_end.wrong("the batch turned there and back", says="nothing was turned round")
def batch_there_and_back():
    return answers(lambda lstm, x: lstm(x[:, ::-1])[0][:, ::-1])


@from_the_end.wrong("the features turned", says="of the features")
def features_turned():
    return answers(lambda lstm, x: lstm(x[:, :, ::-1])[0])


@from_the_end.wrong("everything turned", says="Turn round what goes in")
def all_turned():
    return answers(lambda lstm, x: np.flip(lstm(np.flip(x))[0]))


@from_the_end.wrong("the state, too", says="Return y alone")
def with_state():
    return answers(lambda lstm, x: lstm(x[::-1]))


# ---- 18.flip-each ----

LENGTHS = np.array([6, 2, 1, 5, 0])


def padded():
    """(6, 5, 3) with zeros past each end."""
    x = np.random.default_rng(5).normal(size=(6, 5, 3))
    return x * (np.arange(6)[:, None] < LENGTHS)[:, :, None]


def turned(x, lengths, start=0, step=-1):
    found = x.copy()
    for n, length in enumerate(lengths):
        found[:length, n] = x[start:length, n][::step] if start == 0 else x[:length, n]
    return found


@exercise("18.flip-each")
def flip_each(flip_each: Function()):
    """Each sequence turned round within its own length."""
    x = padded()
    found, wanted = flip_each(x, LENGTHS), turned(x, LENGTHS)
    if close(found, x):
        yield look("Nothing has moved.")
        return
    if close(found, x[::-1]):
        yield look(
            "Everything was turned, the padding too: a short sequence now begins with zeros, and the LSTM reads them."
        )
        return
    yield must(same("The shape, and each sequence", np.shape(found), x.shape, "It has the same shape as x."))
    for n, length in enumerate(LENGTHS):
        mine = np.asarray(found)[:, n]
        if close(mine, wanted[:, n]):
            continue
        what = f"The sequence of length {length}"
        if not close(mine[length:], x[length:, n]):
            yield look(f"{what}: behind its end there should be what was there before, zeros.")
        elif length and close(mine[:length], np.roll(wanted[:length, n], 1, axis=0)):
            yield look(f"{what} is off by one: its last word should come first.")
        elif close(mine, x[:, n]):
            yield look(f"{what} is as it was. What is its last word, lengths[{n}] - 1 or another?")
        else:
            yield look(f"{what} is not turned round: x[:length, n] from its end should stand in its place.")
        return
    yield ok("Each sequence is turned round within its own length, and the padding stays behind it.")
    lstm, backward, _ = pair()
    y = turned(lstm(np.asarray(found), lengths=LENGTHS)[0], LENGTHS)
    yield must(same("With it, the reverse pass of a padded batch", y, backward(x, lengths=LENGTHS)[0]))


@flip_each.right
def by_loop():
    return answers(turned)


@flip_each.right
def by_index():
    def each(x, lengths):
        t = np.arange(len(x))[:, None]
        return x[np.where(t < lengths, lengths - 1 - t, t), np.arange(len(lengths))]

    return answers(each)


@flip_each.wrong("the exercise as it stands", says="the padding too")
def all_of_it():
    return answers(lambda x, lengths: x[::-1])


@flip_each.wrong("nothing", says="Nothing has moved")
def nothing():
    return answers(lambda x, lengths: x.copy())


@flip_each.wrong("writes into x", says="writes into its input")
def writes():
    def each(x, lengths):
        for n, length in enumerate(lengths):
            x[:length, n] = x[:length, n][::-1].copy()
        return x

    return answers(each)


@flip_each.wrong("off by one", says="should stand in its place")
def off_by_one():
    return answers(lambda x, lengths: turned(x, np.maximum(lengths - 1, 0)))


@flip_each.wrong("one too many", says="behind its end")
def one_too_many():
    return answers(lambda x, lengths: turned(x, np.minimum(lengths + 1, len(x))))


@flip_each.wrong("rolled", says="off by one")
def rolled():
    def each(x, lengths):
        found = turned(x, lengths)
        for n, length in enumerate(lengths):
            found[:length, n] = np.roll(found[:length, n], 1, axis=0)
        return found

    return answers(each)


@flip_each.wrong("without the padding", says="has the same shape as x")
def cut():
    return answers(lambda x, lengths: turned(x, lengths)[: lengths[1]])
