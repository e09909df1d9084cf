"""Models that the tests of Sequential build."""

import copy

import numpy as np

import gpulstm as gl
from gpulstm import nn

TOKENS, WIDTH, HIDDEN, CLASSES = 13, 5, 4, 3
STEPS, BATCH = 6, 4
LENGTHS = [6, 0, 3, 1]


def tagger(dtype="float64", dropout=0.0, seed=1):
    """Embedding, two bidirectional layers, linear: a class for each step."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Embedding(TOKENS, WIDTH, padding_index=0, dtype=dtype, rng=rng),
        gl.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, dropout=dropout, dtype=dtype, rng=rng),
        nn.Linear(2 * HIDDEN, CLASSES, dtype=dtype, rng=rng),
    )


def forecaster(dtype="float64", seed=2):
    """Recurrent layers that stand apart, one of them inside of a model inside."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        gl.LSTM(WIDTH, HIDDEN, dtype=dtype, rng=rng),
        nn.Sequential(nn.Linear(HIDDEN, WIDTH, dtype=dtype, rng=rng), gl.LSTM(WIDTH, 3, dtype=dtype, rng=rng)),
        gl.LSTM(3, HIDDEN, dtype=dtype, rng=rng),
        nn.Linear(HIDDEN, CLASSES, dtype=dtype, rng=rng),
    )


def tokens(seed=3):
    return np.random.default_rng(seed).integers(0, TOKENS, (STEPS, BATCH))


def moved(model, convert):
    """The same model with its parameters in another library."""
    twin = copy.deepcopy(model)
    for name, value in model.params.items():
        twin.params[name] = convert(value)
    return twin


class Noise:
    """A random layer, to see which seeds it is given."""

    def __init__(self):
        self.seeds = []

    def __call__(self, x):
        return x

    def forward(self, x, rng=None):
        self.seeds.append(rng)
        return x, None

    def backward(self, cache, dout):
        return dout, {}
