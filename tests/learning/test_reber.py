"""The embedded Reber grammar is learnt from its strings alone: at each step, all that may follow and nothing else."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.training import Adam, schedules
from tests.learning import reber
from tests.learning.training import WITH_NUMPY, fit

STEPS = 900  # of training, in batches of 32 strings, 12 symbols long on average; legal ones are at 0.37 or more by then
HIDDEN = 32
RATE = 0.01
HIGH = 0.25  # A symbol is predicted as possible from this probability on. The legal ones have 1/2, or 1 if alone.


def new_model(seed):
    """``forget_bias`` because the second symbol is needed 5 to 50 steps later."""
    rng = np.random.default_rng(seed)
    symbols = len(reber.SYMBOLS)
    return gl.nn.Sequential(
        gl.nn.Embedding(symbols, symbols, rng=rng),
        gl.LSTM(symbols, HIDDEN, forget_bias=2, rng=rng),
        gl.nn.Linear(HIDDEN, symbols, rng=rng),
    )


def wrong_steps(probabilities, strings):
    """(time, strings) booleans: where the symbols predicted as possible are not exactly the legal ones."""
    inside = np.arange(len(probabilities))[:, None] < [len(one.legal) for one in strings]
    return inside & ((probabilities > HIGH) != reber.legal(strings)).any(axis=-1)


def predicted(model, strings):
    """(time, strings, symbols) probabilities of what comes next."""
    given = reber.batch(strings)
    powers = np.exp(model(given.x, lengths=given.lengths).astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def unseen_strings(seed, count, seen):
    """Different strings that are not among ``seen``: longer ones than most."""
    rng, found = np.random.default_rng([seed, 1]), {}
    while len(found) < count:
        one = reber.string(rng)
        if one.symbols not in seen:
            found[one.symbols] = one
    return list(found.values())


@pytest.mark.parametrize("seed", WITH_NUMPY)
def test_reber(seed):
    model, seen = new_model(seed), set()

    def train(rng):
        drawn = reber.strings(rng, 32)
        seen.update(one.symbols for one in drawn)
        return reber.batch(drawn)

    fit(
        model,
        gl.nn.cross_entropy,
        train,
        steps=STEPS,
        optimiser=Adam(RATE),
        schedule=schedules.cosine(RATE, STEPS),
        clip_norm=1.0,
        rng=seed,
    )
    fresh, unseen = reber.strings(np.random.default_rng([seed, 2]), 500), unseen_strings(seed, 500, seen)
    for strings in (fresh, unseen):
        assert not wrong_steps(predicted(model, strings), strings).any()
        assert wrong_steps(predicted(new_model(seed), strings), strings).any(axis=0).all()


def test_who_forgets_the_second_symbol_is_wrong_at_the_last_but_one():
    """Who knows the grammar and no more has T and P as equally likely there, and is right everywhere else."""
    strings = reber.strings(np.random.default_rng(0), 500)
    probabilities = reber.legal(strings).astype(float)
    for k, one in enumerate(strings):
        probabilities[len(one.symbols) - 3, k] = [symbol in "TP" for symbol in reber.SYMBOLS]
    probabilities /= np.maximum(probabilities.sum(axis=-1, keepdims=True), 1)
    steps, found = np.nonzero(wrong_steps(probabilities, strings))
    assert sorted(found) == list(range(500))
    assert all(step == len(strings[k].symbols) - 3 for step, k in zip(steps, found, strict=True))
