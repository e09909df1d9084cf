"""Numbers as CuPy arrays hold them, and as sums and cell states have them: of 16 bits and of 32, or both the same.

CuPy's own kernels on 16 bits include headers of CUDA's that an installation from pip may not have. So what only moves
numbers takes them as integers here, and what converts them is done by `kernels/convert.cu`.
"""

from typing import Any

import numpy as np

from ..arrays import HALF_DTYPES, dtype_name
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel


def is_half(array: Any) -> bool:
    """Whether its numbers have 16 bits."""
    return dtype_name(array) in HALF_DTYPES


def wide_dtype(like: Any) -> np.dtype:
    """The dtype of sums and cell states beside arrays such as ``like``: float32 for 16 bits, else their own."""
    return np.dtype(np.float32) if is_half(like) else like.dtype


def moved(array: Any) -> Any:
    """The same memory as integers where its numbers have 16 bits."""
    return array.view(np.uint16) if is_half(array) else array


def contiguous(array: Any) -> Any:
    """The array itself, or a C-contiguous copy."""
    if array.flags.c_contiguous:
        return array
    import cupy

    return cupy.ascontiguousarray(moved(array)).view(array.dtype)


def where(condition: Any, a: Any, b: Any = None) -> Any:
    """``a`` where the condition holds, else ``b``, both of one dtype; without ``b``, zero."""
    import cupy

    first = moved(a)
    found = cupy.where(condition, first, first.dtype.type(0) if b is None else moved(b))
    return found if found.dtype == a.dtype else found.view(a.dtype)


def assign(target: Any, source: Any) -> None:
    """``target[...] = source`` for arrays of one shape, of which one may be float32 and the other of 16 bits.

    Raises TypeError for two dtypes that are no such pair.
    """
    if target.dtype == source.dtype:
        moved(target)[...] = moved(source)
        return
    if not (is_half(target) != is_half(source) and np.float32 in (target.dtype, source.dtype)):
        raise TypeError(f"{source.dtype} is not converted to {target.dtype} here")
    import cupy

    given = contiguous(source)
    whole = target if target.flags.c_contiguous else cupy.empty(target.shape, target.dtype)
    if target.size:
        grid, block = one_thread_per(target.size)
        name, half = ("widen", source) if is_half(source) else ("narrow", target)
        kernel(name, dtype_name(half))(grid, block, (given, whole, np.int64(target.size)))
    if whole is not target:
        moved(target)[...] = moved(whole)


def rounded(array: Any, like: Any) -> Any:
    """The array in the dtype of ``like``."""
    if array.dtype == like.dtype:
        return array
    import cupy

    target = cupy.empty(array.shape, like.dtype)
    assign(target, array)
    return target
