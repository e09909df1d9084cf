"""CTC's kernels on the CPU: how many launches, the same bits, and clean under sanitizers that do see what is wrong."""

import numpy as np
import pytest

from gpulstm.cuda import sources
from tests import backends
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu
from tests.test_ctc import CASES, assert_equal, case, in_numpy, solve
from tests.test_kernel_sanitizers import without


class TestKernels:
    BACKENDS = backends.KERNELS

    def test_two_runs_give_the_same_bits(self, backend):
        given = case(13, **CASES[13], dtype="float32") | {"lengths": [140, 131], "reduction": "none"}
        assert_equal(*(solve(backend.array, backend.numpy, **given) for _ in range(2)), 0, 0)

    def test_three_launches(self):
        with cupy_on_cpu() as cupy:
            solve(cupy.asarray, lambda a: a.get(), **case(0))
            assert dict(cupy.on_cpu.launches) == {
                "ctc_log_normaliser": 1,
                "ctc_forward_backward": 1,
                "ctc_gradient": 1,
            }


SMALL = {"steps": 5, "batch": 3, "classes": 35, "longest": 2}


def sanitized(mode, seed, sizes, dtype="float32", order="random"):
    given = case(seed, **sizes, dtype=dtype) | {"reduction": "none"}
    with cupy_on_cpu(mode, thread_order=order, seed=seed) as cupy:
        return solve(cupy.asarray, lambda a: a.get(), **given), in_numpy(**given)


LABELLED = {"steps": 7, "batch": 2, "classes": 3, "longest": 17}


@pytest.mark.parametrize(
    ("mode", "sizes", "order"),
    [
        *(("asan", sizes, order) for sizes in (SMALL, LABELLED) for order in ("random", "descending")),
        *(("tsan", SMALL, "random"), ("tsan", LABELLED, "descending")),  # which takes its time
    ],
    ids=str,
)
def test_the_kernels_are_clean(mode, sizes, order):
    found, wanted = sanitized(mode, 1 + (order == "descending"), sizes, order=order)
    assert_equal(found, wanted, 1e-4, 1e-5)


def test_more_positions_than_threads_are_clean():
    found, wanted = sanitized("tsan", 13, CASES[13] | {"steps": 5}, "float64")
    assert_equal(found, wanted)


BARRIERS = sources.read("ctc.cu").count("__syncthreads();")


@pytest.mark.parametrize("which", range(BARRIERS))
def test_a_barrier_taken_out_is_a_race(monkeypatch, which):
    assert BARRIERS == 4
    without(monkeypatch, "ctc.cu", "__syncthreads();", BARRIERS, which=which)
    with pytest.raises(SanitizerError, match=r"data race[\s\S]*ctc\.cu"):
        for _ in range(3):  # on a busy machine threads may happen not to meet
            sanitized("tsan", 11, {"steps": 12, "batch": 2, "classes": 70, "longest": 6})


@pytest.mark.parametrize(
    "line, replacement",
    [
        ("if (index >= count) return;", ""),
        ("if (row / batch >= lengths[row % batch]) return;", ""),
        ("s + 1 < positions.count,", "true,"),
        ("if (label < 0 || label >= classes || label == blank) wrong = 1;", ""),
    ],
)
def test_an_index_too_far_is_caught(monkeypatch, line, replacement):
    without(monkeypatch, "ctc.cu", line, 1, replacement)
    given = case(2, steps=9, batch=1, classes=5, longest=1) | {"lengths": [9], "target_lengths": [1], "blank": 0}
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
        solve(cupy.asarray, lambda a: a.get(), **given | {"target": np.array([[10**4]])})
        solve(cupy.asarray, lambda a: a.get(), **given | {"target": np.array([[1]])})
