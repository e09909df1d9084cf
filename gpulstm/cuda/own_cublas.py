"""A cuBLAS handle of our own, for what CuPy's own handle refuses: products while a stream captures (cupy#6290).

The library is the one that CuPy has loaded, called through ctypes. Everything is made at the first use, so importing
this module touches no CUDA.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .gemm import _ADDRESSES, _SINCE, _SUMS_IN_FLOAT32, Gemm

_SONAMES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11")
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_GEMM = [_POINTER, *[_INT] * 5, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT]
_GEMM_EX = [
    _POINTER,
    *[_INT] * 5,
    _POINTER,
    _POINTER,
    _INT,
    _INT,
    _POINTER,
    _INT,
    _INT,
    _POINTER,
    _POINTER,
    *[_INT] * 4,
]
_SIGNATURES = {
    "cublasCreate_v2": [_POINTER],
    "cublasSetStream_v2": [_POINTER, _POINTER],
    "cublasSetWorkspace_v2": [_POINTER, _POINTER, ctypes.c_size_t],
    "cublasSetMathMode": [_POINTER, _INT],
    "cublasSgemm_v2": _GEMM,
    "cublasDgemm_v2": _GEMM,
    "cublasGemmEx": _GEMM_EX,
}

# cublas_api.h and library_types.h, since cuBLAS 11
_DATA_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77
_GEMM_DEFAULT = -1

_library: Any = None  # ctypes' library, or what stands for it
_handles: dict = {}  # device id -> handle
_lock = threading.Lock()


class NotLoaded(RuntimeError):
    """The library was not found, or does not do what it should; the message says which."""


def workspace_bytes(capability: int) -> int:
    """What cuBLAS takes for itself where nobody sets a workspace, by its documentation: with less it may choose
    slower algorithms."""
    return (32 if capability >= 90 else 8) * 2**20


class OwnGemm(Gemm):
    """`Gemm` on our own handle, for one stream. ``workspace`` must live as long as a graph of the products does.

    Another object of this class takes the handle away: only one thread may be at it. ``capability`` is the device's;
    below 8.0 cuBLAS has no TF32.

    What a capture asks of cuBLAS (its documentation, "CUDA Graphs Support"): coefficients in host memory are captured
    by value, since the pointer mode is the host's; memory that it would allocate for itself would become nodes of the
    graph, which a workspace of the caller's spares. What kind of numbers it multiplies says every call, and the math
    mode is the handle's from the beginning, so neither is another node.
    """

    def __init__(
        self,
        device: int,
        dtype: str,
        stream: int,
        workspace,
        *,
        wide: bool = False,
        tf32: bool = False,
        capability: int = _SINCE,
    ) -> None:
        self.handle = _handle(device)
        _call("cublasSetStream_v2", self.handle, stream)  # first: it forgets the workspace
        _call("cublasSetWorkspace_v2", self.handle, workspace.data.ptr, workspace.nbytes)
        self.operation = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
        if dtype in ("float16", "bfloat16"):
            self.call = partial(_gemm_ex, dtype, "float32" if wide else dtype, _COMPUTE_32F)
        elif tf32 and capability >= _SINCE:
            self.call = partial(_gemm_ex, dtype, dtype, _COMPUTE_32F_FAST_TF32)
        else:
            self.call = partial(_call, "cublasSgemm_v2" if dtype == "float32" else "cublasDgemm_v2")
        self.zero, self.one = _ADDRESSES["float64" if dtype == "float64" else "float32"]


def _gemm_ex(
    factors: str, out: str, compute: int, handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
) -> None:
    kind, of_out = _DATA_TYPES[factors], _DATA_TYPES[out]
    sizes, to = (op_a, op_b, m, n, k), (c, of_out, ldc)
    _call("cublasGemmEx", handle, *sizes, alpha, a, kind, lda, b, kind, ldb, beta, *to, compute, _GEMM_DEFAULT)


def _handle(device: int) -> int:
    """Of the current device, whose number is ``device``."""
    with _lock:
        if device not in _handles:
            made = ctypes.c_void_p()
            _call("cublasCreate_v2", ctypes.byref(made))
            # Of 16 bits, sums of products that are cut into parts stay float32. Nothing changes for other numbers.
            _call("cublasSetMathMode", made.value, _SUMS_IN_FLOAT32)
            _handles[device] = made.value
        return _handles[device]


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_loaded(), name)(*arguments)
    if status:
        raise NotLoaded(f"{name} gave status {status}")


def _loaded() -> Any:
    global _library
    if _library is None:
        library = _found()
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, _INT
        _library = library
    return _library


def _found() -> Any:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # noqa: BLE001 - not installed, too old, or it finds nothing: each is answered by looking on
        pass
    for name in _SONAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise NotLoaded(f"cuBLAS was not found, neither by cuda.pathfinder nor as {', '.join(_SONAMES)}")


@contextmanager
def loaded_as(library: Any) -> Iterator[None]:
    """Within it, ``library`` is what has been loaded; for tests."""
    global _library, _handles
    before = _library, _handles
    _library, _handles = library, {}
    try:
        yield
    finally:
        _library, _handles = before
