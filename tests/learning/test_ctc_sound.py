"""Words are found in sound by a network that was never told where they are: CTC, with both decoders."""

from dataclasses import dataclass

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import nn
from gpulstm.training import Adam, Batch, Batches, schedules
from tests.learning import sound
from tests.learning.training import WITH_NUMPY, fit

STEPS = 700
ERRORS = 0.015  # words that are missing, too many or wrong, at most, as a share of the words that were spoken


@dataclass
class Trained:
    model: nn.Sequential
    untrained: nn.Sequential
    held_out: Batch
    noisy: Batch


def new_model(seed):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        gl.LSTM(sound.BANDS, 32, bidirectional=True, init="glorot", rng=rng),
        nn.Linear(64, len(sound.WORDS) + 1, rng=rng),
    )


def one_batch(heard, labels):
    return next(Batches(heard, labels, len(heard), targets_are="labels").in_order())


@pytest.fixture(scope="module", params=WITH_NUMPY, ids="seed {}".format)
def trained(request):
    """A model after 700 steps, which take 5 seconds."""
    seed = request.param
    rng = np.random.default_rng(seed)
    model = new_model(seed)
    fit(
        model,
        nn.ctc,
        sound.utterances(1200, rng),
        steps=STEPS,
        batch_size=16,
        optimiser=Adam(),
        schedule=schedules.warmup_cosine(0.01, STEPS // 20, STEPS),
        clip_norm=1.0,
        rng=seed,
    )
    held_out, noisy = (one_batch(*sound.utterances(300, rng, noise=noise)) for noise in (sound.NOISE, (0.7, 0.7)))
    return Trained(model, new_model(seed), held_out, noisy)


def by_greedy(logits, lengths):
    return nn.ctc_greedy(logits, lengths=lengths)


def by_beam(logits, lengths):
    return [best.labels for (best,) in nn.ctc_beam(logits, lengths=lengths, width=8)]


def error_rate(model, batch, decode):
    found = decode(model(batch.x, lengths=batch.lengths), batch.lengths)
    spoken = [row[:n] for row, n in zip(batch.target, batch.target_lengths, strict=True)]
    return sum(map(sound.distance, found, spoken)) / batch.target_lengths.sum()


def log_probabilities(logits, lengths, labels):
    """(batch,) of these labels, over all their alignments."""
    counts = np.array([len(each) for each in labels])
    target = np.zeros((len(labels), counts.max()), np.int32)
    for row, each in zip(target, labels, strict=True):
        row[: len(each)] = each
    return -nn.ctc(logits, target, lengths=lengths, target_lengths=counts, reduction="none")[0]


@pytest.mark.parametrize("decode", [by_greedy, by_beam])
def test_words_are_found_in_new_utterances(trained, decode):
    assert error_rate(trained.model, trained.held_out, decode) < ERRORS
    assert error_rate(trained.untrained, trained.held_out, decode) > 0.8


def test_a_beam_makes_no_more_mistakes_than_the_greedy_path(trained):
    """In more noise than the model was trained with, where both make some."""
    greedy, beam = (error_rate(trained.model, trained.noisy, decode) for decode in (by_greedy, by_beam))
    assert 0.01 < beam <= greedy < 0.25


def test_a_beam_finds_likelier_labels_than_the_greedy_path(trained):
    batch = trained.noisy
    logits = trained.model(batch.x, lengths=batch.lengths)
    greedy = log_probabilities(logits, batch.lengths, by_greedy(logits, batch.lengths))
    beam = log_probabilities(logits, batch.lengths, by_beam(logits, batch.lengths))
    assert beam.mean() > greedy.mean() and np.any(beam > greedy + 0.1)
    said = [best.log_probability for (best,) in nn.ctc_beam(logits, lengths=batch.lengths, width=8)]
    assert np.all(said < beam + 1e-3)  # the paths that were followed are some of all


def test_the_distance_of_labellings():
    assert sound.distance([1, 2, 3], [1, 2, 3]) == sound.distance([], []) == 0
    assert sound.distance([], [4, 4]) == sound.distance([4, 4], []) == 2
    assert sound.distance([1, 2, 3], [1, 3]) == sound.distance([1, 2, 3], [1, 5, 3]) == 1
    assert sound.distance([1, 2, 3, 4], [2, 3, 4, 1]) == 2
