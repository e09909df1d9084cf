"""``cupy.cuda.cublas``: column-major products by NumPy, on memory that is checked to be a live array's."""

import ctypes

import ml_dtypes
import numpy as np

from . import capture, memory, state
from .device import check_stream, get_cublas_handle
from .ndarray import quiet

CUBLAS_OP_N = 0
CUBLAS_OP_T = 1
CUBLAS_COMPUTE_32F = 68
CUBLAS_COMPUTE_32F_FAST_TF32 = 77
CUBLAS_GEMM_DEFAULT = -1
DATA_TYPES = {"CUDA_R_32F": 0, "CUDA_R_16F": 2, "CUDA_R_16BF": 14}
_DTYPES = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
_MATH_MODES = (0, 1, 2, 3)
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16


class CUBLASError(RuntimeError):
    """CuPy's name. The real one takes a status; this one says what was wrong."""


def sgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):  # noqa: N803 - CuPy's names
    """C (m, n) = alpha * op(A) (m, k) @ op(B) (k, n) + beta * C; alpha and beta are addresses of float32."""
    _gemm("sgemm", np.float32, handle, (transa, transb), (m, n, k), alpha, (A, lda), (B, ldb), beta, (C, ldc))


def dgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):  # noqa: N803 - CuPy's names
    """The same in float64."""
    _gemm("dgemm", np.float64, handle, (transa, transb), (m, n, k), alpha, (A, lda), (B, ldb), beta, (C, ldc))


def gemmEx(  # noqa: N802 - CuPy's name
    handle,
    transa,
    transb,
    m,
    n,
    k,
    alpha,
    A,
    Atype,
    lda,
    B,
    Btype,
    ldb,
    beta,
    C,
    Ctype,
    ldc,
    computeType,
    algo,  # noqa: N803
):
    """The same with factors and results of other types; alpha, beta and the sums are float32.

    A sum of 16-bit products is cut in two, and each part rounded to the result's type, unless the math mode forbids
    it: cuBLAS is as free.
    """
    kinds = _kinds((Atype, Btype, Ctype), computeType, algo, getMathMode(handle))
    places = (A, lda), (B, ldb), beta, (C, ldc)
    _gemm("gemmEx", np.float32, handle, (transa, transb), (m, n, k), alpha, *places, **kinds)


def _kinds(types: tuple[int, int, int], compute: int, algorithm: int, math_mode: int) -> dict:
    """What gemmEx multiplies and how it rounds, for `_multiply`."""
    of_a, of_b, of_c = types
    in_tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32
    supported = types == (0, 0, 0) if in_tf32 else compute == CUBLAS_COMPUTE_32F and of_a == of_b in _DTYPES
    if not supported or of_c not in (of_a, 0) or algorithm != CUBLAS_GEMM_DEFAULT:
        raise CUBLASError(
            f"CUBLAS_STATUS_NOT_SUPPORTED: gemmEx: types {types}, compute type {compute}, algorithm {algorithm}"
        )
    if int(state.current().gpu.compute_capability) < 80 and (14 in types or in_tf32):
        raise CUBLASError(f"CUBLAS_STATUS_NOT_SUPPORTED: gemmEx: types {types}, compute type {compute}")
    return {
        "dtypes": [_DTYPES[kind] for kind in types],
        "rounding": to_tf32 if in_tf32 else _to_float32,
        "parts": 2 if of_c and not math_mode & _DISALLOW_REDUCED_PRECISION_REDUCTION else 1,
    }


def to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to 10 bits of mantissa, to the nearest."""
    words = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((words + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def _to_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def getMathMode(handle):  # noqa: N802 - CuPy's name
    _check_handle("getMathMode", handle)
    return state.current().math_modes.get(handle, 0)


def setMathMode(handle, mode):  # noqa: N802 - CuPy's name
    _check_handle("setMathMode", handle)
    if mode & ~_DISALLOW_REDUCED_PRECISION_REDUCTION not in _MATH_MODES:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: setMathMode: {mode}")
    state.current().math_modes[handle] = mode


def _gemm(name, dtype, handle, operations, sizes, alpha, a, b, beta, c, **kinds) -> None:
    _check_handle(name, handle)
    if state.current().captures:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    _check(name, operations, sizes, a[1], b[1], c[1])
    alpha, beta = _host_scalar(alpha, dtype), _host_scalar(beta, dtype)
    _multiply(name, dtype, operations, sizes, alpha, a, b, beta, c, **kinds)


@quiet
def _multiply(name, dtype, operations, sizes, alpha, a, b, beta, c, dtypes=None, rounding=_as_it_is, parts=1) -> None:
    m, n, k = sizes
    transa, transb = operations
    of_a, of_b, of_c = dtypes or (dtype, dtype, dtype)
    state.current().gemms[name] += 1
    if m == 0 or n == 0:
        return
    out = _matrix(c, (m, n), of_c, f"{name}: C")
    product = None
    if k > 0 and alpha != 0:
        first = _matrix(a, (k, m) if transa else (m, k), of_a, f"{name}: A")
        second = _matrix(b, (n, k) if transb else (k, n), of_b, f"{name}: B")
        for what, other in (("A", first), ("B", second)):
            if np.may_share_memory(out, other) and np.shares_memory(out, other):
                raise CUBLASError(f"{name}: C overlaps {what}, which cuBLAS does not allow")
        first, second = rounding(first.T if transa else first), rounding(second.T if transb else second)
        product = first[:, : k // parts] @ second[: k // parts]
        if parts == 2:
            product = (product.astype(of_c) + (first[:, k // 2 :] @ second[k // 2 :]).astype(of_c)).astype(dtype)
        if alpha != 1:
            product *= alpha
    # With beta = 0, cuBLAS does not read C: there may be anything in it, NaN too.
    if beta == 0:
        out[...] = 0 if product is None else product
        return
    before = out.astype(dtype, copy=False)
    before = before if beta == 1 else before * beta
    out[...] = before if product is None else before + product


def _check_handle(name, handle) -> None:
    if handle != get_cublas_handle():
        raise CUBLASError(f"{name}: the handle is not the current device's")


def _check(name, operations, sizes, lda, ldb, ldc) -> None:
    """What cuBLAS answers with CUBLAS_STATUS_INVALID_VALUE, or would not survive."""
    m, n, k = sizes
    transa, transb = operations
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


class Library:
    """libcublas as ctypes gives it, with handles of one's own: status 0 is success, pointers are integers.

    What a stream captures must find a workspace that is no one else's: without one cuBLAS would allocate. Setting the
    stream takes it away again.
    """

    def __init__(self) -> None:
        self._handles: dict[int, dict] = {}

    def cublasCreate_v2(self, handle) -> int:  # noqa: N802 - cuBLAS' names
        capture.refuse("making a cuBLAS handle, which allocates,")
        number = 0xC0B1A5 + len(self._handles)
        self._handles[number] = {"device": state.current().device, "stream": 0, "workspace": None, "mode": 0}
        handle._obj.value = number
        return 0

    def cublasSetStream_v2(self, handle, stream) -> int:  # noqa: N802
        self._handles[handle].update(stream=stream, workspace=None)
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, nbytes) -> int:  # noqa: N802
        memory.view(workspace, np.uint8, (nbytes,), (1,), "cublasSetWorkspace")
        self._handles[handle]["workspace"] = workspace
        return 0

    def cublasSetMathMode(self, handle, mode) -> int:  # noqa: N802
        if mode & ~_DISALLOW_REDUCED_PRECISION_REDUCTION not in _MATH_MODES:
            return 7
        self._handles[handle]["mode"] = mode
        return 0

    def cublasSgemm_v2(self, *arguments) -> int:  # noqa: N802
        return self._plain("sgemm", np.float32, *arguments)

    def cublasDgemm_v2(self, *arguments) -> int:  # noqa: N802
        return self._plain("dgemm", np.float64, *arguments)

    def cublasGemmEx(self, handle, transa, transb, m, n, k, alpha, *rest) -> int:  # noqa: N802
        A, of_a, lda, B, of_b, ldb, beta, C, of_c, ldc, *how = rest  # noqa: N806
        kinds = _kinds((of_a, of_b, of_c), *how, self._handles[handle]["mode"])
        places = (A, lda), (B, ldb), beta, (C, ldc)
        return self._gemm("gemmEx", np.float32, handle, (transa, transb), (m, n, k), alpha, *places, **kinds)

    def _plain(self, name, dtype, handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc) -> int:  # noqa: N803
        places = (A, lda), (B, ldb), beta, (C, ldc)
        return self._gemm(name, dtype, handle, (transa, transb), (m, n, k), alpha, *places)

    def _gemm(self, name, dtype, handle, operations, sizes, alpha, a, b, beta, c, **kinds) -> int:
        own = self._handles[handle]
        if own["device"] != state.current().device:
            raise CUBLASError(f"{name}: the handle is of device {own['device']}")
        check_stream(own["stream"], name)
        _check(name, operations, sizes, a[1], b[1], c[1])
        held = [a[0], b[0], c[0]]
        if capture.begun_by(own["stream"]) is not None:
            if own["workspace"] is None:
                raise capture.CaptureError(f"{name}: without a workspace cuBLAS allocates, while the stream captures")
            held.append(own["workspace"])
        alpha, beta = _host_scalar(alpha, dtype), _host_scalar(beta, dtype)

        def multiply():
            _multiply(name, dtype, operations, sizes, alpha, a, b, beta, c, **kinds)

        capture.done_or_recorded(own["stream"], name, multiply, held)
        return 0
