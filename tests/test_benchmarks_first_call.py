"""benchmarks/first_call.py, as far as it needs no GPU; the stand-in's times say nothing about a GPU's."""

import json
from unittest.mock import MagicMock

import pytest

import gpulstm as gl
from benchmarks import compile_cost, first_call
from benchmarks.compile_cost import BOTH, LAYER_NORM, OPTIONS, Layer
from gpulstm.cuda import modules
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu
from tests.test_nvrtc_gate import nvrtc_or_skip


def test_a_first_call_and_the_kernels_that_it_needs(monkeypatch):
    monkeypatch.setattr(modules, "_kernels", {})
    monkeypatch.setattr(first_call, "STEPS", 2)
    compiled, make = [], modules._compile

    def counted(cupy, specialisation, shared_bytes):
        compiled.append(specialisation)
        return make(cupy, specialisation, shared_bytes)

    monkeypatch.setattr(modules, "_compile", counted)
    with cupy_on_cpu(multiprocessors=132, schedules=("loop", "resident", "persistent")):
        for problem in (first_call.Problem(8, 1, "float32"), first_call.Problem(8, 2, "float64")):
            compiled.clear()
            found = first_call.time_first_call(*problem)
            assert 0 < found["its kernels"] < found["first call"] and found["second call"] > 0
            assert set(compiled) == set(compile_cost.needed(Layer(*problem))), (
                "what is compiled beforehand is what a call needs"
            )
    assert modules._compile is counted


LAYERS = (
    Layer(32, 2, "bfloat16", OPTIONS),
    Layer(128, 3, "float16", OPTIONS, directions=2),
    Layer(64, 2, "float32", LAYER_NORM),
    Layer(192, 2, "float32", BOTH),
    Layer(256, 2, "float16", layers=2),
    Layer(256, 3, "tf32"),
    Layer(256, 2, "tf32", OPTIONS),
    Layer(64, 2, "float16", LAYER_NORM),
    Layer(192, 2, "bfloat16", BOTH),
    Layer(192, 2, "tf32", LAYER_NORM),
    Layer(40, 2, "float64", OPTIONS),
    Layer(40, 2, "float16", BOTH),
)


def test_the_kernels_of_layers_of_all_kinds(monkeypatch):
    """Those that a first training call asks for; none is compiled, and none computes anything."""
    asked: list = []
    monkeypatch.setattr(modules, "_compile", lambda cupy, one, shared: (asked.append(one), MagicMock(address=0))[1])
    with cupy_on_cpu(multiprocessors=132, schedules=("loop", "resident", "persistent")) as cupy:
        for layer in LAYERS:
            asked.clear()
            monkeypatch.setattr(modules, "_kernels", {})
            made: dict = {"zoneout": 0.1} if layer.beside in (OPTIONS, BOTH) else {}
            made |= {"peephole": layer.beside == OPTIONS, "layer_norm": layer.beside in (LAYER_NORM, BOTH)}
            made |= {"dtype": "float32", "tf32": True} if layer.dtype == "tf32" else {"dtype": layer.dtype}
            both = layer.directions > 1
            lstm = gl.LSTM(8, layer.hidden, layer.layers, bidirectional=both, xp=cupy, rng=0, **made)
            x = cupy.zeros((16, layer.batch, 8), lstm.params["weight_ih_l0"].dtype)
            y, _, cache = lstm.forward(x, rng=1)
            lstm.backward(cache, y)
            assert set(asked) == set(compile_cost.needed(layer, cupy_one_launch.current_device())), layer


def test_the_worst_case_is_found(monkeypatch):
    """With the sources' lengths for times: layer norm has three kernels in one file, which is compiled once."""
    monkeypatch.setattr(compile_cost, "nvrtc_milliseconds", lambda one, architecture, clock: len(one.source))
    cheap, dear = Layer(40, 2, "float64"), Layer(32, 1, "float32", LAYER_NORM)
    layer, kernels = compile_cost.worst([cheap, dear])
    assert layer == dear and list(kernels)[0] == "lstm_resident_layer_norm_forward (2,)" and len(kernels) == 5
    assert compile_cost.worst([cheap])[0] == cheap
    kinds = {(one.beside, one.directions, one.layers) for one in compile_cost.every_layer()}
    assert len(kinds) == 4 * 2 + 1


def test_calls_are_timed_by_name(monkeypatch):
    monkeypatch.setattr(first_call, "STEPS", 2)
    monkeypatch.setattr(first_call, "HIDDEN", 4)
    monkeypatch.setattr(first_call, "CALLS", 2)
    with cupy_on_cpu(schedules=("step", "loop")) as cupy:
        found = first_call.time_calls()
        assert cupy.on_cpu.launches["lstm_one_step_forward"] == 1 + 2 * 2 * (first_call.ROUNDS + 1)
    assert len(found) == 5 and all(len(v) == first_call.ROUNDS and min(v) > 0 for v in found.values())


def test_kernels_compile_without_a_gpu():
    nvrtc_or_skip()
    found = first_call.time_compile(512, 8, "float64")
    assert [name.split()[0] for name in found] == ["lstm_forward_step", "lstm_backward_step", "column_sum"]
    assert min(found.values()) > 0


def test_the_file_has_what_was_measured_and_what_failed(tmp_path, monkeypatch, capsys):
    def in_process(name, *arguments, **environment):
        if name == "first call":
            assert environment["CUPY_CACHE_DIR"]
            return {"first call": 3.0, "its kernels": 2.0, "second call": 1.0}
        if name == "calls":
            raise RuntimeError("no CUDA driver")
        if name == "worst":
            return [(f"{arguments[0]} layer", {"c": 4.0, "d": 5.0})]
        return {"machine": {"gpu": "none"}, "import": 5.0, "compile": {"a": 1.0, "b": 2.0}}[name]

    monkeypatch.setattr(first_call, "in_process", in_process)
    out = tmp_path / "first.json"
    assert first_call.main(["--out", str(out), "--only", *first_call.GROUPS]) == 1
    results = json.loads(out.read_text())
    lines = {line["name"]: line["median"] for line in results["lines"]}
    problem = first_call.PROBLEMS[0]
    assert lines["import numpy"] == 5 and lines["  a"] == 1
    assert lines[f"NVRTC, kernels of a first forward and backward pass, {problem}"] == 3
    assert lines[f"its kernels, full cache, {problem}"] == 2 and len(lines) == 3 + (3 + 2) + 3 * 2 * 3 + 5 + 5 + 2
    assert lines["NVRTC, CPU, worst case: tf32 layer"] == 9 and lines["worst cases of tf32, a line for each kind"] == 1
    assert results["failed"] == [{"group": "calls", "name": "calls", "why": "RuntimeError: no CUDA driver"}]
    assert results["machine"] == {"gpu": "none"}
    capsys.readouterr()


def test_a_process_of_its_own_gives_its_result_or_the_reason():
    assert first_call.in_process("import", "json", []) > 0
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'nowhere'"):
        first_call.in_process("import", "nowhere", [])
