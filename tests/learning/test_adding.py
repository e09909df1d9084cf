"""The adding problem over 100 steps is learnt from examples."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.training import Adam, schedules
from tests.learning import tasks
from tests.learning.training import COMPILED, fit

STEPS = 800  # of training, in batches of 32; at half of them the error is far below the bound, decay does the rest
HIDDEN = 32
RATE = 0.02  # falls to zero along a cosine


def new_model(seed):
    """``chrono`` because the sum is asked for up to 100 steps after the first number."""
    rng = np.random.default_rng(seed)
    return gl.nn.Sequential(gl.LSTM(2, HIDDEN, chrono=100, rng=rng), gl.nn.LastStep(), gl.nn.Linear(HIDDEN, 1, rng=rng))


def held_out_error(model, seed):
    held_out = tasks.adding(np.random.default_rng([seed, 1]), 1000, 100)
    return np.mean((model(held_out.x) - held_out.target) ** 2)


@pytest.mark.parametrize("seed", COMPILED)
def test_adding(seed):
    model = new_model(seed)
    assert held_out_error(model, seed) > 0.15
    fit(
        model,
        gl.nn.mean_squared_error,
        lambda rng: tasks.adding(rng, 32, 100),
        steps=STEPS,
        optimiser=Adam(RATE),
        schedule=schedules.cosine(RATE, STEPS),
        clip_norm=1.0,
        rng=seed,
    )
    assert held_out_error(model, seed) < 0.01
