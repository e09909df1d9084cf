"""The stand-in for cuBLAS multiplies like NumPy, and refuses what cuBLAS refuses or would not survive."""

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_on_cpu import InvalidMemory, cupy_on_cpu

SIZES = (3, 4, 5)  # m, n, k


@pytest.fixture
def cupy():
    with cupy_on_cpu() as module:
        yield module


def stored(cupy, matrix, leading):
    """The matrix in column-major order in device memory, its columns ``leading`` elements apart; NaN between."""
    memory = np.full((matrix.shape[1], leading), np.nan, matrix.dtype)
    memory[:, : matrix.shape[0]] = matrix.T
    return cupy.asarray(memory.ravel()[: leading * (matrix.shape[1] - 1) + matrix.shape[0]])


def random_case(dtype, transa, transb):
    m, n, k = SIZES
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=size).astype(dtype) for size in ((m, k), (k, n), (m, n)))
    return (a.T if transa else a), (b.T if transb else b), c, a @ b


def gemm(cupy, a, b, c, transa=0, transb=0, alpha=1.0, beta=0.0, **other):
    """Calls sgemm or dgemm on (array, leading dimension) pairs; ``other`` overrides single arguments."""
    dtype = a[0].dtype
    scalars = np.array([alpha, beta], dtype)
    arguments = {
        **{"handle": cupy.cuda.device.get_cublas_handle(), "transa": transa, "transb": transb},
        **dict(zip(("m", "n", "k"), SIZES, strict=True)),
        **{"alpha": scalars.ctypes.data, "A": a[0].data.ptr, "lda": a[1], "B": b[0].data.ptr, "ldb": b[1]},
        **{"beta": scalars.ctypes.data + dtype.itemsize, "C": c[0].data.ptr, "ldc": c[1], **other},
    }
    call = cupy.cuda.cublas.sgemm if dtype == np.float32 else cupy.cuda.cublas.dgemm
    call(*arguments.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transa", [0, 1])
@pytest.mark.parametrize("transb", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (0.0, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("extra", [0, 3])
def test_it_multiplies(cupy, dtype, transa, transb, alpha, beta, extra):
    a, b, c, product = random_case(dtype, transa, transb)
    out = stored(cupy, c, c.shape[0] + extra)
    before = out.get()
    operands = [(stored(cupy, matrix, matrix.shape[0] + extra), matrix.shape[0] + extra) for matrix in (a, b)]
    gemm(cupy, *operands, (out, c.shape[0] + extra), transa, transb, alpha, beta)
    expected = stored(cupy, (alpha * product + beta * c).astype(dtype), c.shape[0] + extra).get()
    np.testing.assert_allclose(out.get(), expected, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(out.get()[np.isnan(before)], before[np.isnan(before)])


def case(cupy, transa=0, transb=0):
    a, b, c, product = random_case("float32", transa, transb)
    return [(stored(cupy, matrix, matrix.shape[0]), matrix.shape[0]) for matrix in (a, b, c)], product


def test_with_beta_zero_the_old_values_are_not_read(cupy):
    (a, b, c), product = case(cupy)
    c[0].fill(np.nan)
    gemm(cupy, a, b, c)
    np.testing.assert_allclose(c[0].get().reshape(4, 3).T, product, rtol=1e-5)
    c[0].fill(np.nan)
    gemm(cupy, a, b, c, k=0)
    assert not c[0].get().any()


def test_nan_in_the_operands_is_not_lost(cupy):
    (a, b, c), _ = case(cupy)
    a[0][0] = np.nan
    gemm(cupy, a, b, c)
    assert np.isnan(c[0].get().reshape(4, 3)[:, 0]).all()


@pytest.mark.parametrize(
    ("transa", "transb", "wrong", "message"),
    [
        (0, 0, {"lda": 2}, "INVALID_VALUE: sgemm: lda = 2 is less than 3"),
        (1, 0, {"lda": 4}, "INVALID_VALUE: sgemm: lda = 4 is less than 5"),
        (0, 0, {"ldb": 4}, "INVALID_VALUE: sgemm: ldb = 4 is less than 5"),
        (0, 1, {"ldb": 3}, "INVALID_VALUE: sgemm: ldb = 3 is less than 4"),
        (0, 0, {"ldc": 2}, "INVALID_VALUE: sgemm: ldc = 2 is less than 3"),
        (0, 0, {"m": -1}, "INVALID_VALUE: sgemm: .* negative"),
        (0, 0, {"transa": 3}, "INVALID_VALUE: sgemm: operations"),
        (0, 0, {"handle": 0}, "sgemm: the handle is not the current device's"),
    ],
)
def test_wrong_arguments_are_refused(cupy, transa, transb, wrong, message):
    operands, _ = case(cupy, transa, transb)
    with pytest.raises(cupy.cuda.cublas.CUBLASError, match=message):
        gemm(cupy, *operands, **{"transa": transa, "transb": transb, **wrong})


@pytest.mark.parametrize("what", ["A", "B", "C"])
@pytest.mark.parametrize("shift", [-4, 4])
def test_a_matrix_that_leaves_its_array_is_refused(cupy, what, shift):
    (a, b, c), _ = case(cupy)
    pointer = {"A": a, "B": b, "C": c}[what][0].data.ptr
    with pytest.raises(InvalidMemory, match=f"sgemm: {what}: .* do not lie in one live array"):
        gemm(cupy, a, b, c, **{what: pointer + shift})


def test_a_matrix_that_is_gone_is_refused(cupy):
    (a, b, c), _ = case(cupy)
    gone = cupy.zeros(15, np.float32).data.ptr
    with pytest.raises(InvalidMemory, match="sgemm: A: "):
        gemm(cupy, a, b, c, A=gone)


def test_a_matrix_on_another_device_is_refused(cupy):
    (_, b, c), _ = case(cupy)
    with cupy.cuda.Device(1):
        elsewhere = cupy.zeros(15, np.float32)
    with pytest.raises(InvalidMemory, match="sgemm: A is on device 1, the current device is 0"):
        gemm(cupy, (elsewhere, 3), b, c)


def test_a_misaligned_matrix_is_refused(cupy):
    (a, b, c), _ = case(cupy)
    longer = cupy.zeros(16, np.float32)
    with pytest.raises(InvalidMemory, match="sgemm: A is not aligned to float32"):
        gemm(cupy, a, b, c, A=longer.data.ptr + 2)


def test_an_output_that_overlaps_an_operand_is_refused(cupy):
    (a, b, _), _ = case(cupy)
    with pytest.raises(cupy.cuda.cublas.CUBLASError, match="C overlaps A"):
        gemm(cupy, a, b, a)


def test_calls_are_counted(cupy):
    operands, _ = case(cupy)
    gemm(cupy, *operands)
    gemm(cupy, *operands, m=0)
    assert cupy.on_cpu.gemms == {"sgemm": 2}


class TestGemmEx:
    """Factors and results of 16 bits, and TF32."""

    TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}

    def call(self, cupy, of_factors="float16", of_out="float16", compute=68, **other):
        """A product of random factors by gemmEx: (found, exact)."""
        dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
        a, b, c, _ = random_case("float64", 0, 0)
        a, b, c = a.astype(dtypes[of_factors]), b.astype(dtypes[of_factors]), c.astype(dtypes[of_out])
        (m, n, k), scalars = SIZES, np.array([1, 0], np.float32)
        a_there, b_there, out = (stored(cupy, matrix, matrix.shape[0]) for matrix in (a, b, c))
        arguments = {
            **{"handle": cupy.cuda.device.get_cublas_handle(), "transa": 0, "transb": 0, "m": m, "n": n, "k": k},
            **{"alpha": scalars.ctypes.data, "A": a_there.data.ptr, "Atype": self.TYPES[of_factors], "lda": m},
            **{"B": b_there.data.ptr, "Btype": self.TYPES[of_factors], "ldb": k},
            **{"beta": scalars.ctypes.data + 4, "C": out.data.ptr, "Ctype": self.TYPES[of_out], "ldc": m},
            **{"computeType": compute, "algo": -1, **other},
        }
        cupy.cuda.cublas.gemmEx(*arguments.values())
        return out.get().astype("float64").reshape(n, m).T, a.astype("float64") @ b.astype("float64")

    @pytest.mark.parametrize(
        ("factors", "out", "compute", "least", "most"),
        [
            ("float16", "float32", 68, 0, 2e-6),
            ("bfloat16", "float32", 68, 0, 2e-6),
            ("float16", "float16", 68, 4e-5, 4e-3),
            ("bfloat16", "bfloat16", 68, 3e-4, 3e-2),
            ("float32", "float32", 68, 0, 2e-6),
            ("float32", "float32", 77, 4e-5, 4e-3),
        ],
    )
    def test_it_multiplies(self, cupy, factors, out, compute, least, most):
        found, exact = self.call(cupy, factors, out, compute)
        assert least <= np.abs(found - exact).max() < most
        assert cupy.on_cpu.gemms == {"gemmEx": 1}

    def test_parts_are_rounded_unless_the_mode_forbids_it(self, cupy):
        free, exact = self.call(cupy)
        cupy.cuda.cublas.setMathMode(cupy.cuda.device.get_cublas_handle(), 16)
        whole, _ = self.call(cupy)
        assert (free != whole).any()
        np.testing.assert_array_equal(whole, exact.astype("float32").astype("float16"))

    @pytest.mark.parametrize(
        "wrong",
        [{"Btype": 14}, {"Ctype": 14}, {"Ctype": 1}, {"computeType": 64}, {"computeType": 77}, {"algo": 99}],
        ids=str,
    )
    def test_what_is_not_supported_is_refused(self, cupy, wrong):
        with pytest.raises(cupy.cuda.cublas.CUBLASError, match="NOT_SUPPORTED: gemmEx"):
            self.call(cupy, **wrong)

    def test_old_devices_have_no_bfloat16_and_no_tf32(self):
        with cupy_on_cpu(compute_capability="75") as cupy:
            self.call(cupy)
            for factors, compute in (("bfloat16", 68), ("float32", 77)):
                with pytest.raises(cupy.cuda.cublas.CUBLASError, match="NOT_SUPPORTED"):
                    self.call(cupy, factors, factors, compute)

    def test_wrong_modes_and_handles_are_refused(self, cupy):
        cublas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
        assert cublas.getMathMode(handle) == 0
        with pytest.raises(cublas.CUBLASError, match="INVALID_VALUE: setMathMode: 4"):
            cublas.setMathMode(handle, 4)
        for call in (lambda: cublas.setMathMode(0, 0), lambda: cublas.getMathMode(0)):
            with pytest.raises(cublas.CUBLASError, match="the handle is not the current device's"):
                call()
