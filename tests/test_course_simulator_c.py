"""The simulator computes as C does: against values worked out by hand, the C library, and a C++ compiler."""

import math
import re

import numpy as np
import pytest

from tests.cuda_on_cpu import cupy_on_cpu
from tests.simulated import HEAD, run
from tests.simulator_expressions import kernel_source

from lab.lesson_12_launching import library_kernel  # isort: skip - tests.simulated says where it is

INT_MIN, INT_MAX = -(2**31), 2**31 - 1

# C type of the result, statements and expression, value
BY_HAND = [
    ("int", "7 / 2", 3),
    ("int", "-7 / 2", -3),
    ("int", "7 / -2", -3),
    ("int", "-7 % 3", -1),
    ("int", "7 % -3", 1),
    ("int", "a + 2147483647", INT_MIN),  # a is 1
    ("int", "a * 65536 * 65536", 0),
    ("int", "-(a + 2147483647)", INT_MIN),
    ("int", "a << 31", INT_MIN),
    ("int", "-8 >> 1", -4),
    ("unsigned", "a - 2u", 2**32 - 1),
    ("int", "(a - 2) < 1u", 0),  # -1 becomes the largest unsigned number
    ("int", "(a - 2) < 1", 1),
    ("int", "(a - 2) < 1ll", 1),
    ("unsigned", "~0u >> 28", 15),
    ("unsigned", "-1", 2**32 - 1),
    ("int", "4294967295u", -1),
    ("int", "0x7fffffff + 0", INT_MAX),
    ("int", "010", 8),
    ("long long", "4000000000", 4000000000),
    ("long long", "65536 * 65536ll", 2**32),
    ("long long", "(long long)65536 * 65536", 2**32),
    ("long long", "65536 * 65536 * a", 0),
    ("unsigned long long", "(unsigned long long)-1", 2**64 - 1),
    ("long long", "9223372036854775807ll + a", -(2**63)),
    ("int", "(char)200", -56),
    ("int", "(unsigned char)300", 44),
    ("int", "(bool)0.5f", 1),
    ("int", "(int)-2.9f", -2),
    ("int", "(int)1e20f", INT_MAX),
    ("int", "(int)NAN", 0),
    ("unsigned", "(unsigned)-1.0f", 0),
    ("int", "sizeof(float) + sizeof(double) + sizeof(a)", 16),
    ("int", "!a + !!a", 1),
    ("int", "a ? 5 : 6", 5),
    ("int", "(a, 9)", 9),
    ("int", "1 < 2 < 1", 0),
    ("int", "-3000000000 < 0", 1),  # a long long: no int is so large
    ("int", "0.1f < 0.1", 0),
    ("int", "0.1f == 0.1", 0),
    ("int", "16777217 == 16777216.0f", 1),
    ("float", "1 / 3", 0.0),
    ("float", "1.0f / 3", float(np.float32(1) / np.float32(3))),
    ("double", "1.0f / 3.0f", float(np.float32(1) / np.float32(3))),
    ("double", "1.0 / 3.0f", 1 / 3),
    ("float", "16777216.0f + 1.0f", 16777216.0),
    ("float", "0.1f + 0.2f", float(np.float32(0.1) + np.float32(0.2))),
    ("float", "1e38f * 10.0f", math.inf),
    ("float", "-1.0f / 0.0f", -math.inf),
    ("float", "a / 0.0f", math.inf),
    ("float", "0.0f / 0.0f", math.nan),
    ("float", "2147483647", 2147483648.0),
    ("float", "1e-45f / 2.0f", 0.0),
    ("float", "16777219", 16777220.0),
    ("float", "-0.0f", -0.0),
    ("float", "expf(100.0f)", math.inf),
    ("float", "expf(-1000.0f)", 0.0),
    ("float", "logf(0.0f)", -math.inf),
    ("float", "logf(-1.0f)", math.nan),
    ("float", "sqrtf(-1.0f)", math.nan),
    ("float", "fminf(NAN, 2.0f)", 2.0),
    ("float", "fmaxf(2.0f, NAN)", 2.0),
    ("float", "powf(2.0f, 10.0f)", 1024.0),
    ("float", "powf(-8.0f, 3.0f)", -512.0),
    ("float", "rsqrtf(4.0f)", 0.5),
    ("float", "fmaf(16777217.0f, 1.0f, 1.0f)", 16777216.0),
    ("float", "fmaf(1.000244140625f, 1.000244140625f, 8.6736174e-19f)", 1 + 2**-11 + 2**-23),  # rounded once
    ("float", "fmaf(1.000244140625f, 1.000244140625f, -8.6736174e-19f)", 1 + 2**-11),
    ("double", "tanh(0.5f)", float(np.float32(math.tanh(0.5)))),
    ("double", "tanh(0.5)", math.tanh(0.5)),
    ("float", "max(1, 2.5f)", 2.5),
    ("int", "min(3, 4u)", 3),
    ("float", "roundf(2.5f) + rintf(2.5f) + floorf(-0.5f) + ceilf(0.5f) + truncf(-1.5f)", 3.0 + 2.0 - 1.0 + 1.0 - 1.0),
    ("int", "isnan(NAN) + isinf(INFINITY) + isfinite(1.0f)", 3),
    ("float", "float(7) / int(2.5f)", 3.5),  # C++ writes a cast like this too
    ("float", "static_cast<float>(7) / 2", 3.5),
]
STATEMENTS = [
    ("int r = 0; for (int k = 0; k < 5; k++) r += k;", 10),
    ("int r = 0; for (int k = 5; k > 0; --k) r += k;", 15),
    ("int r = 0; for (int k = 10; k >= 0; k -= 3) r = r * 10 + k;", 10741),
    ("int r = 0; for (int k = 0; k <= 4; k += 2) r += k;", 6),
    ("int r = 0; for (int k = 0; k < 10; k++) { if (k == 3) continue; if (k == 6) break; r += k; }", 12),
    ("int r = 0; for (int k = 0; k < 10; k++) { k++; r += k; }", 25),
    ("int r = 0, m = 4; for (int k = 0; k < m; k++) { if (k == 1) m = 2; r += 1; }", 2),
    ("int r = 0; int k; for (k = 0; k < 3; k++) {} r = k;", 3),
    ("int r = 0; for (unsigned k = 3; k < 4; k--) r += 1;", 4),
    ("int r = 0; for (int k = -2; k < 2u; k++) r += 1;", 0),  # -2 becomes a large unsigned number
    ("int r = 0; for (int half = 16; half > 0; half /= 2) r += half;", 31),
    ("int r = 0; for (int k = 1; k < 100; k *= 3) { if (k == 9) continue; r += k; }", 1 + 3 + 27 + 81),
    ("int r = 0; while (r < 7) r += 2;", 8),
    ("int r = 10; while (1) { if (--r < 4) break; }", 3),
    ("int r = 0; do r++; while (r < 5);", 5),
    ("int r = 0; do { r++; if (r == 2) continue; } while (r < 0);", 1),
    ("int r = 0, k = 9; do { k--; if (k % 2) continue; r += k; } while (k > 3);", 8 + 6 + 4),
    ("int i = 3; int r = i++ * 10 + i;", 34),
    ("int i = 3; int r = ++i * 10 + i--;", 44),
    ("int i = 3; i <<= 2; i |= 1; i ^= 8; i %= 4; int r = i;", 1),
    ("int r = 1; { int r = 2; r++; } r += 10;", 11),
    ("int b, c; b = c = 4; int r = b * c;", 16),
    ("int q[3] = {1, 2}; q[2] += 5; q[0]++; int r = q[0] * 100 + q[1] * 10 + q[2];", 225),
    ("int q[2][3]; for (int i = 0; i < 6; i++) q[i / 3][i % 3] = i; int r = q[1][0] * 10 + q[1][2];", 35),
    ("int q[4] = {}; int* p = q + 1; *p = 7; p++; *p++ = 8; p[0] = 9; int r = q[1] * 100 + q[2] * 10 + q[3];", 789),
    ("int q[4] = {1, 2, 3, 4}; const int* p = a ? q + 2 : q; int r = p[0] * 10 + p[-1];", 32),
    ("int r = 0; if (a && r) r = 1; else if (a || r / r) r = 2; else r = 3;", 2),
    ("float f = 7; f /= 2; int r = f * 10;", 35),
    ("int r = 5; r /= 2.0f; r *= 1.5;", 3),
    ("unsigned u = 3; u -= 4; int r = u == 0xffffffff;", 1),
    ("const int n = 4; float v[n]; for (int k = 0; k < n; k++) v[k] = k; int r = v[n - 1];", 3),
    ("int r = (a == 1) + (a != 1) * 2;", 1),
    ("int r = 0; if (a and not r) r = 4; if (r > 9 or r == 4) r += 1; bool android = true; r += android;", 6),
    ("int r = sum_to(4) + twice(3.5f) + first(out);", 10 + 7 + 0),
    ("unsigned char s = 250; s += 10; int r = s;", 4),
    ("bool flag = 7; int r = flag + flag;", 2),
    ("int r = N + M;", 25),
    ("#pragma unroll\n int r = 6;", 6),
    ("int r = 0; for (;;) { if (r++ > 3) return_early(); if (r > 5) break; }", 6),
]
HELPERS = """
#define N (M + 1)  // a comment
#define M 12 /* one
of two lines */
__device__ __forceinline__ int sum_to(int n) { int s = 0; while (n) s += n--; return s; }
__device__ float twice(float x) { return 2 * x; }
__device__ int first(const int* p) { return p[0]; }
__device__ void return_early() { return; }
"""


@pytest.mark.parametrize(("kind", "expression", "expected"), BY_HAND, ids=lambda value: str(value)[:40])
def test_an_expression_has_the_value_that_c_gives_it(kind, expression, expected):
    dtype = {
        "int": "i4",
        "unsigned": "u4",
        "long long": "i8",
        "unsigned long long": "u8",
        "float": "f4",
        "double": "f8",
    }
    out = np.zeros(1, dtype[kind])
    run(f"{HEAD}k({kind}* out, int a) {{ out[0] = {expression}; }}", 1, 1, out, np.int32(1))
    np.testing.assert_array_equal(out[0], np.array(expected, out.dtype))
    assert np.signbit(out[0]) == np.signbit(np.array(expected, out.dtype))


@pytest.mark.parametrize(("statements", "expected"), STATEMENTS, ids=lambda value: str(value)[:40])
def test_statements_do_what_they_do_in_c(statements, expected):
    out = np.zeros(1, np.int32)
    run(f"{HELPERS}{HEAD}k(int* out, int a) {{ {statements} out[0] = r; }}", 1, 1, out, np.int32(1))
    assert out[0] == expected


def random_inputs(seed):
    rng = np.random.default_rng(seed)
    ints = rng.integers(-50, 50, 32).astype(np.int32)
    unsigned = rng.integers(0, 2**32, 32, dtype=np.uint32)
    longs = rng.integers(-(2**40), 2**40, 16)
    return ints, unsigned, longs, rng.normal(0, 20, 32).astype(np.float32), rng.normal(0, 20, 16)


@pytest.mark.parametrize("seed", range(2))
def test_random_expressions_have_the_bits_that_a_compiler_gives_them(seed):
    count = 20
    source = kernel_source(seed, count, 3)
    given = random_inputs(seed)
    ours = [np.zeros(16 * count, dtype) for dtype in ("i4", "u4", "i8", "f4", "f8")]
    run(source, 1, 16, *given, *ours)
    with cupy_on_cpu() as cupy:
        theirs = [cupy.zeros(16 * count, dtype.dtype) for dtype in ours]
        cupy.RawKernel(source, "many")((1,), (16,), (*(cupy.asarray(array) for array in given), *theirs))
        theirs = [array.get() for array in theirs]
    lines = [line.strip() for line in source.split("\n") if re.match(r"\s+r[iulfd]\[", line)]
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        differ = ~((own == other) | (np.isnan(own) & np.isnan(other)))
        wrong = {lines[5 * (int(place) % count) + number] for place in np.flatnonzero(differ)}
        assert not wrong, "\n".join(wrong)


FUNCTIONS = ("expf", "exp2f", "expm1f", "logf", "log1pf", "tanhf", "sinf", "cosf", "sqrtf", "rsqrtf", "erff", "atanf")


def test_functions_are_within_one_ulp_of_the_c_library():
    body = "".join(f"out[{number} * n + i] = {name}(x[i]);\n" for number, name in enumerate(FUNCTIONS))
    source = f"{HEAD}k(const float* x, float* out, int n) {{ int i = threadIdx.x;\n{body} }}"
    x = np.concatenate([np.linspace(0.001, 12, 200), np.geomspace(1e-6, 1e3, 56)]).astype(np.float32)
    ours = np.zeros(256 * len(FUNCTIONS), np.float32)
    run(source, 1, 256, x, ours, np.int32(256))
    with cupy_on_cpu() as cupy:
        theirs = cupy.zeros(ours.size, "float32")
        cupy.RawKernel(source, "k")((1,), (256,), (cupy.asarray(x), theirs, np.int32(256)))
        theirs = theirs.get()
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(theirs))
    finite = np.isfinite(theirs)
    ours, theirs = ours[finite].astype(np.float64), theirs[finite]
    assert (np.abs(ours - theirs) <= np.spacing(np.abs(theirs))).all()


ROWS, HIDDEN = 5, 6
SIZES = (np.int64(ROWS * HIDDEN), np.int32(HIDDEN))
WIDE, NARROW = (ROWS, 4 * HIDDEN), (ROWS, HIDDEN)
REAL_KERNELS = [  # file, kernel, grid, block, shapes of what is read, of what is written, scalars
    ("elementwise.cu", "sigmoid", 2, 16, [NARROW], [NARROW], SIZES[:1]),
    ("elementwise.cu", "tanh_forward", 2, 16, [NARROW], [NARROW], SIZES[:1]),
    ("elementwise.cu", "sigmoid_backward", 2, 16, [NARROW] * 2, [NARROW], SIZES[:1]),
    ("gate_activations.cu", "gate_activations", 8, 16, [WIDE], [WIDE], (np.int64(4 * ROWS * HIDDEN), SIZES[1])),
    ("cell_update.cu", "cell_update", 2, 16, [WIDE, NARROW], [NARROW] * 2, SIZES),
    ("cell_update.cu", "cell_update_backward", 2, 16, [WIDE] + [NARROW] * 4, [WIDE, NARROW], SIZES),
    ("column_sum.cu", "column_sum", (1, 2), (32, 8), [(40, 7)], [(2, 7)], (np.int64(40), np.int32(7), np.int64(20))),
]


@pytest.mark.parametrize("case", REAL_KERNELS, ids=lambda case: case[1])
def test_the_projects_own_kernels_run_in_it(case):
    file, name, grid, block, read, written, scalars = case
    source, rng = library_kernel(file), np.random.default_rng(7)
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in read]
    ours = [np.zeros(shape, np.float32) for shape in written]
    made = run(source, grid, block, *inputs, *ours, *scalars, name=name)
    assert made.counts.loads() and made.counts.stores() == sum(array.size for array in ours)
    with cupy_on_cpu() as cupy:
        theirs = [cupy.zeros(shape, "float32") for shape in written]
        triples = [size if isinstance(size, tuple) else (size,) for size in (grid, block)]
        cupy.RawKernel(source, name)(*triples, (*map(cupy.asarray, inputs), *theirs, *scalars))
        for own, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(own, other.get(), rtol=3e-7, atol=1e-7)


def test_shuffles_and_votes_do_what_they_do_on_a_gpu():
    source = (
        HEAD
        + """k(int* out) {
        int t = threadIdx.x;
        out[t] = __shfl_down_sync(0xffffffff, t, 16);
        out[t + 64] = __shfl_xor_sync(0xffffffff, t, 1);
        out[t + 128] = __shfl_sync(0xffffffff, t, 5);
        out[t + 192] = __shfl_up_sync(0xffffffff, t, 2, 8);
        out[t + 256] = __ballot_sync(0xffffffff, t % 32 < 3) + __any_sync(0xffffffff, t == 40) * 100;
        if (t % 32 < 16) out[t + 320] = __shfl_xor_sync(0x0000ffff, t, 8);
    }"""
    )
    out = np.zeros(384, np.int32)
    run(source, 1, 64, out)
    t = np.arange(64)
    lane, begin = t % 32, t - t % 32
    np.testing.assert_array_equal(out[:64], np.where(lane < 16, t + 16, t))
    np.testing.assert_array_equal(out[64:128], t ^ 1)
    np.testing.assert_array_equal(out[128:192], begin + 5)
    np.testing.assert_array_equal(out[192:256], np.where(t % 8 >= 2, t - 2, t))
    np.testing.assert_array_equal(out[256:320], 7 + 100 * (t >= 32))
    np.testing.assert_array_equal(out[320:], np.where(lane < 16, t ^ 8, 0))


def test_atomics_change_in_turn_and_give_what_was_before():
    source = (
        HEAD
        + """k(int* n, unsigned* u, float* f, int* old) {
        int t = threadIdx.x;
        old[t] = atomicAdd(&n[0], 2);
        atomicMax(n + 1, t); atomicMin(&n[2], -t); atomicSub(&n[3], 1); atomicOr(&n[4], 1 << (t % 8));
        if (atomicCAS(&n[5], 0, t + 1) == 0) n[6] = t;
        atomicAdd(u, 0xffffffffu);
        atomicAdd(f, 0.1f);
    }"""
    )
    n, u, f, old = np.zeros(7, "i4"), np.zeros(1, "u4"), np.zeros(1, "f4"), np.zeros(32, "i4")
    run(source, 1, 32, n, u, f, old)
    assert n.tolist() == [64, 31, -31, -32, 255, 1, 0]
    assert u[0] == 2**32 - 32 and old.tolist() == list(range(0, 64, 2))
    assert f[0] == np.add.accumulate(np.full(32, 0.1, "f4"))[-1]


def test_dynamic_shared_memory_has_the_size_of_the_launch():
    source = (
        HEAD + "k(float* y) { extern __shared__ float s[]; int t = threadIdx.x; "
        "s[t] = t; __syncthreads(); y[t] = s[31 - t]; }"
    )
    y = np.zeros(32, np.float32)
    run(source, 1, 32, y, shared_mem=128)
    np.testing.assert_array_equal(y, np.arange(32)[::-1])
    with pytest.raises(Exception, match="s has 16 elements"):
        run(source, 1, 32, y, shared_mem=64)


def test_indexes_have_three_dimensions():
    source = (
        HEAD
        + """k(int* y) {
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        y[block * blockDim.x * blockDim.y * blockDim.z + thread] = thread + 100 * block;
    }"""
    )
    y = np.zeros(24 * 24, np.int32)
    run(source, (2, 3, 4), (4, 3, 2), y)
    np.testing.assert_array_equal(y.reshape(24, 24), np.arange(24)[:, None] * 100 + np.arange(24))


def test_a_device_function_takes_shared_memory_and_meets_barriers():
    source = """
    __device__ float block_sum(float* part, float value) {
        part[threadIdx.x] = value;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
            __syncthreads();
        }
        float sum = part[0];
        __syncthreads();
        return sum;
    }
    __device__ float of_row(const float (*tile)[4], int row) { return tile[row][0] + tile[row][3]; }
    extern "C" __global__ void k(const float* x, float* y) {
        __shared__ float part[64];
        __shared__ float tile[16][4];
        __shared__ float total;
        int t = threadIdx.x;
        float sum = block_sum(part, x[t]), squares = block_sum(part, x[t] * x[t]);
        tile[t / 4][t % 4] = x[t];
        if (t == 0) total = sum;
        __syncthreads();
        y[t] = total + squares + of_row(tile, t / 4);
    }"""
    x = np.arange(64, dtype=np.float32)
    y = np.zeros(64, np.float32)
    made = run(source, 1, 64, x, y)
    rows = x.reshape(16, 4)
    np.testing.assert_array_equal(y, x.sum() + (x * x).sum() + np.repeat(rows[:, 0] + rows[:, 3], 4))
    assert made.counts.barriers == 17
    assert made.counts.shared_stores("total") == 1
