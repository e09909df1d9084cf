"""The checks of lesson 04."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok
from lab.kinds import Function, Number

# ---- a gate for ten steps ----


@exercise("04.gate-for-ten")
def gate_for_ten(f_ten: Number()):
    """The forget gate with a half-life of 10 steps."""
    if not 0 < f_ten < 1:
        yield look(f"A forget gate lies between 0 and 1, and yours is {f_ten:.4g}.")
        return
    half_life = np.log(0.5) / np.log(f_ten)
    if close(f_ten, 0.5**10):
        yield look(
            "That is what a gate of 0.5 leaves after 10 steps. Wanted is the gate that leaves 0.5 after 10 steps."
        )
    elif close(f_ten, 0.95):
        yield look("A twentieth at each step would be half after ten if it were taken from the whole each time.")
    elif abs(half_life / 10 - 1) < 1e-3:
        yield ok(f"With {f_ten:.4f}, half is left after 10 steps.")
    else:
        more = "more" if half_life < 10 else "less"
        nearly = " Give it more digits." if abs(half_life / 10 - 1) < 0.06 else ""
        steps = "1 step" if half_life == 1 else f"{half_life:.3g} steps"
        yield look(f"With {f_ten:.4g} the half-life is {steps}. It must keep {more}.{nearly}")


@gate_for_ten.right
def root():
    return answers(0.5**0.1)


@gate_for_ten.right
def four_digits():
    return answers(0.9330)


@gate_for_ten.wrong("as it stands", says="the half-life is 1 step. It must keep more")
def as_it_stands():
    return answers(0.5)


@gate_for_ten.wrong("a twentieth each time", says="taken from the whole each time")
def linear():
    return answers(1 - 0.5 / 10)


@gate_for_ten.wrong("a tenth each time", says="the half-life is 6.58 steps. It must keep more")
def a_tenth():
    return answers(0.9)


@gate_for_ten.wrong("power for root", says="what a gate of 0.5 leaves after 10 steps")
def power():
    return answers(0.5**10)


@gate_for_ten.wrong("two digits", says="Give it more digits")
def two_digits():
    return answers(0.93)


@gate_for_ten.wrong("the half-life itself", says="lies between 0 and 1")
def the_half_life():
    return answers(10)


@gate_for_ten.wrong("the share that is lost", says="It must keep more")
def lost():
    return answers(1 - 0.5**0.1)


# ---- the bias ----


def right_bias(half_life):
    f = 0.5 ** (1 / half_life)
    return np.log(f / (1 - f))


@exercise("04.bias")
def bias(forget_bias: Function()):
    """The bias whose sigmoid has the wanted half-life."""
    lives = [1.0, 10.0, 100.0]
    found = [forget_bias(life) for life in lives]
    wanted = [right_bias(life) for life in lives]
    gates = [0.5 ** (1 / life) for life in lives]
    for mistake, words in [
        (gates, "That is the gate. Which bias gives this gate?"),
        (-np.array(wanted), "Right but for the sign: a longer life needs a larger bias."),
        (np.log(gates), "That is ln f. The sigmoid has a 1 + below the line: solve f = 1 / (1 + exp(-b)) for b."),
        (1 / (1 + np.exp(-np.array(gates))), "The sigmoid goes from the bias to the gate. Here you need the way back."),
        (np.array(gates) / (1 - np.array(gates)), "Nearly: this is f / (1 - f), and its logarithm is missing."),
        (np.log10(np.exp(wanted)), "Take the natural logarithm, np.log."),
        (np.log(np.array(lives) / np.log(2)), "That holds roughly, for long lives. At a half-life of 1 it is far off."),
    ]:
        if close(found, mistake):
            yield look(words)
            return
    for life, one, value in zip(lives, found, wanted, strict=True):
        if not close(one, value, rtol=1e-4, atol=1e-6):
            words = f"forget_bias({life:.0f}) should be {value:.4f}, and is not."
            yield must(look(f"{words} Its sigmoid must be 0.5 ** (1 / {life:.0f})."))
        yield ok(f"A bias of {float(one):.2f} keeps half for {life:.0f} step{'s' if life > 1 else ''}.")


@bias.right
def logit():
    return answers(right_bias)


@bias.right
def shorter():
    return answers(lambda n: -np.log(2 ** (1 / n) - 1))


@bias.wrong("as it stands", says="Which bias gives this gate?")
def the_gate():
    return answers(lambda n: 0.5 ** (1 / n))


@bias.wrong("upside down", says="Right but for the sign")
def upside_down():
    return answers(lambda n: np.log((1 - 0.5 ** (1 / n)) / 0.5 ** (1 / n)))


@bias.wrong("logarithm of the gate", says="That is ln f")
def log_gate():
    return answers(lambda n: np.log(0.5 ** (1 / n)))


@bias.wrong("sigmoid once more", says="you need the way back")
def sigmoid_again():
    return answers(lambda n: 1 / (1 + np.exp(-(0.5 ** (1 / n)))))


@bias.wrong("no logarithm", says="its logarithm is missing")
def odds():
    return answers(lambda n: 0.5 ** (1 / n) / (1 - 0.5 ** (1 / n)))


@bias.wrong("logarithm to the base ten", says="natural logarithm")
def base_ten():
    return answers(lambda n: np.log10(0.5 ** (1 / n) / (1 - 0.5 ** (1 / n))))


@bias.wrong("the rule for long lives", says="That holds roughly")
def roughly():
    return answers(lambda n: np.log(n / np.log(2)))


@bias.wrong("one number for all", says="forget_bias(1) should be 0.0000")
def constant():
    return answers(lambda n: 2.6336)
