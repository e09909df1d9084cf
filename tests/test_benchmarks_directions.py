"""benchmarks/directions.py measures both directions of a layer side by side and apart; here in made-up times."""

from benchmarks import directions
from gpulstm.cuda import planner
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu
from tests.test_benchmarks_options import made_up


def test_every_way_is_measured_in_both_passes(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC) as cupy:
        rows = list(directions.measured(cupy, "float32", 2, 5, 2, made_up))
        launches = dict(cupy.on_cpu.launches)
    assert [row["way"] for row in rows] == ["apart", "alike", "any"]
    assert [row["together"] for row in rows] == ["nothing", "forward and backward", "forward and backward"]
    assert (launches["lstm_resident_forward"], launches["lstm_resident_backward"]) == (2 * (2 + 1 + 1), 2 + 1 + 1)
    for place, row in enumerate(rows):
        assert row["forward_ratio"] == row["forward_backward_ratio"] == place + 1
        assert abs(row["forward_us"] - 500 * (place + 1)) < 1e-9
    assert directions.slower_than_apart(rows) == rows[1:2]
    assert not directions.slower_than_apart([{**rows[1], "forward_ratio": 1.01, "forward_backward_ratio": 0.6}])
    assert not directions.slower_than_apart([{**rows[1], "together": "nothing"}])
