"""The CPU stand-in for CUDA computes what CUDA would: barriers, shared memory, warps, atomics, by value."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError, cupy_on_cpu
from tests.cuda_on_cpu.source import SourceError, host_source, kernels
from tests.test_nvrtc_gate import nvrtc_or_skip

KERNELS = Path(__file__).parent / "cuda_on_cpu" / "kernels"
ORDERS = ("ascending", "descending", "random")
DTYPES = ("float32", "float64")
REAL = {"float32": "float", "float64": "double"}


def load(cupy, file, entry, dtype="float32"):
    """A kernel of one of the test files."""
    source = (KERNELS / file).read_text(encoding="utf-8")
    return cupy.RawModule(code=source, options=("--std=c++14", f"-DREAL={REAL[dtype]}")).get_function(entry)


@pytest.fixture(params=[("fibers", order) for order in ORDERS] + [("ptx", "random")], ids="-".join)
def cupy(request):
    """The kernels' source, and their PTX."""
    mode, order = request.param
    if mode == "ptx":
        nvrtc_or_skip()
    with cupy_on_cpu(mode, thread_order=order, seed=3) as module:
        yield module


@pytest.mark.parametrize("dtype", DTYPES)
def test_static_shared_memory_and_barriers(cupy, dtype):
    x = np.arange(192, dtype=dtype).reshape(3, 64)
    sums = cupy.empty(3, dtype)
    load(cupy, "blocks.cu", "block_sum", dtype)((3,), (64,), (cupy.asarray(x), sums))
    np.testing.assert_array_equal(sums.get(), x.sum(1))


def test_dynamic_shared_memory(cupy):
    x = np.arange(15, dtype=np.float32)
    y = cupy.empty(15, np.float32)
    load(cupy, "blocks.cu", "reverse")((3,), (5,), (cupy.asarray(x), y, np.int32(0)), shared_mem=20)
    np.testing.assert_array_equal(y.get(), x.reshape(3, 5)[:, ::-1].ravel())


def test_shared_variables_of_several_types(cupy):
    x = np.arange(1, 65, dtype=np.float32)
    y, positions = cupy.empty(64, np.float32), cupy.empty(64, np.int32)
    load(cupy, "blocks.cu", "shared_types")((1,), (64,), (cupy.asarray(x), y, positions))
    np.testing.assert_array_equal(y.get(), x[0] + 10 * x[63] + 100 * np.roll(x, 32))
    np.testing.assert_array_equal(positions.get(), np.full(64, 63 + 7))


def test_threads_that_have_returned_do_not_count_at_a_barrier(cupy):
    seen = cupy.zeros(40, np.int32)
    load(cupy, "blocks.cu", "early_exit")((1,), (64,), (seen, np.int32(40)))
    np.testing.assert_array_equal(seen.get(), np.full(40, 40))


@pytest.mark.parametrize(
    ("x", "expected"),
    [([1, 2, 3, 0], 301), ([1, 2, 3, 6], 411), ([-9, -9, -9, 9], 110), ([-9, 0, 0, 0], 0)],
)
def test_barriers_that_vote(cupy, x, expected):
    result = cupy.empty(4, np.int32)
    load(cupy, "blocks.cu", "votes")((1,), (4,), (cupy.asarray(np.array(x, np.int32)), result))
    np.testing.assert_array_equal(result.get(), np.full(4, expected))


def test_three_dimensions(cupy):
    grid, block = (2, 3, 4), (5, 2, 3)
    where = cupy.empty((24, 30, 6), np.uint32)
    load(cupy, "blocks.cu", "places")(grid, block, (where,))
    expected = [
        (bx, by, bz, tx, ty, tz)
        for bz, by, bx in product(range(4), range(3), range(2))
        for tz, ty, tx in product(range(3), range(2), range(5))
    ]
    np.testing.assert_array_equal(where.get().reshape(-1, 6), expected)


def test_the_last_block_sees_what_all_have_written(cupy):
    x = np.arange(9, dtype=np.float32)
    parts, total = cupy.empty(9, np.float32), cupy.empty(1, np.float32)
    arguments = (cupy.asarray(x), parts, cupy.zeros(1, np.int32), total)
    load(cupy, "blocks.cu", "last_block_sums")((9,), (1,), arguments)
    assert total.item() == 72


def test_shared_memory_starts_as_garbage(cupy):
    y = cupy.zeros(2, np.float32)
    load(cupy, "blocks.cu", "uninitialised")((1,), (1,), (y,), shared_mem=4)
    known = 1 if cupy.on_cpu.mode == "ptx" else 0  # the GPU's compiler sees that nobody has written the static part
    assert np.isnan(y.get()[known:]).all()


def test_warp_scan(cupy):
    x = np.random.default_rng(0).integers(0, 9, (2, 64)).astype(np.float64)
    y = cupy.empty((2, 64), np.float64)
    load(cupy, "warps.cu", "warp_scan", "float64")((2,), (64,), (cupy.asarray(x), y))
    np.testing.assert_array_equal(y.get().reshape(4, 32), x.reshape(4, 32).cumsum(1))


def test_warp_sums(cupy):
    x = np.arange(64, dtype=np.float32)
    by_xor, by_down, by_eight = (cupy.empty(64, np.float32) for _ in range(3))
    load(cupy, "warps.cu", "warp_sums")((1,), (64,), (cupy.asarray(x), by_xor, by_down, by_eight))
    sums = x.reshape(2, 32).sum(1)
    np.testing.assert_array_equal(by_xor.get(), sums.repeat(32))
    np.testing.assert_array_equal(by_down.get()[::32], sums)
    np.testing.assert_array_equal(by_eight.get()[::8], x.reshape(8, 8).sum(1))


def test_warp_votes(cupy):
    x = np.where(np.arange(64) % 3 == 0, 1, -1).astype(np.int32)
    x[32:] = 1
    ballot, any_all, from_third = cupy.empty(64, np.uint32), cupy.empty(64, np.int32), cupy.empty(64, np.int32)
    load(cupy, "warps.cu", "warp_votes")((1,), (64,), (cupy.asarray(x), ballot, any_all, from_third))
    bits = sum(1 << i for i in range(0, 32, 3))
    np.testing.assert_array_equal(ballot.get(), np.repeat([bits, 0xFFFFFFFF], 32).astype(np.uint32))
    np.testing.assert_array_equal(any_all.get(), np.repeat([2, 3], 32))
    np.testing.assert_array_equal(from_third.get(), np.repeat([x[3], x[35]], 32))


def test_parts_of_a_warp_shuffle_apart(cupy):
    x, y = np.arange(32, dtype=np.int32), cupy.empty(32, np.int32)
    load(cupy, "warps.cu", "half_warps")((1,), (32,), (cupy.asarray(x), y))
    np.testing.assert_array_equal(y.get(), np.repeat([5, 41], 16))


def test_warp_barrier(cupy):
    x, y = np.arange(64, dtype=np.int32), cupy.empty(64, np.int32)
    load(cupy, "warps.cu", "warp_exchange")((1,), (64,), (cupy.asarray(x), y))
    np.testing.assert_array_equal(y.get(), x ^ 1)


def test_lanes_that_have_returned_are_not_waited_for_nor_read(cupy):
    x, y = np.arange(32, dtype=np.int32), cupy.zeros(32, np.int32)
    load(cupy, "warps.cu", "leaving_lanes")((1,), (32,), (cupy.asarray(x), y, np.int32(20)))
    sums = x + (x ^ 1)
    np.testing.assert_array_equal(y.get(), [*sums[1:20], -1, *[0] * 12])


def test_a_shuffle_from_a_lane_that_is_not_there_gives_garbage(cupy):
    """CUDA leaves the value undefined; NaN shows whether a kernel relies on it."""
    x, y = cupy.asarray(np.ones(8, np.float32)), [cupy.empty(8, np.float32) for _ in range(3)]
    load(cupy, "warps.cu", "warp_sums")((1,), (8,), (x, *y))
    assert np.isnan(y[1].get()[0])


def test_atomics(cupy):
    ints = cupy.asarray(np.array([0, -1, 1, 5, 0], np.int32))
    others = [cupy.zeros(n, dtype) for n, dtype in ((2, "uint32"), (1, "uint64"), (1, "float32"), (1, "float64"))]
    load(cupy, "warps.cu", "atomics")((3,), (40,), (ints, *others))
    np.testing.assert_array_equal(ints.get(), [120 * 119 // 2, 119, -119, 6, 9])
    np.testing.assert_array_equal(others[0].get(), [360, 119])
    assert [a.get()[0] for a in others[1:]] == [120 << 33, 60.0, 30.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_stays_in_the_storage_type(cupy, dtype):
    x, y = np.array([0.3, -1.7, 4.0], dtype), cupy.empty(4, dtype)
    load(cupy, "warps.cu", "arithmetic", dtype)((1,), (1,), (cupy.asarray(x), y))
    expected = [np.tanh(x[0]) + np.exp(x[0]) + np.abs(x[1]) + x[0], x[1] + x[0] + 2 + 2, x[2] + 0.5, 33.0]
    np.testing.assert_allclose(y.get(), expected, rtol=4 * np.finfo(dtype).eps)


def tickets(**orders):
    with cupy_on_cpu(**orders) as cupy:
        ticket = cupy.empty((2, 5), np.int32)
        load(cupy, "blocks.cu", "tickets")((2,), (5,), (cupy.zeros(1, np.int32), ticket))
        return ticket.get()


def test_thread_and_block_order_can_be_chosen():
    np.testing.assert_array_equal(tickets(), np.arange(10).reshape(2, 5))
    np.testing.assert_array_equal(tickets(thread_order="descending"), np.arange(10)[::-1].reshape(2, 5))
    by_block = tickets(thread_order="descending", block_order="ascending")
    np.testing.assert_array_equal(by_block, [[4, 3, 2, 1, 0], [9, 8, 7, 6, 5]])
    random = [tickets(thread_order="random", seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(random[0], random[1])
    assert (random[0] != random[2]).any()
    assert sorted(random[0].ravel()) == list(range(10))


def mutated(file, mark, replacement=""):
    """A test file's text without the line that ends in ``// MARK mark``."""
    lines = (KERNELS / file).read_text(encoding="utf-8").splitlines()
    marked = [i for i, line in enumerate(lines) if line.endswith(f"// MARK {mark}")]
    assert len(marked) == 1
    lines[marked[0]] = replacement
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("mark", ["filled", "folded"])
def test_a_missing_barrier_changes_the_result_of_some_thread_order(mark):
    x = np.arange(64, dtype=np.float32)
    results = set()
    for order in ORDERS:
        with cupy_on_cpu(thread_order=order) as cupy:
            module = cupy.RawModule(code=mutated("blocks.cu", mark), options=("-DREAL=float",))
            sums = cupy.empty(1, np.float32)
            module.get_function("block_sum")((1,), (64,), (cupy.asarray(x), sums))
            results.add(float(sums.item()))
    assert results != {x.sum()}


@pytest.mark.parametrize(
    ("entry", "threads", "message"),
    [
        (
            "barrier_against_shuffle",
            32,
            r"deadlock in block \(0, 0, 0\): threads 0-15: waiting at __syncthreads \(line 6\); "
            r"threads 16-31: waiting at a warp shuffle, mask ffffffff \(line 8\)",
        ),
        ("waits_for_ever", 32, r"deadlock.*thread 1: waiting at __syncwarp, mask 55555557 \(line 13\)"),
        ("divergent_barrier", 8, r"branch that not all threads take.*threads 0-3: .*line 20.*threads 4-7: .*line 22"),
        ("not_in_mask", 1, r"not in the mask that it passes.*thread 0: "),
    ],
)
def test_a_deadlock_is_reported_with_the_threads_that_wait(cupy, entry, threads, message):
    y = cupy.zeros(64, np.int32)
    kernel = load(cupy, "faults.cu", entry)
    for _ in range(2):  # the fibers that were left waiting must not be in the way of the next launch
        with pytest.raises(LaunchError, match=f"{entry}: .*{message}"):
            kernel((1,), (threads,), (y,))
    after = cupy.zeros(64, np.float32)
    load(cupy, "faults.cu", "copy")((1,), (64,), (cupy.ones(64, np.float32), after, np.int32(64)))
    assert after.get().all()


def test_line_numbers_of_a_compiler_error_are_those_of_the_file(cupy):
    source = '#line 41 "wrong.cu"\nextern "C" __global__ void wrong(int* y) {\n    y[0] = nonsense;\n}\n'
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r"wrong\.cu:42:\d+: error.*nonsense"):
        cupy.RawModule(code=source).get_function("wrong")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("__shared__ int a[2], b[2];", "one variable per statement"),
        ("__shared__ int a = 1;", "one variable per statement"),
    ],
)
def test_shared_memory_that_is_not_understood_is_refused(statement, message):
    with pytest.raises(SourceError, match=message):
        host_source(f'extern "C" __global__ void k(int* y) {{ {statement} }}')


def test_dynamic_shared_memory_at_file_level_is_refused():
    with pytest.raises(SourceError, match="inside the kernel"):
        host_source('extern __shared__ int all[];\nextern "C" __global__ void k(int* y) {}')


def test_a_kernel_that_is_not_understood_is_refused():
    with pytest.raises(SourceError, match='extern "C"'):
        kernels("__global__ void mangled(int* y) {}")
