"""`kernels/storage.cuh` and `convert.cu`: every number of 16 bits to float32, and back to the nearest."""

import numpy as np
import pytest

from gpulstm.cuda import sources
from gpulstm.engines import cupy_storage
from tests import backends
from tests.half_cases import DTYPES, numpy_dtype

BACKENDS = backends.KERNELS


def every(dtype: str) -> np.ndarray:
    """All numbers of 16 bits."""
    return np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))


def in_between(dtype: str) -> np.ndarray:
    """float32 numbers at, beside and halfway between those of 16 bits, and what is too large or too small for them."""
    finite = np.sort(every(dtype)[np.isfinite(every(dtype).astype("float32"))].astype("float32"))
    halfway = (finite[1:].astype("float64") + finite[:-1]) / 2
    exact = np.concatenate([finite, halfway.astype("float32")])
    unusual = np.array([np.inf, -np.inf, 3.4e38, -3.4e38, 65519.996, 65520, 2.0**-25, -(2.0**-126)], np.float32)
    return np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(0)), unusual])


def converted(backend, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    target = backend.xp.empty(values.shape, dtype)
    cupy_storage.assign(target, backend.array(values))
    return backend.numpy(target)


@pytest.mark.parametrize("dtype", DTYPES)
class TestConversions:
    def test_to_float32_is_exact(self, backend, dtype):
        found, wanted = converted(backend, every(dtype), np.dtype("float32")), every(dtype).astype("float32")
        np.testing.assert_array_equal(found, wanted)  # NaN where there was NaN
        signs, nan = (np.signbit(values) for values in (found, wanted)), np.isnan(wanted)
        np.testing.assert_array_equal(*(np.where(nan, False, sign) for sign in signs))  # a NaN's may get lost

    def test_back_is_rounded_to_the_nearest(self, backend, dtype):
        values = in_between(dtype)
        found = converted(backend, values, numpy_dtype(dtype))
        with np.errstate(over="ignore"):
            wanted = values.astype(numpy_dtype(dtype))
        np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))

    def test_there_and_back_changes_no_bit(self, backend, dtype):
        numbers = every(dtype)[~np.isnan(every(dtype).astype("float32"))]
        again = converted(backend, numbers.astype("float32"), numbers.dtype)
        np.testing.assert_array_equal(again.view(np.uint16), numbers.view(np.uint16))

    def test_every_nan_is_the_same_one(self, backend, dtype):
        """One that is told from a word whose bits are all set."""
        words = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFC00000, 0xFFFFFFFF], np.uint32)
        found = converted(backend, words.view(np.float32), numpy_dtype(dtype))
        assert (found.view(np.uint16) == 0x7FFF).all()


class TestMoving:
    def test_into_and_out_of_views(self, backend):
        values = np.random.default_rng(0).normal(size=(4, 6)).astype("float16")
        for target in (np.float32, np.float16):
            out = backend.xp.zeros((4, 12), target)
            cupy_storage.assign(out[:, ::2], backend.array(np.asfortranarray(values)))
            np.testing.assert_array_equal(backend.numpy(out)[:, ::2], values.astype(target))
            assert not backend.numpy(out)[:, 1::2].any()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_choosing(self, backend, dtype):
        a, b = (np.random.default_rng(n).normal(size=(4, 6)).astype(numpy_dtype(dtype)) for n in (0, 1))
        rows = backend.array(np.array([[True], [False], [True], [False]]))
        for other, wanted in ((b, b), (None, np.zeros_like(b))):
            found = cupy_storage.where(rows, backend.array(a), None if other is None else backend.array(other))
            assert found.dtype == a.dtype
            np.testing.assert_array_equal(backend.numpy(found), np.where(backend.numpy(rows), a, wanted))

    def test_of_other_dtypes_is_refused(self, backend):
        for target, source in (("float64", "float16"), ("float32", "float64"), ("float16", "bfloat16")):
            arrays = (backend.array(np.zeros(3, numpy_dtype(dtype))) for dtype in (target, source))
            with pytest.raises(TypeError, match=f"{source} is not converted to {target} here"):
                cupy_storage.assign(*arrays)


def test_unknown_zero_wherever_an_array_begins(backend):
    """`kernels/registers.cuh`. Weights were read from elsewhere where it was none, between two words."""
    header = (sources.kernel_folder() / "registers.cuh").read_text().replace("#pragma once", "")
    kernel = 'extern "C" __global__ void zeros(const unsigned short* numbers, unsigned* found) {'
    kernel += " found[threadIdx.x] = unknown_zero(numbers + threadIdx.x); }"
    xp = backend.xp
    found = xp.ones(8, np.uint32)
    module = xp.RawModule(code=header + kernel, options=("--std=c++14",))
    module.get_function("zeros")((1,), (8,), (xp.zeros(8, np.uint16), found))
    assert not backend.numpy(found).any()
