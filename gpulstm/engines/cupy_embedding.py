"""A table's rows and its gradient on CuPy arrays; `kernels/embedding.cu` says how."""

import math

import numpy as np

from ..arrays import dtype_name
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel

SHORTEST_CHUNK = 16


def forward(weight, indices):
    """(*indices.shape, size) rows of ``weight`` (count, size); NaN where an index is out of range."""
    import cupy

    count, size = weight.shape
    out = cupy.empty((*indices.shape, size), weight.dtype)
    if out.size:
        grid, block = one_thread_per(out.size)
        sizes = (np.int64(out.size), np.int64(count), np.int32(size))
        arguments = (cupy.ascontiguousarray(weight), _flat(indices), out, *sizes)
        kernel("embedding_forward", dtype_name(weight))(grid, block, arguments)
    return out


def backward(indices, dout, count: int, padding_index: int | None):
    """(count, size) gradient of the table from ``dout`` (*indices.shape, size). Nothing waits for the device."""
    import cupy

    size, rows = dout.shape[-1], indices.size
    dweight = cupy.zeros((count, size), dout.dtype)
    if not rows:
        return dweight
    token = _flat(indices)
    order = cupy.argsort(token)  # CuPy's is stable
    length = max(SHORTEST_CHUNK, math.isqrt(rows))
    chunks = -(-rows // length)
    kept, started = (cupy.empty((chunks, size), dout.dtype) for _ in range(2))
    padding = -1 if padding_index is None else padding_index
    sizes = (*(np.int64(n) for n in (rows, length, chunks, count, padding)), np.int32(size))
    grid, block = one_thread_per(chunks * size)
    dtype = dtype_name(dout)
    gradient = (cupy.ascontiguousarray(dout), token, order, dweight, kept, started, *sizes)
    kernel("embedding_gradient_chunks", dtype)(grid, block, gradient)
    if chunks > 1:
        kernel("embedding_gradient_join", dtype)(grid, block, (token, order, dweight, kept, started, *sizes))
    return dweight


def _flat(indices):
    """(rows,) contiguous 64-bit integers."""
    import cupy

    return cupy.ascontiguousarray(indices, dtype=np.int64).reshape(-1)
