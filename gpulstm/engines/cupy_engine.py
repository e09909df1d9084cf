"""The LSTM on CuPy arrays: cuBLAS for the products, our kernels for the rest.

The time steps run in one of the schedules that `gpulstm.cuda.planner` chooses from: here the loop, with one GEMM and
one fused kernel per step (`kernels/lstm_forward_step.cu`, `lstm_backward_step.cu`), and in
`gpulstm.engines.cupy_one_launch` those with one launch for all steps. See `gpulstm.engines` for what each function
takes.

Arrays of 16 bits hold x, y, h, the weights, the gates and their gradients; cell states, dh, dc and all sums are float32
then. The weights' gradients are added up so over all windows of time, and rounded at the end.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import dtype_name
from ..cuda import planner
from ..cuda.copies import copy
from ..cuda.gemm import Gemm, matrix, rows_of
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel
from ..masks import DROPOUT_STREAM, Draws
from ..parameters import Weights
from . import Lane, cupy_one_launch, inputs_of, slots, windows
from . import gpu_window as window
from .cupy_masks import masked_copy
from .cupy_storage import assign, contiguous, rounded, where, wide_dtype

GATE_BUFFER_BYTES = 64 * 2**20  # large enough to keep the input GEMM near its peak

NULL = np.uintp(0)  # stands for an array that a specialisation does not read
__all__ = ["assign", "contiguous", "rounded"]  # a part of what an engine has is `cupy_storage`'s

SLAB_ROWS = 512  # rows that one block of column_sum adds up


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: Any  # (time, batch, 4*hidden) activated
    cells: Any  # (time + 1, batch, hidden) wide
    hiddens: Any  # (time + 1, batch, hidden)


def empty(shape, like):
    import cupy

    return cupy.empty(shape, like.dtype)


def zeros(shape, like):
    import cupy

    return cupy.zeros(shape, like.dtype)


def wide_zeros(shape, like):
    import cupy

    return cupy.zeros(shape, wide_dtype(like))


def without_padding(x, lengths):
    import cupy

    running = cupy.arange(x.shape[0])[:, None] < lengths  # (time, batch)
    return where(running[:, :, None], x)


def dropped(y, draws: Draws, layer: int):
    probability = draws.options.dropout
    if not (draws.training and probability):
        return y
    target = empty(y.shape, y)
    masked_copy(y, target, draws, DROPOUT_STREAM + layer, probability, batch=y.shape[1], first_time=0)
    return target


def start_gradient(x, weights: Weights, lane: Lane) -> Weights:
    return Weights(*(None if w is None else wide_zeros(w.shape, x) for w in weights))


def finish_gradient(gradient: Weights, lane: Lane) -> Weights:
    return gradient


def forward(x, weights: Weights, h, c, y, lane: Lane, lengths, *, tf32: bool = False) -> Saved:
    steps, batch, _ = x.shape
    gates = empty((steps, batch, 4 * lane.width), x)
    cells = empty((steps + 1, batch, lane.width), c)
    choice = cupy_one_launch.choose(planner.FORWARD, x, batch, lane.width, tf32=tf32)
    hiddens = cupy_one_launch.history(choice, (steps + 1, batch, lane.width), x)
    first, last = (-1, 0) if lane.reverse else (0, -1)
    # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
    takes_part = None if lengths is None else lengths[:, None] > 0
    copy(cells[first], c)
    copy(hiddens[first], h if takes_part is None else where(takes_part, h))
    _multiply_inputs(x, weights, gates, lane, tf32)
    if choice.schedule == "loop":
        _run(weights, hiddens, cells, y, lane, gates, lengths, 0, keep=True, tf32=tf32)
    else:
        cupy_one_launch.forward_steps(choice, gates, weights, hiddens, cells, y, lane, lengths, 0, keep=True)
    copy(c, cells[last])
    copy(h, hiddens[last] if takes_part is None else where(takes_part, hiddens[last], h))
    return Saved(gates, cells, hiddens)


def inference(x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int, *, tf32: bool = False) -> None:
    (steps, batch, _), hidden = gates.shape, lane.width
    _multiply_inputs(x, weights, gates, lane, tf32)
    choice = cupy_one_launch.choose(planner.FORWARD, x, batch, hidden, tf32=tf32)
    if choice.schedule == "loop":
        _run(weights, h, c, y, lane, gates, lengths, first_time, keep=False, tf32=tf32)
        return
    if choice.schedule != "persistent":
        cupy_one_launch.forward_steps(choice, gates, weights, h, c, y, lane, lengths, first_time, keep=False)
        return
    hiddens = cupy_one_launch.history(choice, (steps + 1, batch, hidden), x)
    first, last = (-1, 0) if lane.reverse else (0, -1)
    copy(hiddens[first], h)
    cupy_one_launch.forward_steps(choice, gates, weights, hiddens, c, y, lane, lengths, first_time, keep=False)
    copy(h, hiddens[last])


def _multiply_inputs(x, weights, gates, lane: Lane, tf32: bool) -> None:
    """gates = x @ W_ih^T, window by window."""
    import cupy

    gemm = Gemm(cupy, dtype_name(x), tf32=tf32)
    for stretch in windows(len(x), window(x.shape[1]), lane.reverse):
        gemm(matrix(x[stretch]), matrix(weights.input), matrix(gates[stretch]), transpose_b=True)


def _run(weights, hiddens, cells, y, lane: Lane, gates, lengths, first_time, *, keep: bool, tf32: bool) -> None:
    """Every launch argument but the step's own four numbers is the same for all steps, so the loop computes nothing."""
    import cupy

    steps, batch, _ = gates.shape
    hidden = lane.width
    dtype = dtype_name(gates)
    gemm = Gemm(cupy, dtype, tf32=tf32)
    all_gates, all_h, recurrent = matrix(gates), matrix(hiddens), matrix(weights.recurrent)
    step_kernel = kernel("lstm_forward_step", dtype, weights.bias is not None, lengths is not None, keep)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, or_null(weights.bias), cells, hiddens, y, or_null(lengths))
    sizes = tuple(np.int32(n) for n in (batch, hidden, y.shape[2], lane.first))
    for t in range(steps)[:: -1 if lane.reverse else 1]:
        before, after = slots(t, lane.reverse) if keep else (0, 0)
        step_gates = rows_of(all_gates, t * batch, batch, gates.itemsize)
        h_before = rows_of(all_h, before * batch, batch, gates.itemsize)
        gemm(h_before, recurrent, step_gates, transpose_b=True, accumulate=True)
        numbers = (np.int32(t), np.int32(first_time + t), np.int32(before), np.int32(after))
        step_kernel(grid, block, (*arrays, *numbers, *sizes))


def backward(
    saved: Saved,
    x,
    weights: Weights,
    dy,
    dh,
    dc,
    dx,
    add_to_dx: bool,
    lane: Lane,
    lengths,
    gradient: Weights,
    *,
    tf32: bool = False,
) -> None:
    import cupy

    gates, cells, hiddens = saved
    gemm, adding = (Gemm(cupy, dtype_name(x), wide=wide, tf32=tf32) for wide in (False, True))
    choice = cupy_one_launch.choose(planner.BACKWARD, x, x.shape[1], lane.width, tf32=tf32)
    if choice.schedule == "loop":
        _backward_steps(adding, gates, cells, weights, dy, dh, dc, lane, lengths)
    else:
        cupy_one_launch.backward_steps(choice, gates, cells, weights, dy, dh, dc, lane, lengths)

    for stretch in windows(len(gates), window(gates.shape[1]), lane.reverse):
        da = matrix(gates[stretch])  # gradients of the pre-activations by now
        h_before = matrix(hiddens[inputs_of(stretch, lane.reverse)])
        gemm(da, matrix(weights.input), matrix(dx[stretch]), accumulate=add_to_dx)
        adding(da, matrix(x[stretch]), matrix(gradient.input), transpose_a=True, accumulate=True)
        adding(da, h_before, matrix(gradient.recurrent), transpose_a=True, accumulate=True)
        if gradient.bias is not None:
            gradient.bias[...] += column_sum(gates[stretch])


def _backward_steps(gemm, gates, cells, weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    steps, batch, _ = gates.shape
    hidden = lane.width
    step_kernel = kernel("lstm_backward_step", dtype_name(gates), dy is not None, lengths is not None)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, cells, or_null(dy), dh, dc, or_null(lengths))
    dy_width = 0 if dy is None else dy.shape[2]
    sizes = tuple(np.int32(n) for n in (batch, hidden, dy_width, lane.first))
    all_gates, dh_matrix, recurrent = matrix(gates), matrix(dh), matrix(weights.recurrent)
    for t in range(steps)[:: 1 if lane.reverse else -1]:
        before, after = slots(t, lane.reverse)
        step_kernel(grid, block, (*arrays, np.int32(t), np.int32(before), np.int32(after), *sizes))
        step_gates = rows_of(all_gates, t * batch, batch, gates.itemsize)
        # With lengths the kernel left zero in dh where a sequence runs, and its gradient where it is over.
        gemm(step_gates, recurrent, dh_matrix, accumulate=lengths is not None)


def column_sum(gates):
    """(4*hidden,) sums over time and batch, wide, in an order that depends on the shape alone."""
    import cupy

    columns = gates.shape[-1]
    rows = gates.size // columns
    grid_x = -(-columns // 32)
    source = gates
    while True:
        slabs = min(-(-rows // SLAB_ROWS), 65535)
        rows_per_slab = -(-rows // slabs)
        sums = cupy.empty((slabs, columns), wide_dtype(gates))
        add_up = kernel("column_sum", dtype_name(source))
        arguments = (source, sums, np.int64(rows), np.int32(columns), np.int64(rows_per_slab))
        add_up((grid_x, slabs), (32, 8), arguments)
        if slabs == 1:
            return sums.reshape(columns)
        source, rows = sums, slabs


def or_null(array):
    return NULL if array is None else array


class WithTF32:
    """This engine with products whose factors may lose the lower 13 bits: `gpulstm.cuda.gemm`, and the persistent
    schedule's own. The resident schedule has no such product in its steps, and stays as exact as it is."""

    forward, inference, backward = (staticmethod(partial(f, tf32=True)) for f in (forward, inference, backward))

    def __getattr__(self, name: str) -> Any:
        return globals()[name]  # all that multiplies nothing
