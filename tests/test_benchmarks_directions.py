"""benchmarks/directions.py measures both directions of a layer side by side and apart; here in made-up times."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import create_autospec

from benchmarks import directions, gpu, options
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


def test_the_command(monkeypatch, tmp_path):
    """As on a GPU, but for its clock; what the clock is asked for has to be what it takes."""
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(directions, "in_turn_on", create_autospec(options.in_turn_on, return_value=made_up))
    out = tmp_path / "directions.json"
    size = ["--hidden", "5", "--batch", "2", "3", "--steps", "2", "--kind", "float32"]
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC):
        monkeypatch.setattr(sys, "argv", ["directions.py", "--out", str(out), *size])
        assert directions.main() == 1  # made up so that each way is slower than the one before
        found = json.loads(out.read_text())
        assert [row["batch"] for row in found["rows"]] == [2, 2, 2, 3, 3, 3] and not found["left"]
        monkeypatch.setattr(sys, "argv", ["directions.py", "--out", str(out), *size, "--seconds", "-1"])
        assert directions.main() == 0
    assert json.loads(out.read_text()) == found | {"rows": [], "left": [["float32", 5, 2], ["float32", 5, 3]]}
