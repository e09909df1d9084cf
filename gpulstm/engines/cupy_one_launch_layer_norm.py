"""Layer norm in the schedules with one launch for all time steps: what is launched, forward and backward.

The kernels are `kernels/lstm_resident_layer_norm_*.cu` and `lstm_persistent_layer_norm_*.cu`. What layer norm does to
the products of x does not depend on the steps' order, so it is done for all of them before and after
(`kernels/lstm_layer_norm_inputs.cu`). Of 16 bits is what it is in the loop; what normalises, and what is added up over
time, is float32. What they leave for the backward pass is what the loop leaves, and each takes
what the other one left.
"""

from typing import Any

import numpy as np

from ..arrays import dtype_name
from ..cuda import layer_norm_layouts, planner
from ..cuda.copies import copy
from ..cuda.launch import int32s, one_thread_per, or_null, threads_of
from ..cuda.modules import kernel
from ..cuda.planner import Choice
from ..masks import Draws
from ..parameters import Weights
from . import Lane, cupy_engine, cupy_one_launch, cupy_one_launch_options
from .cupy_storage import assign, is_half


def forward_steps(
    choice: Choice,
    draws: Draws,
    p,
    gates,
    weights: Weights,
    h,
    hiddens,
    cells,
    c_star,
    r,
    norms,
    y,
    lane: Lane,
    lengths,
    first_time: int,
) -> None:
    """All steps. p (steps, batch, 4*hidden) is W_ih x, and ``weights.recurrent`` has its mask on it.

    h (batch, hidden) becomes the final state. In training p and r become norm(p) and norm(r), gates, of their shape,
    the activated gates, norms (steps, batch, 4) what they were normalised by, and hiddens and cells are histories as in
    `cupy_one_launch_options.forward_steps`; c_star (steps, batch, hidden), if there is one, receives the cell states
    before zoneout. In inference c_star, r and norms are None, gates may be p, cells is the state, and hiddens is left
    alone but where `cupy_one_launch.hands_over_h` says so.
    """
    import cupy

    steps, batch, columns = p.shape
    keep = norms is not None
    once = choice.kernel == layer_norm_layouts.ONCE
    inputs = cupy.empty(gates.shape, gates.dtype) if once and keep else gates
    geometry = (steps * batch,), (threads_of(columns),)
    of_inputs = (p, inputs, weights.gain_input, or_null(weights.bias), or_null(norms), np.int32(columns))
    kernel("lstm_layer_norm_inputs_forward", dtype_name(p))(*geometry, of_inputs)
    sums = cupy_engine.column_sum(weights.recurrent)
    arrays: tuple[Any, ...] = (gates, weights.recurrent, sums, weights.gain_recurrent, weights.gain_cell)
    words = _words_of(hiddens, lane) if cupy_one_launch.hands_over_h(choice) else hiddens
    states = (cells, h, words, r, norms, y, lengths)
    if once:
        initial_c = cells[-1 if lane.reverse else 0] if keep else _copied(cells)
        arrays = (inputs, *arrays, weights.bias_cell, _copied(h), initial_c, *states)
        arrays += (cupy.zeros((2, batch, columns), np.uint32),)
    else:
        arrays += (weights.bias_cell, *states)
    if cupy_one_launch.hands_over_h(choice):
        handed = cupy.empty(layer_norm_layouts.forward_words(steps, batch, lane.width), np.uint32)
        cupy_one_launch._empty_words(handed)
        arrays = (*arrays, handed)
    sizes = (steps, batch, lane.width, y.shape[2], lane.first, keep, lane.reverse, first_time)
    cupy_one_launch._launch(choice, arrays, sizes, _of_options(draws, lane, (steps, batch, lane.width), c_star))
    if keep and words is not hiddens:
        assign(hiddens, words)


def _words_of(hiddens, lane: Lane):
    """The hidden states that cross between the blocks, each in a word of 32 bits. In 16 bits these are other memory
    than ``hiddens``, whose first step's are there already."""
    import cupy

    if not is_half(hiddens):
        return hiddens
    words, first = cupy.empty(hiddens.shape, np.float32), -1 if lane.reverse else 0
    cupy_one_launch._empty_words(words)
    assign(words[first], hiddens[first])
    return words


def backward_steps(
    choice: Choice,
    draws: Draws,
    p,
    r,
    norms,
    gates,
    cells,
    c_star,
    weights: Weights,
    dy,
    dh,
    dc,
    d_norm,
    lane: Lane,
    lengths,
) -> None:
    """Turns activated gates into gradients of the pre-activations, norm(p) and norm(r) into those of the products, in
    place, and dh and dc into the initial state's; d_norm (batch, 10*hidden) is added to."""
    import cupy

    steps, batch, columns = gates.shape
    of_options = _of_options(draws, lane, (steps, batch, lane.width), c_star)
    slope_sums = _slope_sums(gates, r, norms, cells, weights, lane, lengths, of_options)
    arrays: tuple[Any, ...] = (gates, r, norms, slope_sums, weights.recurrent, weights.gain_recurrent)
    arrays += (weights.gain_cell, weights.bias_cell, cells, dy, dh, dc, d_norm, lengths)
    if choice.schedule == "persistent":
        handed = cupy.empty(layer_norm_layouts.backward_words(choice, steps, batch), np.uint32)
        cupy_one_launch._empty_words(handed)
        arrays = (*arrays, cupy.zeros(planner.exchange_words(choice), np.uint32), handed)
    sizes = (steps, batch, lane.width, 0 if dy is None else dy.shape[2], lane.first, lane.reverse)
    cupy_one_launch._launch(choice, arrays, sizes, of_options)

    d_norm[0, :columns] += _gain_gradient(gates, p, lengths)
    geometry = (steps * batch,), (threads_of(columns),)
    of_inputs = (gates, p, weights.gain_input, norms, or_null(lengths), np.int32(batch), np.int32(columns))
    kernel("lstm_layer_norm_inputs_backward", dtype_name(p))(*geometry, of_inputs)


def _copied(array):
    import cupy

    target = cupy.empty(array.shape, array.dtype)
    copy(target, array)
    return target


def _of_options(draws: Draws, lane: Lane, shape: tuple[int, int, int], c_star) -> tuple:
    """What the kernels take beside with the switch OPTIONS: what was drawn for each of ``shape``, time first, c* and
    the options; nothing where no option is on but weight drop."""
    import cupy

    of_step = draws.options.of_step(training=draws.training)
    if not cupy_one_launch_options.beside_layer_norm(of_step):
        return ()
    options, drawn = cupy_one_launch_options.arguments(draws, lane), None
    if draws.training and (of_step.recurrent_dropout or any(of_step.zoneout)):
        drawn = cupy.empty(shape, np.uint8)
        arguments = (drawn, options, np.int64(drawn.size), *int32s(*shape[1:]))
        kernel("lstm_draw_options", "float32")(*one_thread_per(drawn.size), arguments)
    return or_null(drawn), or_null(c_star), options


def _slope_sums(gates, r, norms, cells, weights: Weights, lane: Lane, lengths, of_options: tuple):
    """(steps, batch, 4) what the sums of the backward pass are made of beside those that it makes."""
    import cupy

    steps, batch, columns = gates.shape
    hidden, found = columns // 4, cupy.empty(norms.shape, norms.dtype)
    geometry = (steps * batch,), (threads_of(hidden),)
    arrays = (gates, r, norms, cells, weights.gain_recurrent, or_null(lengths), found)
    numbers = int32s(batch, hidden, lane.reverse)
    sums = kernel("lstm_layer_norm_slope_sums", dtype_name(gates), bool(of_options))
    sums(*geometry, (*arrays, *of_options, *numbers))
    return found


def _gain_gradient(gates, p, lengths):
    """(4*hidden,) the gradient of gain_input."""

    steps, batch, columns = p.shape
    rows = steps * batch
    slabs = min(-(-rows // cupy_engine.SLAB_ROWS), 65535)
    sums = cupy_engine.wide_empty((slabs, columns), p)
    arrays = (gates, p, or_null(lengths), sums)
    numbers = (np.int64(rows), np.int32(batch), np.int32(columns), np.int64(-(-rows // slabs)))
    kernel("lstm_layer_norm_gain_gradient", dtype_name(p))((-(-columns // 32), slabs), (32, 8), (*arrays, *numbers))
    return sums[0] if slabs == 1 else cupy_engine.column_sum(sums)
