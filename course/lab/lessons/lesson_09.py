"""The check of lesson 09."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

NAMES = ("da_i", "da_f", "da_g", "da_o")
EPS = 1e-5


def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def network():
    """Inputs, initial states and parameters of a small LSTM, all sizes different, and the blame of its outputs."""
    rng = np.random.default_rng(9)
    inputs, hidden = 2, 3
    arrays = {
        "x": rng.normal(size=(5, 2, inputs)),
        "h": rng.normal(size=(2, hidden)),
        "c": rng.normal(size=(2, hidden)),
        "weight_ih": rng.normal(size=(4 * hidden, inputs)),
        "weight_hh": rng.normal(size=(4 * hidden, hidden)),
        "bias": rng.normal(size=4 * hidden),
    }
    return arrays, rng.normal(size=(5, 2, hidden)), rng.normal(size=(2, hidden))


def forward(arrays):
    h, c = arrays["h"], arrays["c"]
    hs, steps = [], []
    for x in arrays["x"]:
        a = x @ arrays["weight_ih"].T + h @ arrays["weight_hh"].T + arrays["bias"]
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c_next = f * c + i * g
        steps.append((x, h, (i, f, g, o, c, c_next)))
        c, h = c_next, o * np.tanh(c_next)
        hs.append(h)
    return np.stack(hs), c, steps


def backward(gate_gradients, arrays, dhs, dc):
    grads = {name: np.zeros_like(array) for name, array in arrays.items()}
    dh = np.zeros_like(dc)
    for t, (x, h, kept) in reversed(list(enumerate(forward(arrays)[2]))):
        four, dc = gate_gradients(dhs[t] + dh, dc, *kept)
        da = np.concatenate(four, axis=1)
        grads["weight_ih"] += da.T @ x
        grads["weight_hh"] += da.T @ h
        grads["bias"] += da.sum(axis=0)
        grads["x"][t] = da @ arrays["weight_ih"]
        dh = da @ arrays["weight_hh"]
    grads["h"], grads["c"] = dh, dc
    return grads


def nudged(arrays, name, dhs, dc):
    """The gradient of the weighed outputs with respect to one array, by finite differences."""

    def loss():
        hs, c, _ = forward(arrays)
        return (hs * dhs).sum() + (c * dc).sum()

    array = arrays[name]
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + EPS
        above = loss()
        array[place] = kept - EPS
        below = loss()
        array[place] = kept
        gradient[place] = (above - below) / (2 * EPS)
    return gradient


def formulas(dh, dc, i, f, g, o, c, c_next):
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    four = (
        dc_next * g * i * (1 - i),
        dc_next * c * f * (1 - f),
        dc_next * i * (1 - g**2),
        dh * shown * o * (1 - o),
    )
    return four, dc_next * f


def lane_mistakes(dh, dc, i, f, g, o, c, c_next):
    """What dc_before becomes by a known mistake, and what to look at."""
    slope = 1 - np.tanh(c_next) ** 2
    right = dc + dh * o * slope
    yield right, "This is the gradient of c', after the step. On the way to c stands one more product."
    yield dc * f, "Only what comes along the lane is in it. c' also goes into h', and that blame must be added."
    yield dh * o * slope * f, "What comes along the lane, dc, is missing. c' goes two ways: add both blames."
    yield (dc + dh * o) * f, "Between h' and c' stands a tanh: its slope is missing."
    yield (dc + dh * o * (1 - c_next**2)) * f, "The slope of tanh at c' is 1 - tanh(c')**2, not 1 - c'**2."
    yield (dc + dh * o * (1 - np.tanh(c) ** 2)) * f, "h' is made of c_next, and so is the slope that belongs to it."
    yield (dc + dh * slope) * f, "h' = o * tanh(c') is a product: times the other one, which is o."


def gate_mistakes(name, dh, dc, i, f, g, o, c, c_next):
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    gate = {"da_i": i, "da_f": f, "da_g": g, "da_o": o}[name]
    other = {"da_i": g, "da_f": c, "da_g": i, "da_o": shown}[name]
    before = (dh if name == "da_o" else dc_next) * other
    sigmoids, tanhs = gate * (1 - gate), 1 - gate**2
    slope, not_slope = (tanhs, sigmoids) if name == "da_g" else (sigmoids, tanhs)
    yield before, f"That is d{name[3]}, before the way through the curve. Its slope is missing."
    curve = "tanh" if name == "da_g" else "sigmoid"
    yield before * not_slope, f"It went through a {curve}, and you took the slope of the other curve."
    yield before * sigmoid(gate) * (1 - sigmoid(gate)), "The gate is already the value of the sigmoid: no second one."
    if name == "da_f":
        yield dc_next * c_next * slope, "f was multiplied by c, the cell state before the step, not by c_next."
    if name == "da_o":
        yield dh * c_next * slope, "o was multiplied by tanh(c_next), not by c_next."
        yield dc_next * shown * slope, "o is not on the way of the cell state: its blame comes straight from dh."
    else:
        yield dc * other * slope, "This uses dc, what comes along the lane. It takes all the blame of c', dc_next."
        yield dh * other * slope, "This uses dh. The way from h' to this gate leads through tanh and c'."
    if name in ("da_i", "da_g"):
        yield dc_next * gate * slope, "A product hands on times the other one, not times itself."


def found(what, value, right, mistakes):
    for mistake, hint in mistakes:
        if close(value, mistake) and not close(value, right):
            return look(f"{what}: {hint}")
    return same(what, value, right, "Nudge it by hand, as above, and see which factor is missing.")


@exercise("09.gate-gradients")
def gate_gradients(gate_gradients: Function()):
    """The gradients of the four sums and of the cell state before."""
    arrays, dhs, dc = network()
    given = (dhs[2], dc, *forward(arrays)[2][2][2])
    result = gate_gradients(*given)
    try:
        (*four,), before = result
    except (TypeError, ValueError):
        yield look("It should return (da_i, da_f, da_g, da_o), dc_before: four arrays in brackets, and one more.")
        return
    if len(four) != 4:
        yield look(f"It should return four gate gradients and dc_before, and the first part has {len(four)}.")
        return
    right, right_before = formulas(*given)
    yield must(found("dc_before", before, right_before, lane_mistakes(*given)))
    if not close(four, right) and any(close(four, [right[k] for k in order]) for order in ([0, 1, 3, 2], [1, 0, 2, 3])):
        yield look("All four are right, but in another order. It is i, f, g, o everywhere in this course.")
        return
    all_right = True
    for k, name in enumerate(NAMES):
        finding = found(name, four[k], right[k], gate_mistakes(name, *given))
        all_right = all_right and finding.right
        yield finding
    if all_right:
        yield proof(gate_gradients, arrays, dhs, dc)


def proof(gate_gradients, arrays, dhs, dc):
    """The learner's function in the loop, against finite differences."""
    grads = backward(gate_gradients, arrays, dhs, dc)
    for name in arrays:
        wanted = nudged(arrays, name, dhs, dc)
        error = np.abs(grads[name] - wanted).max() / np.abs(wanted).max()
        if not error < 1e-6:
            return look(f"In the loop over five steps the gradient of {name} fails the gradient check.")
    numbers = sum(array.size for array in arrays.values())
    return ok(f"Gradient check: all {numbers} numbers of a small LSTM nudged, five steps, every error below 1e-6.")


@gate_gradients.right
def by_the_formulas():
    return answers(formulas)


@gate_gradients.right
def as_a_list():
    return answers(lambda *given: [list(formulas(*given)[0]), formulas(*given)[1]])


@gate_gradients.wrong("as it stands", says="dc_before is Ellipsis")
def unsolved():
    return answers(lambda *given: ((..., ..., ..., ...), ...))


def with_gate(number, change):
    """The formulas, with one of the four replaced."""

    def changed(dh, dc, i, f, g, o, c, c_next):
        four, before = formulas(dh, dc, i, f, g, o, c, c_next)
        four = list(four)
        dc_next = dc + dh * o * (1 - np.tanh(c_next) ** 2)
        four[number] = change(dc_next, dh, dc, i, f, g, o, c, c_next)
        return tuple(four), before

    return answers(changed)


@gate_gradients.wrong("the lane forgotten", says="What comes along the lane, dc, is missing")
def no_lane():
    return answers(lambda dh, dc, *kept: formulas(dh, 0 * dc, *kept))


@gate_gradients.wrong("h' forgotten", says="Only what comes along the lane")
def no_h():
    return answers(lambda dh, dc, *kept: formulas(0 * dh, dc, *kept))


@gate_gradients.wrong("no slope of tanh", says="Between h' and c' stands a tanh")
def no_slope():
    def changed(dh, dc, i, f, g, o, c, c_next):
        return formulas(dh, dc, i, f, g, o, c, c_next)[0], (dc + dh * o) * f

    return answers(changed)


@gate_gradients.wrong("slope at c'", says="not 1 - c'**2")
def slope_of_c():
    def changed(dh, dc, i, f, g, o, c, c_next):
        return formulas(dh, dc, i, f, g, o, c, c_next)[0], (dc + dh * o * (1 - c_next**2)) * f

    return answers(changed)


@gate_gradients.wrong("dc' instead of dc", says="one more product")
def one_product_short():
    def changed(dh, dc, i, f, g, o, c, c_next):
        return formulas(dh, dc, i, f, g, o, c, c_next)[0], dc + dh * o * (1 - np.tanh(c_next) ** 2)

    return answers(changed)


@gate_gradients.wrong("no slope of the gates", says="That is di, before the way")
def no_curves():
    return with_gate(0, lambda dc_next, dh, dc, i, f, g, o, c, c_next: dc_next * g)


@gate_gradients.wrong("sigmoid's slope for the candidate", says="It went through a tanh")
def wrong_curve():
    return with_gate(2, lambda dc_next, dh, dc, i, f, g, o, c, c_next: dc_next * i * g * (1 - g))


@gate_gradients.wrong("sigmoid twice", says="no second one")
def twice():
    return with_gate(1, lambda dn, dh, dc, i, f, g, o, c, cn: dn * c * sigmoid(f) * (1 - sigmoid(f)))


@gate_gradients.wrong("c' for c", says="the cell state before the step")
def wrong_c():
    return with_gate(1, lambda dc_next, dh, dc, i, f, g, o, c, c_next: dc_next * c_next * f * (1 - f))


@gate_gradients.wrong("the output gate without tanh", says="tanh(c_next), not by c_next")
def no_tanh():
    return with_gate(3, lambda dc_next, dh, dc, i, f, g, o, c, c_next: dh * c_next * o * (1 - o))


@gate_gradients.wrong("the candidate times itself", says="not times itself")
def itself():
    return with_gate(2, lambda dc_next, dh, dc, i, f, g, o, c, c_next: dc_next * g * (1 - g**2))


@gate_gradients.wrong("another order", says="in another order")
def order():
    def changed(*given):
        (i, f, g, o), before = formulas(*given)
        return (i, f, o, g), before

    return answers(changed)


@gate_gradients.wrong("joined and without dc", says="four arrays in brackets")
def joined():
    return answers(lambda *given: np.concatenate(formulas(*given)[0], axis=1)[0, 0])
