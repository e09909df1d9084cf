"""Temporal order: two marks far apart, and far from the end, are told in their order."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.training import Adam, schedules
from tests.learning import tasks
from tests.learning.training import WITH_NUMPY, fit

# What goes wrong, if anything does: only counting the marks, which takes XY for YX and is right 3 times out of 4. Two
# trainings in ten ended there at rate 0.02, one in twenty at 0.01, none in 24 at 0.01 with a second beta of 0.99.
# At a rate that does not fall, some lost again what they had learnt.
STEPS = 550  # of training, in batches of 32; eight seeds in eight told all 2000 apart by then
HIDDEN = 32
RATE, BETAS = 0.01, (0.9, 0.99)


def new_model(seed):
    """``chrono`` because the first mark comes up to 100 steps before the end."""
    rng = np.random.default_rng(seed)
    return gl.nn.Sequential(gl.LSTM(8, HIDDEN, chrono=100, rng=rng), gl.nn.LastStep(), gl.nn.Linear(HIDDEN, 4, rng=rng))


def held_out_accuracy(model, seed):
    held_out = tasks.temporal_order(np.random.default_rng([seed, 1]), 2000)
    logits = model(held_out.x, lengths=held_out.lengths)
    return np.mean(logits.argmax(axis=-1) == held_out.target)


@pytest.mark.parametrize("seed", WITH_NUMPY)
def test_temporal_order(seed):
    model = new_model(seed)
    assert held_out_accuracy(model, seed) < 0.3
    fit(
        model,
        gl.nn.cross_entropy,
        lambda rng: tasks.temporal_order(rng, 32),
        steps=STEPS,
        optimiser=Adam(RATE, betas=BETAS),
        schedule=schedules.cosine(RATE, STEPS),
        clip_norm=1.0,
        rng=seed,
    )
    assert held_out_accuracy(model, seed) > 0.99
