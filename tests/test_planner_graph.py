"""When gpulstm.cuda.planner takes a CUDA graph of the loop, what it predicts of it, and what it says."""

import pytest

import gpulstm as gl
from gpulstm.cuda import graph_layouts, planner
from tests.cuda_on_cpu import cupy_on_cpu


def test_it_is_taken_where_it_is_asked_for_alone():
    device = planner.Device(90, 132, 232448, True)
    for batch, hidden, dtype in ((1, 2048, "float64"), (256, 2048, "float32"), (8, 100, "float64")):
        assert {c.schedule for c in planner.plan(batch, hidden, dtype, device)} == {"loop"}
        with planner.only("graph"):
            assert {c.schedule for c in planner.plan(batch, hidden, dtype, device)} == {"graph"}
    with planner.only(*planner.AUTOMATIC, "graph"):
        assert planner.choose(planner.FORWARD, 1, 2048, "float64", device).schedule == "graph"
        assert planner.choose(planner.FORWARD, 1, 1024, "float32", device).schedule == "persistent"


def test_wide_steps_are_copied_for_longer_than_they_are_launched():
    device = planner.Device(90, 132, 232448, True)
    with planner.only("loop", "graph"):
        found = [planner.choose(planner.FORWARD, batch, 2048, "float32", device) for batch in (1, 8, 64, 256)]
    assert [choice.schedule for choice in found] == ["graph", "graph", "loop", "loop"]
    assert "graph copies more than it saves, 219 us a step to 209" in found[-1].reason


@pytest.mark.parametrize(
    ("backward", "dtype", "not_plain", "copied"),
    [
        (False, "float32", "", (7 + 4) * 4),
        (True, "float32", planner.LAYER_NORM, (17 + 12) * 4),
        (True, "bfloat16", "", 6 * 2 + 4 + 4 * 2),
        (True, "float16", planner.LAYER_NORM_AND_OPTIONS, 15 * 2 + 2 * 4 + 12 * 2),
        (False, "float64", "options", (8 + 4) * 8),
    ],
)
def test_what_is_predicted(backward, dtype, not_plain, copied):
    """The loop, less what two boundaries of kernels are shorter, and copies, read and written."""
    found = graph_layouts.microseconds(20.0, backward, 16, 512, dtype, not_plain)
    bytes_copied = 2 * 16 * 512 * copied
    assert found == pytest.approx(20 - 2 * (1.96 - 1.14) + 10 * 1.96 / 32 + bytes_copied / 4.3e6)


def test_what_it_does_not_take():
    device = planner.Device(90, 132, 232448, True)
    with planner.only("graph", "loop"):
        assert planner.choose(planner.FORWARD, 4096, 2048, "float32", device).schedule == "loop"
        assert planner.choose(planner.FORWARD, 0, 64, "float32", device).schedule == "loop"
    with planner.only("graph"), pytest.raises(ValueError, match="graph is for steps whose launches take longer"):
        planner.choose(planner.FORWARD, 4096, 2048, "float32", device)


def test_what_one_launch_does_not_hold_is_captured():
    made = (
        {"tf32": True},
        {"zoneout": 0.1},
        {"dtype": "bfloat16", "layer_norm": True},
        {"layer_norm": True, "cell_clip": 1.0},
    )
    with cupy_on_cpu(schedules=("graph", "loop"), folded=None) as cupy:
        for options in (*made, {"proj_size": 2}, {"proj_size": 2, "layer_norm": True}):
            lstm = gl.LSTM(3, 4, **options, xp=cupy, rng=0)
            x = cupy.ones((5, 2, 3), lstm.params["bias_l0"].dtype)
            assert {choice.schedule for choice in lstm.plan(x)} == {"graph"}, options


@pytest.mark.parametrize(
    ("dtype", "not_plain", "row"),
    [
        *(("float32", "", 28), ("tf32", "", 28), ("float64", "", 56), ("bfloat16", "", 16)),
        *(("float32", "options", 32), ("float32", planner.LAYER_NORM, 68), ("float64", planner.LAYER_NORM, 136)),
        ("float16", planner.LAYER_NORM, 38),
    ],
)
def test_as_many_steps_as_there_is_room_for(dtype, not_plain, row, monkeypatch):
    """``row`` is what `graph_layouts` counts for a hidden unit of a sequence in a step, in bytes."""
    for steps in (5, 31):
        monkeypatch.setattr(graph_layouts, "BYTES", row * 3 * 16 * (steps + 1) - 1)
        assert graph_layouts.steps(3, 16, dtype, not_plain) == steps
    assert graph_layouts.steps(1, 4, dtype, not_plain) == 32
