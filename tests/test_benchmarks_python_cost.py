"""benchmarks/python_cost.py and the launches of benchmarks/cpu_cost.py, as far as they need no GPU."""

import json

import pytest

from benchmarks import cpu_cost, gpu, python_cost
from tests.cuda_on_cpu import cupy_on_cpu

pytest.importorskip("cupy", reason="CuPy is not installed")


def test_every_call_is_timed_on_arrays_of_cupys_own(tmp_path, monkeypatch, capsys):
    for name, value in (("HIDDEN", 8), ("STEPS", 3), ("CALLS", 2), ("ROUNDS", 2)):
        monkeypatch.setattr(python_cost, name, value)
    out = tmp_path / "cost.json"
    assert python_cost.main(["--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {name.split(":")[0] for name in found} == {"step", "cell", "inference", "training", "loop"}
    assert all(len(times) == 2 and min(times) > 0 for times in found.values())
    assert all(name in capsys.readouterr().out for name in list(found)[:1])


def test_what_is_left_out_is_back_afterwards():
    import cupy

    before = cupy.cuda.runtime.getDevice, cupy.RawModule, cupy.cuda.driver.launchKernel
    with python_cost.without_cuda():
        assert cupy.cuda.runtime.getDevice() == 0 and cupy.empty((2, 3), "float32")[1].shape == (3,)
    assert before == (cupy.cuda.runtime.getDevice, cupy.RawModule, cupy.cuda.driver.launchKernel)


def test_launches_of_either_kind_are_timed(monkeypatch):
    monkeypatch.setattr(cpu_cost, "CALLS", 2)
    with cupy_on_cpu() as cupy:
        stands_for = type("Gpu", (), {"cupy": cupy, "stream": cupy.cuda.get_current_stream()})()
        stands_for.empty = lambda size, dtype: cupy.zeros(size, dtype)
        times = [cpu_cost._packed(stands_for), cpu_cost._packed(stands_for, by_cupy=True)]
        times += [cpu_cost._series(stands_for, count) for count in (5, 18, 55)]
        assert all(len(t) == gpu.REPEATS and min(t) > 0 for t in times)
        asked = 2 * (gpu.REPEATS + 1)
        by_name = {"arguments_15": asked - 1} | {f"arguments_{count}": asked - 1 for count in (5, 18, 55)}
        assert cupy.on_cpu.packed == by_name and cupy.on_cpu.launches["arguments_15"] == 2 * asked
