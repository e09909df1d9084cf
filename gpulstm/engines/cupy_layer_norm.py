"""Layer norm on CuPy arrays; `kernels/layer_norm.cu` says how."""

import numpy as np

from ..arrays import dtype_name
from ..cuda.launch import threads_of
from ..cuda.modules import kernel
from .cupy_engine import SLAB_ROWS, column_sum

MOST_SLABS = 65535  # blocks along a grid's second axis


def forward(x, weight, bias, epsilon: float):
    """(out, moments) of x (rows, size); moments (rows, 2) are each row's mean and 1 / standard deviation."""
    import cupy

    rows, size = x.shape
    out, moments = cupy.empty(x.shape, x.dtype), cupy.empty((rows, 2), x.dtype)
    if rows:
        given = (*map(cupy.ascontiguousarray, (x, weight, bias)), out, moments)
        numbers = (np.int32(size), x.dtype.type(epsilon))
        kernel("layer_norm_forward", dtype_name(x))((rows,), (threads_of(size),), (*given, *numbers))
    return out, moments


def backward(x, weight, moments, dout):
    """(dx, dweight, dbias) from dout (rows, size)."""
    import cupy

    rows, size = x.shape
    dx = cupy.empty(x.shape, x.dtype)
    if not rows:
        return dx, cupy.zeros(size, x.dtype), cupy.zeros(size, x.dtype)
    x, weight, dout = map(cupy.ascontiguousarray, (x, weight, dout))
    given = (x, weight, moments, dout, dx, np.int32(size))
    kernel("layer_norm_backward", dtype_name(x))((rows,), (threads_of(size),), given)
    dweight, dbias = _parameter_gradients(x, moments, dout)
    return dx, dweight, dbias


def _parameter_gradients(x, moments, dout):
    import cupy

    rows, size = x.shape
    slabs = min(-(-rows // SLAB_ROWS), MOST_SLABS)
    rows_per_slab = -(-rows // slabs)
    sums = cupy.empty((slabs, 2 * size), x.dtype)
    given = (x, moments, dout, sums, np.int64(rows), np.int32(size), np.int64(rows_per_slab))
    kernel("layer_norm_parameter_gradient", dtype_name(x))((-(-size // 32), slabs), (32, 8), given)
    total = sums[0] if slabs == 1 else column_sum(sums)
    return total[:size], total[size:]
