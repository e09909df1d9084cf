"""benchmarks/graphs.py measures graphs beside the loop; here in made-up times."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest

from benchmarks import gpu, graphs
from gpulstm.cuda import planner
from gpulstm.engines import cupy_graph
from tests.cuda_on_cpu import cupy_on_cpu

SIZE = ["--hidden", "5", "--batch", "2", "--steps", "6", "--kind"]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(cupy_graph, "_stages", type(cupy_graph._stages)())
    monkeypatch.setattr(cupy_graph, "_failures", {})


def made_up(calls: list) -> list[tuple[float, float]]:
    for call in calls:
        call()
    return [(6e-6 * (5 - place), 6e-6) for place in range(len(calls))]


def test_the_command(monkeypatch, tmp_path):
    """As on a GPU, but for its clock; what the clock is asked for has to be what it takes."""
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(graphs, "in_turn_on", create_autospec(graphs.in_turn_on, return_value=made_up))
    out, kinds = tmp_path / "graphs.json", ("float32", "tf32", "cell clip", "layer norm, zoneout")
    with cupy_on_cpu(schedules=planner.AUTOMATIC, folded=None) as cupy:
        monkeypatch.setattr(sys, "argv", ["graphs.py", "--out", str(out), *SIZE, *kinds])
        assert graphs.main() == 0
        assert cupy.on_cpu.graphs["launch"] == len(kinds) * (2 + 1 + 2)
        found = json.loads(out.read_text())
        monkeypatch.setattr(sys, "argv", ["graphs.py", "--out", str(out), *SIZE, "float32", "--seconds", "-1"])
        assert graphs.main() == 0
    assert json.loads(out.read_text())["left"] == [["float32", 5, 2]] and not found["left"]
    assert [(row["kind"], row["schedule"]) for row in found["rows"]] == [
        (kind, schedule) for kind in kinds for schedule in ("loop", "graph")
    ]
    loop, graph = found["rows"][:2]
    assert (loop["forward_us"], graph["forward_us"], graph["forward_backward_ratio"]) == pytest.approx((5, 4, 0.8))
    assert graph["forward_cpu_us"] == pytest.approx(1) and graph["error"] == 0
    assert "graph: the loop's launches" in graph["plan"] and loop["plan"].count("loop:") == 2


def test_a_graph_that_fails_or_is_wrong_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(graphs, "in_turn_on", create_autospec(graphs.in_turn_on, return_value=made_up))
    monkeypatch.setattr(sys, "argv", ["graphs.py", *SIZE, "float32"])
    with cupy_on_cpu(schedules=planner.AUTOMATIC):
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "_off", lambda found, wanted: 2e-5)
            assert graphs.main() == 1
        monkeypatch.setattr(cupy_graph.Stage, "launch", lambda stage, steps: None)  # NaN is left in its buffers
        assert graphs.main() == 1
        assert capsys.readouterr().out.count("wrong: float32 H 5 N 2") == 3
