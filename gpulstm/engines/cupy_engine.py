"""The LSTM on CuPy arrays, loop schedule: cuBLAS for the products, one fused kernel per step for the rest.

The kernels are `kernels/lstm_forward_step.cu`, `lstm_backward_step.cu` and `column_sum.cu`; their headers say what each
computes. See `gpulstm.engines` for what each function takes.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import dtype_name
from ..cuda.gemm import Gemm, Matrix, matrix, rows_of
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel
from ..parameters import Weights
from . import Columns, slots

GATE_BUFFER_BYTES = 64 * 2**20  # large enough to keep the input GEMM near its peak

NULL = np.uintp(0)  # stands for an array that a specialisation does not read
SLAB_ROWS = 512  # rows that one block of column_sum adds up


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: object  # (time, batch, 4*hidden) activated
    cells: object  # (time + 1, batch, hidden)


def contiguous(x):
    import cupy

    return cupy.ascontiguousarray(x)


def empty(shape, like):
    import cupy

    return cupy.empty(shape, like.dtype)


def zeros(shape, like):
    import cupy

    return cupy.zeros(shape, like.dtype)


def without_padding(x, lengths):
    import cupy

    running = cupy.arange(x.shape[0])[:, None] < lengths  # (time, batch)
    return cupy.where(running[:, :, None], x, x.dtype.type(0))


def forward(x, weights: Weights, h, c, y, columns: Columns, lengths, reverse: bool) -> Saved:
    steps, batch, _ = x.shape
    gates = empty((steps, batch, 4 * columns.hidden), x)
    cells = empty((steps + 1, batch, columns.hidden), x)
    cells[-1 if reverse else 0] = c
    _run(x, weights, h, cells, y, columns, gates, lengths, 0, reverse, keep=True)
    c[...] = cells[0 if reverse else -1]
    return Saved(gates, cells)


def inference(x, weights: Weights, h, c, y, columns: Columns, gates, lengths, first_time: int, reverse: bool) -> None:
    _run(x, weights, h, c, y, columns, gates, lengths, first_time, reverse, keep=False)


def _run(x, weights, h, cells, y, columns, gates, lengths, first_time, reverse, keep: bool) -> None:
    """Every launch argument but the step's own four numbers is the same for all steps, so the loop computes nothing."""
    import cupy

    steps, batch, _ = x.shape
    hidden = columns.hidden
    dtype = dtype_name(x)
    gemm = Gemm(cupy, dtype)
    all_gates, h_matrix, recurrent = matrix(gates), matrix(h), matrix(weights.recurrent)
    gemm(matrix(x), matrix(weights.input), all_gates, transpose_b=True)

    step_kernel = kernel("lstm_forward_step", dtype, weights.bias is not None, lengths is not None, keep)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, _or_null(weights.bias), cells, h, y, _or_null(lengths))
    sizes = tuple(np.int32(n) for n in (batch, hidden, y.shape[2], columns.first))
    for t in range(steps)[:: -1 if reverse else 1]:
        step_gates = rows_of(all_gates, t * batch, batch, x.itemsize)
        gemm(h_matrix, recurrent, step_gates, transpose_b=True, accumulate=True)
        before, after = slots(t, reverse) if keep else (0, 0)
        numbers = (np.int32(t), np.int32(first_time + t), np.int32(before), np.int32(after))
        step_kernel(grid, block, (*arrays, *numbers, *sizes))


def backward(
    saved: Saved,
    x,
    y,
    h0,
    weights: Weights,
    dy,
    dh,
    dc,
    dx,
    add_to_dx: bool,
    columns: Columns,
    lengths,
    reverse: bool,
) -> Weights:
    import cupy

    gates, cells = saved
    gemm = Gemm(cupy, dtype_name(x))
    _backward_steps(gemm, gates, cells, weights, dy, dh, dc, columns, lengths, reverse)

    da = matrix(gates)  # gradients of the pre-activations by now
    gemm(da, matrix(weights.input), matrix(dx), accumulate=add_to_dx)
    gradient = Weights(
        empty(weights.input.shape, x),
        zeros(weights.recurrent.shape, x),
        None if weights.bias is None else _column_sum(gates),
    )
    gemm(da, matrix(x), matrix(gradient.input), transpose_a=True)
    _recurrent_gradient(gemm, gates, matrix(y, columns.first, columns.hidden), h0, lengths, reverse, gradient.recurrent)
    return gradient


def _backward_steps(gemm, gates, cells, weights, dy, dh, dc, columns, lengths, reverse) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    steps, batch, _ = gates.shape
    hidden = columns.hidden
    step_kernel = kernel("lstm_backward_step", dtype_name(gates), dy is not None, lengths is not None)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, cells, _or_null(dy), dh, dc, _or_null(lengths))
    dy_width = 0 if dy is None else dy.shape[2]
    sizes = tuple(np.int32(n) for n in (batch, hidden, dy_width, columns.first))
    all_gates, dh_matrix, recurrent = matrix(gates), matrix(dh), matrix(weights.recurrent)
    for t in range(steps)[:: 1 if reverse else -1]:
        before, after = slots(t, reverse)
        step_kernel(grid, block, (*arrays, np.int32(t), np.int32(before), np.int32(after), *sizes))
        step_gates = rows_of(all_gates, t * batch, batch, gates.itemsize)
        # With lengths the kernel left zero in dh where a sequence runs, and its gradient where it is over.
        gemm(step_gates, recurrent, dh_matrix, accumulate=lengths is not None)


def _recurrent_gradient(gemm, gates, y: Matrix, h0, lengths, reverse: bool, out) -> None:
    """Adds sum over t of da[t]^T h[t-1] to ``out``. h[t-1] is the output one step earlier, but at a sequence's first
    step, where it is h0: those gate gradients stand at time 0, or in reverse at each sequence's own last time."""
    import cupy

    steps, batch, _ = gates.shape
    itemsize = gates.itemsize
    da, target = matrix(gates), matrix(out)
    if steps > 1:
        shared = (steps - 1) * batch
        later_da = rows_of(da, 0 if reverse else batch, shared, itemsize)
        earlier_h = rows_of(y, batch if reverse else 0, shared, itemsize)
        gemm(later_da, earlier_h, target, transpose_a=True, accumulate=True)
    if h0 is None:
        return
    first = gates[-1 if reverse else 0]
    if lengths is not None:
        # An empty sequence wraps around to the last time, where its gradient is zero; its h0 takes no part.
        h0 = cupy.where(lengths[:, None] > 0, h0, h0.dtype.type(0))
        if reverse:
            first = cupy.ascontiguousarray(gates[lengths - 1, cupy.arange(batch)])
    gemm(matrix(first), matrix(h0), target, transpose_a=True, accumulate=True)


def _column_sum(gates):
    """(4*hidden,) sums over time and batch, in an order that depends on the shape alone."""
    columns = gates.shape[-1]
    rows = gates.size // columns
    add_up = kernel("column_sum", dtype_name(gates))
    grid_x = -(-columns // 32)
    source = gates
    while True:
        slabs = min(-(-rows // SLAB_ROWS), 65535)
        rows_per_slab = -(-rows // slabs)
        sums = empty((slabs, columns), gates)
        arguments = (source, sums, np.int64(rows), np.int32(columns), np.int64(rows_per_slab))
        add_up((grid_x, slabs), (32, 8), arguments)
        if slabs == 1:
            return sums.reshape(columns)
        source, rows = sums, slabs


def _or_null(array):
    return NULL if array is None else array
