"""The checks of lesson 05."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Array, Function


def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def example(*shape):
    """c, f, a_i, a_g of that shape."""
    rng = np.random.default_rng(5)
    c, a_f, a_i, a_g = rng.normal(size=(4, *shape))
    return c, sigmoid(a_f), a_i, a_g


# ---- 05.write ----


def mistakes(c, f, a_i, a_g):
    """Pairs of what comes out of a known mistake, and what to look at."""
    i, g = sigmoid(a_i), np.tanh(a_g)
    yield i * g, "That is only what is written. What is left of the old c?"
    yield f * c, "That is only what is left of the old c. What is written?"
    yield c + i * g, "All of the old c is kept. Which gate has a say in that?"
    yield f * c + g, "All of the candidate is written. How much of it should be?"
    yield f * c + i, "That adds the input gate itself. How much of what?"
    yield f * c + i + g, "The input gate is added to the candidate. A valve multiplies."
    yield f * c + a_i * a_g, "The weighted sums themselves are multiplied. What comes around each?"
    yield f * c + i * a_g, "The candidate is still a weighted sum. What comes around it?"
    yield f * c + a_i * g, "The input gate is still a weighted sum. What comes around it?"
    yield f * c + np.tanh(a_i) * sigmoid(a_g), "Sigmoid and tanh are exchanged: which of the two may be negative?"
    yield f * c + i * sigmoid(a_g), "The candidate came out of a sigmoid, so it can never be negative."
    yield f * c + np.tanh(a_i) * g, "The input gate came out of a tanh. A valve is open between 0 and 1."
    yield i * c + f * g, "The forget gate is the valve on the old c, the input gate the one on the candidate."
    yield f * c + (1 - f) * g, "That uses 1 - f where the input gate belongs."
    yield np.tanh(f * c + i * g), "There is a tanh around the sum. The memory itself is not squashed."
    yield sigmoid(f) * c + i * g, "f lies between 0 and 1 already. It needs no second sigmoid."
    yield f * (c + i * g), "The forget gate is the valve on the old c alone, not on what is newly written."
    if c.ndim == 1:
        yield f * c + i @ g, "i @ g adds up over all units. Each unit has its own: multiply with *."


@exercise("05.write")
def write_into_c(write: Function()):
    """f * c + i * g, with i and g made of their weighted sums."""
    for shape, name in [((3,), "write() for three units"), ((4, 2), "write() for a batch of four")]:
        given = example(*shape)
        c, f, a_i, a_g = given
        found, wanted = write(*given), f * c + sigmoid(a_i) * np.tanh(a_g)
        for result, words in mistakes(*given):
            if close(found, result) and not close(found, wanted):
                yield look(f"{name} is not right yet. {words}")
                return
        yield must(same(name, found, wanted, "Some of c is left, and some of the candidate is written."))
    at_rest = write(np.array([0.5]), np.array([1.0]), np.array([-40.0]), np.array([3.0]))
    yield same("The memory behind a shut input gate", at_rest, [0.5])


@write_into_c.right
def as_in_the_solution():
    return answers(lambda c, f, a_i, a_g: f * c + sigmoid(a_i) * np.tanh(a_g))


@write_into_c.right
def with_the_textbooks_sigmoid():
    return answers(lambda c, f, a_i, a_g: c * f + np.tanh(a_g) / (1 + np.exp(-a_i)))


@write_into_c.wrong("as it stands", says="nothing was returned")
def empty():
    return answers(lambda c, f, a_i, a_g: ...)


@write_into_c.wrong("the old memory dropped", says="What is left of the old c?")
def drops():
    return answers(lambda c, f, a_i, a_g: sigmoid(a_i) * np.tanh(a_g))


@write_into_c.wrong("a second sigmoid around f", says="It needs no second sigmoid")
def second_sigmoid():
    return answers(lambda c, f, a_i, a_g: sigmoid(f) * c + sigmoid(a_i) * np.tanh(a_g))


@write_into_c.wrong("no input gate", says="How much of it should be?")
def no_gate():
    return answers(lambda c, f, a_i, a_g: f * c + np.tanh(a_g))


@write_into_c.wrong("no candidate", says="How much of what?")
def no_candidate():
    return answers(lambda c, f, a_i, a_g: f * c + sigmoid(a_i))


@write_into_c.wrong("added instead of multiplied", says="A valve multiplies")
def added():
    return answers(lambda c, f, a_i, a_g: f * c + sigmoid(a_i) + np.tanh(a_g))


@write_into_c.wrong("sigmoid and tanh exchanged", says="which of the two may be negative")
def exchanged():
    return answers(lambda c, f, a_i, a_g: f * c + np.tanh(a_i) * sigmoid(a_g))


@write_into_c.wrong("sigmoid for both", says="it can never be negative")
def sigmoids():
    return answers(lambda c, f, a_i, a_g: f * c + sigmoid(a_i) * sigmoid(a_g))


@write_into_c.wrong("nothing around the sums", says="What comes around each")
def bare():
    return answers(lambda c, f, a_i, a_g: f * c + a_i * a_g)


@write_into_c.wrong("the wrong valves", says="valve on the old c, the input gate")
def wrong_valves():
    return answers(lambda c, f, a_i, a_g: sigmoid(a_i) * c + f * np.tanh(a_g))


@write_into_c.wrong("keeps everything", says="All of the old c is kept")
def keeps_all():
    return answers(lambda c, f, a_i, a_g: c + sigmoid(a_i) * np.tanh(a_g))


@write_into_c.wrong("tanh around the memory", says="is not squashed")
def squashed():
    return answers(lambda c, f, a_i, a_g: np.tanh(f * c + sigmoid(a_i) * np.tanh(a_g)))


@write_into_c.wrong("a matrix product", says="multiply with *")
def product():
    return answers(lambda c, f, a_i, a_g: f * c + sigmoid(a_i) @ np.tanh(a_g))


@write_into_c.wrong("overwrites c", says="writes into its input")
def in_place():
    def write(c, f, a_i, a_g):
        c *= f
        c += sigmoid(a_i) * np.tanh(a_g)
        return c

    return answers(write)


# ---- 05.switch ----

INPUTS = np.array([[0, -1], [0, 1], [1, -1], [1, 1]], dtype=float)  # switch, value
WANTED = np.array([0, 0, -1, 1], dtype=float)
TOLERANCE = 0.05


@exercise("05.switch")
def switch(input_gate: Array(3), candidate: Array(3)):
    """Weights with which the value is written when the switch is on, and nothing when it is off."""
    if not (np.isfinite(input_gate).all() and np.isfinite(candidate).all()):
        yield look("One of the six numbers is not finite.")
        return
    i = sigmoid(INPUTS @ input_gate[:2] + input_gate[2])
    g = np.tanh(INPUTS @ candidate[:2] + candidate[2])
    if np.abs(i * g - WANTED).max() <= TOLERANCE:
        yield ok(f"With the switch off, at most {np.abs(i * g)[:2].max():.3f} gets through.")
        yield ok(f"With the switch on, the value is written to within {np.abs(i * g - WANTED)[2:].max():.3f}.")
        return
    if not candidate.any():
        yield look("The candidate is zero for every input, so nothing is ever written. What should it look at?")
    elif abs(i[3] - i[2]) > 0.1:
        yield look("The input gate depends on the value. It is to say how much, and for that only the switch matters.")
    elif i[:2].max() > TOLERANCE:
        yield look(
            f"With the switch off the input gate is still open by {i[:2].max():.2f}. What could push it down then?"
        )
    elif i[2:].min() < 1 - TOLERANCE:
        yield look(
            f"With the switch on the input gate opens only to {i[2:].min():.2f}. Its weight must outdo its bias."
        )
    elif g[3] < 0 < g[2]:
        yield look("The candidate has the sign of the value's opposite.")
    else:
        shown = f"{g[2]:.2f} for the value -1 and {g[3]:.2f} for the value 1"
        yield look(f"The gate is right. With the switch on the candidate is {shown}: it should be close to both.")


@switch.right
def divided_work():
    return answers(np.array([10.0, 0.0, -5.0]), np.array([0.0, 3.0, 0.0]))


@switch.right
def stronger():
    return answers([40.0, 0.0, -20.0], [1.0, 9.0, -0.5])


@switch.wrong("as it stands", says="zero for every input")
def zeros():
    return answers(np.zeros(3), np.zeros(3))


@switch.wrong("no bias", says="still open by 0.50")
def no_bias():
    return answers(np.array([10.0, 0.0, 0.0]), np.array([0.0, 3.0, 0.0]))


@switch.wrong("too weak", says="must outdo its bias")
def too_weak():
    return answers(np.array([5.0, 0.0, -5.0]), np.array([0.0, 3.0, 0.0]))


@switch.wrong("the roles exchanged", says="depends on the value")
def roles():
    return answers(np.array([0.0, 10.0, -5.0]), np.array([3.0, 0.0, 0.0]))


@switch.wrong("the gate always open", says="With the switch off")
def always_open():
    return answers(np.array([0.0, 0.0, 9.0]), np.array([3.0, 3.0, 0.0]))


@switch.wrong("the candidate not strong enough", says="should be close to both")
def faint():
    return answers(np.array([10.0, 0.0, -5.0]), np.array([0.0, 1.0, 0.0]))


@switch.wrong("the candidate looks at the switch", says="should be close to both")
def switch_in_candidate():
    return answers(np.array([10.0, 0.0, -5.0]), np.array([3.0, 0.0, 0.0]))


@switch.wrong("the opposite", says="opposite")
def opposite():
    return answers(np.array([10.0, 0.0, -5.0]), np.array([0.0, -3.0, 0.0]))
