"""An encoder and a decoder with attention write sequences backwards that they have not seen, all without a mistake."""

from dataclasses import dataclass

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import nn
from gpulstm.training import Adam, schedules
from tests.learning.reversal import END, LONGEST, START, Reverser, Writer, padded, sequences, task
from tests.learning.training import COMPILED, fit

STEPS = 1500


@dataclass
class Trained:
    model: Reverser
    untrained: Reverser
    held_out: list[np.ndarray]


@pytest.fixture(scope="module", params=COMPILED, ids="seed {}".format)
def trained(request):
    """A model after 1500 steps, which take 6 seconds."""
    seed = request.param
    rng = np.random.default_rng(seed)
    held_out = sequences(300, rng)
    inputs, targets = zip(*map(task, sequences(20_000, rng, without=held_out)), strict=True)
    model = Reverser(np.random.default_rng(seed))
    fit(
        model,
        nn.cross_entropy,
        (inputs, targets),
        steps=STEPS,
        optimiser=Adam(),
        schedule=schedules.warmup_cosine(0.005, STEPS // 20, STEPS),
        clip_norm=1.0,
        rng=seed,
    )
    return Trained(model, Reverser(np.random.default_rng(seed)), held_out)


def written(model, found):
    """What the model writes for each sequence, by the likeliest symbol at each step, up to its END."""
    x, lengths = padded(found)
    writer = Writer(model, x[..., 0], lengths)
    tokens = gl.generate(writer, np.full((1, len(found)), START), LONGEST + 2, temperature=0, stop=END)
    return [list(row[: np.argmax(row == END)]) if END in row else list(row) for row in tokens]


def exact(model, found):
    """How many sequences are written backwards without a mistake, their end included."""
    results = zip(written(model, found), found, strict=True)
    return sum(result == list(symbols[::-1]) for result, symbols in results)


def looks_backwards(model, found):
    """The share of written symbols that are looked for at their own place: the last one first, then the one before."""
    x, lengths = padded(found)
    places = model.weights(x, lengths).argmax(axis=2)  # (time, batch)
    right = [places[: len(symbols), n] == np.arange(len(symbols))[::-1] for n, symbols in enumerate(found)]
    return np.concatenate(right).mean()


def test_every_new_sequence_is_written_backwards(trained):
    assert len(trained.held_out) >= 200
    assert exact(trained.model, trained.held_out) == len(trained.held_out)
    assert exact(trained.untrained, trained.held_out) == 0


def test_attention_runs_backwards_over_the_source(trained):
    assert looks_backwards(trained.model, trained.held_out) > 0.99
    assert looks_backwards(trained.untrained, trained.held_out) < 0.5


def test_a_beam_writes_the_same(trained):
    for symbols in trained.held_out[:10]:
        x, lengths = padded([symbols])
        writer = Writer(trained.model, x[..., 0], lengths)
        best, second = gl.beam_search(writer, [START], LONGEST + 2, width=4, stop=END, top=2)
        assert best.tokens == [*symbols[::-1], END]
        assert best.log_probability > -0.1 and best.log_probability > second.log_probability
