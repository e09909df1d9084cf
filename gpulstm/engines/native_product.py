"""Products of matrices by the compiled LSTM's threads: those of NumPy's BLAS would wait for more work on the
same cores for a tenth of a second, in which the compiled loops would run at half their speed."""

import numpy as np

from ..native import library
from . import native_memory
from .native_calls import WORK_OF_A_THREAD, loaded


def product(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> None:
    """``out = op(a) @ op(b) + (out if accumulate else 0)``, all leading axes of each array taken together as rows.

    The last axis is contiguous, and the rows are equally far apart: a contiguous array, or some of one's columns.
    """
    native = loaded()
    functions = native.of[out.dtype]
    (rows, depth), a_strides = _as_matrix(a, transpose_a)
    (_, columns), b_strides = _as_matrix(b, transpose_b)
    (_, _), (out_by_row, _) = _as_matrix(out, False)
    threads = max(1, min(native.threads, rows * columns * depth // WORK_OF_A_THREAD))
    scratch = native_memory.scratch(functions.product_scratch(columns, threads), out.dtype)
    addresses = (array.ctypes.data for array in (a, b, out, scratch))
    sizes = rows, columns, depth, *a_strides, *b_strides, out_by_row
    functions.product(library.Product(*addresses, *sizes, accumulate, threads))


def _as_matrix(a: np.ndarray, transposed: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shape, and elements from one row and from one column to the next."""
    columns = a.shape[-1]
    axis = next((axis for axis in reversed(range(a.ndim - 1)) if a.shape[axis] > 1), None)
    by_row = columns if axis is None else a.strides[axis] // a.itemsize
    shape, strides = (a.size // columns, columns), (by_row, 1)
    return (shape[::-1], strides[::-1]) if transposed else (shape, strides)
