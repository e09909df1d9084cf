"""The project's own kernels, driven by its own engine, under AddressSanitizer, UBSan and ThreadSanitizer.

Nothing here is a multiple of anything, sequences are of all lengths, zero among them, and each run must also give the
NumPy engine's numbers, so that a kernel that did nothing would not pass. Then lines are taken out of the kernels, to
see that the sanitizers notice.
"""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import sources
from tests.backends import Backend
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu
from tests.problems import assert_close, infer, problem, solve

NUMPY = Backend("numpy", np)
ORDERS = ("descending", "random")  # threads.cpp starts them so; fibers.cpp, which asan uses, runs them so
PROBLEMS = {
    "one_thread_short_of_a_warp": {"steps": 2, "batch": 1, "inputs": 2, "hidden": 31, "lengths": None},
    "both_directions_all_lengths": {"steps": 3, "batch": 4, "inputs": 3, "hidden": 5, "directions": 2},
    "more_than_one_block": {"steps": 2, "batch": 7, "inputs": 3, "hidden": 37, "bias": False, "lengths": "some"},
    "nothing_but_empty_sequences": {"steps": 2, "batch": 3, "inputs": 2, "hidden": 3, "lengths": (0, 0, 0)},
}


def given(name, dtype="float32"):
    sizes = dict(PROBLEMS[name])
    lengths = sizes.pop("lengths", "some")
    if lengths == "some":
        lengths = [t % (sizes["steps"] + 1) for t in range(sizes["batch"])]  # 0, 1, ..., all steps, 0, ...
    lengths = None if lengths is None else np.array(lengths, np.int32)
    return problem(**sizes, lengths=lengths, dtype=dtype)


@pytest.mark.parametrize("mode", ["asan", "tsan"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_training_is_clean(mode, name):
    with cupy_on_cpu(mode, thread_order=ORDERS[mode == "tsan"], seed=1) as cupy:
        found = solve(Backend("cupy-on-cpu", cupy), given(name))
        assert {"lstm_forward_step", "lstm_backward_step"} <= set(cupy.on_cpu.launches)
        assert ("column_sum" in cupy.on_cpu.launches) == (name != "more_than_one_block")
    assert_close(found, solve(NUMPY, given(name)), 1e-5)


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_inference_is_clean(mode):
    case = given("both_directions_all_lengths", "float64")
    with cupy_on_cpu(mode, thread_order="random", seed=2) as cupy:
        found = infer(Backend("cupy-on-cpu", cupy), case)
        assert set(cupy.on_cpu.launches) == {"lstm_forward_step"}
    assert_close(found, infer(NUMPY, case))


def column_sum(cupy, rows, columns, rows_per_slab, source=None):
    """One launch as the engine makes it; the sums of each slab of a matrix of ones."""
    code = sources.read("column_sum.cu") if source is None else source
    kernel = cupy.RawModule(code=code, options=("--std=c++14", "-DREAL=float")).get_function("column_sum")
    slabs = -(-rows // rows_per_slab)
    sums = cupy.empty((slabs, columns), np.float32)
    sizes = np.int64(rows), np.int32(columns), np.int64(rows_per_slab)
    kernel((-(-columns // 32), slabs), (32, 8), (cupy.ones((rows, columns), np.float32), sums, *sizes))
    return sums.get()


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_a_column_sum_over_slabs_is_clean(mode):
    with cupy_on_cpu(mode) as cupy:
        np.testing.assert_array_equal(column_sum(cupy, 19, 33, 10), [[10] * 33, [9] * 33])


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_array_functions_are_clean(mode):
    rng = np.random.default_rng(0)
    gates, c, c_next, dc, dh = (rng.normal(size=(3, n)).astype(np.float32) for n in (28, 7, 7, 7, 7))

    def results(convert):
        g, before, after, d_after, d_h = map(convert, (gates, c, c_next, dc, dh))
        return [
            *(gl.ops.sigmoid(g), gl.ops.tanh(g), gl.ops.sigmoid_backward(g, g), gl.ops.tanh_backward(g, g)),
            *(gl.ops.gate_activations(g), gl.ops.gate_activations_backward(g, g), *gl.ops.cell_update(g, before)),
            *gl.ops.cell_update_backward(g, before, after, d_after, d_h),
        ]

    with cupy_on_cpu(mode) as cupy:
        found = [a.get() for a in results(cupy.asarray)]
        assert len(cupy.on_cpu.launches) == 8
    for ours, wanted in zip(found, results(np.array), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def without(monkeypatch, file, line, count, replacement="", which=None):
    """Makes `sources.read` give ``file`` without a line (all of them, or the one numbered ``which``)."""
    text = sources.read(file)
    assert text.count(line) == count
    if which is None:
        wrong = text.replace(line, replacement)
    else:
        parts = text.split(line)
        wrong = line.join(parts[: which + 1]) + replacement + line.join(parts[which + 1 :])
    real_read = sources.read
    monkeypatch.setattr(sources, "read", lambda name: wrong if name == file else real_read(name))
    _forget_kernels(monkeypatch)
    return wrong


def _forget_kernels(monkeypatch):
    """The engine keeps compiled kernels: those of the true source must not be used now, nor the wrong ones later."""
    from gpulstm.cuda import modules

    monkeypatch.setattr(modules, "_kernels", {})


@pytest.mark.parametrize("which", [0, 1])
def test_a_barrier_taken_out_of_the_column_sum_is_a_race(monkeypatch, which):
    wrong = without(monkeypatch, "column_sum.cu", "__syncthreads();", 2, which=which)
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match=r"data race[\s\S]*column_sum\.cu"):
        column_sum(cupy, 19, 33, 19, wrong)


def test_a_barrier_taken_out_of_the_column_sum_is_a_race_in_training(monkeypatch):
    without(monkeypatch, "column_sum.cu", "__syncthreads();", 2)
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match=r"data race[\s\S]*column_sum\.cu"):
        solve(Backend("cupy-on-cpu", cupy), given("both_directions_all_lengths"))


@pytest.mark.parametrize("file", ["lstm_forward_step.cu", "lstm_backward_step.cu"])
def test_a_step_without_its_bounds_check_is_caught(monkeypatch, file):
    without(monkeypatch, file, "if (index >= units) return;", 1)
    name = file.replace(".", r"\.")
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match=rf"heap-buffer-overflow[\s\S]*{name}"):
        solve(Backend("cupy-on-cpu", cupy), given("one_thread_short_of_a_warp"))


@pytest.mark.parametrize(
    ("file", "line", "replacement"),
    [
        ("lstm_forward_step.cu", "cells[slot_to * units + index] = c;", "cells[(slot_to + 1) * units + index] = c;"),
        ("lstm_forward_step.cu", "gate[3 * hidden] = stored(o);", "gate[4 * hidden] = stored(o);"),
        ("column_sum.cu", "if (column < columns)", ""),
    ],
)
def test_an_index_that_is_one_too_far_is_caught(monkeypatch, file, line, replacement):
    without(monkeypatch, file, line, 1, replacement)
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        solve(Backend("cupy-on-cpu", cupy), given("one_thread_short_of_a_warp"))


def test_the_length_check_taken_out_changes_the_result(monkeypatch):
    without(monkeypatch, "lstm_forward_step.cu", "if (time >= lengths[sequence])", 1, "if (false)")
    with cupy_on_cpu() as cupy:
        found = infer(Backend("cupy-on-cpu", cupy), given("both_directions_all_lengths"))
    with pytest.raises(AssertionError):
        assert_close(found, infer(NUMPY, given("both_directions_all_lengths")), 1e-5)
