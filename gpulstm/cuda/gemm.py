"""Matrix products by cuBLAS on row-major matrices with any row stride.

cupy.matmul costs 11 to 14 microseconds of CPU per call, more than a whole time step may take, and copies a matrix
whose rows are apart. These calls go to cuBLAS directly.
"""

from typing import NamedTuple

import numpy as np

_SCALARS = {
    dtype: {value: np.array(value, dtype) for value in (0, 1)} for dtype in ("float32", "float64")
}  # host memory that cuBLAS reads alpha and beta from: it must outlive every call
_ADDRESSES = {dtype: tuple(values[value].ctypes.data for value in (0, 1)) for dtype, values in _SCALARS.items()}


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
    return Matrix(a.pointer + first * a.row_stride * itemsize, count, a.columns, a.row_stride)


class Gemm:
    """cuBLAS for one dtype on the current device: ``out = op(a) @ op(b) + (out if accumulate else 0)``."""

    def __init__(self, cupy, dtype: str) -> None:
        cublas = cupy.cuda.cublas
        self.handle = cupy.cuda.device.get_cublas_handle()
        self.call = cublas.sgemm if dtype == "float32" else cublas.dgemm
        self.operation = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
        self.zero, self.one = _ADDRESSES[dtype]

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
        """cuBLAS is column-major and sees each of our matrices transposed: out^T = op(b)^T @ op(a)^T."""
        inner = a.rows if transpose_a else a.columns
        self.call(
            self.handle,
            self.operation[transpose_b],
            self.operation[transpose_a],
            out.columns,
            out.rows,
            inner,
            self.one,
            b.pointer,
            b.row_stride,
            a.pointer,
            a.row_stride,
            self.one if accumulate else self.zero,
            out.pointer,
            out.row_stride,
        )
