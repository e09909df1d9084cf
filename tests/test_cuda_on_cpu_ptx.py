"""PTX on the CPU: arithmetic comes out as a GPU computes it, and what only the PTX shows is found."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError, cupy_on_cpu, ptx_source
from tests.cuda_on_cpu.ptx_text import PtxError, parse
from tests.test_nvrtc_gate import nvrtc_or_skip

KERNELS = Path(__file__).parent / "cuda_on_cpu" / "kernels"
SMALLEST = np.finfo(np.float32).tiny
SPECIAL = np.array(
    [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, -3e-39, SMALLEST, 3.4e38, 1e-20, 0.1, -7.5], "float32"
)


@pytest.fixture
def cupy():
    nvrtc_or_skip()
    with cupy_on_cpu("ptx") as module:
        yield module


def load(cupy, entry, *more, file="arithmetic.cu", **settings):
    source = (KERNELS / file).read_text(encoding="utf-8")
    return cupy.RawModule(code=source, options=("--std=c++14", *more), **settings).get_function(entry)


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < SMALLEST, np.copysign(0, x), x).astype("float32")


def pairs() -> tuple[np.ndarray, np.ndarray]:
    first, second = (side.ravel() for side in np.meshgrid(SPECIAL, SPECIAL))
    more = np.random.default_rng(0).standard_normal((2, 512 - first.size)).astype("float32")
    return np.concatenate([first, more[0]]), np.concatenate([second, more[1]])


def test_integers(cupy):
    rng = np.random.default_rng(1)
    a = rng.integers(-(2**31), 2**31, 256).astype("int32")
    b = rng.integers(1, 2**31, 256).astype("int32") >> rng.integers(0, 28, 256).astype("int32")
    b = np.where(b == 0, 1, b) * rng.choice([-1, 1], 256)
    a[:3], b[:3] = (-(2**31), 7, -7), (1, -2, 2)
    results = cupy.empty((256, 9), "int32"), cupy.empty((256, 13), "uint32"), cupy.empty((256, 8), "int64")
    load(cupy, "integers")((4,), (64,), (cupy.asarray(a), cupy.asarray(b.astype("int32")), *results))
    for row, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        u, v, w, z = x % 2**32, y % 2**32, x * y, (x << 32) + y % 2**32
        shift = v & 31
        eight = u.to_bytes(4, "little") + v.to_bytes(4, "little")
        signed = [_quotient(x, y), x - y * _quotient(x, y), w >> 32, w, min(x, y), max(x, y), x >> shift, abs(x)]
        words = [u // v, u % v, u * v >> 32, u << shift, u >> shift, min(u, v), max(u, v)]
        words += [int.from_bytes([eight[i] for i in order], "little") for order in ((1, 3, 5, 7), (6, 4, 2, 0))]
        longs = [w, _quotient(z, y), z - y * _quotient(z, y), w + z, w - z, z >> shift, z * w >> 64, min(w, z)]
        expected = [*signed, 3 if x == y else x < y], [*words, u & v, u | v, u ^ v, ~u], longs
        for found, numbers, bits in zip(results, expected, (32, 32, 64), strict=True):
            assert [int(n) % 2**bits for n in found.get()[row]] == [n % 2**bits for n in numbers], (x, y)


def _quotient(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)  # towards zero, as in C


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats_lose_what_is_subnormal(cupy):
    a, b = pairs()
    y = cupy.empty((512, 10), "float32")
    load(cupy, "floats")((8,), (64,), (cupy.asarray(a), cupy.asarray(b), y))
    u, v = flushed(a), flushed(b)
    fused = (u.astype("float64") * v + u).astype("float32")  # the product is exact, and the sum to far more bits
    expected = [u + v, u - v, u * v, u / v, fused, np.fmin(u, v), np.fmax(u, v), np.sqrt(np.abs(u)), 1 / u, -u]
    for k, numbers in enumerate(expected):
        found = y.get()[:, k]
        np.testing.assert_array_equal(found, flushed(numbers), err_msg=str(k))
        nan = found.view("uint32")[np.isnan(found)]
        assert k in (5, 6) or set(nan.tolist()) == {0x7FFFFFFF}, k  # fminf and fmaxf give the other number


def test_comparisons_with_nan(cupy):
    a, b = pairs()
    y = cupy.empty((512, 10), "int32")
    load(cupy, "comparisons")((8,), (64,), (cupy.asarray(a), cupy.asarray(b), y))
    u, v = flushed(a), flushed(b)
    ordered = [u < v, u <= v, u > v, u >= v]
    expected = np.stack([*ordered, u == v, u != v, *(~test for test in ordered)], axis=1)
    np.testing.assert_array_equal(y.get(), expected)


def test_functions_are_as_wrong_as_they_may_be_and_not_more(cupy):
    x = np.linspace(-10, 10, 512).astype("float32")
    y = cupy.empty((512, 7), "float32")
    load(cupy, "functions")((8,), (64,), (cupy.asarray(x), y))
    u = x.astype("float64")
    expected = [np.exp(u), np.tanh(u), np.log(np.abs(u)), np.exp(u), 1 / u, 1 / np.sqrt(np.abs(u)), np.rint(u)]
    # CUDA C++ Programming Guide, "Mathematical Functions": errors in units of the last place. __expf: 2 + |1.173 x|.
    ulps = [2, 2, 2, 2 + 1.173 * np.abs(u), 2, 2, 0]
    for k, (numbers, allowed) in enumerate(zip(expected, ulps, strict=True)):
        error = np.abs(y.get()[:, k] - numbers) / np.spacing(np.abs(numbers).astype("float32"))
        assert (error <= np.asarray(allowed) + 0.5).all(), (k, error.max())
        assert k in (0, 1, 2, 6) or error.max() > 0.6, k  # not simply the nearest number


def test_doubles(cupy):
    u, v = np.random.default_rng(2).standard_normal((2, 256))
    y, narrow = cupy.empty((256, 8), "float64"), cupy.empty(256, "float32")
    load(cupy, "doubles")((4,), (64,), (cupy.asarray(u), cupy.asarray(v), y, narrow))
    fused = np.longdouble(u) * v + u
    expected = [u + v, u * v, u / v, fused, np.sqrt(np.abs(u)), np.exp(u), np.tanh(u), np.log(np.abs(u))]
    np.testing.assert_allclose(y.get(), np.stack(expected, 1).astype("float64"), rtol=5e-16)
    np.testing.assert_array_equal(narrow.get(), u.astype("float32"))


def test_who_writes_what_is_promised_not_to_change(cupy):
    kernel, x, y = load(cupy, "promises"), cupy.ones(32, "float32"), cupy.empty(32, "float32")
    kernel((1,), (32,), (x, y))
    assert (y.get() == 2).all()
    with pytest.raises(
        LaunchError, match="ld.global.nc of what this launch has written|a write to what this launch reads"
    ):
        kernel((1,), (32,), (x, x))


@pytest.mark.parametrize("fence", [True, False])
def test_who_reads_what_another_block_has_written(cupy, fence):
    kernel = load(cupy, "hears_of_it", f"-DFENCE={int(fence)}", enable_cooperative_groups=True)
    numbers = cupy.zeros(2, "float32")
    launch = (2,), (1,), (cupy.zeros(1, "uint32"), numbers)
    if fence:
        kernel(*launch)
        assert numbers.get().tolist() == [3, 3]
        return
    with pytest.raises(LaunchError, match="a weak load of what another block has written, without a fence since"):
        kernel(*launch)


def test_a_block_larger_than_the_bounds(cupy):
    with pytest.raises(LaunchError, match=re.escape("more threads in a block than .maxntid allows")):
        load(cupy, "bounded")((1,), (64,), (cupy.empty(64, "float32"),))


def test_addresses_that_are_no_multiple_of_the_access(cupy):
    source = (KERNELS / "faults.cu").read_text(encoding="utf-8")
    kernel = cupy.RawModule(code=source, options=("--std=c++14", "-DREAL=float")).get_function("copy_by_fours")
    x = cupy.zeros(33, "float32")
    kernel((1,), (8,), (x[:32], cupy.empty(32, "float32")))
    with pytest.raises(LaunchError, match="no multiple of the access's size: 16 bytes"):
        kernel((1,), (8,), (x[1:], cupy.empty(32, "float32")))


def test_beyond_shared_memory(cupy):
    source = (KERNELS / "faults.cu").read_text(encoding="utf-8")
    kernel = cupy.RawModule(code=source, options=("--std=c++14", "-DREAL=float")).get_function("shared_overrun")
    with pytest.raises(LaunchError, match="outside of the block's shared memory: 4 bytes"):
        kernel((1,), (32,), (cupy.empty(32, "float32"), np.int32(1)))


MODULE = """
.version 8.8
.target sm_90
.address_size 64
.visible .entry strange(.param .u64 strange_param_0)
{{
	.reg .b32 %r<3>;
	.reg .pred %p<2>;
	.loc 1 12 3
	{}
	ret;
}}
"""


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("sin.approx.f32 %r1, %r2;", "strange, line 12: instruction 'sin.approx.f32'"),
        ("add.cc.u32 %r1, %r2, 1;", "strange, line 12: modifiers cc.u32"),
        ("mov.u32 %r1, %clock9;", "'%clock9' is neither a register, nor a name, nor a number"),
        ("ld.local.u32 %r1, [%r2];", "the space of the address"),
        ("bar.sync 1;", "bar.sync 1"),
        (".local .align 4 .b8 depot[8];", "'.local .align 4 .b8 depot[8]' was not understood"),
    ],
)
def test_what_is_not_known_is_not_passed_over(statement, message):
    with pytest.raises(PtxError, match=re.escape(message)):
        ptx_source.host_source(parse(MODULE.format(statement)))


def test_labels_and_registers_of_inner_scopes_are_their_own():
    twice = "{ .reg .pred done; AGAIN: setp.eq.u32 done, %r1, 3; @!done bra AGAIN; }" * 2
    text = ptx_source.host_source(parse(MODULE.format(f"mov.u32 %r1, 3; {twice}")))
    assert len(set(re.findall(r"L_AGAIN__\d+(?=:)", text))) == 2
    assert text.count("goto L_AGAIN__1;") == text.count("goto L_AGAIN__2;") == 1
