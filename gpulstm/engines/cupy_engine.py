"""The LSTM on CuPy arrays: cuBLAS for the products, our kernels for the rest.

The time steps run in one of the schedules that `gpulstm.cuda.planner` chooses from: here the loop, with one GEMM and
one fused kernel per step (`kernels/lstm_forward_step.cu`, `lstm_backward_step.cu`), and in
`gpulstm.engines.cupy_one_launch` those with one launch for all steps. `gpulstm.engines` says what each one takes.

Arrays of 16 bits hold x, y, h, the weights, the gates and their gradients; cell states, dh, dc and all sums are float32
then, those of the weights' gradients over all windows of time too, which are rounded at the end.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

from ..arrays import dtype_name
from ..cuda import planner
from ..cuda.copies import put, take
from ..cuda.gemm import Gemm, matrix, rows_of
from ..cuda.launch import int32s, one_thread_per, or_null
from ..cuda.modules import kernel
from ..cuda.packed import Series
from ..masks import DROPOUT_STREAM, Draws
from ..parameters import Weights
from . import Lane, cupy_graph, cupy_one_launch, slots, windows
from . import gpu_window as window
from .cupy_masks import masked_copy
from .cupy_one_step import one_step, takes_one_step
from .cupy_padding import clear_inputs, state_of_running, without_padding
from .cupy_refusals import begun_again
from .cupy_storage import assign, contiguous, is_half, rounded, wide_dtype

GATE_BUFFER_BYTES = 64 * 2**20  # large enough to keep the input GEMM near its peak

# Parts of what an engine has are made elsewhere.
__all__ = ["assign", "contiguous", "one_step", "rounded", "takes_one_step", "without_padding"]

SLAB_ROWS = 512  # rows that one block of column_sum adds up


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: Any  # (time, batch, 4*hidden) activated
    cells: Any  # (time + 1, batch, hidden) wide
    hiddens: Any  # (time + 1, batch, hidden)


def empty(shape, like):
    import cupy

    return cupy.ndarray(shape, like.dtype)  # cupy.empty does the same, and takes a third of a microsecond longer


def zeros(shape, like):
    import cupy

    return cupy.zeros(shape, like.dtype)


def wide_zeros(shape, like):
    import cupy

    return cupy.zeros(shape, wide_dtype(like))


def wide_empty(shape, like):
    import cupy

    return cupy.ndarray(shape, wide_dtype(like))


def part(states, index: int):
    """The state of one layer and direction, (batch, features). That of the only one keeps its leading axis: a view
    costs the CPU a microsecond, and nothing here looks at the axes before these two."""
    return states if len(states) == 1 else states[index]


def dropped(y, draws: Draws, layer: int):
    probability = draws.options.dropout
    if not (draws.training and probability):
        return y
    target = empty(y.shape, y)
    masked_copy(y, target, draws, DROPOUT_STREAM + layer, probability, batch=y.shape[1], first_time=0)
    return target


class Gradient:
    """What a layer's gradient has come to, wide. The first window overwrites what its memory held, the others add."""

    def __init__(self, total: Weights) -> None:
        self.total, self.is_begun = total, False


def start_gradient(x, weights: Weights, lane: Lane) -> Gradient:
    return Gradient(Weights(*[None if w is None else wide_empty(w.shape, x) for w in weights]))


def finish_gradient(gradient: Gradient, lane: Lane) -> Weights:
    return gradient.total


def forward(x, weights: Weights, h, c, y, lane: Lane, lengths, *, tf32: bool = False, begin: Any = None) -> Saved:
    return forward_from(x, weights, (h, c), h, c, y, lane, lengths, tf32=tf32, begin=begin)


@begun_again
def forward_from(
    x, weights: Weights, before, h, c, y, lane: Lane, lengths, *, tf32: bool = False, begin: Any = None
) -> Saved:
    """`forward` with the initial state apart, (h, c) or None for zeros, where c need not be wide; h and c only receive
    the final one. ``begin(gates)`` may add to W_ih x before the first step."""
    choice = cupy_one_launch.choose(planner.FORWARD, x, x.shape[1], lane.width, tf32=tf32)
    saved = _begin(choice, x, weights, before, c.dtype, lane, lengths, tf32, begin)
    gates, cells, hiddens = saved
    if choice.schedule == "loop":
        _run(weights, hiddens, cells, y, lane, gates, lengths, 0, True, tf32=tf32)
    elif choice.schedule == "graph":
        cupy_graph.forward_steps(_run, weights, hiddens, cells, y, lane, gates, lengths, 0, keep=True, tf32=tf32)
    else:
        cupy_one_launch.forward_steps(choice, gates, weights, hiddens, cells, y, lane, lengths, 0, keep=True)
    _end(saved, before, h, c, lane, lengths)
    return saved


@begun_again
def forward_both(x, weights, before, h, c, y, lanes, lengths, *, tf32: bool = False) -> list[Saved] | None:
    """`forward_from` of both directions side by side; None if nothing was done, since they run one after the other."""
    choice = cupy_one_launch.choose_both(planner.FORWARD, x, x.shape[1], lanes[0].width, tf32=tf32)
    if choice is None:
        return None
    own = [*zip(weights, before, h, c, lanes, strict=True)]
    runs = [_begin(choice, x, w, state, c_of.dtype, lane, lengths, tf32) for w, state, _, c_of, lane in own]
    gates, cells, hiddens = zip(*runs, strict=True)
    cupy_one_launch.forward_steps_of_both(choice, gates, weights, hiddens, cells, y, lengths, keep=True)
    for saved, (_, state, h_of, c_of, lane) in zip(runs, own, strict=True):
        _end(saved, state, h_of, c_of, lane, lengths)
    return runs


def _begin(
    choice, x, weights: Weights, before, wide, lane: Lane, lengths, tf32: bool, begin: Any = None, multiply: bool = True
) -> Saved:
    """W_ih x, and what ``begin`` adds to it, as gates, and histories that begin with the state ``before``; cells are
    of the dtype ``wide``. Without ``multiply`` nothing is in the gates yet."""
    import cupy

    steps, batch, _ = x.shape
    gates = empty((steps, batch, 4 * lane.width), x)
    cells = cupy.ndarray((steps + 1, batch, lane.width), wide)
    hiddens = cupy_one_launch.history(choice, (steps + 1, batch, lane.width), x)
    first = steps if lane.reverse else 0
    h_before, c_before = (None, None) if before is None else before
    # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
    if c_before is None or c_before.dtype == cells.dtype:
        put(cells, first, c_before)
    else:
        assign(cells[first], c_before.reshape(batch, lane.width))
    if lengths is not None and h_before is not None:
        state_of_running(h_before, None, hiddens[first], lengths)
    else:
        put(hiddens, first, h_before)
    if multiply:
        _multiply_inputs(x, weights, gates, lane, tf32, begin)
    return Saved(gates, cells, hiddens)


def _end(saved: Saved, before, h, c, lane: Lane, lengths) -> None:
    """The final state, and zeros where no step of a sequence starts from."""
    last = 0 if lane.reverse else len(saved.gates)
    h_before = None if before is None else before[0]
    take(saved.cells, last, c)
    if lengths is not None and h_before is not None:
        state_of_running(saved.hiddens[last], h_before, h, lengths)
    else:
        take(saved.hiddens, last, h)
    if lengths is not None:
        clear_inputs(saved.hiddens, lengths, lane.reverse)


@begun_again
def inference(
    x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int, *, tf32: bool = False, begin: Any = None
) -> None:
    (steps, batch, _), hidden = gates.shape, lane.width
    _multiply_inputs(x, weights, gates, lane, tf32, begin)
    choice = cupy_one_launch.choose(planner.FORWARD, x, batch, hidden, tf32=tf32)
    if choice.schedule == "loop":
        _run(weights, h, c, y, lane, gates, lengths, first_time, keep=False, tf32=tf32)
        return
    if choice.schedule == "graph":
        states = h[None], c[None]
        cupy_graph.forward_steps(_run, weights, *states, y, lane, gates, lengths, first_time, keep=False, tf32=tf32)
        return
    if choice.schedule != "persistent":
        cupy_one_launch.forward_steps(choice, gates, weights, h, c, y, lane, lengths, first_time, keep=False)
        return
    hiddens = cupy_one_launch.history(choice, (steps + 1, batch, hidden), x)
    first, last = (steps, 0) if lane.reverse else (0, steps)
    put(hiddens, first, h)
    cupy_one_launch.forward_steps(choice, gates, weights, hiddens, c, y, lane, lengths, first_time, keep=False)
    take(hiddens, last, h)


@begun_again
def inference_both(x, weights, h, c, y, lanes, gates, lengths, *, tf32: bool = False) -> bool:
    """`inference` of both directions side by side; False if nothing was done, since they run one after the other. The
    second one's gates are as large as ``gates``."""
    steps, batch, _ = x.shape
    choice = cupy_one_launch.choose_both(planner.FORWARD, x, batch, lanes[0].width, tf32=tf32)
    if choice is None:
        return False
    states, all_gates = h, (gates, empty(gates.shape, gates))
    if choice.schedule == "persistent":
        states = [cupy_one_launch.history(choice, (steps + 1, *h_of.shape), x) for h_of in h]
    for history, h_of, w, gates, lane in zip(states, h, weights, all_gates, lanes, strict=True):
        _multiply_inputs(x, w, gates, lane, tf32)
        if history is not h_of:
            put(history, steps if lane.reverse else 0, h_of)
    cupy_one_launch.forward_steps_of_both(choice, all_gates, weights, states, c, y, lengths, keep=False)
    for history, h_of, lane in zip(states, h, lanes, strict=True):
        if history is not h_of:
            take(history, 0 if lane.reverse else steps, h_of)
    return True


def _multiply_inputs(x, weights, gates, lane: Lane, tf32: bool, begin: Any = None) -> None:
    """gates = x @ W_ih^T, window by window, and what ``begin`` adds."""
    import cupy

    gemm, batch = Gemm(cupy, dtype_name(x), tf32=tf32), x.shape[1]
    all_x, all_gates, of_input = matrix(x), matrix(gates), matrix(weights.input)
    for stretch in windows(len(x), window(batch), lane.reverse):
        rows = stretch.start * batch, (stretch.stop - stretch.start) * batch, x.itemsize
        gemm(rows_of(all_x, *rows), of_input, rows_of(all_gates, *rows), transpose_b=True)
    if begin is not None:
        begin(gates)


def _run(
    weights, hiddens, cells, y, lane: Lane, gates, lengths, first_time, keep: bool, gemm=None, *, tf32: bool = False
) -> None:
    """Every launch argument but the step's own four numbers is the same for all steps, and so is all that a product
    takes but two addresses: the loop computes nothing else."""
    import cupy

    steps, batch, _ = gates.shape
    hidden = lane.width
    dtype = dtype_name(gates)
    gemm = gemm or Gemm(cupy, dtype, tf32=tf32)
    all_gates, all_h, recurrent = matrix(gates), matrix(hiddens), matrix(weights.recurrent)
    step_kernel = kernel("lstm_forward_step", dtype, weights.bias is not None, lengths is not None, keep)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, or_null(weights.bias), cells, hiddens, y, or_null(lengths))
    sizes = int32s(batch, hidden, y.shape[2], lane.first)
    launch = Series(step_kernel, grid, block, (*arrays, *int32s(0, 0, 0, 0), *sizes), len(arrays), 4)
    first_rows = (rows_of(a, 0, batch, gates.itemsize) for a in (all_h, all_gates))
    multiply = gemm.series(next(first_rows), recurrent, next(first_rows), transpose_b=True, accumulate=True)
    h_bytes, gates_bytes = (batch * width * gates.itemsize for width in (hiddens.shape[-1], gates.shape[-1]))
    for t in range(steps)[:: -1 if lane.reverse else 1]:
        before, after = slots(t, lane.reverse) if keep else (0, 0)
        multiply(all_h.pointer + before * h_bytes, all_gates.pointer + t * gates_bytes)
        launch(t, first_time + t, before, after)


@begun_again
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
    gradient: Gradient,
    *,
    tf32: bool = False,
) -> None:
    gates, cells, _ = saved
    choice = cupy_one_launch.choose(planner.BACKWARD, x, x.shape[1], lane.width, tf32=tf32)
    if choice.schedule == "loop":
        _backward_steps(_adding(x, tf32), gates, cells, weights, dy, dh, dc, lane, lengths)
    elif choice.schedule == "graph":
        given = gates, cells, weights, dy, dh, dc, lane, lengths
        cupy_graph.backward_steps(_backward_steps, _adding(x, tf32), *given, tf32=tf32)
    else:
        cupy_one_launch.backward_steps(choice, gates, cells, weights, dy, dh, dc, lane, lengths)
    _multiply_gradients(saved, x, weights, dx, add_to_dx, lane, gradient, tf32)


@begun_again
def backward_both(runs, x, weights, dy, dh, dc, dx, lanes, lengths, gradients, *, tf32: bool = False) -> bool:
    """`backward` of both directions side by side; False if nothing was done, since they run one after the other."""
    choice = cupy_one_launch.choose_both(planner.BACKWARD, x, x.shape[1], lanes[0].width, tf32=tf32)
    if choice is None:
        return False
    gates, cells, _ = zip(*runs, strict=True)
    cupy_one_launch.backward_steps_of_both(choice, gates, cells, weights, dy, dh, dc, lanes, lengths)
    for saved, w, lane, gradient in zip(runs, weights, lanes, gradients, strict=True):
        _multiply_gradients(saved, x, w, dx, lane.reverse, lane, gradient, tf32)  # the second one adds to dx
    return True


def _adding(x, tf32: bool) -> Gemm:
    """Products that are added up wide."""
    import cupy

    dtype = dtype_name(x)
    return Gemm(cupy, dtype, wide=True) if is_half(x) else Gemm(cupy, dtype, tf32=tf32)


def _multiply_gradients(saved: Saved, x, weights: Weights, dx, add_to_dx: bool, lane: Lane, gradient, tf32) -> None:
    """dx, unless it is None, and the weights' gradient from those of the pre-activations, in ``saved.gates`` by now."""
    import cupy

    gates, _, hiddens = saved
    gemm, adding = Gemm(cupy, dtype_name(x), tf32=tf32), _adding(x, tf32)
    batch, itemsize, total = gates.shape[1], gates.itemsize, gradient.total
    all_da, all_x, all_h = map(matrix, (gates, x, hiddens))
    all_dx = None if dx is None else matrix(dx)
    of_input, to_input, to_recurrent = map(matrix, (weights.input, total.input, total.recurrent))
    for stretch in windows(len(gates), window(batch), lane.reverse):
        count = (stretch.stop - stretch.start) * batch
        da, of_x = (rows_of(a, stretch.start * batch, count, itemsize) for a in (all_da, all_x))
        h_before = rows_of(all_h, (stretch.start + lane.reverse) * batch, count, itemsize)
        if all_dx is not None:
            gemm(da, of_input, rows_of(all_dx, stretch.start * batch, count, itemsize), accumulate=add_to_dx)
        adding(da, of_x, to_input, transpose_a=True, accumulate=gradient.is_begun)
        adding(da, h_before, to_recurrent, transpose_a=True, accumulate=gradient.is_begun)
        if total.bias is not None:
            _add_up_bias(gates[stretch] if count < all_da.rows else gates, total.bias, gradient.is_begun)
        gradient.is_begun = True


def _add_up_bias(gates, bias, is_begun: bool) -> None:
    if is_begun:
        bias[...] += column_sum(gates)
    else:
        column_sum(gates, out=bias)


def _backward_steps(gemm, gates, cells, weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    steps, batch, _ = gates.shape
    hidden = lane.width
    step_kernel = kernel("lstm_backward_step", dtype_name(gates), dy is not None, lengths is not None)
    grid, block = one_thread_per(batch * hidden)
    arrays = (gates, cells, or_null(dy), dh, dc, or_null(lengths))
    dy_width = 0 if dy is None else dy.shape[2]
    sizes = int32s(batch, hidden, dy_width, lane.first)
    all_gates, dh_matrix, recurrent = matrix(gates), matrix(dh), matrix(weights.recurrent)
    launch = Series(step_kernel, grid, block, (*arrays, *int32s(0, 0, 0), *sizes), len(arrays), 3)
    # With lengths the kernel leaves zero in dh where a sequence runs, and its gradient where it is over.
    step_gates = rows_of(all_gates, 0, batch, gates.itemsize)
    multiply = gemm.series(step_gates, recurrent, dh_matrix, accumulate=lengths is not None)
    gates_bytes = batch * gates.shape[-1] * gates.itemsize
    for t in range(steps)[:: 1 if lane.reverse else -1]:
        before, after = slots(t, lane.reverse)
        launch(t, before, after)
        multiply(all_gates.pointer + t * gates_bytes, dh_matrix.pointer)


def column_sum(gates, out=None):
    """(4*hidden,) sums over time and batch, wide, in an order that depends on the shape alone; in ``out`` if given."""
    columns = gates.shape[-1]
    rows = gates.size // columns
    grid_x = -(-columns // 32)
    source = gates
    while True:
        slabs = min(-(-rows // SLAB_ROWS), 65535)
        rows_per_slab = -(-rows // slabs)
        sums = out if slabs == 1 and out is not None else wide_empty((slabs, columns), gates)
        grid, numbers = (grid_x, slabs, 1), (rows, columns, rows_per_slab)
        kernel("column_sum", dtype_name(source)).launch(grid, (32, 8, 1), (source, sums), numbers, wide=(0, 2))
        if slabs == 1:
            return sums.reshape(columns)
        source, rows = sums, slabs


class WithTF32:
    """This engine with products whose factors may lose the lower 13 bits: `gpulstm.cuda.gemm`, and the persistent
    schedule's own. The resident schedule has no such product in its steps, and stays as exact as it is; so does a
    single step in one launch."""

    forward, forward_from = (staticmethod(partial(f, tf32=True)) for f in (forward, forward_from))
    inference, backward = (staticmethod(partial(f, tf32=True)) for f in (inference, backward))
    forward_both, inference_both, backward_both = (
        staticmethod(partial(f, tf32=True)) for f in (forward_both, inference_both, backward_both)
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[__name__], name)  # all that multiplies nothing
