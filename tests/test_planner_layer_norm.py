"""The planner with layer norm: it takes one launch where it can, names the kernels, and says what is not measured."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import catalogue, layer_norm_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, LAYER_NORM, Device
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu

H200 = Device(90, 132, 232448, True)


def choose(direction: str, batch: int, hidden: int, dtype: str = "float32") -> planner.Choice:
    return planner.choose(direction, batch, hidden, dtype, H200, "", LAYER_NORM)


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
@pytest.mark.parametrize("hidden", [13, 64, 132, 512, 1024])
@pytest.mark.parametrize("batch", [1, 8, 100])
def test_the_plain_layout_in_kernels_of_its_own(direction, hidden, batch):
    choice = choose(direction, batch, hidden)
    plain = planner.choose(direction, batch, hidden, "float32", H200)
    if choice.schedule == "loop":
        assert (hidden, batch) == (1024, 100) and direction == BACKWARD
        return
    once = direction == FORWARD and (hidden > 100 and batch == 1 or (hidden, batch) == (132, 8))
    assert choice.kernel == (layer_norm_layouts.ONCE if once else f"lstm_{plain.schedule}_layer_norm_{direction}")
    assert choice.tiles in catalogue.TILES[choice.kernel][1]
    assert choice.microseconds > plain.microseconds
    assert choice.groups * choice.blocks <= 132
    if choice.schedule == "persistent":
        shared = planner.shared_bytes_of(choice)
        assert (shared > 0) == (
            direction == FORWARD and not once
        ) and shared + planner.STATIC_SHARED_BYTES <= H200.shared_bytes


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
def test_one_hidden_unit_is_left_to_the_loop(direction):
    """Its norm is zero whatever it is, and exactly so in a kernel that takes off the mean before it multiplies."""
    choice = choose(direction, 4, 1)
    assert choice.schedule == "loop" and "resident with layer norm is for hidden_size from 2 on" in choice.reason


def test_blocks_share_a_multiprocessor_as_far_as_registers_go():
    for direction, hidden, blocks in ((FORWARD, 32, 4), (FORWARD, 64, 2), (BACKWARD, 32, 2), (BACKWARD, 64, 1)):
        alone, shared, more = (choose(direction, 132 * n, hidden).microseconds for n in (1, blocks, blocks + 1))
        assert alone <= shared < blocks * alone + 1e-9 and more == pytest.approx(shared + alone)


def test_a_layout_with_fewer_passes_is_worth_more_than_without():
    """Each pass over a block's sequences waits three times instead of once, backward twice."""
    for direction, more in ((FORWARD, 2), (BACKWARD, 1)):
        made = "persistent", "", f"lstm_persistent_{direction}"
        one, two = (planner.Choice(*made, (2, 1, n), 4, 1, 16, 2.0, "float32") for n in (2, 1))
        costs = [layer_norm_layouts.with_layer_norm(choice).microseconds - 2.0 for choice in (one, two)]
        assert costs[1] == pytest.approx(2 * costs[0])
        assert costs[0] == pytest.approx(more * (0.64 + 4 * 0.0032))


def test_with_one_hand_over_a_group_has_no_more_than_its_kernels_have_room_for():
    for hidden in (100, 256, 640, 1024):
        for batch in (1, 7, 33, 100):
            plain = planner._persistent(FORWARD, batch, hidden, "float32", H200)
            found = [c for c in layer_norm_layouts.layouts(plain, hidden) if c.kernel == layer_norm_layouts.ONCE]
            assert len({(c.tiles, c.share) for c in found}) == len(found)
            for choice in found:
                _, depth, sequences = choice.tiles
                assert choice.tiles in layer_norm_layouts.ONCE_TILES
                assert choice.share <= sequences and hidden <= 128 * depth
                assert hidden <= 32 * (planner.WARPS // sequences) * -(-depth * sequences // 4)


def test_options_beside_it():
    """There is no resident kernel for them, and one that hands over once only where registers are left."""
    with_options = [
        planner.choose(FORWARD, 1, hidden, "float32", H200, "", planner.LAYER_NORM_AND_OPTIONS)
        for hidden in (13, 64, 512, 1024)
    ]
    of_thirteen, small, middle, large = with_options
    assert of_thirteen.schedule == "loop"
    assert "resident does not hold layer norm together with other options" in of_thirteen.reason
    assert small.kernel == middle.kernel == layer_norm_layouts.ONCE
    assert large.kernel == "lstm_persistent_layer_norm_forward" and choose(FORWARD, 1, 1024).kernel != large.kernel


def test_once_is_for_few_sequences():
    few, many = (choose(FORWARD, batch, 512) for batch in (1, 32))
    assert few.kernel == layer_norm_layouts.ONCE and (few.tiles, few.blocks) == ((2, 4, 1), 64)
    assert many.kernel == "lstm_persistent_layer_norm_forward"
    assert few.microseconds == pytest.approx(2.05 + 0.4 + 0.3 + 16 * 64 * 512 / 14e6)


def test_in_print():
    assert str(choose(FORWARD, 8, 37)) == (
        "resident: 8 x 1 block, 1 sequence each; 0.4 us a step predicted with layer norm, from floors, not measured"
    )
    assert "us a step predicted with layer norm, from floors, not measured" in str(choose(BACKWARD, 8, 512))


@pytest.mark.parametrize("dtype", ["float64", "tf32", "float16"])
def test_other_arithmetic(dtype):
    """Layers with layer norm have no products in TF32 in one launch, and are not stored in 16 bits at all."""
    with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
        made = {"tf32": True} if dtype == "tf32" else {"dtype": dtype}
        if dtype == "float16":
            with pytest.raises((TypeError, ValueError), match="float16"):
                gl.LSTM(2, 12, layer_norm=True, **made, xp=cupy, rng=0)
            return
        x = cupy.asarray(np.zeros((5, 3, 2), "float64" if dtype == "float64" else "float32"))
        plan = gl.LSTM(2, 12, layer_norm=True, **made, xp=cupy, rng=0).plan(x)
    assert {choice.schedule for choice in plan} == ({"loop"} if dtype == "float64" else {"resident"})


def test_neither_a_cluster_nor_a_single_step_holds_it():
    with planner.only("cluster", "step"), pytest.raises(ValueError, match="cluster does not hold layer norm"):
        choose(FORWARD, 8, 128)
    with planner.only("cluster", "graph"):
        assert choose(FORWARD, 8, 128).schedule == "graph"
    assert planner.plan(1, 64, "float32", H200, "", LAYER_NORM, steps=1).inference.schedule == "resident"


def test_the_plan_of_a_layer(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC) as cupy:
        x = cupy.asarray(np.zeros((5, 3, 2), np.float32))
        plan = gl.LSTM(2, 100, layer_norm=True, weight_drop=0.1, xp=cupy, rng=0).plan(x)
        assert plan == planner.plan(3, 100, "float32", H200, "", LAYER_NORM)
        assert [choice.kernel for choice in plan][:2] == [
            "lstm_persistent_layer_norm_once_forward",
            "lstm_persistent_layer_norm_backward",
        ]
        for choice in gl.LSTM(2, 100, layer_norm=True, xp=cupy, rng=0).plan(x[:1]):
            assert choice.schedule == "loop" and "a single step with layer_norm" in choice.reason
        both = gl.LSTM(2, 100, layer_norm=True, peephole=True, coupled=True, xp=cupy, rng=0).plan(x)
        assert both.forward.reason == "one launch for all steps does not hold layer_norm together with peephole"
        masked = gl.LSTM(2, 100, layer_norm=True, recurrent_dropout=0.1, zoneout=0.1, xp=cupy, rng=0).plan(x)
        assert [choice.kernel for choice in masked] == [choice.kernel for choice in plan]
