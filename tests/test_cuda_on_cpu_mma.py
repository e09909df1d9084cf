"""Products on the tensor cores in the CPU stand-in: by all lanes of a warp, laid out as the PTX manual says."""

from pathlib import Path

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError, SanitizerError, cupy_on_cpu

SOURCE = (Path(__file__).parent / "cuda_on_cpu" / "kernels" / "products.cu").read_text(encoding="utf-8")
KINDS = ("tf32", "f16", "bf16")
WARPS = 6


def load(cupy, entry, *options, cooperative=False):
    return cupy.RawModule(code=SOURCE, options=options, enable_cooperative_groups=cooperative).get_function(entry)


# The manual's formulas for the row and column of element i of a lane, lane = 4 * group + thread.
def places_of_a(kind, lane):
    group, thread = divmod(lane, 4)
    if kind == "tf32":
        return [(group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)) for i in range(4)]
    return [(group + 8 * (i in (2, 3, 6, 7)), thread * 2 + (i & 1) + 8 * (i >= 4)) for i in range(8)]


def places_of_b(kind, lane):
    group, thread = divmod(lane, 4)
    if kind == "tf32":
        return [(thread + 4 * i, group) for i in range(2)]
    return [(thread * 2 + (i & 1) + 8 * (i >= 2), group) for i in range(4)]


def places_of_d(lane):
    group, thread = divmod(lane, 4)
    return [(group + 8 * (i >= 2), thread * 2 + (i & 1)) for i in range(4)]


def fragments(matrices, places):
    """(warps, 32, elements of a lane) of matrices (warps, rows, columns)."""
    rows, columns = np.array([places(lane) for lane in range(32)]).transpose(2, 0, 1)
    return np.ascontiguousarray(matrices[:, rows, columns])


def encoded(kind, values):
    """Bit patterns of float32 ``values``, and what the tensor cores read of them, in float64."""
    words = values.astype(np.float32).view(np.uint32)
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16), values.astype(np.float16).astype(np.float64)
    if kind == "bf16":
        return (words >> 16).astype(np.uint16), (words & 0xFFFF0000).view(np.float32).astype(np.float64)
    return words, (words & 0xFFFFE000).view(np.float32).astype(np.float64)


def multiply(cupy, kind, a, b, c, threads=64):
    """c + a @ b by the kernel; a, b are bit patterns."""
    kernel = load(cupy, "product")
    words = [fragments(x, lambda lane, p=p: p(kind, lane)) for x, p in ((a, places_of_a), (b, places_of_b))]
    words = [cupy.asarray(x.view(np.uint32)) for x in words]
    d = cupy.asarray(fragments(c, places_of_d))
    kernel((len(a) * 32 // threads,), (threads,), (*words, d, np.int32(KINDS.index(kind))))
    result = np.full(c.shape, np.nan, np.float32)
    rows, columns = np.array([places_of_d(lane) for lane in range(32)]).transpose(2, 0, 1)
    result[:, rows, columns] = d.get()
    return result


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_it_is_the_product_of_what_the_hardware_reads(mode, kind, order):
    rng, depth = np.random.default_rng(7), 8 if kind == "tf32" else 16
    a_bits, a = encoded(kind, rng.standard_normal((WARPS, 16, depth)).astype(np.float32))
    b_bits, b = encoded(kind, rng.standard_normal((WARPS, depth, 8)).astype(np.float32))
    c = rng.standard_normal((WARPS, 16, 8)).astype(np.float32)
    with cupy_on_cpu(mode, thread_order=order, seed=2) as cupy:
        result = multiply(cupy, kind, a_bits, b_bits, c)
    np.testing.assert_allclose(result, c + a @ b, rtol=1e-7, atol=1e-7)


def test_the_low_bits_of_a_float_are_not_read():
    a = np.zeros((2, 16, 8), np.float32)
    a[:, :, 0], b = 1 + 2.0**-10 + 2.0**-11, np.ones((2, 8, 8), np.float32)
    with cupy_on_cpu() as cupy:
        result = multiply(cupy, "tf32", a.view(np.uint32), b.view(np.uint32), np.zeros((2, 16, 8), np.float32))
    np.testing.assert_array_equal(result, np.float32(1 + 2.0**-10))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_every_half_is_read(kind):
    """Denormals, infinities and NaN among them, with sign."""
    patterns = np.arange(2**16, dtype=np.uint16)
    a = np.zeros((2**12, 16, 16), np.uint16)
    a[:, :, 5] = patterns.reshape(-1, 16)
    b = np.zeros((2**12, 16, 8), np.uint16)
    b[:, 5] = 0x3C00 if kind == "f16" else 0x3F80
    with cupy_on_cpu() as cupy:
        result = multiply(cupy, kind, a, b, np.zeros((2**12, 16, 8), np.float32), threads=1024)
    with np.errstate(invalid="ignore"):
        as_f16 = patterns.view(np.float16).astype(np.float32)
    expected = as_f16 if kind == "f16" else (patterns.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(result, np.broadcast_to(expected.reshape(-1, 16, 1), result.shape))


def test_large_and_small_terms_are_not_lost_before_the_end():
    a, b = np.zeros((2, 16, 8), np.float32), np.ones((2, 8, 8), np.float32)
    a[:, :, :3] = 2.0**30, 1.0, -(2.0**30)
    with cupy_on_cpu() as cupy:
        result = multiply(cupy, "tf32", a.view(np.uint32), b.view(np.uint32), np.full((2, 16, 8), 0.5, np.float32))
    np.testing.assert_array_equal(result, np.float32(1.5))


@pytest.mark.parametrize("cooperative", [False, True])
@pytest.mark.parametrize("mode", ["fibers", "asan", "tsan"])
@pytest.mark.parametrize(
    ("entry", "threads", "message"),
    [
        ("lane_returns", 32, "takes all 32 lanes.*thread 5: returned"),
        ("lane_returns", 24, "takes all 32 lanes.*threads 0-4: waiting at a product on the tensor cores"),
        ("lane_waits_elsewhere", 32, r"deadlock.*thread 5: waiting at __syncthreads .*; threads 6-31: waiting at a p"),
        ("lane_shuffles", 32, "different operations of a warp meet.*thread 5: waiting at a warp shuffle"),
        ("lane_multiplies_halves", 32, "different operations of a warp meet"),
    ],
)
def test_a_lane_that_does_not_take_part_is_an_error(mode, entry, threads, message, cooperative):
    with cupy_on_cpu(mode) as cupy:
        kernel = load(cupy, entry, cooperative=cooperative)
        with pytest.raises(LaunchError, match=f"{entry}: .*{message}"):
            kernel((2,), (threads,), (np.int32(5),))


def test_it_orders_no_memory():
    x = np.arange(32, dtype=np.float32)
    with cupy_on_cpu("tsan") as cupy:
        y = cupy.asarray(x)
        load(cupy, "product_is_no_barrier", "-DBARRIER=1")((1,), (32,), (y,))
        np.testing.assert_array_equal(y.get(), x[::-1])
        with pytest.raises(SanitizerError, match="data race"):
            load(cupy, "product_is_no_barrier", "-DBARRIER=0")((1,), (32,), (y,))
