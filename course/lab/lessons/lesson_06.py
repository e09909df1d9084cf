"""The checks of lesson 06."""

import numpy as np

from lab.exercises import answers, close, exercise, look, ok, same
from lab.kinds import Anything, Array, Stop
from lab.sentence import PARAMS, VECTORS, WORDS, trace

WHO, OUTPUT_WHO = 0, 6
SECRET, SHOWN = 0.01, 0.95


def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


# ---- 06.hide ----


@exercise("06.hide")
def hide(a_o: Array(4), h_who: Anything()):
    """Weighted sums that hide John for three words and show him at the fourth; and h."""
    if not np.isfinite(a_o).all():
        yield look("One of the numbers in a_o is not finite.")
        return
    c = trace()["c"][:, WHO]
    o, share = sigmoid(a_o), np.tanh(c)
    hidden = o[:3] * share[:3]
    if hidden.max() <= SECRET:
        yield ok("After John, likes and black, John is hidden.")
    else:
        word = WORDS[int(np.argmax(hidden > SECRET))]
        tip = " a_o goes through the sigmoid, and 0 is half open." if (a_o[:3] == 0).any() else ""
        yield look(f"After {word} the gate stands at {o[WORDS.index(word)]:.2f}, and John can be seen.{tip}")
    if o[3] >= SHOWN:
        yield ok("After coffee, John is shown.")
    else:
        tip = " A weighted sum of 1 is not a gate of 1." if a_o[3] == 1 else ""
        yield look(f"After coffee the gate stands at {o[3]:.2f}, and it should be at least {SHOWN}.{tip}")
    try:
        found = Array(4).read("h_who", h_who)
    except Stop as stop:
        yield stop.finding
        return
    for result, words in mistakes(a_o, c):
        if close(found, result) and not close(found, o * share):
            yield look(f"h_who is not right yet. {words}")
            return
    yield same("h_who", found, o * share, "It is the output gate times the tanh of c_who.")


def mistakes(a_o, c):
    o = sigmoid(a_o)
    yield a_o * np.tanh(c), "a_o is still a weighted sum. What makes a gate of it?"
    yield o * c, "The memory goes through a tanh before it is shown."
    yield np.tanh(o * c), "First the tanh of c, then times o."
    yield o, "That is the gate itself. How much of what does it show?"
    yield np.tanh(c), "That is what could be shown. Which gate has a say?"
    yield np.tanh(a_o) * np.tanh(c), "The gate came out of a tanh. A gate is made by the sigmoid."
    yield o * sigmoid(c), "The memory goes through a tanh, not through a sigmoid."


def shown(a_o):
    return sigmoid(a_o) * np.tanh(trace()["c"][:, WHO])


@hide.right
def as_in_the_solution():
    a_o = np.array([-10.0, -10.0, -10.0, 10.0])
    return answers(a_o, shown(a_o))


@hide.right
def all_different():
    a_o = np.array([-5.0, -6.0, -50.0, 3.0])
    return answers(a_o, list(shown(a_o)))


@hide.wrong("as it stands", says="h_who is still empty")
def as_it_stands():
    return answers(np.zeros(4), ...)


@hide.wrong("gates instead of weighted sums", says="0 is half open")
def gates():
    a_o = np.array([0.0, 0.0, 0.0, 1.0])
    return answers(a_o, shown(a_o))


@hide.wrong("ones and minus ones", says="A weighted sum of 1 is not a gate of 1")
def ones():
    a_o = np.array([-1.0, -1.0, -1.0, 1.0])
    return answers(a_o, shown(a_o))


@hide.wrong("the opposite", says="John can be seen")
def opposite():
    a_o = np.array([10.0, 10.0, 10.0, -10.0])
    return answers(a_o, shown(a_o))


@hide.wrong("no tanh", says="goes through a tanh before")
def no_tanh():
    a_o = np.array([-10.0, -10.0, -10.0, 10.0])
    return answers(a_o, sigmoid(a_o) * trace()["c"][:, WHO])


@hide.wrong("no sigmoid", says="still a weighted sum")
def no_sigmoid():
    a_o = np.array([-10.0, -10.0, -10.0, 10.0])
    return answers(a_o, a_o * np.tanh(trace()["c"][:, WHO]))


@hide.wrong("the gate itself", says="How much of what")
def gate_itself():
    a_o = np.array([-10.0, -10.0, -10.0, 10.0])
    return answers(a_o, sigmoid(a_o))


@hide.wrong("h typed in", says="times the tanh of c_who")
def typed():
    return answers(np.array([-10.0, -10.0, -10.0, 10.0]), np.array([0.0, 0.0, 0.0, 1.0]))


# ---- 06.reveal ----


def steps_with(row):
    params = {name: value.copy() for name, value in PARAMS.items()}
    params["weight_ih"][OUTPUT_WHO], params["weight_hh"][OUTPUT_WHO] = row[:3], row[3:5]
    params["bias"][OUTPUT_WHO] = row[5]
    return trace(VECTORS, params)


@exercise("06.reveal")
def reveal(row: Array(6)):
    """A row of weights with which the cell itself hides John three times and then shows him."""
    if not np.isfinite(row).all():
        yield look("One of the six numbers is not finite.")
        return
    h = steps_with(row)["h"][:, WHO]
    early, late = h[:3].max() <= 0.05, h[3] >= 0.5
    if early and late:
        yield ok("After John, likes and black, John is hidden.")
        yield ok(f"After coffee, {h[3]:.2f} is shown.")
        return
    if late:
        shows = " and ".join(
            f"{value:.2f} after {word}" for word, value in zip(WORDS[:3], h, strict=False) if value > 0.05
        )
        yield look(f"John is shown too early: {shows}. What keeps the gate shut there?")
    elif early:
        yield look(f"John is hidden well, but after coffee only {h[3]:.2f} is shown. What could open the gate there?")
    else:
        yield look(
            f"Shown are {', '.join(f'{value:.2f}' for value in h)}. It should be nothing, three times, then John."
        )
    if not row[3:5].any():
        yield look(
            "The row looks at the word alone, and coffee is the mean of likes and black. What else can a gate see?"
        )
    elif row[5] >= 0:
        yield look("The bias is not negative, so the gate is half open or more when all that it looks at is zero.")


@reveal.right
def once_dark_was_shown():
    return answers(np.array([0.0, 0.0, 0.0, 0.0, 30.0, -5.0]))


@reveal.right
def with_some_of_the_word():
    return answers([-2.0, 1.0, -1.0, 0.0, 40.0, -6.0])


@reveal.wrong("as it stands", says="What else can a gate see?")
def row_as_it_stands():
    return answers(np.array([0.0, 3.0, 0.0, 0.0, 0.0, -1.0]))


@reveal.wrong("always shut", says="What could open the gate there?")
def always_shut():
    return answers(np.array([0.0, 0.0, 0.0, 0.0, 0.0, -30.0]))


@reveal.wrong("always open", says="John is shown too early")
def always_open():
    return answers(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 30.0]))


@reveal.wrong("dark and feeling together", says="coffee is the mean of likes and black")
def word_alone():
    return answers(np.array([-9.0, 9.0, 9.0, 0.0, 0.0, -4.0]))


@reveal.wrong("no bias", says="The bias is not negative")
def no_bias():
    return answers(np.array([0.0, 0.0, 0.0, 0.0, 30.0, 0.0]))


@reveal.wrong("too weak", says="only 0.")
def too_weak():
    return answers(np.array([0.0, 0.0, 0.0, 0.0, 5.0, -5.0]))


@reveal.wrong("listens to itself", says="What could open the gate there?")
def itself():
    return answers(np.array([0.0, 0.0, 0.0, 30.0, 0.0, -5.0]))
