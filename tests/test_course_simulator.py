"""The simulator names what is wrong with a kernel: line, block, thread; and says nothing of the same kernel mended."""

import numpy as np
import pytest

from tests import simulator_mistakes, simulator_races
from tests.simulated import HEAD, kernels, refusal, run
from tests.simulator_refused import REFUSED

ALL = [*simulator_mistakes.ALL, *simulator_races.RACES, *simulator_races.BARRIERS]


def arguments():
    return np.arange(40, dtype=np.float32), np.zeros(128, np.float32), np.int32(40)


def threads(mistake):
    return 64 if "two warps" in mistake.name else 32


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_line_and_its_thread(mistake):
    source = mistake.source(mistake.wrong)
    found = refusal(source, mistake.grid, threads(mistake), *arguments(), limit=2000)
    assert (found.kind, found.line) == (mistake.kind, mistake.line), found
    assert mistake.message in found.message
    assert found.text == source.split("\n")[mistake.line - 1].strip()
    assert found.thread == (mistake.thread, 0, 0)
    assert str(found).startswith(f"Line {mistake.line}: ")


@pytest.mark.parametrize("order", ["in order", "reverse", "random"])
@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.name)
def test_of_the_mended_kernel_nothing_is_said(mistake, order):
    made = run(mistake.source(mistake.right), mistake.grid, threads(mistake), *arguments(), order=order, limit=2000)
    assert made.findings == ()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_c_is_refused_with_its_line(name):
    kind, line, message, source = REFUSED[name]
    found = refusal(source)
    assert (found.kind, found.line) == (kind, line or found.line), found
    assert message in found.message, found.message


GOOD = HEAD + "k(const float* x, float* y, int n) { if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x]; }"
X, Y, N = arguments()


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ((1, 32, X, Y), "k takes 3 arguments (const float* x, float* y, int n), and 2 were given."),
        ((1, 32, X, Y, 40), "argument 3 of k, int n, wants np.int32(...), and got the int 40: a plain Python number"),
        ((1, 32, X, Y, np.int64(40)), "argument 3 of k, int n, wants np.int32(...), and got np.int64."),
        ((1, 32, X, Y, X), "argument 3 of k, int n, wants np.int32(...), and got a numpy array of float32."),
        ((1, 32, 1.0, Y, N), "argument 1 of k, const float* x, wants a NumPy array of float32, and got the float 1.0."),
        ((1, 32, X.astype("f8"), Y, N), "wants an array of float32, and got one of float64: convert it with .astype."),
        ((1, 32, X[::2], Y, N), "wants elements that lie one after the other, and got a view with gaps"),
        (
            (1, 32, X, np.broadcast_to(np.float32(1), 1), N),
            "may be written by the kernel, and got an array that is read",
        ),
        ((1, 1025, X, Y, N), "a block has at most 1024 threads, and 1025 are 1025."),
        ((1, (64, 32), X, Y, N), "a block has at most 1024 threads, and 64 x 32 are 2048."),
        ((1, (1, 1, 65), X, Y, N), "at most 64 threads in z"),
        (((1, 65536), 32, X, Y, N), "at most 65535 blocks in y and z"),
        ((0, 32, X, Y, N), "the grid must have at least 1 in each direction, got 0."),
        ((1, 32.0, X, Y, N), "the block is a whole number or a tuple of up to three, got 32.0."),
        (((1, 1, 1, 1), 32, X, Y, N), "the grid is a whole number or a tuple of up to three"),
    ],
)
def test_a_wrong_launch_is_refused(launch, message):
    found = refusal(GOOD, *launch)
    assert found.kind == "launch" and message in found.message, found.message


def test_a_block_has_48_kib_of_shared_memory():
    source = HEAD + "k(float* y) { __shared__ float a[SIZE]; a[0] = 1; }"
    run(source.replace("SIZE", "12288"), 1, 1, Y)
    found = refusal(source.replace("SIZE", "12289"), 1, 1, Y)
    assert found.message == "a block has 49152 bytes of shared memory, and the kernel wants 49156."


def test_without_strict_it_goes_on_and_everything_is_found():
    source = HEAD + "k(float* y) {\n int i = threadIdx.x;\n y[i + 1] = 1;\n int z = i / (i - i);\n y[0] = 2;\n}"
    y = np.zeros(32, np.float32)
    made = run(source, 1, 32, y, strict=False)
    assert [(found.kind, found.line) for found in made.findings] == [
        ("division by zero", 4),
        ("out of bounds", 3),
        ("race", 5),
    ]
    assert y.tolist() == [2.0] + [1.0] * 31


def test_a_thread_that_writes_after_it_read_has_read_garbage():
    source = HEAD + "k(float* y) { __shared__ float s[32]; int t = threadIdx.x; y[t] = s[t]; s[t] = 1; }"
    assert refusal(source, 1, 32, Y).kind == "uninitialised"


def test_garbage_is_not_a_number_so_that_it_shows():
    source = HEAD + "k(float* y, int* z) { __shared__ float s[2]; int own[2]; float f[2];"
    source += "y[0] = s[1]; y[1] = f[0]; z[0] = own[1]; }"
    y, z = np.zeros(2, np.float32), np.ones(1, np.int32)
    assert len(run(source, 1, 1, y, z, strict=False).findings) == 1  # the first of each kind in a line
    assert np.isnan(y).all() and z[0] == 0


def test_races_are_told_together_the_first_few():
    body = "".join(f"\n y[{k}] = threadIdx.x;" for k in range(5))
    with pytest.raises(kernels.KernelError) as caught:
        run(HEAD + "k(float* y) {" + body + "\n}", 1, 32, Y)
    assert [found.line for found in caught.value.findings] == [2, 3, 4]
    assert str(caught.value).count("race") == 3


def test_a_missing_barrier_shows_in_the_numbers_too():
    source = HEAD + "k(const float* x, float* y, int n) { int t = threadIdx.x; __shared__ float s[32]; s[t] = x[t]; @ "
    source += "y[t] = s[t] + (t < 31 ? s[t + 1] : 0); }"
    right = X[:32] + np.append(X[1:32], 0)
    for order in ("in order", "reverse", "random"):
        y = np.zeros(32, np.float32)
        run(source.replace("@", "__syncthreads();"), 1, 32, X, y, N, order=order)
        np.testing.assert_array_equal(y, right)
    wrong = np.zeros(32, np.float32)
    made = run(source.replace("@", ""), 1, 32, X, wrong, N, strict=False)
    assert {found.kind for found in made.findings} == {"race"}
    assert (wrong != right).any()


def test_the_order_is_the_seeds():
    source = HEAD + "k(float* y) { float old = atomicAdd(y, 1.0f); y[threadIdx.x + 1] = old; }"

    def order_of(**settings):
        y = np.zeros(33, np.float32)
        run(source, 1, 32, y, **settings)
        return y[1:].tolist()

    assert order_of() == list(range(32))
    assert order_of(order="reverse") == list(range(31, -1, -1))
    assert order_of(order="random", seed=1) == order_of(order="random", seed=1) != order_of(order="random", seed=2)
    assert "the order is one of" in refusal(source, 1, 32, Y, order="sorted").message


def test_a_barrier_of_the_learners_own_orders_the_blocks():
    source = """
    __device__ void grid_barrier(unsigned* count, unsigned target) {
        __syncthreads();
        if (threadIdx.x == 0) {
            FENCE
            atomicAdd(count, 1);
            while (atomicAdd(count, 0) < target) {}
            __threadfence();
        }
        __syncthreads();
    }
    extern "C" __global__ void k(float* y, float* z, unsigned* count, int steps) {
        int i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
        for (int t = 0; t < steps; t++) {
            z[i] = y[n - 1 - i] + 1;
            grid_barrier(count, (2 * t + 1) * gridDim.x);
            y[i] = z[i];
            grid_barrier(count, (2 * t + 2) * gridDim.x);
        }
    }
    """
    for order in ("in order", "reverse", "random"):
        y, z, count = np.zeros(64, np.float32), np.zeros(64, np.float32), np.zeros(1, np.uint32)
        run(source.replace("FENCE", "__threadfence();"), 4, 16, y, z, count, np.int32(5), order=order)
        np.testing.assert_array_equal(y, 5)
    count[:] = 0
    found = refusal(source.replace("FENCE", ""), 4, 16, y, z, count, np.int32(5))
    assert found.kind == "race" and found.line == 17

    both = source.replace("FENCE", "__threadfence();").replace("__syncthreads();", "", 1)
    assert refusal(both, 4, 16, y, z, count, np.int32(5)).kind == "race"  # thread 0 goes ahead of its own block


def test_a_wait_may_last_as_long_as_something_changes():
    source = HEAD + "k(int* count) { while (atomicAdd(count, 1) < 500) {} }"
    count = np.zeros(1, np.int32)
    run(source, 1, 1, count)
    assert count[0] == 501


def test_a_warps_barrier_orders_its_lanes_and_atomics_need_none():
    source = HEAD + "k(float* y) { if (threadIdx.x == 0) y[0] = 5; @ atomicAdd(y, 1.0f); }"
    y = np.zeros(1, np.float32)
    run(source.replace("@", "__syncwarp();"), 1, 32, y)
    assert y[0] == 37
    assert refusal(source.replace("@", ""), 1, 32, y).kind == "race"


def test_one_array_handed_over_twice_is_one_array():
    source = HEAD + "k(const float* x, float* y) { y[threadIdx.x] = x[(threadIdx.x + SHIFT) % 32]; }"
    x = np.arange(32, dtype=np.float32)
    run(source.replace("SHIFT", "0"), 1, 32, x, x)
    assert refusal(source.replace("SHIFT", "1"), 1, 32, x, x).kind == "race"
    whole = np.arange(64, dtype=np.float32)
    run(source.replace("SHIFT", "1"), 1, 32, whole[:32], whole[32:])
    np.testing.assert_array_equal(whole[32:], np.roll(np.arange(32), -1))


def test_which_kernel_is_meant_must_be_clear():
    source = HEAD + "one(int n) {} " + HEAD + "two(int n) {}"
    assert kernels.simulate(source, "two").name == "two"
    assert "the source has one, two" in refusal(source).message
    with pytest.raises(kernels.KernelError, match="'three'"):
        kernels.simulate(source, "three")


def test_there_is_nothing_to_report_before_the_first_launch():
    with pytest.raises(kernels.KernelError, match="was not launched yet"):
        kernels.simulate(GOOD).report()
