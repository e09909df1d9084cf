"""``cupy.cuda.cublas``: column-major products by NumPy, on memory that is checked to be a live array's."""

import ctypes

import numpy as np

from . import memory, state
from .device import get_cublas_handle
from .ndarray import quiet

CUBLAS_OP_N = 0
CUBLAS_OP_T = 1


class CUBLASError(RuntimeError):
    """CuPy's name. The real one takes a status; this one says what was wrong."""


def sgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):  # noqa: N803 - CuPy's names
    """C (m, n) = alpha * op(A) (m, k) @ op(B) (k, n) + beta * C; alpha and beta are addresses of float32."""
    _gemm("sgemm", np.float32, handle, (transa, transb), (m, n, k), alpha, (A, lda), (B, ldb), beta, (C, ldc))


def dgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):  # noqa: N803 - CuPy's names
    """The same in float64."""
    _gemm("dgemm", np.float64, handle, (transa, transb), (m, n, k), alpha, (A, lda), (B, ldb), beta, (C, ldc))


@quiet
def _gemm(name, dtype, handle, operations, sizes, alpha, a, b, beta, c) -> None:
    m, n, k = sizes
    transa, transb = operations
    _check(name, handle, operations, sizes, a[1], b[1], c[1])
    state.current().gemms[name] += 1
    if m == 0 or n == 0:
        return
    alpha, beta = _host_scalar(alpha, dtype), _host_scalar(beta, dtype)
    out = _matrix(c, (m, n), dtype, f"{name}: C")
    product = None
    if k > 0 and alpha != 0:
        first = _matrix(a, (k, m) if transa else (m, k), dtype, f"{name}: A")
        second = _matrix(b, (n, k) if transb else (k, n), dtype, f"{name}: B")
        for what, other in (("A", first), ("B", second)):
            if np.may_share_memory(out, other) and np.shares_memory(out, other):
                raise CUBLASError(f"{name}: C overlaps {what}, which cuBLAS does not allow")
        product = (first.T if transa else first) @ (second.T if transb else second)
        if alpha != 1:
            product *= alpha
    # With beta = 0, cuBLAS does not read C: there may be anything in it, NaN too.
    if beta == 0:
        out[...] = 0 if product is None else product
        return
    if beta != 1:
        out *= beta
    if product is not None:
        out += product


def _check(name, handle, operations, sizes, lda, ldb, ldc) -> None:
    """What cuBLAS answers with CUBLAS_STATUS_INVALID_VALUE, or would not survive."""
    m, n, k = sizes
    transa, transb = operations
    if handle != get_cublas_handle():
        raise CUBLASError(f"{name}: the handle is not the current device's")
    if not {transa, transb} <= {CUBLAS_OP_N, CUBLAS_OP_T}:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {name}: operations must be N (0) or T (1), got {operations}")
    if min(sizes) < 0:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {name}: (m, n, k) = {sizes} has a negative size")
    for what, leading, rows in (("lda", lda, k if transa else m), ("ldb", ldb, n if transb else k), ("ldc", ldc, m)):
        if leading < max(1, rows):
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {name}: {what} = {leading} is less than {max(1, rows)}")


def _host_scalar(address: int, dtype) -> np.floating:
    kind = ctypes.c_float if dtype is np.float32 else ctypes.c_double
    return dtype(kind.from_address(address).value)


def _matrix(place: tuple[int, int], shape: tuple[int, int], dtype, what: str) -> np.ndarray:
    pointer, leading = place
    itemsize = np.dtype(dtype).itemsize
    return memory.view(pointer, dtype, shape, (itemsize, leading * itemsize), what)
