"""The checks of lesson 03."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

NEAR = np.linspace(-6, 6, 25)
FAR = np.array([-1000.0, 1000.0])


def safe_sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def quiet(name, function, wanted):
    """Whether ``function`` is right at -1000 and 1000, and gets there without a warning."""
    found = function(FAR)
    if close(found, wanted) and not function.warnings:
        return ok(f"{name} is right at -1000 and at 1000, without overflow.")
    if close(found, wanted):
        return look(
            f"{name} is right at -1000 and at 1000, but NumPy warned: {function.warnings[0]}. "
            "Some exp there gets a large positive number (np.where computes both of its sides)."
        )
    where = -1000 if not close(np.ravel(found)[:1], wanted[:1]) else 1000
    return look(
        f"{name} at {where} should be {wanted[int(where > 0)]:.0f}, and is not. "
        "What does exp make of a large positive number?"
    )


# ---- the curves ----


@exercise("03.curves")
def curves(sigmoid: Function(), tanh: Function()):
    """Both curves, at every x, without overflow."""
    yield must(same("sigmoid between -6 and 6", sigmoid(NEAR), safe_sigmoid(NEAR), "It is 1 / (1 + exp(-x))."))
    yield quiet("sigmoid", sigmoid, [0, 1])
    found = tanh(NEAR)
    if close(found, safe_sigmoid(2 * NEAR)) or close(found, 2 * safe_sigmoid(NEAR) - 1):
        yield look(
            "tanh has the right shape, but not the right size: squeeze to half, stretch to twice, pull down by one."
        )
        return
    hint = "It is (exp(x) - exp(-x)) / (exp(x) + exp(-x))."
    yield must(same("tanh between -6 and 6", found, np.tanh(NEAR), hint))
    yield quiet("tanh", tanh, [-1, 1])
    whole = np.array([[-2, 0, 3]])
    fits = [np.shape(curve(whole)) == whole.shape for curve in (sigmoid, tanh)]
    yield ok("Both keep the shape of x.") if all(fits) else look("What comes out should have the shape of x.")


def stable_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def textbook_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def textbook_tanh(x):
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))


@curves.right
def by_absolute_values():
    return answers(stable_sigmoid, lambda x: 2 * stable_sigmoid(2 * x) - 1)


@curves.right
def by_tanh():
    return answers(safe_sigmoid, np.tanh)


@curves.wrong("as it stands", says="sigmoid is right at -1000 and at 1000, but NumPy warned: overflow")
def textbook():
    return answers(textbook_sigmoid, textbook_tanh)


@curves.wrong("tanh as it stands", says="tanh at -1000 should be -1")
def half_done():
    return answers(stable_sigmoid, textbook_tanh)


@curves.wrong("the other way of writing", says="sigmoid at 1000 should be 1")
def other_textbook():
    return answers(lambda x: np.exp(x) / (1 + np.exp(x)), np.tanh)


@curves.wrong("where over both formulas", says="computes both of its sides")
def where_both():
    def sigmoid(x):
        return np.where(x >= 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))

    return answers(sigmoid, np.tanh)


@curves.wrong("wrong sign", says="It is 1 / (1 + exp(-x))")
def falling():
    return answers(lambda x: stable_sigmoid(-x), np.tanh)


@curves.wrong("absolute value forgotten to undo", says="sigmoid between -6 and 6 at [0]")
def mirrored():
    return answers(lambda x: 1 / (1 + np.exp(-np.abs(x))), np.tanh)


@curves.wrong("tanh not squeezed", says="right shape, but not the right size")
def not_squeezed():
    return answers(stable_sigmoid, lambda x: 2 * stable_sigmoid(x) - 1)


@curves.wrong("tanh not stretched", says="right shape, but not the right size")
def not_stretched():
    return answers(stable_sigmoid, lambda x: stable_sigmoid(2 * x))


@curves.wrong("an if over an array", says="raised ValueError")
def if_over_array():
    return answers(lambda x: 1 / (1 + np.exp(-x)) if x >= 0 else np.exp(x) / (1 + np.exp(x)), np.tanh)


# ---- the slopes ----


def measured(curve, x, step=1e-5):
    return (curve(x + step) - curve(x - step)) / (2 * step)


def agrees(name, found, curve):
    """Whether ``found`` is the slope of ``curve``, by finite differences."""
    wanted, value = measured(curve, NEAR), curve(NEAR)
    if found is None or found is ...:
        return look(f"{name} returns nothing yet: your answer belongs where the mark ← stands.")
    if close(found, NEAR * (1 - NEAR)) or close(found, 1 - NEAR**2):
        return look(f"{name} puts x itself into the rule. It is the value of the curve at x that belongs there.")
    if close(found, value):
        return look(f"{name} is the curve itself. How steep is it?")
    if close(found, 1 - value):
        return look(
            f"{name}: that is one minus the value. "
            "At zero the slope of σ is 0.25, and that of tanh 1; far out both are 0."
        )
    if close(found, value * (1 + value)) or close(found, 1 + value**2):
        return look(f"{name} grows to the right. Far out on both sides the curve is flat: look at the sign.")
    if close(found, value * (1 - value)) and not close(wanted, value * (1 - value)):
        return look(f"{name} is not s(1 - s) with t for s. Put s = (1 + t) / 2 into 4 s (1 - s).")
    hint = "Compare it with measured_slope."
    finding = same(f"{name} between -6 and 6", found, wanted, hint, rtol=0, atol=1e-7)
    return ok(f"{name} agrees with finite differences at {NEAR.size} places.") if finding.right else finding


@exercise("03.slopes")
def slopes(sigmoid_slope: Function(), tanh_slope: Function()):
    """Both slopes, against finite differences and far out."""
    for name, slope, curve in [("sigmoid_slope", sigmoid_slope, safe_sigmoid), ("tanh_slope", tanh_slope, np.tanh)]:
        finding = agrees(name, slope(NEAR), curve)
        yield finding
        if finding.right:
            yield quiet(name, slope, [0, 0])


def right_sigmoid_slope(x):
    return safe_sigmoid(x) * (1 - safe_sigmoid(x))


def right_tanh_slope(x):
    return 1 - np.tanh(x) ** 2


@slopes.right
def by_values():
    return answers(right_sigmoid_slope, right_tanh_slope)


@slopes.right
def by_the_library():
    from gpulstm import ops

    one = np.ones_like
    return answers(
        lambda x: ops.sigmoid_backward(ops.sigmoid(x), one(x)), lambda x: ops.tanh_backward(np.tanh(x), one(x))
    )


@slopes.wrong("as it stands", says="sigmoid_slope returns nothing yet")
def empty():
    return answers(lambda x: ..., lambda x: ...)


@slopes.wrong("x in place of the value", says="sigmoid_slope puts x itself into the rule")
def of_x():
    return answers(lambda x: x * (1 - x), lambda x: 1 - x**2)


@slopes.wrong("one minus the value", says="that is one minus the value")
def no_square():
    return answers(right_sigmoid_slope, lambda x: 1 - np.tanh(x))


@slopes.wrong("plus for minus", says="tanh_slope grows to the right")
def plus():
    return answers(right_sigmoid_slope, lambda x: 1 + np.tanh(x) ** 2)


@slopes.wrong("the sigmoid's rule for tanh", says="with t for s")
def one_rule_for_both():
    return answers(right_sigmoid_slope, lambda x: np.tanh(x) * (1 - np.tanh(x)))


@slopes.wrong("exchanged", says="sigmoid_slope between -6 and 6 at [0]")
def exchanged():
    return answers(right_tanh_slope, right_sigmoid_slope)


@slopes.wrong("the formula with exp", says="sigmoid_slope at -1000 should be 0")
def with_exp():
    return answers(lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2, right_tanh_slope)


@slopes.wrong("cosh overflows", says="tanh_slope is right at -1000 and at 1000, but NumPy warned")
def with_cosh():
    return answers(right_sigmoid_slope, lambda x: 1 / np.cosh(x) ** 2)


@slopes.wrong("one-sided differences", says="Compare it with measured_slope")
def one_sided():
    return answers(lambda x: (safe_sigmoid(x + 1e-3) - safe_sigmoid(x)) / 1e-3, right_tanh_slope)
