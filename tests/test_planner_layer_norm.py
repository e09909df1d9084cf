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
    assert choice.kernel == f"lstm_{plain.schedule}_layer_norm_{direction}"
    assert choice.tiles in catalogue.TILES[choice.kernel][1]
    assert choice.microseconds > plain.microseconds
    assert choice.groups * choice.blocks <= 132
    if choice.schedule == "persistent":
        shared = planner.shared_bytes_of(choice)
        assert (shared > 0) == (direction == FORWARD) and shared + planner.STATIC_SHARED_BYTES <= H200.shared_bytes


def test_a_layout_with_fewer_passes_is_worth_more_than_without():
    """Each pass over a block's sequences waits three times instead of once."""
    one, two = (
        planner.Choice("persistent", "", "lstm_persistent_forward", (2, 1, n), 4, 1, 16, 2.0, "float32") for n in (2, 1)
    )
    costs = [layer_norm_layouts.with_layer_norm(choice).microseconds - 2.0 for choice in (one, two)]
    assert costs[1] == pytest.approx(2 * costs[0])
    assert costs[0] == pytest.approx(2 * (0.64 + 4 * 0.0032))


def test_in_print():
    assert str(choose(FORWARD, 8, 37)) == (
        "resident: 8 x 1 block, 1 sequence each; 0.5 us a step predicted with layer norm, from floors, not measured"
    )
    assert "us a step predicted with layer norm, from floors, not measured" in str(choose(BACKWARD, 8, 512))


@pytest.mark.parametrize("dtype", ["float64", "tf32", "float16"])
def test_other_arithmetic(dtype):
    """Layers with options have no products in TF32 in one launch, and are not stored in 16 bits at all."""
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
            "lstm_persistent_layer_norm_forward",
            "lstm_persistent_layer_norm_backward",
        ]
        for choice in gl.LSTM(2, 100, layer_norm=True, xp=cupy, rng=0).plan(x[:1]):
            assert choice.schedule == "loop" and "a single step with layer_norm" in choice.reason
        both = gl.LSTM(2, 100, layer_norm=True, peephole=True, coupled=True, xp=cupy, rng=0).plan(x)
        assert both.forward.reason == (
            "one launch for all steps does not hold layer_norm together with peephole and coupled"
        )
