"""Which small layers of 16 bits run on the tensor cores in blocks of their own, and how. No GPU takes part."""

import itertools

import pytest

from gpulstm.cuda import both_directions, planner, resident_tensor_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, choose
from tests.test_planner import BATCH, DEVICES, H200

PASSES = [direction for direction in (FORWARD, BACKWARD) if direction in resident_tensor_layouts.KERNELS]
HIDDEN = (1, 8, 31, 33, 64, 65, 97, 100, 128)


def layers():
    for direction, hidden, batch in itertools.product(PASSES, HIDDEN, BATCH):
        if resident_tensor_layouts.kernel_of(direction, hidden, "bfloat16", 90):
            yield direction, batch, hidden


@pytest.mark.parametrize("device", ["H200", "7 multiprocessors", "1 multiprocessor", "not cooperative"])
def test_whatever_is_chosen_covers_the_layer(device):
    for direction, batch, hidden in layers():
        with planner.only("resident"):
            choice = choose(direction, batch, hidden, "bfloat16", DEVICES[device])
        kernel, tiles = choice.kernel, choice.tiles
        assert kernel == resident_tensor_layouts.KERNELS[direction] and tiles in resident_tensor_layouts.TILES[kernel]
        assert resident_tensor_layouts.units(tiles) >= hidden > resident_tensor_layouts.units(tiles) - 32
        assert choice.groups * choice.share >= batch > (choice.groups - 1) * choice.share, "no group is empty"
        assert choice.share == -(-batch // choice.groups), "as the kernel computes it from the number of blocks"
        assert choice.share <= resident_tensor_layouts.sequences(kernel, tiles)


def test_sequences_fill_blocks_before_blocks_share_a_multiprocessor():
    of_batch = {n: choose(FORWARD, n, 128, "float16", H200) for n in (1, 132, 133, 528, 529)}
    found = [(c.groups, c.share, c.tiles) for c in of_batch.values()]
    assert found == [(1, 1, (8, 1)), (132, 1, (8, 1)), (67, 2, (8, 4)), (132, 4, (8, 4)), (133, 4, (8, 4))]
    assert of_batch[1].microseconds == of_batch[132].microseconds < of_batch[133].microseconds
    assert of_batch[528].microseconds * 2 == of_batch[529].microseconds
    shared = [choose(FORWARD, n, 60, "float16", H200) for n in (528, 529, 1056)]
    assert shared[0].microseconds < shared[1].microseconds == shared[2].microseconds < 2 * shared[0].microseconds


def test_going_back_eight_sequences_share_a_block_where_four_would_take_turns():
    for hidden, batch, pairs, share in ((128, 528, 1, 4), (128, 529, 2, 5), (128, 1056, 2, 8), (64, 1056, 1, 4)):
        choice = choose(BACKWARD, batch, hidden, "float16", H200)
        assert (choice.tiles, choice.share) == ((hidden // 16, pairs), share)
        assert choose(BACKWARD, batch, hidden, "float16", H200, "", "options").tiles[1] == 1
    assert choose(BACKWARD, 8, 63, "float16", H200).kernel == "lstm_resident_backward", "it reads two units at a time"


@pytest.mark.parametrize("options", ["", "options"])
def test_two_directions_share_the_device(options):
    for direction, batch in itertools.product(PASSES, (1, 66, 67, 264)):
        if options and resident_tensor_layouts.KERNELS[direction] not in resident_tensor_layouts.WITH_OPTIONS:
            continue
        one = choose(direction, batch, 128, "float16", H200, "", options)
        both, _ = both_directions.side_by_side(direction, one, batch, 128, H200, options=bool(options))
        assert one.kernel == both.kernel == resident_tensor_layouts.KERNELS[direction]
        assert (both.groups, both.share) == {1: (1, 1), 66: (66, 1), 67: (34, 2), 264: (66, 4)}[batch]
        assert one.microseconds <= both.microseconds < 1.2 * one.microseconds


def test_who_takes_other_kernels():
    for device, dtype in ((DEVICES["capability 7.5"], "float16"), (H200, "float32"), (H200, "tf32")):
        assert choose(FORWARD, 8, 64, dtype, device).kernel == "lstm_resident_forward"
    assert choose(FORWARD, 8, 104, "float16", DEVICES["capability 7.5"]).reason.startswith(
        "resident is for hidden_size"
    )
    with planner.only("resident"), pytest.raises(ValueError, match="up to 128 in 16 bits, not 129"):
        choose(FORWARD, 8, 129, "float16", H200)
    with planner.only("resident"), pytest.raises(ValueError, match="in 32 bits, too few for batch 4000000"):
        choose(FORWARD, 4_000_000, 128, "float16", H200)
    kernel = resident_tensor_layouts.kernel_of
    assert not kernel(FORWARD, 64, "float16", 90, planner.LAYER_NORM)
    assert kernel(FORWARD, 64, "float16", 80, "options") == resident_tensor_layouts.FORWARD


def test_a_block_has_as_many_threads_as_the_kernel_is_compiled_for():
    for kernel, choices in resident_tensor_layouts.TILES.items():
        for tiles in choices:
            threads = resident_tensor_layouts.threads(resident_tensor_layouts.units(tiles), kernel)
            assert threads == {FORWARD: 64, BACKWARD: 32}[kernel.rpartition("_")[2]] * tiles[0]
