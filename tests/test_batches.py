"""gpulstm.training.Batches: every sequence once an epoch, little padding, an order that seed and epoch determine."""

import numpy as np
import pytest
import torch

from gpulstm.training import Batch, Batches
from gpulstm.training.batches import size_of
from tests.training_problems import sequences


def numbered(lengths, features=2):
    """Sequences that hold their own number, such as (3, 2) full of 7."""
    return [np.full((n, features), k, "float32") for k, n in enumerate(lengths)]


def numbers_in(batches):
    return [list(batch.x[0, :, 0].astype(int)) for batch in batches]


@pytest.mark.parametrize("number, batch_size, expected", [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3]), (1, 1, [1])])
@pytest.mark.parametrize("longest", [3, 9], ids=["one length", "many lengths"])
def test_an_epoch_has_every_sequence_once(number, batch_size, expected, longest):
    lengths = np.random.default_rng(0).integers(3, longest + 1, number)
    batches = Batches(numbered(lengths), numbered(lengths), batch_size, rng=0)
    for epoch in range(3):
        found = numbers_in(batches.epoch(epoch))
        assert sorted(sum(found, [])) == list(range(number))
        assert sorted(map(len, found), reverse=True) == expected and len(batches) == len(expected)


def test_the_order_is_a_function_of_seed_and_epoch():
    data = sequences(100)
    orders = {(seed, epoch): numbers(Batches(*data, 8, rng=seed), epoch) for seed in (1, 2) for epoch in (0, 1, 5)}
    assert len(set(orders.values())) == 6
    moved = Batches(*data, 8, rng=1)
    for epoch in (5, 0, 1, 0):  # whatever came before
        assert numbers(moved, epoch) == orders[1, epoch]
    assert Batches(*data, rng=np.random.default_rng(3)).seed == Batches(*data, rng=np.random.default_rng(3)).seed
    assert Batches(*data).seed != Batches(*data).seed


def numbers(batches, epoch):
    return tuple(tuple(found) for found in batches.order(epoch))


def test_sequences_of_like_length_come_together_and_batches_are_shuffled():
    lengths = np.random.default_rng(1).integers(1, 200, 3000)
    batches = Batches(numbered(lengths), numbered(lengths), 32, rng=0)
    order = batches.order(0)
    longest = np.array([lengths[found].max() for found in order])
    assert np.mean(longest[1:] > longest[:-1]) == pytest.approx(0.5, abs=0.15), "the batches are sorted"
    in_any_order = 1 - lengths.sum() / sum(32 * lengths[k : k + 32].max() for k in range(0, 3000, 32))
    assert batches.padding_share < 0.03 and in_any_order > 0.4
    # The same neighbours in each epoch would be the same batches again and again.
    together = [{frozenset(found) for found in batches.order(epoch)} for epoch in (0, 1)]
    assert not together[0] & together[1]


def test_padding_share_is_that_of_the_batches():
    batches = Batches(*sequences(41), 8, rng=3)
    sizes = [size_of(batch, False) for batch in batches.epoch(0)]
    assert batches.padding_share == pytest.approx(1 - sum(size[1] for size in sizes) / sum(size[2] for size in sizes))
    assert sum(size[0] for size in sizes) == 41
    assert Batches(*sequences(9, shortest=5, longest=5)).padding_share == 0


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_batch_is_padded_with_zeros_behind_each_end(batch_first):
    inputs, targets = sequences(6, shortest=1, longest=7)
    batch = Batches(inputs, targets, 6, rng=0, batch_first=batch_first).batch(np.array([4, 0, 2]))
    longest = max(len(inputs[k]) for k in (4, 0, 2))
    x, target = (a.swapaxes(0, 1) if batch_first else a for a in (batch.x, batch.target))
    assert x.shape == (longest, 3, 2) and target.shape == (longest, 3, 1) and x.dtype == target.dtype == np.float32
    assert list(batch.lengths) == [len(inputs[k]) for k in (4, 0, 2)] and batch.lengths.dtype == np.int32
    for column, k in enumerate((4, 0, 2)):
        np.testing.assert_array_equal(x[: len(inputs[k]), column], inputs[k])
        np.testing.assert_array_equal(target[: len(inputs[k]), column], targets[k])
        assert not x[len(inputs[k]) :, column].any() and not target[len(inputs[k]) :, column].any()
    assert batch.x.flags.c_contiguous and batch.target_lengths is None


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_array_gives_what_a_list_of_its_rows_gives(batch_first):
    inputs, targets = np.random.default_rng(0).normal(size=(9, 5, 2)), np.arange(45).reshape(9, 5)
    whole = Batches(inputs, targets, 4, rng=0, batch_first=batch_first)
    listed = Batches(list(inputs), list(targets), 4, rng=0, batch_first=batch_first)
    assert whole.targets_are == listed.targets_are == "steps" and not whole.padded
    for one, other in zip(whole.epoch(2), listed.epoch(2), strict=True):
        for a, b in zip(one[:2], other[:2], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.flags.c_contiguous and a.dtype == b.dtype
        assert one.lengths is other.lengths is None


def test_a_batch_without_padding_has_no_lengths():
    batches = Batches(*[numbered([4, 4, 2, 4])] * 2, 2, rng=0)
    assert batches.batch(np.array([0, 3])).lengths is None
    assert list(batches.batch(np.array([0, 2])).lengths) == [4, 2]


@pytest.mark.parametrize("targets", [[3, 1, 2], np.array([3, 1, 2]), [np.array(3), np.array(1), np.array(2)]])
def test_one_target_for_each_sequence_is_stacked(targets):
    batches = Batches(numbered([4, 2, 3]), targets, rng=0)
    batch = batches.batch(np.array([2, 0]))
    assert batches.targets_are == "sequences" and list(batch.target) == [2, 3] and list(batch.lengths) == [3, 4]
    vectors = Batches(numbered([4, 2, 3]), [np.full(6, k) for k in range(3)])
    assert vectors.targets_are == "sequences" and vectors.batch(np.array([1, 2])).target.shape == (2, 6)


def test_labels_are_padded_behind_their_own_ends():
    labels = [np.array([1, 2, 3]), np.array([4]), np.array([], int), np.array([5, 6])]
    batches = Batches(numbered([4, 2, 3, 5]), labels, targets_are="labels")
    batch = batches.batch(np.array([3, 0, 2]))
    np.testing.assert_array_equal(batch.target, [[5, 6, 0], [1, 2, 3], [0, 0, 0]])
    assert list(batch.target_lengths) == [2, 3, 0] and list(batch.lengths) == [5, 4, 3]


def test_labels_as_long_as_the_inputs_are_steps_unless_it_is_said():
    data = numbered([4, 2]), [np.arange(4), np.arange(2)]
    assert Batches(*data).targets_are == "steps"
    assert Batches(*data, targets_are="labels").batch(np.array([1, 0])).target.shape == (2, 4)


def test_validation_order_is_the_same_each_time_and_by_length():
    lengths = np.random.default_rng(1).integers(1, 9, 50)
    batches = Batches(numbered(lengths), numbered(lengths), 8, rng=0)
    first, again = (numbers_in(batches.in_order()) for _ in range(2))
    assert first == again and list(lengths[sum(first, [])]) == sorted(lengths)


def test_torch_tensors_are_fetched():
    inputs, targets = sequences(5)
    ours = Batches(inputs, targets, 2, rng=0)
    theirs = Batches([torch.asarray(x) for x in inputs], [torch.asarray(y) for y in targets], 2, rng=0)
    for a, b in zip(ours.epoch(0), theirs.epoch(0), strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        assert type(b.x) is type(b.target) is np.ndarray


def test_size_counts_what_is_known_without_waiting():
    x = np.zeros((5, 3, 2))
    assert size_of(Batch(x, None), False) == (3, 15, 15) and size_of(Batch(x, None), True) == (5, 15, 15)
    assert size_of(Batch(x, None, [5, 1, 0]), False) == (3, 6, 15)
    assert size_of(Batch(x, None, torch.tensor([5, 1, 0])), False) == (3, 15, 15)


GOOD = numbered([3, 2])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((GOOD, GOOD[:1]), ValueError, "targets must be as many as inputs, 2, got 1"),
        (([], []), ValueError, "inputs must hold at least one sequence"),
        ((numbered([3, 0]), GOOD), ValueError, r"inputs\[1\] has no time steps"),
        (([np.float32(1)], [1]), TypeError, r"inputs\[0\] must be an array"),
        (([np.ones(())], [1]), ValueError, r"inputs\[0\] must have shape \(time, ...\)"),
        (
            (np.ones(3), np.ones(3)),
            ValueError,
            r"inputs must have shape \(sequences, time, ...\) as one array, got \(3,\)",
        ),
        ((3, 3), TypeError, "inputs must be a sequence of arrays or one array, got int"),
        (([GOOD[0], GOOD[1].astype(float)], GOOD), TypeError, r"inputs\[1\] must have inputs\[0\]'s dtype float32"),
        (
            ([np.ones((3, 2)), np.ones((3, 4))], GOOD),
            ValueError,
            r"inputs\[1\] must have inputs\[0\]'s shape \(3, 2\) but",
        ),
        ((GOOD, numbered([3, 1])), ValueError, r"targets\[1\] must have as many time steps as its input, 2, or"),
        ((GOOD, GOOD, 0), ValueError, "batch_size must be at least 1"),
        ((GOOD, GOOD, 2.0), TypeError, "batch_size must be an integer"),
    ],
)
def test_it_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches(*arguments)


def test_it_refuses_kinds_that_cannot_be():
    with pytest.raises(ValueError, match="targets_are must be one of 'steps', 'sequences', 'labels'"):
        Batches(GOOD, GOOD, targets_are="words")
    with pytest.raises(ValueError, match="targets must be 'steps', and their shapes do not allow it"):
        Batches(GOOD, [1, 2], targets_are="steps")


def test_inputs_are_left_alone():
    inputs, targets = sequences(5)
    before = [a.copy() for a in (*inputs, *targets)]
    for batch in Batches(inputs, targets, 2).epoch(0):
        batch.x[...] = 7
        batch.target[...] = 7
    for one in (np.stack([np.ones((3, 2))] * 4),):
        for batch in Batches(one, one, 2).epoch(0):
            batch.x[...] = 7
        assert (one == 1).all()
    for a, b in zip((*inputs, *targets), before, strict=True):
        np.testing.assert_array_equal(a, b)
