"""The check of lesson 01."""

import numpy as np

from lab.exercises import answers, close, exercise, look, ok
from lab.kinds import Anything, Array, Stop
from lab.sentence import PARAMS, UNITS, VECTORS, trace

LINES = {
    "i": "the input gate",
    "f": "the forget gate",
    "g": "the candidate",
    "o": "the output gate",
    "c": "the cell state",
    "h": "the hidden state",
}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def before():
    """h and c after John."""
    steps = trace()
    return steps["h"][0], steps["c"][0]


def sums(x, h):
    """The weighted sums of the four gates by name, each (2,)."""
    a = PARAMS["weight_ih"] @ x + PARAMS["weight_hh"] @ h + PARAMS["bias"]
    return dict(zip("ifgo", a.reshape(4, 2), strict=True))


def gates_of(a, squash=sigmoid):
    return {name: np.tanh(a[name]) if name == "g" else squash(a[name]) for name in "ifgo"}


def states_of(gates, c):
    new = gates["f"] * c + gates["i"] * gates["g"]
    return {**gates, "c": new, "h": gates["o"] * np.tanh(new)}


def step_two():
    h1, c1 = before()
    return states_of(gates_of(sums(VECTORS[1], h1)), c1)


def mistakes(name, right):
    """Pairs of what comes out of a known mistake in the line ``name``, and what to look at."""
    h1, c1 = before()
    a = sums(VECTORS[1], h1)
    i, f, g, o, c = (right[key] for key in "ifgoc")
    if name in "ifgo":
        squashed = gates_of(sums(VECTORS[1], np.zeros(2)))[name]
        yield squashed, "That comes out if h is still zero. Before likes it is h1."
        yield gates_of(sums(VECTORS[0], h1))[name], "That is the answer to John once more. Likes is VECTORS[1]."
        yield trace()[name][0], "That is the value of step 1. Likes is VECTORS[1], and the state before it is h1."
        yield gates_of(sums(VECTORS[1], c1))[name], "The weighted sum looks at h1, not at c1."
        yield a[name], "That is the weighted sum itself. What comes around it?"
        other = sigmoid(a[name]) if name == "g" else np.tanh(a[name])
        yield other, "The candidate has a tanh, and the three gates have a sigmoid."
    elif name == "c":
        yield i * g, "That is only what is newly written. How much is kept of c1?"
        yield f * c1, "That is only what is kept. What is newly written?"
        yield c1 + i * g, "All of c1 was kept. Which gate has a say in that?"
        yield f * c1 + g, "All of the candidate was written. Which gate has a say in that?"
        yield i * c1 + f * g, "The forget gate belongs to the old c, the input gate to the candidate."
        yield f * h1 + i * g, "It is the old cell state c1 that is kept, not h1."
    else:
        yield o * c, "The cell state goes through a tanh before it is shown."
        yield np.tanh(c), "All of the memory is shown. Which gate has a say in that?"
        yield o * np.tanh(c1), "That shows the old c1. What is shown is the new one."
        yield np.tanh(o * c), "First the tanh of c, then times o."


def look_at_line(name, found, right):
    wanted, label = right[name], f"{name}2, {LINES[name]},"
    if close(found, wanted, rtol=0, atol=1e-6):
        return ok(f"{label} is right.")
    for result, words in mistakes(name, right):
        if close(found, result, rtol=0, atol=1e-6) and not close(result, wanted, rtol=0, atol=1e-6):
            return look(f"{label} is not right yet. {words}")
    if close(found, wanted, rtol=0, atol=2e-3):
        return look(f"{label} is nearly right, but rounded. Go on with h1 and c1 themselves, not with printed digits.")
    unit = int(np.argmax(~np.isclose(found, wanted, rtol=0, atol=1e-6)))
    if name in "ifgo":
        words = (
            f"Compare the weighted sum of {UNITS[unit]} with its row of the table: the word, then h1, then the bias."
        )
    elif name == "c":
        words = "Some of c1 is kept, and some of the candidate is written."
    else:
        words = "It is the output gate times the tanh of the new c."
    return look(f"{label} is not right yet for {UNITS[unit]}. {words}")


@exercise("01.step-two")
def step_by_hand(i2: Anything(), f2: Anything(), g2: Anything(), o2: Anything(), c2: Anything(), h2: Anything()):
    """The six lines for the second word."""
    right = step_two()
    for name, given in zip(LINES, (i2, f2, g2, o2, c2, h2), strict=True):
        try:
            found = Array(2).read(f"{name}2", given)
        except Stop as stop:
            yield stop.finding
        else:
            yield look_at_line(name, found, right)


@step_by_hand.right
def as_in_step_one():
    return given_lines(step_two())


@step_by_hand.right
def with_the_library():
    from gpulstm import ops

    h1, c1 = before()
    a = PARAMS["weight_ih"] @ VECTORS[1] + PARAMS["weight_hh"] @ h1 + PARAMS["bias"]
    gates = ops.gate_activations(a)
    c2, h2 = ops.cell_update(gates, c1)
    return answers(*gates.reshape(4, 2), c2, h2)


def given_lines(lines):
    return answers(*(lines[name] for name in LINES))


@step_by_hand.wrong("as it stands", says="i2 is still empty")
def empty():
    return answers(..., ..., ..., ..., ..., ...)


@step_by_hand.wrong("half of it", says="c2 is still empty")
def half():
    lines = step_two()
    return answers(*(lines[name] for name in "ifgo"), ..., ...)


@step_by_hand.wrong("h forgotten", says="if h is still zero")
def no_h():
    h1, c1 = before()
    return given_lines(states_of(gates_of(sums(VECTORS[1], np.zeros(2))), c1))


@step_by_hand.wrong("John again", says="answer to John once more")
def first_word():
    h1, c1 = before()
    return given_lines(states_of(gates_of(sums(VECTORS[0], h1)), c1))


@step_by_hand.wrong("step 1", says="value of step 1")
def first_step():
    return given_lines({name: values[0] for name, values in trace().items()})


@step_by_hand.wrong("looks at c", says="looks at h1, not at c1")
def looks_at_c():
    h1, c1 = before()
    return given_lines(states_of(gates_of(sums(VECTORS[1], c1)), c1))


@step_by_hand.wrong("sigmoid everywhere", says="candidate has a tanh")
def sigmoids():
    h1, c1 = before()
    a = sums(VECTORS[1], h1)
    return given_lines(states_of({name: sigmoid(a[name]) for name in "ifgo"}, c1))


@step_by_hand.wrong("nothing around the sums", says="weighted sum itself")
def linear():
    h1, c1 = before()
    return given_lines(states_of(sums(VECTORS[1], h1), c1))


@step_by_hand.wrong("old memory dropped", says="only what is newly written")
def writes_only():
    lines = step_two()
    return given_lines({**lines, "c": lines["i"] * lines["g"]})


@step_by_hand.wrong("nothing forgotten", says="All of c1 was kept")
def keeps_all():
    lines = step_two()
    return given_lines({**lines, "c": before()[1] + lines["i"] * lines["g"]})


@step_by_hand.wrong("gates exchanged", says="forget gate belongs to the old c")
def exchanged():
    lines = step_two()
    return given_lines({**lines, "c": lines["i"] * before()[1] + lines["f"] * lines["g"]})


@step_by_hand.wrong("no tanh at the end", says="goes through a tanh")
def no_tanh():
    lines = step_two()
    return given_lines({**lines, "h": lines["o"] * lines["c"]})


@step_by_hand.wrong("shows the old memory", says="shows the old c1")
def old_memory():
    lines = step_two()
    return given_lines({**lines, "h": lines["o"] * np.tanh(before()[1])})


@step_by_hand.wrong("typed from the screen", says="but rounded")
def rounded():
    return given_lines({name: np.round(values, 3) for name, values in step_two().items()})


@step_by_hand.wrong("one unit only", says="c2 should have the shape (2,)")
def one_unit():
    lines = step_two()
    return given_lines({**lines, "c": lines["c"][0], "h": lines["h"][0]})
