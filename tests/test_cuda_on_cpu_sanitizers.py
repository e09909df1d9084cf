"""The sanitizer modes give the same results, and each kind of mistake turns them red."""

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError, SanitizerError, cupy_on_cpu
from tests.test_cuda_on_cpu import load, mutated

SANITIZERS = ("asan", "tsan")


def loaded(cupy, source, entry):
    return cupy.RawModule(code=source, options=("-DREAL=float",)).get_function(entry)


@pytest.mark.parametrize("mode", SANITIZERS)
def test_results_come_back(mode):
    x = np.arange(128, dtype=np.float32)
    with cupy_on_cpu(mode, thread_order="descending") as cupy:
        sums, y = cupy.empty(2, np.float32), cupy.empty((4, 32), np.float32)
        load(cupy, "blocks.cu", "block_sum")((2,), (64,), (cupy.asarray(x), sums))
        load(cupy, "blocks.cu", "reverse")((4,), (32,), (cupy.asarray(x), y, np.int32(0)), shared_mem=128)
    np.testing.assert_array_equal(sums.get(), x.reshape(2, 64).sum(1))
    np.testing.assert_array_equal(y.get(), x.reshape(4, 32)[:, ::-1])


@pytest.mark.parametrize("mode", SANITIZERS)
def test_warp_features_are_clean(mode):
    x = np.arange(64, dtype=np.float32)
    with cupy_on_cpu(mode) as cupy:
        scan, swapped = cupy.empty(64, np.float32), cupy.empty(64, np.int32)
        load(cupy, "warps.cu", "warp_scan")((1,), (64,), (cupy.asarray(x), scan))
        load(cupy, "warps.cu", "warp_exchange")((1,), (64,), (cupy.arange(64, dtype=np.int32), swapped))
    np.testing.assert_array_equal(scan.get().reshape(2, 32), x.reshape(2, 32).cumsum(1))
    np.testing.assert_array_equal(swapped.get(), np.arange(64) ^ 1)


@pytest.mark.parametrize("mode", SANITIZERS)
def test_atomics_and_early_exit_are_clean(mode):
    with cupy_on_cpu(mode) as cupy:
        ints, seen = cupy.zeros(5, np.int32), cupy.zeros(40, np.int32)
        others = [cupy.zeros(n, dtype) for n, dtype in ((2, "uint32"), (1, "uint64"), (1, "float32"), (1, "float64"))]
        load(cupy, "warps.cu", "atomics")((3,), (40,), (ints, *others))
        load(cupy, "blocks.cu", "early_exit")((1,), (64,), (seen, np.int32(40)))
    assert [a.get()[0] for a in others] == [360, 120 << 33, 60.0, 30.0]
    np.testing.assert_array_equal(seen.get(), np.full(40, 40))


def last_block_sums(cupy, source):
    x = cupy.arange(9, dtype=np.float32)
    total = cupy.empty(1, np.float32)
    arguments = (x, cupy.empty(9, np.float32), cupy.zeros(1, np.int32), total)
    loaded(cupy, source, "last_block_sums")((9,), (1,), arguments)
    return total.item()


def test_a_fence_orders_memory_between_blocks():
    with cupy_on_cpu("tsan") as cupy:
        assert last_block_sums(cupy, mutated("blocks.cu", "fence", "__threadfence();")) == 72
        with pytest.raises(SanitizerError, match="data race"):
            last_block_sums(cupy, mutated("blocks.cu", "fence"))


@pytest.mark.parametrize("mark", ["filled", "folded"])
def test_a_missing_barrier_is_a_race(mark):
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        x, sums = cupy.ones(64, np.float32), cupy.empty(1, np.float32)
        loaded(cupy, mutated("blocks.cu", mark), "block_sum")((1,), (64,), (x, sums))


def test_a_missing_barrier_on_dynamic_shared_memory_is_a_race():
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        x, y = cupy.ones(64, np.float32), cupy.empty(64, np.float32)
        kernel = loaded(cupy, mutated("blocks.cu", "stored"), "reverse")
        kernel((1,), (64,), (x, y, np.int32(0)), shared_mem=256)


@pytest.mark.parametrize("instead", ["", "__shfl_sync(0xffffffffu, 1, 0);", "__any_sync(0xffffffffu, 1);"])
def test_a_shuffle_or_vote_in_place_of_a_warp_barrier_is_a_race(instead):
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        x, y = cupy.zeros(64, np.int32), cupy.empty(64, np.int32)
        loaded(cupy, mutated("warps.cu", "exchange", instead), "warp_exchange")((1,), (64,), (x, y))


def test_blocks_race_too():
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        load(cupy, "faults.cu", "racing_blocks")((2,), (1,), (cupy.zeros(1, np.int32),))


@pytest.mark.parametrize("short", ["x", "y"])
@pytest.mark.parametrize("of_a_larger_one", [False, True])
def test_one_step_past_an_array_is_caught(short, of_a_larger_one):
    """Also when the array is a row of a larger one: a kernel has no business beyond what it was handed."""
    with cupy_on_cpu("asan") as cupy:
        short_one = cupy.zeros((3, 9), np.float32)[1] if of_a_larger_one else cupy.zeros(9, np.float32)
        x, y = (short_one, cupy.zeros(10, np.float32)) if short == "x" else (cupy.zeros(10, np.float32), short_one)
        kernel = load(cupy, "faults.cu", "copy")
        kernel((1,), (32,), (x, y, np.int32(9)))
        with pytest.raises(SanitizerError, match="heap-buffer-overflow") as error:
            kernel((1,), (32,), (x, y, np.int32(10)))
        assert ("READ" if short == "x" else "WRITE") + " of size 4" in str(error.value)


def test_one_step_before_a_row_of_an_array_is_caught():
    with cupy_on_cpu("asan") as cupy:
        row, y = cupy.zeros((3, 10), np.float32)[1], cupy.zeros(10, np.float32)
        kernel = load(cupy, "faults.cu", "copy_from")
        kernel((1,), (10,), (row, y, np.int32(0)))
        with pytest.raises(SanitizerError, match="use-after-poison|heap-buffer-overflow"):
            kernel((1,), (10,), (row, y, np.int32(-1)))


def test_a_misaligned_vector_access_is_caught():
    """The copy that the program works on is aligned no better than the array itself."""
    with cupy_on_cpu("asan") as cupy:
        rows, y = cupy.zeros((3, 10), np.float32), cupy.zeros(8, np.float32)
        kernel = load(cupy, "faults.cu", "copy_by_fours")
        kernel((1,), (2,), (rows[0], y))
        with pytest.raises(SanitizerError, match="misaligned address"):
            kernel((1,), (2,), (rows[1], y))


def test_arrays_that_overlap_still_do():
    with cupy_on_cpu("asan") as cupy:
        a = cupy.arange(10, dtype=np.float32)
        load(cupy, "faults.cu", "copy")((1,), (32,), (a[5:], a[:6], np.int32(5)))
        np.testing.assert_array_equal(a.get(), [5, 6, 7, 8, 9, 5, 6, 7, 8, 9])


@pytest.mark.parametrize(("offset", "shared_mem"), [(0, 60), (1, 64)])
def test_one_step_past_dynamic_shared_memory_is_caught(offset, shared_mem):
    with cupy_on_cpu("asan") as cupy:
        x, y = cupy.zeros(16, np.float32), cupy.zeros(16, np.float32)
        kernel = load(cupy, "blocks.cu", "reverse")
        kernel((1,), (16,), (x, y, np.int32(0)), shared_mem=64)
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            kernel((1,), (16,), (x, y, np.int32(offset)), shared_mem=shared_mem)


def test_one_step_past_static_shared_memory_is_caught():
    with cupy_on_cpu("asan") as cupy:
        y = cupy.zeros(32, np.float32)
        kernel = load(cupy, "faults.cu", "shared_overrun")
        kernel((1,), (32,), (y, np.int32(0)))
        with pytest.raises(SanitizerError, match="out of bounds|heap-buffer-overflow"):
            kernel((1,), (32,), (y, np.int32(1)))


def test_signed_overflow_is_caught():
    with cupy_on_cpu("asan") as cupy:
        y = cupy.zeros(1, np.int32)
        kernel = load(cupy, "faults.cu", "overflow")
        kernel((1,), (1,), (cupy.asarray(np.array([2**31 - 2, 1], np.int32)), y))
        assert y.item() == 2**31 - 1
        with pytest.raises(SanitizerError, match="signed integer overflow"):
            kernel((1,), (1,), (cupy.asarray(np.array([2**31 - 1, 1], np.int32)), y))


@pytest.mark.parametrize("mode", SANITIZERS)
@pytest.mark.parametrize(("entry", "message"), [("barrier_against_shuffle", "deadlock"), ("not_in_mask", "mask")])
def test_a_deadlock_is_reported(mode, entry, message):
    with cupy_on_cpu(mode) as cupy, pytest.raises(LaunchError, match=f"{entry}: .*{message}"):
        load(cupy, "faults.cu", entry)((1,), (32,), (cupy.zeros(32, np.int32),))


def test_a_null_pointer_that_is_read_is_caught():
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="null pointer|SEGV"):
        y = cupy.zeros(4, np.float32)
        load(cupy, "faults.cu", "copy")((1,), (32,), (np.uintp(0), y, np.int32(4)))
