"""gpulstm.nn.ctc_greedy and ctc_beam: against all paths written out, and against the loss."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from gpulstm import nn

FULL = 10**6  # more beginnings than there are


def collapsed(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def by_all_paths(logits, blank):
    """{labels: probability} and the labels of the likeliest path, of (time, classes)."""
    y = np.exp(logits - logits.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    probability, best = defaultdict(float), (-1.0, ())
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        p = math.prod(y[step, k] for step, k in enumerate(path))
        probability[collapsed(path, blank)] += p
        best = max(best, (p, collapsed(path, blank)), key=lambda pair: pair[0])
    return probability, best[1]


def problem(seed, steps=5, batch=3, classes=3):
    return 2 * np.random.default_rng(seed).normal(size=(steps, batch, classes))


@pytest.mark.parametrize("blank", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_width_gives_every_labelling_its_probability(backend, seed, blank):
    logits, lengths = problem(seed), [5, 3, 0]
    found = nn.ctc_beam(backend.array(logits), width=FULL, lengths=lengths, blank=blank, top=FULL)
    for n, length in enumerate(lengths):
        wanted = {labels: p for labels, p in by_all_paths(logits[:length, n], blank)[0].items() if p > 0}
        assert len(found[n]) == len({tuple(labels) for labels, _ in found[n]}) == len(wanted)
        for labels, log_probability in found[n]:
            assert log_probability == pytest.approx(math.log(wanted[tuple(labels)]), abs=1e-12)
        values = [log_probability for _, log_probability in found[n]]
        assert values == sorted(values, reverse=True)
    assert [(list(pair.labels), pair.log_probability) for pair in found[2]] == [([], 0.0)]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_the_likeliest_path(backend, seed):
    logits, lengths = problem(seed), np.array([5, 0, 4])
    found = nn.ctc_greedy(backend.array(logits), lengths=lengths, blank=1)
    assert found == [list(by_all_paths(logits[:length, n], 1)[1]) for n, length in enumerate(lengths)]
    assert nn.ctc_greedy(logits[:4], blank=1)[2] == found[2]


def test_greedy_merges_repeats_before_it_drops_blanks():
    path = [1, 1, 0, 1, 2, 2, 0, 0, 2, 1]
    assert nn.ctc_greedy(np.eye(3)[path][:, None]) == [[1, 1, 2, 2, 1]]
    assert nn.ctc_greedy(np.zeros((4, 1, 3))) == [[]] and nn.ctc_greedy(np.zeros((4, 1, 3)), blank=2) == [[0]]


def test_a_beam_finds_what_greedy_misses():
    """The likeliest path is all blanks, of probability 0.36; but [1] has three paths and 0.64."""
    log_y = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
    assert nn.ctc_greedy(log_y) == [[]]
    ((best, second),) = nn.ctc_beam(log_y, width=2, top=2)
    assert best.labels == [1] and best.log_probability == pytest.approx(math.log(0.64))
    assert second.labels == [] and second.log_probability == pytest.approx(math.log(0.36))


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_narrow_beam_gives_lower_bounds(width):
    logits = problem(11, steps=12, batch=4, classes=5)
    gap = []
    for n, found in enumerate(nn.ctc_beam(logits, width=width, top=width)):
        assert 1 <= len(found) <= width
        for labels, log_probability in found:
            loss, _ = nn.ctc(logits[:, [n]], np.array([labels], int).reshape(1, -1), reduction="sum")
            assert log_probability <= -loss + 1e-12
            gap.append(-loss - log_probability)
    assert max(gap) > 1e-6


def test_a_beam_at_a_moderate_width_finds_the_likeliest_of_all():
    """What a full search finds, where that is possible; and somewhere not what greedy finds."""
    differ = 0
    for seed in range(20):
        logits = problem(seed, steps=6, batch=1)
        probability, _ = by_all_paths(logits[:, 0], 0)
        labels = nn.ctc_beam(logits, width=20)[0][0].labels
        assert tuple(labels) == max(probability, key=probability.get)
        differ += labels != nn.ctc_greedy(logits)[0]
    assert differ >= 2


def test_ties_are_broken_by_the_lower_class():
    # All of [], [1], [2] have probability 1/3 after one step of equal logits.
    found = nn.ctc_beam(np.zeros((1, 1, 3)), width=2, top=2)[0]
    assert [pair.labels for pair in found] == [[], [1]]


def test_impossible_labellings_are_left_out():
    logits = np.zeros((3, 2, 3))
    logits[:, 0, 2] = logits[:, 1, 1:] = -np.inf
    first, second = nn.ctc_beam(logits, width=FULL, top=FULL)
    assert sorted(pair.labels for pair in first) == [[], [1], [1, 1]]
    assert [tuple(pair) for pair in second] == [([], 0.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_in_any_precision(dtype):
    logits = torch.asarray(problem(1)).to(dtype)
    exact = logits.to(torch.float64).numpy()
    assert nn.ctc_greedy(logits) == nn.ctc_greedy(exact)
    for found, wanted in zip(nn.ctc_beam(logits), nn.ctc_beam(exact), strict=True):
        assert found[0].labels == wanted[0].labels
        assert found[0].log_probability == pytest.approx(wanted[0].log_probability, abs=1e-12)


def test_inputs_are_left_alone_and_batches_may_be_empty(backend):
    logits = problem(2)
    given = backend.array(logits)
    nn.ctc_greedy(given), nn.ctc_beam(given, width=3)
    np.testing.assert_array_equal(backend.numpy(given), logits)
    for decode in (nn.ctc_greedy, nn.ctc_beam):
        assert decode(backend.array(logits[:, :0])) == []
    assert nn.ctc_greedy(backend.array(logits[:0])) == [[], [], []]
    assert nn.ctc_beam(backend.array(logits[:0])) == [[([], 0.0)]] * 3


def test_a_long_sequence_has_no_underflow():
    logits = problem(3, steps=2000, batch=1, classes=6)
    best = nn.ctc_beam(logits, width=3)[0][0]
    assert np.isfinite(best.log_probability) and best.log_probability < -745  # exp of it is 0 in float64


GOOD = np.zeros((4, 2, 3), "float32")


@pytest.mark.parametrize("decode", [nn.ctc_greedy, nn.ctc_beam])
@pytest.mark.parametrize(
    "logits, options, error, message",
    [
        (np.zeros((4, 3)), {}, ValueError, r"logits must have shape \(time, batch, classes\)"),
        (np.zeros((4, 2, 3), int), {}, TypeError, "logits must have dtype float32 or float64, got int64"),
        ([[[0.0]]], {}, TypeError, "logits must be an array"),
        (GOOD, {"blank": 3}, ValueError, "blank must be between 0 and classes - 1 = 2, got 3"),
        (GOOD, {"lengths": [4, 5]}, ValueError, "lengths must be between 0 and the number of time steps 4, got 5"),
        (GOOD, {"lengths": [4]}, ValueError, r"lengths must have shape \(batch,\) = \(2,\)"),
        (GOOD * np.float32(np.nan), {"lengths": [0, 2]}, ValueError, "got NaN at step 0 of sequence 1"),
    ],
)
def test_they_refuse_what_does_not_match(decode, logits, options, error, message):
    with pytest.raises(error, match=message), np.errstate(invalid="ignore"):
        decode(logits, **options)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"width": 2.0}, TypeError, "width must be an integer"),
        ({"top": 0}, ValueError, "top must be at least 1, got 0"),
        ({"width": 2, "top": 3}, ValueError, "top must be at most width 2, got 3"),
    ],
)
def test_a_beam_refuses_a_wrong_width(options, error, message):
    with pytest.raises(error, match=message):
        nn.ctc_beam(GOOD, **options)


@pytest.mark.parametrize("row", [[0, np.inf, 0], [-np.inf] * 3], ids=str)
def test_a_beam_refuses_what_has_no_softmax(row):
    logits = np.zeros((4, 2, 3))
    logits[2, 1] = row
    with pytest.raises(ValueError, match="logits must have a softmax, got NaN at step 2 of sequence 1"):
        nn.ctc_beam(logits)
    assert len(nn.ctc_beam(logits, lengths=[4, 2])) == 2
