"""The LSTM's options on CuPy arrays: cuBLAS for the products, our kernels for the rest.

The time steps run in one launch where `gpulstm.cuda.planner` says so (`gpulstm.engines.cupy_one_launch_options`), else
in a loop, which may be replayed as a graph (`gpulstm.engines.cupy_graph_options`). Its kernels are
`kernels/lstm_variant_*.cu` and `masked_copy.cu`; their headers say what each computes. They are the same for all
options but layer norm: the others are launch arguments. A step is one product and one kernel, forward and backward,
and with a projection that is not folded (`gpulstm.engines.folded_projection`) one more of each.
See `gpulstm.engines` for what each function takes.

Of 16 bits are what the plain LSTM has in 16 bits (`gpulstm.engines.cupy_engine`), the peepholes, and what a projection
reads and makes. Layer norm has no kernels there.
"""

from typing import Any, NamedTuple

import numpy as np

from ..arrays import dtype_name
from ..cuda import planner
from ..cuda.copies import copy
from ..cuda.gemm import Gemm, matrix, rows_of
from ..cuda.launch import int32s, one_thread_per, or_null, threads_of
from ..cuda.packed import Series
from ..masks import WHOLE_SEQUENCE, Draws
from ..options import Options
from ..parameters import Weights
from . import (
    Lane,
    cupy_engine,
    cupy_graph_options,
    cupy_one_launch,
    cupy_one_launch_layer_norm,
    cupy_one_launch_options,
    inputs_of,
    slots,
    windows,
)
from .cupy_engine import column_sum, empty, wide_empty, wide_zeros
from .cupy_masks import (
    draw_arguments,
    drop_weights,
    dropout_arguments,
    masked_copy,
    with_weight_drop,
    zoneout_arguments,
)
from .cupy_storage import assign, is_half, where, wide_dtype
from .cupy_variant_both import BothDirections, multiply_gradients

ACTIVATION_NUMBERS = {"sigmoid": 0, "tanh": 1, "relu": 2, "hard_sigmoid": 3, "softsign": 4, "affine": 5}
"""As in `kernels/activation.cuh`."""

LOOPS = ("loop", "graph")  # the same launches
NO_STEP = 2**31 - 1  # instead of a later step, where there is none
PEEPHOLE = Weights._fields.index("peephole")  # behind it: gain_input, gain_recurrent, gain_cell, bias_cell


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: Any  # (time, batch, 4*hidden) activated
    cells: Any  # (time + 1, batch, hidden) wide
    c_star: Any  # (time, batch, hidden) with layer norm and zoneout of c what cells would hold without zoneout
    h_in: Any  # (time, batch, width) what each step's product read
    m: Any  # (time, batch, hidden) what was projected, or None
    p: Any  # (time, batch, 4*hidden) with layer norm the normalised products of x, else None; and so are the next two
    r: Any  # (time, batch, 4*hidden) the normalised products of h_in
    norms: Any  # (time, batch, 4) what they and c* were normalised by
    recurrent: Any  # (4*hidden, width) weight_hh with the mask of weight drop


class Gradient(NamedTuple):
    """What the weights' gradient is made of so far, wide."""

    total: Weights  # as it is, but for the mask of weight drop
    peephole: Any  # (batch, 3*hidden) apart for each sequence, or None
    norm: Any  # (batch, 10*hidden) likewise: of gain_input, gain_recurrent, gain_cell and bias_cell


class CupyVariantEngine(BothDirections):
    """An engine for one call's random draws. See `gpulstm.engines` for what each function takes."""

    GATE_BUFFER_BYTES = cupy_engine.GATE_BUFFER_BYTES
    window = staticmethod(cupy_engine.window)
    contiguous = staticmethod(cupy_engine.contiguous)
    empty = staticmethod(cupy_engine.empty)
    zeros = staticmethod(cupy_engine.zeros)
    wide_zeros = staticmethod(cupy_engine.wide_zeros)
    assign = staticmethod(cupy_engine.assign)
    rounded = staticmethod(cupy_engine.rounded)
    without_padding = staticmethod(cupy_engine.without_padding)
    dropped = staticmethod(cupy_engine.dropped)

    def __init__(self, draws: Draws, steps: int) -> None:
        self.draws, self.steps = draws, steps  # of the whole call: stretches of time are all run as it would be

    def _call(self, *arguments: Any, **more: Any) -> "_Call":
        return _Call(self.draws, self.steps, *arguments, **more)

    def forward(self, x, weights: Weights, h, c, y, lane: Lane, lengths, *, begin: Any = None) -> Saved:
        """``begin`` is `cupy_engine.forward_from`'s."""
        call = self._call(x, weights, lane, lengths, keep=True, begin=begin)
        choice = call.choose(planner.FORWARD, x)
        saved, hiddens = self._begin(call, choice, x, weights, h, c)
        if choice.schedule in LOOPS:
            _run(call, x, weights, saved, h, y, 0)
        else:
            _run_in_one_launch(choice, call, x, weights, saved, h, hiddens, y, 0)
        copy(c, saved.cells[0 if lane.reverse else -1])
        return saved

    def _begin(self, call: "_Call", choice: planner.Choice, x, weights: Weights, h, c) -> tuple[Saved, Any]:
        """What a forward pass fills, the initial state in its place, and the history that its h_in is a part of."""
        rows, hidden, lane = x.shape[:2], call.hidden, call.lane
        hiddens = cupy_one_launch.history(choice, (rows[0] + 1, rows[1], lane.width), x)
        saved = Saved(
            gates=empty((*rows, 4 * hidden), x),
            cells=wide_empty((rows[0] + 1, rows[1], hidden), x),
            c_star=empty((*rows, hidden), x) if call.normed and self.draws.options.zoneout[1] else None,
            h_in=hiddens[inputs_of(slice(0, rows[0]), lane.reverse)],
            m=empty((*rows, hidden), x) if call.projected else None,
            p=empty((*rows, 4 * hidden), x) if call.normed else None,
            r=empty((*rows, 4 * hidden), x) if call.normed else None,
            norms=empty((*rows, 4), x) if call.normed else None,
            recurrent=with_weight_drop(weights.recurrent, self.draws, lane),
        )
        copy(saved.cells[-1 if lane.reverse else 0], c)
        _first_h_in(saved.h_in, h, self.draws, lane, call.lengths)
        return saved, hiddens

    def inference(
        self, x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int, *, begin: Any = None
    ) -> None:
        call = self._call(x, weights, lane, lengths, keep=False, begin=begin)
        choice = call.choose(planner.FORWARD, x)
        # A thread reads p before it writes gates, and has done with them when it writes c*, and with that when it
        # writes m: they can all stand in the same memory.
        shared = Saved(
            gates=gates,
            cells=c[None],
            c_star=gates if call.normed else None,
            h_in=None,
            m=gates if call.projected else None,
            p=gates if call.normed else None,
            r=empty((1, call.batch, 4 * call.hidden), x) if call.normed else None,
            norms=None,
            recurrent=weights.recurrent,
        )
        if choice.schedule in LOOPS:
            _run(call, x, weights, shared, h, y, first_time)
            return
        hiddens = h  # the resident schedule hands nothing on through memory
        if cupy_one_launch.hands_over_h(choice):
            hiddens = cupy_one_launch.history(choice, (call.steps + 1, call.batch, lane.width), x)
            copy(hiddens[-1 if lane.reverse else 0], h)
        _run_in_one_launch(choice, call, x, weights, shared, h, hiddens, y, first_time)

    def start_gradient(self, x, weights: Weights, lane: Lane) -> Gradient:
        batch, hidden = x.shape[1], weights.input.shape[0] // 4
        return Gradient(
            total=Weights(*(None if w is None else wide_zeros(w.shape, x) for w in weights)),
            peephole=None if weights.peephole is None else wide_zeros((batch, 3 * hidden), x),
            norm=None if weights.gain_input is None else wide_zeros((batch, 10 * hidden), x),
        )

    def backward(
        self,
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
    ) -> None:
        call = self._call(x, weights, lane, lengths, keep=True)
        choice = call.choose(planner.BACKWARD, x)
        dh_star = empty((*x.shape[:2], lane.width), x) if call.projected else None
        if choice.schedule in LOOPS:
            given = call, saved, weights, dy, dh, dc, dh_star, gradient.peephole, gradient.norm
            if choice.schedule == "graph":
                cupy_graph_options.backward_steps(_run_backward, *given)
            else:
                _run_backward(*given)
        elif call.normed:
            dropped = weights._replace(recurrent=saved.recurrent)
            tape = (saved.p, saved.r, saved.norms, saved.gates, saved.cells, saved.c_star, dropped)
            of_layer = (dy, dh, dc, gradient.norm, lane, lengths)
            cupy_one_launch_layer_norm.backward_steps(choice, self.draws, *tape, *of_layer)
        else:
            dropped = weights._replace(recurrent=saved.recurrent)
            cupy_one_launch_options.backward_steps(
                choice, self.draws, saved.gates, saved.cells, dropped, dy, dh, dc, gradient.peephole, lane, lengths
            )

        multiply_gradients(call, saved, x, weights, dx, add_to_dx, dh_star, gradient)

    def finish_gradient(self, gradient: Gradient, lane: Lane) -> Weights:
        total, hidden = gradient.total, gradient.total.input.shape[0] // 4
        drop_weights(total.recurrent, total.recurrent, self.draws, lane)
        if gradient.peephole is not None:
            total = total._replace(peephole=column_sum(gradient.peephole))
        if gradient.norm is not None:
            total = total._replace(**_norm_gradients(column_sum(gradient.norm), hidden))
        return total


class _Call(cupy_graph_options.Staged):
    """What all launches of one call have in common: sizes, geometry, and arguments that no step changes."""

    def __init__(
        self, draws: Draws, of_all: int, x, weights: Weights, lane: Lane, lengths, *, keep: bool, begin: Any = None
    ) -> None:
        import cupy

        real = wide_dtype(x).type
        self.dtype, self.gemm = dtype_name(x), Gemm(cupy, dtype_name(x), tf32=draws.options.tf32)
        self.adding = Gemm(cupy, self.dtype, wide=True) if is_half(x) else self.gemm  # products that are added up wide
        (self.steps, self.batch, _), self.of_all = x.shape, of_all
        self.hidden, self.lane = weights.input.shape[0] // 4, lane
        self.normed, self.projected = weights.gain_input is not None, weights.projection is not None
        self.has_peephole = weights.peephole is not None
        self.lengths = lengths
        self.weights = tuple(or_null(weights[field]) for field in range(PEEPHOLE, len(weights)))

        options, training = draws.options, draws.training
        self.draws, self.keep, self.begin = draws, keep, begin
        self.activation = _activation_arguments(options, real)
        dropout = options.recurrent_dropout if training else 0.0
        on_hidden = options.recurrent_dropout_on == "hidden"
        self.draw = draw_arguments(draws, lane.stream, lane.first_time)
        zone_h, zone_c = (zoneout_arguments(z, real, training=training) for z in options.zoneout)
        self.dropout = dropout_arguments(dropout if on_hidden else 0.0, real)
        self.of_hidden = (*zone_h, *self.dropout)
        self.of_cell = (*dropout_arguments(0.0 if on_hidden else dropout, real), *zone_c)

        # (grid, block). The cell has a column of blocks for each sequence; of one block where layer norm sums a row.
        threads = threads_of(self.hidden)
        self.cell_geometry = (self.batch, 1 if self.normed else -(-self.hidden // threads), 1), (threads, 1, 1)
        self.output_geometry = one_thread_per(self.batch * lane.width)

    def choose(self, direction: str, x) -> planner.Choice:
        """The schedule of a pass over x."""
        of_step = self.draws.options.of_step(training=self.draws.training)
        projection = "which is not folded into weight_hh" if self.projected else ""
        has: dict[str, Any] = {"layer_norm": self.normed, "peephole": self.has_peephole, "projection": projection}
        not_held = cupy_one_launch_options.not_held(of_step, steps=self.of_all, **has)
        device = cupy_one_launch.current_device()
        not_plain = cupy_one_launch_options.not_plain(of_step, layer_norm=self.normed)
        choice = planner.choose(direction, self.batch, self.hidden, dtype_name(x), device, not_held, not_plain)
        self.schedule = choice.schedule
        return choice

    def multiply_inputs(self, x, weights: Weights, products) -> None:
        """products = x @ W_ih^T, window by window."""
        for window in windows(self.steps, cupy_engine.window(self.batch), self.lane.reverse):
            self.gemm(matrix(x[window]), matrix(weights.input), matrix(products[window]), transpose_b=True)
        if self.begin is not None:
            self.begin(products)

    def times(self) -> range:
        return range(self.steps)[:: -1 if self.lane.reverse else 1]

    def sizes(self, *more: int) -> tuple[Any, ...]:
        return tuple(np.int32(n) for n in (self.batch, *more))


def _run(call: _Call, x, weights: Weights, at: Saved, h, y, first_time: int) -> None:
    """All steps forward. ``at`` is where their results go; in inference it has one slot for c and for h's products."""
    call.multiply_inputs(x, weights, at.p if call.normed else at.gates)
    if call.schedule == "graph":
        cupy_graph_options.forward_steps(_steps, call, weights, at, h, y, first_time)
    else:
        _steps(call, weights, at, h, y, first_time)


def _steps(call: _Call, weights: Weights, at: Saved, h, y, first_time: int) -> None:
    """`_run` after the products of x."""
    batch, hidden, lane, gemm, itemsize = call.batch, call.hidden, call.lane, call.gemm, h.itemsize
    inputs = at.p if call.normed else at.gates
    products, recurrent = matrix(at.r if call.normed else inputs), matrix(at.recurrent)
    h_in = matrix(h if at.h_in is None else at.h_in)
    m: Any = None if at.m is None else matrix(at.m)._replace(columns=hidden)
    h_star = call.room("h_star", h.shape, h) if call.projected else None
    projection: Any = matrix(weights.projection) if call.projected else None
    projected: Any = matrix(h_star) if call.projected else None

    cell = call.kernel("lstm_variant_cell_forward", call.normed)
    output: Any = call.kernel("lstm_variant_output_forward") if call.projected else None
    c_star = at.cells if call.normed and at.c_star is None else at.c_star
    arrays = (inputs, or_null(at.r), at.gates, or_null(weights.bias), *call.weights, at.cells, or_null(c_star))
    arrays += (or_null(at.norms), or_null(at.m), h, y, or_null(at.h_in), or_null(call.lengths))
    of_output = (*call.sizes(lane.width, y.shape[2], lane.first), *call.draw, *call.of_hidden)
    widths = (0 if c_star is None else c_star.shape[-1], 0 if at.m is None else at.m.shape[-1], y.shape[2], lane.first)
    of_cell = (*call.sizes(hidden, *widths), *call.activation, np.int32(call.keep))
    of_cell += (*call.draw, *call.of_cell, *call.of_hidden)
    ask = Series(cell, *call.cell_geometry, (*arrays, *int32s(*[0] * 7), *of_cell), len(arrays), 7)
    ask_output: Any = None
    if call.projected:
        of_step = (h_star, h, y, or_null(at.h_in), or_null(call.lengths))
        ask_output = Series(output, *call.output_geometry, (*of_step, *int32s(0, 0, 0), *of_output), len(of_step), 3)
    for t in call.times():
        before, after = slots(t, lane.reverse) if call.keep else (0, 0)
        product_slot = t if call.keep or not call.normed else 0
        following = t - 1 if lane.reverse else t + 1 if t + 1 < call.steps else -1
        star_slot = after if c_star is at.cells else t
        step_h = h_in if at.h_in is None else rows_of(h_in, t * batch, batch, itemsize)
        step_product = rows_of(products, product_slot * batch, batch, itemsize)
        gemm(step_h, recurrent, step_product, transpose_b=True, accumulate=not call.normed)
        ask(t, first_time + t, following, product_slot, before, after, star_slot)
        if call.projected:
            step_m = rows_of(m, t * batch, batch, itemsize)
            gemm(step_m, projection, projected, transpose_b=True)
            ask_output(t, first_time + t, following)


def _run_in_one_launch(choice, call: _Call, x, weights: Weights, at: Saved, h, hiddens, y, first_time: int) -> None:
    """All steps forward, as `_run` does."""
    inputs = at.p if call.normed else at.gates
    call.multiply_inputs(x, weights, inputs)
    cells = at.cells if call.keep else at.cells[0]
    weights = weights._replace(recurrent=at.recurrent)
    if call.normed:
        c_star, r = (at.c_star, at.r) if call.keep else (None, None)
        arrays = (at.p, at.gates, weights, h, hiddens, cells, c_star, r, at.norms, y)
        cupy_one_launch_layer_norm.forward_steps(choice, call.draws, *arrays, call.lane, call.lengths, first_time)
        return
    cupy_one_launch_options.forward_steps(
        choice, call.draws, at.gates, weights, h, hiddens, cells, y, call.lane, call.lengths, first_time, call.keep
    )


def _run_backward(call: _Call, saved: Saved, weights: Weights, dy, dh, dc, dh_star, d_peephole, d_norm) -> None:
    """All steps backward: activated gates become gradients of the pre-activations, normalised products those of the
    products, and dh and dc the initial state's."""
    batch, hidden, lane, gemm, itemsize = call.batch, call.hidden, call.lane, call.adding, saved.gates.itemsize
    dr, recurrent = matrix(saved.r if call.normed else saved.gates), matrix(saved.recurrent)
    product = call.room("product", dh.shape, dh)  # (batch, width) of dr and weight_hh, which the step before it reads
    dm = call.room("dm", (batch, hidden), dh) if call.projected or call.normed else None
    product_matrix = matrix(product)
    if call.projected:
        dh_stars, projection, dm_matrix = matrix(dh_star), matrix(weights.projection), matrix(dm)
    star = saved.c_star if call.draws.options.zoneout[1] else saved.cells
    dy_columns = (0 if dy is None else dy.shape[2], lane.first)

    cell = call.kernel("lstm_variant_cell_backward", call.normed)
    output: Any = call.kernel("lstm_variant_output_backward") if call.projected else None
    arrays = tuple(map(or_null, (saved.gates, saved.p, saved.r, saved.norms)))
    arrays += (*call.weights, saved.cells, *map(or_null, (star, dm, dc, d_peephole, d_norm)))
    of_hidden = (dh, product, or_null(dy), or_null(call.lengths))
    of_cell = (*call.sizes(hidden, *dy_columns, call.projected), *call.activation)
    of_cell += (*call.draw, *call.of_cell, *call.of_hidden)
    of_output = (*call.sizes(lane.width, *dy_columns), *call.draw, *call.of_hidden)
    before_it = (*arrays, *of_hidden)
    ask = Series(cell, *call.cell_geometry, (*before_it, *int32s(0, 0, 0, 0), *of_cell), len(before_it), 4)
    ask_output: Any = None
    if call.projected:
        of_step = (dh_star, *of_hidden)
        ask_output = Series(output, *call.output_geometry, (*of_step, *int32s(0, 0), *of_output), len(of_step), 2)
    later = NO_STEP
    for t in reversed(call.times()):
        before, after = slots(t, lane.reverse)
        if call.projected:
            ask_output(t, later)
            gemm(rows_of(dh_stars, t * batch, batch, itemsize), projection, dm_matrix)
        ask(t, later, before, after if star is saved.cells else t)
        gemm(rows_of(dr, t * batch, batch, itemsize), recurrent, product_matrix)
        later = t
    last = (dh, product, or_null(call.lengths), np.int32(later), *call.sizes(lane.width), *call.draw, *call.dropout)
    call.kernel("lstm_variant_initial_gradient")(*call.output_geometry, last)


def _activation_arguments(options: Options, real: type) -> tuple:
    """Three kinds, three pairs of alpha and beta, the limit of what goes into them, and whether gates are coupled."""
    kinds = (np.int32(ACTIVATION_NUMBERS[a.name]) for a in options.activations)
    parameters = (real(value) for a in options.activations for value in (a.alpha, a.beta))
    return (*kinds, *parameters, real(options.cell_clip or 0), np.int32(options.coupled))


def _first_h_in(h_in, h, draws: Draws, lane: Lane, lengths) -> None:
    """What the first step's product reads: h0 with its mask. Zero where a sequence is over by then: its NaN would get
    into the weights' gradient as 0 * NaN."""
    first = len(h_in) - 1 if lane.reverse else 0
    assign(h_in[first], h if lengths is None else where(lengths[:, None] > first, h))
    probability = draws.options.recurrent_dropout
    if draws.training and probability and draws.options.recurrent_dropout_on == "hidden":
        target, place = h_in[first], {"batch": len(h), "first_time": WHOLE_SEQUENCE}
        masked_copy(target, target, draws, lane.stream, probability, **place)


def _norm_gradients(total, hidden: int) -> dict:
    """The four gradients that stand one behind another in the kernel's sums (10*hidden,)."""
    ends = {"gain_input": 4, "gain_recurrent": 8, "gain_cell": 9, "bias_cell": 10}
    starts = (0, 4, 8, 9)
    return {name: total[first * hidden : end * hidden] for first, (name, end) in zip(starts, ends.items(), strict=True)}
