"""benchmarks/options.py measures every option beside the plain LSTM; here in made-up times."""

import json
import sys
from itertools import product
from types import SimpleNamespace
from unittest.mock import create_autospec

from benchmarks import gpu, options
from gpulstm.cuda import planner
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu


def made_up(calls) -> list[float]:
    """As many milliseconds as a call's place, after it has run."""
    for call in calls:
        call()
    return [(place + 1) / 1000 for place in range(len(calls))]


def test_every_option_is_measured_in_both_passes(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC) as cupy:
        rows = list(options.measured(cupy, 2, 20, 2, made_up))
        launches = dict(cupy.on_cpu.launches)
    assert [row["option"] for row in rows] == list(options.OPTIONS)
    loops = [row["option"] for row in rows if "loop" in row["schedules"]]
    assert loops == [options.NOT_FOLDED]
    in_one_launch = len(rows) - len(loops) - 1
    assert launches["lstm_resident_layer_norm_forward"] == 3  # once to see that it runs, and in both passes
    assert launches["lstm_resident_layer_norm_backward"] == 2
    assert launches["lstm_resident_forward"] == 3 * in_one_launch
    assert launches["lstm_resident_backward"] == 2 * in_one_launch
    for place, row in enumerate(rows):
        assert row["forward_ratio"] == row["forward_backward_ratio"] == place + 1
        assert abs(row["forward_us"] - 500 * (place + 1)) < 1e-9
    assert [row["option"] for row in options.too_dear(rows)] == list(options.LIMITS)


def test_in_16_bits_and_both_directions(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    some = {name: options.OPTIONS[name] for name in (options.PLAIN, "zoneout", options.NOT_FOLDED)}
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC, folded=None) as cupy:
        rows = list(options.measured(cupy, 2, 24, 2, made_up, some, dtype="bfloat16", bidirectional=True))
        launches = dict(cupy.on_cpu.launches)
    assert [row["schedules"] for row in rows] == ["resident and resident"] * 2 + ["loop and loop"]
    assert launches["lstm_resident_tensor_forward"] > launches["lstm_resident_tensor_backward"] > 0
    assert 2 * launches["lstm_variant_output_forward"] == 3 * launches["lstm_variant_output_backward"] > 0


def test_an_option_that_fails_does_not_take_the_others_with_it(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    real = options._forward_backward

    def call(lstm, x, dy):
        if lstm.options.zoneout != (0.0, 0.0):
            raise RuntimeError("no such kernel")
        real(lstm, x, dy)

    monkeypatch.setattr(options, "_forward_backward", call)
    some = {name: options.OPTIONS[name] for name in (options.PLAIN, "zoneout", "peephole")}
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC) as cupy:
        rows = list(options.measured(cupy, 1, 8, 1, made_up, some))
    assert rows[0] == {"option": "zoneout", "failed": "RuntimeError: no such kernel"}
    assert [row["option"] for row in rows[1:]] == [options.PLAIN, "peephole"]


def test_a_little_more_is_not_too_dear():
    row = {"option": "zoneout", "forward_ratio": 1.09, "forward_backward_ratio": 1.1}
    assert options.too_dear([row, {**row, "option": "peephole", "forward_ratio": 2.0}]) == []
    assert options.too_dear([{**row, "forward_backward_ratio": 1.11}])
    with_layer_norm = {**row, "option": "layer norm", "forward_ratio": 1.5}
    assert options.too_dear([with_layer_norm]) == []
    assert options.too_dear([{**with_layer_norm, "forward_ratio": 1.51}])


def test_the_command(monkeypatch, tmp_path):
    """As on a GPU, but for its clock; what the clock is asked for has to be what it takes."""
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(options, "in_turn_on", create_autospec(options.in_turn_on, return_value=made_up))
    out = tmp_path / "options.json"
    arguments = ["--out", str(out), "--hidden", "20", "--batch", "2", "3", "--steps", "2", "--without", "peephole"]
    with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC, folded=None):
        monkeypatch.setattr(sys, "argv", ["options.py", *arguments])
        assert options.main() == 1  # made up so that each option is slower than the one before
        found = json.loads(out.read_text())
        kept = [name for name in options.OPTIONS if name != "peephole"]
        assert [(row["batch"], row["option"]) for row in found["rows"]] == [*product((2, 3), kept)]
        monkeypatch.setattr(sys, "argv", ["options.py", *arguments, "--seconds", "-1"])
        assert options.main() == 0
        assert json.loads(out.read_text()) == found | {"rows": [], "left": [[20, 2], [20, 3]]}
        made = []
        monkeypatch.setattr(options, "measured", lambda *a, **of_all: made.append((a[5], of_all)) or ())
        for dtype in options.DTYPES:
            monkeypatch.setattr(sys, "argv", ["options.py", *arguments, "--batch", "2", "--dtype", dtype])
            assert options.main() == 0 and json.loads(out.read_text())["dtype"] == dtype
    for dtype, (asked, of_all) in zip(options.DTYPES, made, strict=True):
        tf32 = {"tf32": True} if dtype == "tf32" else {}
        assert of_all == {"dtype": "float32" if tf32 else dtype, "bidirectional": False, **tf32}
        assert "layer norm" in asked
