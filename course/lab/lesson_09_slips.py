"""Backward steps with one slip each, for lesson 09: what a gradient check says of them."""

import numpy as np


def gate_gradients(dh, dc, i, f, g, o, c, c_next, slip):
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    read = c_next if slip == "df takes c' for c" else c
    bend = 1.0 if slip == "dg without the slope of tanh" else 1 - g**2
    keep = 1.0 if slip == "the lane forgets f" else f
    da_i = dc_next * g * i * (1 - i)
    da_f = dc_next * read * f * (1 - f)
    da_g = dc_next * i * bend
    da_o = dh * shown * o * (1 - o)
    return (da_i, da_f, da_g, da_o), dc_next * keep


def of(slip):
    """A backward step with this slip, to be called as the learner's is."""
    return lambda *arguments: gate_gradients(*arguments, slip)


NAMES = ("no slip", "dg without the slope of tanh", "df takes c' for c", "the lane forgets f")
SLIPS = {name: of(name) for name in NAMES}
