"""Clusters in the CPU stand-in: blocks are alive together, meet at a barrier and reach into each other's memory."""

from pathlib import Path

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError, SanitizerError, cupy_on_cpu
from tests.cuda_on_cpu.source import SourceError, kernels

SOURCE = (Path(__file__).parent / "cuda_on_cpu" / "kernels" / "clusters.cu").read_text(encoding="utf-8")
ORDERS = ("ascending", "descending", "random")
ROUNDS, THREADS = 3, 4


def load(cupy, entry, cluster=4, *, first=True, each=True):
    options = ("--std=c++14", f"-DCLUSTER={cluster}", f"-DFIRST={int(first)}", f"-DEACH={int(each)}")
    return cupy.RawModule(code=SOURCE, options=options).get_function(entry)


def run_ring(cupy, cluster=4, clusters=3, *, entry="ring", more=(), **switches):
    """(what the kernel found, what it should have found)"""
    first = np.arange(clusters * cluster * THREADS, dtype=np.int32).reshape(clusters, cluster, THREADS) ** 2
    sums = cupy.zeros((ROUNDS, clusters, cluster, THREADS), "int32")
    arguments = (cupy.asarray(first), sums, np.int32(ROUNDS), *more)
    load(cupy, entry, cluster, **switches)((clusters * cluster,), (THREADS,), arguments)
    expected, now = [], first
    for _ in range(ROUNDS):
        now = now + np.roll(now, 1, axis=1)
        expected.append(now)
    return sums.get(), np.stack(expected)


@pytest.mark.parametrize("late_block", [None, 0, 6])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_words_go_round_in_each_cluster(mode, order, late_block):
    with cupy_on_cpu(mode, thread_order=order, seed=5, late_block=late_block) as cupy:
        np.testing.assert_array_equal(*run_ring(cupy))


def test_a_barrier_of_the_cluster_orders_memory_for_tsan():
    with cupy_on_cpu("tsan", thread_order="random") as cupy:
        np.testing.assert_array_equal(*run_ring(cupy))


def test_without_the_barrier_it_is_a_race():
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        run_ring(cupy, each=False)


@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_without_the_barrier_the_result_is_wrong(mode):
    with cupy_on_cpu(mode) as cupy:
        found, expected = run_ring(cupy, each=False)
        assert (found != expected).any()


@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_without_the_first_barrier_it_is_an_error(mode):
    with cupy_on_cpu(mode) as cupy, pytest.raises(LaunchError, match="may not have begun"):
        run_ring(cupy, first=False)


ASYNC = {"entry": "ring_async", "more": (np.int32(0),)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_words_that_are_counted_where_they_arrive(mode, order):
    with cupy_on_cpu(mode, thread_order=order, seed=6, late_block=None if mode == "tsan" else 2) as cupy:
        np.testing.assert_array_equal(*run_ring(cupy, **ASYNC))


def test_not_waiting_for_the_words_is_a_race():
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        run_ring(cupy, each=False, **ASYNC)


@pytest.mark.parametrize("mode", ["fibers", "tsan"])
def test_more_bytes_announced_than_come_is_a_deadlock(mode):
    with cupy_on_cpu(mode, spin_limit=100) as cupy, pytest.raises(LaunchError, match="deadlock"):
        run_ring(cupy, entry="ring_async", more=(np.int32(4),))


@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_dynamic_memory_and_threads_that_return_after_they_arrived(mode):
    with cupy_on_cpu(mode, thread_order="descending") as cupy:
        words = cupy.zeros((2, 4, 3), "uint32")
        load(cupy, "read_next")((8,), (6,), (words, np.int32(3)), shared_mem=12)
        blocks = np.arange(8).reshape(2, 4)
        np.testing.assert_array_equal(words.get(), 100 * np.roll(blocks, -1, 1)[..., None] + np.arange(3))


@pytest.mark.parametrize("mode", ["fibers", "tsan"])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (0, "may not have begun"),
        (1, "no block of this rank"),
        (2, "not in the block's shared memory"),
        (3, "no multiple of the access's size"),
        (4, "arrives at barrier.cluster again before it has waited"),
        (5, "waits at barrier.cluster without having arrived"),
        (6, "has returned, and its shared memory with it"),
        (7, r"deadlock[\s\S]*(spinning|barrier.cluster)"),
    ],
)
def test_mistakes(mode, mistake, message):
    with cupy_on_cpu(mode, spin_limit=100) as cupy, pytest.raises(LaunchError, match=message):
        load(cupy, "wrong")((2,), (1,), (cupy.zeros(1, "uint32"), np.int32(mistake)))


@pytest.mark.parametrize("mode", ["fibers", "tsan"])
def test_a_barrier_of_a_cluster_that_there_is_none_of(mode):
    with cupy_on_cpu(mode) as cupy, pytest.raises(LaunchError, match="without __cluster_dims__"):
        load(cupy, "no_cluster")((1,), (1,), (cupy.zeros(1, "uint32"),))


class TestLaunches:
    def test_sixteen_blocks_have_to_be_allowed(self):
        with cupy_on_cpu() as cupy:
            with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_CLUSTER_SIZE: 16"):
                run_ring(cupy, 16, 1)
            kernel, sums = load(cupy, "ring", 16), cupy.zeros((1, 16, 1), "int32")
            cupy.cuda.driver.funcSetAttribute(kernel.kernel.ptr, 14, 1)
            kernel((16,), (1,), (cupy.arange(16, dtype="int32"), sums, np.int32(1)))
            np.testing.assert_array_equal(sums.get().ravel(), np.arange(16) + np.roll(np.arange(16), 1))

    def test_grids_are_multiples_of_the_cluster(self):
        with cupy_on_cpu() as cupy, pytest.raises(cupy.cuda.driver.CUDADriverError, match="6 blocks along x"):
            load(cupy, "ring")((6,), (1,), (cupy.zeros(6, "int32"), cupy.zeros(6, "int32"), np.int32(1)))

    def test_older_devices_have_none(self):
        with cupy_on_cpu(compute_capability="89") as cupy:
            with pytest.raises(cupy.cuda.driver.CUDADriverError, match="clusters need compute capability 9.0"):
                run_ring(cupy)

    def test_other_attributes_and_handles_are_refused(self):
        with cupy_on_cpu() as cupy:
            driver, pointer = cupy.cuda.driver, load(cupy, "ring").kernel.ptr
            for function, attribute in ((pointer, 8), (1, 14)):
                with pytest.raises(driver.CUDADriverError):
                    driver.funcSetAttribute(function, attribute, 1)


class TestSource:
    HEAD = 'extern "C" __global__ void {} k(int* x) {{ *x = 0; }}'

    @pytest.mark.parametrize(
        ("what", "size"),
        [("", 1), ("__cluster_dims__(8, 1, 1)", 8), ("__launch_bounds__(512, (1)) __cluster_dims__( 16 ,1,1)", 16)],
    )
    def test_the_size_is_read_off_it(self, what, size):
        (found,) = kernels(self.HEAD.format(what))
        assert found.cluster == size

    @pytest.mark.parametrize("what", ["__cluster_dims__(2, 2, 1)", "__cluster_dims__(2 * 2, 1, 1)"])
    def test_others_are_refused(self, what):
        with pytest.raises(SourceError, match="__cluster_dims__"):
            kernels(self.HEAD.format(what))
