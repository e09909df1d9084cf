"""`gpulstm.cuda.gemm` by value: what is rounded, when, and what stays of cuBLAS' settings."""

import numpy as np
import pytest

from gpulstm.cuda.gemm import Gemm, matrix
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, numpy_dtype

BACKENDS = backends.KERNELS


def operands(dtype: str, inner: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random factors (5, inner), (inner, 7) and what a product is added to."""
    rng = np.random.default_rng(0)
    shapes = ((5, inner), (inner, 7), (5, 7))
    a, b, c = (rng.normal(size=shape).astype(numpy_dtype(dtype)) for shape in shapes)
    return a, b, c


def product(backend, a, b, c, *, accumulate=False, **settings) -> np.ndarray:
    gemm = Gemm(backend.xp, a.dtype.name, **settings)
    a, b, out = (backend.array(m) for m in (a, b, c))
    gemm(matrix(a), matrix(b), matrix(out), accumulate=accumulate)
    return backend.numpy(out)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
class TestOf16Bits:
    def test_rounded_once(self, backend, dtype, accumulate):
        a, b, c = operands(dtype)
        exact = a.astype("float64") @ b.astype("float64") + c.astype("float64") * accumulate
        found = product(backend, a, b, c, accumulate=accumulate)
        assert found.dtype == c.dtype
        unit = np.spacing(np.abs(exact).astype(numpy_dtype(dtype))).astype("float64")
        assert (np.abs(found.astype("float64") - exact) <= 0.5 * unit + 5e-6).all()  # the sum is float32's

    def test_or_not_at_all(self, backend, dtype, accumulate):
        a, b, c = operands(dtype)
        c = c.astype("float32")
        exact = a.astype("float64") @ b.astype("float64") + c.astype("float64") * accumulate
        found = product(backend, a, b, c, accumulate=accumulate, wide=True)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)

    def test_parts_of_a_sum_are_not_rounded(self, backend, dtype, accumulate):
        """Two thousand and one less two thousand: in 16 bits either is 2000."""
        a, b, c = np.array([[2000, 0.5, -2000, 0.0]]), np.ones((4, 1)), np.ones((1, 1))
        a, b, c = (m.astype(numpy_dtype(dtype)) for m in (a, b, c))
        assert product(backend, a, b, c, accumulate=accumulate)[0, 0] == 0.5 + accumulate


class TestOfFloat32:
    def test_stays_float32_until_tf32_is_asked_for(self, backend):
        a, b, c = operands("float32")
        exact = a.astype("float64") @ b.astype("float64")
        strict, rough = (product(backend, a, b, c, tf32=tf32) for tf32 in (False, True))
        assert np.abs(strict - exact).max() < 1e-5
        assert np.abs(rough - exact).max() < 1e-2
        if backend.name == backends.CUPY_ON_CPU:  # cuBLAS may round factors, and need not
            assert 1e-4 < np.abs(rough - exact).max()
        assert strict.dtype == rough.dtype == np.float32

    def test_float64_knows_nothing_of_it(self, backend):
        a, b, c = operands("float64")
        np.testing.assert_allclose(product(backend, a, b, c), a @ b, rtol=1e-13, atol=1e-13)


class TestSettings:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_the_handles_mode_is_put_back(self, backend):
        cublas, handle = backend.xp.cuda.cublas, backend.xp.cuda.device.get_cublas_handle()
        for mode in (0, 1):
            cublas.setMathMode(handle, mode)
            product(backend, *operands("float16"))
            assert cublas.getMathMode(handle) == mode
            a, b, c = operands("float16")
            gemm, a = Gemm(backend.xp, "float16"), matrix(backend.array(a))
            with pytest.raises(cublas.CUBLASError, match="is less than"):
                gemm(a, a._replace(row_stride=1), matrix(backend.array(c)))
            assert cublas.getMathMode(handle) == mode

    def test_which_call_it_is(self, backend):
        gemms = backend.xp.on_cpu.gemms
        for dtype, tf32, call in (
            ("float32", False, "sgemm"),
            ("float32", True, "gemmEx"),
            ("float64", False, "dgemm"),
            ("bfloat16", False, "gemmEx"),
        ):
            gemms.clear()
            product(backend, *operands(dtype), tf32=tf32)
            assert gemms == {call: 1}

    def test_on_an_old_device_tf32_is_float32(self):
        with cupy_on_cpu(compute_capability="75") as cupy:
            backend = backends.Backend(backends.CUPY_ON_CPU, cupy)
            product(backend, *operands("float32"), tf32=True)
            assert cupy.on_cpu.gemms == {"sgemm": 1}
