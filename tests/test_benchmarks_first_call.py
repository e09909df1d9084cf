"""benchmarks/first_call.py, as far as it needs no GPU; the stand-in's times say nothing about a GPU's."""

import json

import pytest

from benchmarks import first_call
from gpulstm.cuda import modules
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
            assert set(compiled) == set(first_call.needed(*problem)), "what is compiled beforehand is what a call needs"
    assert modules._compile is counted


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
        return {"machine": {"gpu": "none"}, "import": 5.0, "compile": {"a": 1.0, "b": 2.0}}[name]

    monkeypatch.setattr(first_call, "in_process", in_process)
    out = tmp_path / "first.json"
    assert first_call.main(["--out", str(out)]) == 1
    results = json.loads(out.read_text())
    lines = {line["name"]: line["median"] for line in results["lines"]}
    problem = first_call.PROBLEMS[0]
    assert lines["import numpy"] == 5 and lines["  a"] == 1
    assert lines[f"NVRTC, kernels of a first forward and backward pass, {problem}"] == 3
    assert lines[f"its kernels, full cache, {problem}"] == 2 and len(lines) == 3 + (3 + 2) + 3 * 2 * 3
    assert results["failed"] == [{"group": "calls", "name": "calls", "why": "RuntimeError: no CUDA driver"}]
    assert results["machine"] == {"gpu": "none"}
    capsys.readouterr()


def test_a_process_of_its_own_gives_its_result_or_the_reason():
    assert first_call.in_process("import", "json", []) > 0
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'nowhere'"):
        first_call.in_process("import", "nowhere", [])
