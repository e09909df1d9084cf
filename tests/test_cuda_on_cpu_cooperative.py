"""Cooperative launches in the CPU stand-in: all blocks are alive together, and wait for each other by spinning."""

from pathlib import Path

import numpy as np
import pytest

from tests.cuda_on_cpu import InvalidMemory, LaunchError, SanitizerError, cupy_on_cpu

SOURCE = (Path(__file__).parent / "cuda_on_cpu" / "kernels" / "cooperative.cu").read_text(encoding="utf-8")
NOT_THERE = 0xFFFFFFFF
ORDERS = ("ascending", "descending", "random")
ROUNDS = 3


def load(cupy, entry, *, wait=True, cooperative=True):
    options = ("--std=c++14", f"-DWAIT={int(wait)}")
    return cupy.RawModule(code=SOURCE, options=options, enable_cooperative_groups=cooperative).get_function(entry)


def run_ring(cupy, blocks, threads, missing=-1):
    words = cupy.full((ROUNDS, blocks), NOT_THERE, "uint32")
    arguments = (words, np.int32(ROUNDS), np.int32(missing))
    load(cupy, "ring")((blocks,), (threads,), arguments, shared_mem=4 * ROUNDS)
    return words.get().ravel()


@pytest.mark.parametrize("late_block", [None, 0, 4])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_words_go_round_a_ring_of_blocks(mode, order, late_block):
    with cupy_on_cpu(mode, thread_order=order, seed=4, late_block=late_block) as cupy:
        np.testing.assert_array_equal(run_ring(cupy, 5, 40), np.arange(1, ROUNDS * 5 + 1))


def test_words_that_are_their_own_flags_are_no_race():
    with cupy_on_cpu("tsan") as cupy:
        np.testing.assert_array_equal(run_ring(cupy, 5, 40), np.arange(1, ROUNDS * 5 + 1))


def test_a_plain_load_of_such_a_word_is_a_race():
    with cupy_on_cpu("tsan") as cupy:
        kernel, words = load(cupy, "racy_ring"), cupy.full(4, NOT_THERE, "uint32")
        with pytest.raises(SanitizerError, match="data race"):
            kernel((4,), (32,), (words,))
    with cupy_on_cpu() as cupy:
        words = cupy.full(4, NOT_THERE, "uint32")
        kernel((4,), (32,), (words,))
        np.testing.assert_array_equal(words.get(), np.arange(4))


def test_thousands_of_threads_are_alive_together():
    with cupy_on_cpu(thread_order="descending") as cupy:
        np.testing.assert_array_equal(run_ring(cupy, 8, 512), np.arange(1, ROUNDS * 8 + 1))


def sums(values, rounds):
    for _ in range(rounds):
        values = values + np.roll(values, -1)
    return values


def run_rounds(cupy, wait):
    first = np.arange(1, 7, dtype=np.int32) ** 2
    values = cupy.zeros((ROUNDS + 1, 6), "int32")
    values[0] = cupy.asarray(first)
    arrived = cupy.zeros(1, "uint32")
    load(cupy, "rounds_of_sums", wait=wait)((6,), (64,), (values, arrived, np.int32(ROUNDS)))
    return values.get()[-1], sums(first, ROUNDS)


@pytest.mark.parametrize("late_block", [None, 2])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_a_barrier_of_the_grid(mode, order, late_block):
    with cupy_on_cpu(mode, thread_order=order, late_block=late_block) as cupy:
        np.testing.assert_array_equal(*run_rounds(cupy, wait=True))


def test_a_barrier_of_the_grid_orders_memory_for_tsan():
    with cupy_on_cpu("tsan") as cupy:
        np.testing.assert_array_equal(*run_rounds(cupy, wait=True))


def test_a_barrier_of_the_grid_that_does_not_wait_is_noticed():
    with cupy_on_cpu(late_block=2) as cupy:
        result, expected = run_rounds(cupy, wait=False)
        assert (result != expected).any()
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        run_rounds(cupy, wait=False)


# CUDA's own barrier of the grid
RELAY = """
#include <cooperative_groups.h>
extern "C" __global__ void relay(int* values, int rounds, int home) {  // each block adds what its neighbour has
    int block = blockIdx.x, blocks = gridDim.x;
    if ((int)threadIdx.x == home) return;
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x == blockDim.x - 1) {
            const int* from = values + round * blocks;
            values[(round + 1) * blocks + block] = from[block] + from[(block + 1) % blocks];
        }
        if (SYNC) cooperative_groups::this_grid().sync();
    }
}
"""


def run_relay(cupy, *, sync=1, cooperative=True, home=-1):
    module = cupy.RawModule(code=RELAY, options=(f"-DSYNC={sync}",), enable_cooperative_groups=cooperative)
    first = np.arange(1, 7, dtype=np.int32) ** 2
    values = cupy.zeros((ROUNDS + 1, 6), "int32")
    values[0] = cupy.asarray(first)
    module.get_function("relay")((6,), (40,), (values, np.int32(ROUNDS), np.int32(home)))
    return values.get()[-1], sums(first, ROUNDS)


@pytest.mark.parametrize(
    "settings", [{"late_block": 2}, {"thread_order": "random"}, {"mode": "asan"}, {"mode": "tsan"}]
)
def test_cudas_own_barrier_of_the_grid(settings):
    with cupy_on_cpu(**settings) as cupy:
        np.testing.assert_array_equal(*run_relay(cupy))
        np.testing.assert_array_equal(*run_relay(cupy))  # nothing is left of the launch before


def test_without_it_the_result_is_wrong_and_a_race():
    with cupy_on_cpu(late_block=2) as cupy:
        result, expected = run_relay(cupy, sync=0)
        assert (result != expected).any()
    with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
        run_relay(cupy, sync=0)


@pytest.mark.parametrize("mode", ["fibers", "tsan"])
def test_cudas_own_barrier_needs_a_cooperative_launch_and_all_threads_of_the_block(mode):
    with cupy_on_cpu(mode) as cupy:
        with pytest.raises(LaunchError, match=r"grid.sync\(\) in a launch that is not cooperative \(line 11\)"):
            run_relay(cupy, cooperative=False)
        with pytest.raises(LaunchError, match=r"grid.sync\(\) after other threads of the block have returned"):
            run_relay(cupy, home=7)


# Deadlocks
@pytest.mark.parametrize("late_block", [None, 1])
@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_a_missing_producer_is_a_deadlock_that_names_who_spins(mode, late_block):
    with cupy_on_cpu(mode, late_block=late_block, spin_limit=200) as cupy, pytest.raises(LaunchError) as error:
        run_ring(cupy, 3, 40, missing=1)
    text = str(error.value)
    assert "deadlock: nothing changed while all threads that could run came 200 times to host_cuda::yield()" in text
    assert "block (2, 0, 0): threads 0-1: waiting at __syncthreads" in text and "; thread 2: spinning (line 7);" in text


def test_a_missing_producer_is_a_deadlock_in_tsan():
    with cupy_on_cpu("tsan", spin_limit=200) as cupy:
        with pytest.raises(LaunchError, match=r"deadlock: nothing changes any more: .*thread 2: spinning \(line 7\)"):
            run_ring(cupy, 3, 40, missing=1)


@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_a_launch_that_is_not_cooperative_can_wait_within_a_block_only(mode):
    with cupy_on_cpu(mode, spin_limit=200) as cupy:
        kernel, words = load(cupy, "within_a_block", cooperative=False), cupy.full(3, NOT_THERE, "uint32")
        kernel((3,), (64,), (words, np.int32(0)))
        np.testing.assert_array_equal(words.get(), np.ones(3))
        words.fill(NOT_THERE)
        with pytest.raises(LaunchError, match=r"wait for its own threads only: block .0, 0, 0.: thread 0: spinning"):
            kernel((3,), (64,), (words, np.int32(1)))
        kernel((3,), (64,), (words, np.int32(0)))  # nothing is left of the failed launch


@pytest.mark.parametrize("cooperative", [False, True])
@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_a_trap_ends_the_launch(mode, cooperative):
    with cupy_on_cpu(mode) as cupy:
        kernel = load(cupy, "trap_at", cooperative=cooperative)
        with pytest.raises(LaunchError, match=r"trap_at: block \(.*\), thread \(9, 0, 0\): __trap\(\) \(line \d+\)"):
            kernel((3,), (32,), (np.int32(9),))
        kernel((3,), (32,), (np.int32(-1),))


# Orders
def drawn(**settings):
    """(threads' numbers in the order in which they began) of 2 x 3 blocks of 4 threads."""
    with cupy_on_cpu(**settings) as cupy:
        order = cupy.empty(24, "int32")
        load(cupy, "draw_numbers")((2, 3), (4,), (cupy.zeros(1, "int32"), order))
        return np.argsort(order.get())


def test_the_orders_are_those_asked_for():
    np.testing.assert_array_equal(drawn(thread_order="ascending"), np.arange(24))
    np.testing.assert_array_equal(drawn(thread_order="descending"), np.arange(24)[::-1])
    mixed = drawn(thread_order="ascending", block_order="descending")
    np.testing.assert_array_equal(mixed, np.arange(24).reshape(6, 4)[::-1].ravel())
    one, same, other = (drawn(thread_order="random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any() and sorted(one) == list(range(24))
    late = drawn(late_block=2)
    np.testing.assert_array_equal(late, [*range(8), *range(12, 24), *range(8, 12)])


@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_a_late_producer_shows_a_consumer_that_does_not_wait(mode):
    def taken(waits, late_block):
        with cupy_on_cpu(mode, late_block=late_block) as cupy:
            word, result = cupy.full(1, NOT_THERE, "uint32"), cupy.zeros(1, "uint32")
            load(cupy, "hand_over")((3,), (32,), (word, result, np.int32(waits)))
            return int(result[0])

    assert taken(0, None) == taken(1, None) == taken(1, 0) == 7
    assert taken(0, 0) == NOT_THERE


@pytest.mark.parametrize("settings", [{"mode": "tsan", "late_block": 1}, {"late_block": -1}])
def test_a_late_block_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match="late_block must be"), cupy_on_cpu(**settings):
        pass


# Accesses
@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_four_words_are_loaded_from_where_a_gpu_could(mode):
    with cupy_on_cpu(mode) as cupy:
        words, total = cupy.arange(12, dtype="uint32"), cupy.zeros(1, "uint32")
        load(cupy, "load_four")((1,), (1,), (words, total, np.int32(4)))
        assert int(total[0]) == 7654
        with pytest.raises(LaunchError, match="load_four: .*no multiple of 16"):
            load(cupy, "load_four")((1,), (1,), (words, total, np.int32(5)))


@pytest.mark.parametrize("at", [-1, 4])
def test_a_store_beside_an_array_is_noticed(at):
    with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow|use-after-poison"):
        load(cupy, "store_at")((1,), (1,), (cupy.zeros(4, "uint32"), np.int32(at)))
    with cupy_on_cpu() as cupy, pytest.raises(InvalidMemory, match="store_at wrote"):
        load(cupy, "store_at")((1,), (1,), (cupy.zeros(4, "uint32"), np.int32(at)))


@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
def test_the_helpers_of_such_kernels(mode):
    with cupy_on_cpu(mode) as cupy:
        vectors, longs = cupy.zeros((3, 4), "float32"), cupy.asarray(np.full(5, 2**40, np.uint64))
        vectors[0], longs[3] = cupy.arange(4, dtype="float32"), 0
        numbers = cupy.asarray(np.array([0, 0, 3], np.int32))
        load(cupy, "helpers")((1,), (1,), (vectors, longs, numbers))
        np.testing.assert_array_equal(vectors.get(), [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 4]])
        np.testing.assert_array_equal(longs.get(), [2**40 + 1, 2**40 + 5, 6, 7, 2**40 + 8])
        np.testing.assert_array_equal(numbers.get(), [1, 3, 7])
