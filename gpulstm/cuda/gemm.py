"""Matrix products by cuBLAS on row-major matrices with any row stride.

cupy.matmul costs 11 to 14 microseconds of CPU per call, more than a whole time step may take, and copies a matrix
whose rows are apart. These calls go to cuBLAS directly.

float32 stays float32: cuBLAS takes TF32 by a call's compute type, or by its handle's math mode. CuPy sets neither for
us: its variable CUPY_TF32 is about the calls that it makes itself, and it leaves the handle's mode as it is made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

_SCALARS = {
    dtype: {value: np.array(value, dtype) for value in (0, 1)} for dtype in ("float32", "float64")
}  # host memory that cuBLAS reads alpha and beta from: it must outlive every call
_ADDRESSES = {dtype: tuple(values[value].ctypes.data for value in (0, 1)) for dtype, values in _SCALARS.items()}

_DATA_TYPES = {"float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF", "float32": "CUDA_R_32F"}
_SUMS_IN_FLOAT32 = (
    16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, a bit of the math mode that CuPy has no name for
)
_SINCE = 80  # the compute capability that bfloat16 products and TF32 came with


class Matrix(NamedTuple):
    """A row-major matrix in device memory. It does not keep the memory alive: whoever makes it does."""

    pointer: int
    rows: int
    columns: int
    row_stride: int  # elements from one row to the next


def matrix(array) -> Matrix:
    """A C-contiguous array of any rank, all leading axes taken together as rows."""
    width = array.shape[-1]
    return Matrix(array.data.ptr, array.size // width, width, width)


def rows_of(a: Matrix, first: int, count: int, itemsize: int) -> Matrix:
    """``count`` rows from row ``first``."""
    if count == a.rows:
        return a
    return Matrix(a.pointer + first * a.row_stride * itemsize, count, a.columns, a.row_stride)


class Gemm:
    """cuBLAS for one dtype on the current device: ``out = op(a) @ op(b) + (out if accumulate else 0)``.

    Of factors with 16 bits the products are added up in float32 and rounded once to the factors' dtype; with ``wide``
    they stay float32, and so is ``out``. With ``tf32`` those of float32 may lose the lower 13 bits first, where the
    device can do that.

    Raises TypeError for bfloat16 on a device below compute capability 8.0, which cuBLAS does not multiply it on.
    """

    def __init__(self, cupy, dtype: str, *, wide: bool = False, tf32: bool = False) -> None:
        cublas = cupy.cuda.cublas
        self.handle = cupy.cuda.device.get_cublas_handle()
        self.call: Any = cublas.dgemm if dtype == "float64" else cublas.sgemm
        if dtype in ("float16", "bfloat16"):
            if dtype == "bfloat16" and (capability := _capability(cupy)) < _SINCE:
                raise TypeError(
                    f"dtype bfloat16 needs compute capability 8.0, and this device has {capability / 10:.1f}; "
                    f"float16 works here"
                )
            out = "float32" if wide else dtype
            self.call = _Extended(cupy, self.handle, dtype, out, cublas.CUBLAS_COMPUTE_32F)
        elif tf32 and _capability(cupy) >= _SINCE:
            self.call = _Extended(cupy, self.handle, dtype, dtype, cublas.CUBLAS_COMPUTE_32F_FAST_TF32)
        self.operation = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
        self.zero, self.one = _ADDRESSES["float64" if dtype == "float64" else "float32"]

    def __call__(
        self,
        a: Matrix,
        b: Matrix,
        out: Matrix,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        multiply = self.series(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)
        multiply(a.pointer, out.pointer)

    def series(
        self,
        a: Matrix,
        b: Matrix,
        out: Matrix,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> Callable[[int, int], None]:
        """The same for a time loop: ``multiply(address of a, address of out)`` for matrices such as ``a`` and ``out``.

        cuBLAS is column-major and sees each of our matrices transposed: out^T = op(b)^T @ op(a)^T.
        """
        operations = self.operation[transpose_b], self.operation[transpose_a]
        sizes = out.columns, out.rows, a.rows if transpose_a else a.columns
        call = partial(self.call, self.handle, *operations, *sizes, self.one, b.pointer, b.row_stride)
        a_stride, out_stride, start = a.row_stride, out.row_stride, self.one if accumulate else self.zero

        def multiply(a_pointer: int, out_pointer: int) -> None:
            call(a_pointer, a_stride, start, out_pointer, out_stride)

        return multiply


class _Extended:
    """cublasGemmEx with the arguments of sgemm.

    A product may be cut into parts that are added up afterwards; without the bit of the math mode that is set here,
    cuBLAS may round each part to 16 bits. The handle is CuPy's, so its mode is put back.
    """

    def __init__(self, cupy, handle: int, factors: str, out: str, compute: int) -> None:
        cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime
        self.gemm_ex, self.set_mode = cublas.gemmEx, cublas.setMathMode
        self.mode = cublas.getMathMode(handle)
        self.factors, self.out = (getattr(runtime, _DATA_TYPES[dtype]) for dtype in (factors, out))
        self.compute, self.algorithm = compute, cublas.CUBLAS_GEMM_DEFAULT

    def __call__(self, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) -> None:
        kind, out = self.factors, self.out
        self.set_mode(handle, self.mode | _SUMS_IN_FLOAT32)
        try:
            self.gemm_ex(
                *(handle, op_a, op_b, m, n, k, alpha, a, kind, lda, b, kind, ldb, beta, c, out, ldc),
                *(self.compute, self.algorithm),
            )
        finally:
            self.set_mode(handle, self.mode)


def _capability(cupy) -> int:
    return int(cupy.cuda.Device().compute_capability)
