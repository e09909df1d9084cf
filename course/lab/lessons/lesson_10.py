"""The check of lesson 10."""

import numpy as np

from lab.exercises import answers, exercise, look, ok
from lab.kinds import Number

HIDDEN, INPUTS, BATCH, STEPS = 32, 4, 8, 100
LOW, HIGH = 0.1, 1.0


def norm_at_lag_99(forget_bias, seed):
    """The lesson's lstm_norms(forget_bias, seed)[99]."""
    import gpulstm as gl

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS, BATCH, INPUTS))
    dh = rng.normal(size=(BATCH, HIDDEN))
    dh /= np.linalg.norm(dh)
    cell = gl.LSTMCell(INPUTS, HIDDEN, dtype="float64", rng=seed + 1)
    cell.params["bias"][:] = 0
    cell.params["bias"][HIDDEN : 2 * HIDDEN] = forget_bias
    state, caches = (np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN))), []
    for x_t in x:
        state, cache = cell.forward(x_t, state)
        caches.append(cache)
    dstate = (dh, np.zeros_like(dh))
    for cache in caches[:0:-1]:
        _, _, dstate = cell.backward(cache, dstate)
    return float(np.sqrt(sum((d**2).sum() for d in dstate)))


@exercise("10.forget-bias")
def forget_bias(my_forget_bias: Number()):
    """A forget bias with which the gradient neither vanishes nor grows over 99 steps."""
    if not np.isfinite(my_forget_bias):
        yield look("The forget bias should be a finite number.")
        return
    if my_forget_bias > 20:
        yield look("With such a bias the gate is 1 to the last digit. It can never forget, and never learn to.")
        return
    norms = [norm_at_lag_99(my_forget_bias, seed) for seed in range(3)]
    median, gate = float(np.median(norms)), 1 / (1 + np.exp(-my_forget_bias))
    measured = (
        f"With bias {my_forget_bias:.2g} the gate starts at {gate:.2f}, and at lag 99 the median is {median:.0e}."
    )
    if LOW <= median <= HIGH:
        yield ok(measured + " That is inside the band.")
    elif median < LOW and 0.5 < my_forget_bias < 1:
        yield look(measured + " That vanishes. Is this the value of the gate? The bias goes through a sigmoid first.")
    elif median < LOW:
        yield look(measured + " That vanishes: the gate must be more open.")
    else:
        yield look(measured + " That has grown: the gate must be less open.")


@forget_bias.right
def between_two_and_three():
    return answers(2.5)


@forget_bias.right
def an_integer_array_is_a_number_too():
    return answers(np.array(2.4))


@forget_bias.wrong("PyTorch's beginning", says="That vanishes: the gate must be more open")
def zero():
    return answers(0)


@forget_bias.wrong("Keras' beginning", says="That vanishes: the gate must be more open")
def one():
    return answers(1.0)


@forget_bias.wrong("the gate instead of the bias", says="Is this the value of the gate?")
def gate():
    return answers(0.97)


@forget_bias.wrong("the other sign", says="That vanishes")
def negative():
    return answers(-2.5)


@forget_bias.wrong("too open", says="That has grown")
def four():
    return answers(4)


@forget_bias.wrong("never forget", says="never learn to")
def hundred():
    return answers(100)
