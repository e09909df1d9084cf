"""benchmarks/layers.py measures layers on top of each other side by side and apart; here in made-up times."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest

from benchmarks import gpu, layers, options
from gpulstm.cuda import stacked_layers
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu
from tests.test_benchmarks_options import made_up


@pytest.fixture(autouse=True)
def a_few_steps(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(stacked_layers, "FEWEST_STEPS", 1)


def test_the_command(monkeypatch, tmp_path):
    """As on a GPU, but for its clock; what the clock is asked for has to be what it takes."""
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(layers, "in_turn_on", create_autospec(options.in_turn_on, return_value=made_up))
    out = tmp_path / "layers.json"
    size = ["--hidden", "12", "--batch", "1", "2", "--steps", "2", "--kind", "float32", "--layers", "2"]
    with cupy_on_cpu(multiprocessors=4, schedules=("persistent",)) as cupy:
        monkeypatch.setattr(sys, "argv", ["layers.py", "--out", str(out), *size[:3], *size[4:]])
        assert layers.main() == 1  # made up so that each way is slower than the one before
        found = json.loads(out.read_text())
        launched = dict(cupy.on_cpu.launches)
        monkeypatch.setattr(sys, "argv", ["layers.py", "--out", str(out), *size, "--seconds", "-1"])
        assert layers.main() == 0
    assert [row["way"] for row in found["rows"]] == ["apart", "alike", "any"] and not found["left"]
    assert [row["together"] for row in found["rows"]] == ["nothing", *2 * ["forward and backward"]]
    assert (launched["lstm_persistent_forward"], launched["lstm_persistent_backward"]) == (2 * (2 + 1 + 1), 2 + 1 + 1)
    for place, row in enumerate(found["rows"]):
        assert row["forward_ratio"] == row["forward_backward_ratio"] == place + 1
    left = [["float32", 2, 12, 1], ["float32", 2, 12, 2]]
    assert json.loads(out.read_text()) == found | {"rows": [], "left": left}
