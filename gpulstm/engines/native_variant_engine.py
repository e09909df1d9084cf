"""The LSTM's options on NumPy arrays, compiled: `gpulstm/native/options.h`. See `gpulstm.engines` for what each
function takes. What is too small goes to `numpy_variant_engine`, and so does a projection that is not folded.
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import activations, philox
from ..masks import WEIGHT_STREAM, WHOLE_SEQUENCE, Draws
from ..native import library
from ..options import PLAIN, Options
from ..parameters import Weights
from . import Lane, native_engine, native_memory, numpy_engine
from .native_calls import address, call_backward, call_forward, masked_copy
from .native_engine import pays
from .numpy_ragged import Ragged
from .numpy_variant_engine import NumpyVariantEngine

NORM_SUMS = 14
"""Rows of hidden numbers that layer norm's gradient consists of: `norm_backward.h`."""
MOMENTS = 4
KINDS = tuple(activations.DEFAULTS)
"""In the order of activations.h."""


class Normalised(NamedTuple):
    """What layer norm's backward pass needs, and works in."""

    p: np.ndarray  # (time, batch, 4*hidden), normalised products of x
    r: np.ndarray  # (time, batch, 4*hidden), and of h
    moments: np.ndarray  # (time, batch, MOMENTS)

    @classmethod
    def empty(cls, x: np.ndarray, lane: Lane) -> "Normalised":
        p, r = (native_memory.take((*x.shape[:2], 4 * lane.width), x.dtype) for _ in "pr")
        return cls(p, r, native_memory.take((*x.shape[:2], MOMENTS), x.dtype))


@dataclass
class Saved:
    """What the backward pass needs. Its memory goes back when it has been used, or when nobody holds it any more: what
    layer norm keeps is so much that the system would take it back from the allocator, and clear it, in each call."""

    gates: np.ndarray  # (time, batch, 4*hidden) activated
    cells: np.ndarray  # (time + 1, batch, hidden)
    hiddens: np.ndarray  # (time + 1, batch, hidden), with the mask of recurrent dropout on them
    weights: Weights  # with the mask of weight drop on weight_hh
    options: library.Options  # points at the weights, and at more of `taken`
    taken: list[np.ndarray]  # all that `native_memory` gave, the masks and layer norm's numbers among it

    def __del__(self) -> None:
        if not sys.is_finalizing():
            native_memory.leave(*self.taken)


class Gradient(NamedTuple):
    """The weights' gradient so far, without the mask of weight drop."""

    sums: Weights  # of `numpy_engine.Sum`
    peephole: np.ndarray | None  # (batch, 3*hidden), sequence by sequence
    norm: np.ndarray | None  # (batch, NORM_SUMS * hidden), likewise


@lru_cache(maxsize=64)
def _of_every_call(options: Options, training: bool) -> library.Options:
    """What of the compiled functions' `library.Options` does not change from call to call."""
    found = library.Options(coupled=options.coupled, clip=options.cell_clip or 0.0)
    found.zone_h, found.zone_c = (philox.threshold(zone) if training else 0 for zone in options.zoneout)
    found.zone_h_share, found.zone_c_share = (0.0 if training else zone for zone in options.zoneout)
    candidate = _dropout_on("candidate", options, training)
    found.candidate, found.candidate_scale = philox.threshold(candidate), 1 / (1 - candidate)
    if options.activations != PLAIN.activations:
        found.others = True
        found.kinds[:] = [KINDS.index(function.name) for function in options.activations]
        found.alphas[:] = [function.alpha for function in options.activations]
        found.betas[:] = [function.beta for function in options.activations]
    return found


def _dropout_on(what: str, options: Options, training: bool) -> float:
    """The probability of recurrent dropout there."""
    return options.recurrent_dropout if training and options.recurrent_dropout_on == what else 0.0


class NativeVariantEngine:
    """An engine for one call's random draws."""

    GATE_BUFFER_BYTES = native_engine.GATE_BUFFER_BYTES
    window = staticmethod(native_engine.window)
    contiguous = staticmethod(native_engine.contiguous)
    empty = staticmethod(native_engine.empty)
    zeros = staticmethod(native_engine.zeros)
    wide_zeros = staticmethod(native_engine.wide_zeros)
    assign = staticmethod(native_engine.assign)
    rounded = staticmethod(native_engine.rounded)
    without_padding = staticmethod(native_engine.without_padding)
    dropped = staticmethod(native_engine.dropped)

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.dropped_weights: dict[int, np.ndarray] = {}  # by stream, (4*hidden, hidden) of bytes, for both passes
        self.small = NumpyVariantEngine(draws)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            native_memory.leave(*self.dropped_weights.values())

    def forward(self, x, weights: Weights, h, c, y, lane: Lane, lengths) -> Any:
        steps, batch, _ = x.shape
        if not pays(lane.first_time + steps, batch):
            return self.small.forward(x, weights, h, c, y, lane, lengths)
        weights = self._with_weight_drop(weights, lane)
        factor = self._hidden_factor(h, lane)  # (batch, hidden), the mask of recurrent dropout
        # What each step drew, and what cell_clip held, in bits.
        record = native_memory.take((steps, batch, lane.width), np.dtype(np.uint8)) if self._records() else None
        gates = native_memory.take((steps, batch, 4 * lane.width), x.dtype)
        cells, hiddens = (native_memory.take((steps + 1, batch, lane.width), x.dtype) for _ in "ch")
        first, last = (-1, 0) if lane.reverse else (0, -1)
        # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
        h_in = h if factor is None else h * factor
        cells[first], hiddens[first] = c, h_in if lengths is None else np.where(lengths[:, None] > 0, h_in, 0)
        normalised = None if weights.gain_input is None else Normalised.empty(x, lane)
        options = self._options(weights, factor, record, normalised, lane)
        options.state = address(h)
        call_forward(x, weights, gates, cells, hiddens, y, lane, lengths, 0, keep=True, options=options)
        options.state = None
        c[...] = cells[last]
        if ragged := Ragged.of(lengths, steps, lane.reverse):
            ragged.clear_inputs(hiddens)
        taken = [gates, cells, hiddens, factor, record, *(normalised or ())]
        taken.append(weights.recurrent if self._drops_weights() else None)
        taken = [array for array in taken if array is not None]
        return Saved(gates, cells, hiddens, weights, options, taken)

    def inference(self, x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
        steps, batch, _ = x.shape
        if pays(first_time + steps, batch):
            options = self._options(weights, None, None, None, lane)
            call_forward(x, weights, None, c, h, y, lane, lengths, first_time, keep=False, options=options)
        else:
            self.small.inference(x, weights, h, c, y, lane, gates, lengths, first_time)

    def start_gradient(self, x, weights: Weights, lane: Lane) -> Any:
        steps, batch, _ = x.shape
        if not pays(steps, batch):  # a longer sequence has its first stretch of steps large enough, too
            return self.small.start_gradient(x, weights, lane)
        peephole = None if weights.peephole is None else np.zeros((batch, 3 * lane.width), x.dtype)
        norm = None if weights.gain_input is None else np.zeros((batch, NORM_SUMS * lane.width), x.dtype)
        # With layer norm the bias is added to what is normalised already: its gradient is no sum of a product's.
        summed = Weights(weights.input, weights.recurrent, weights.bias if norm is None else None)
        return Gradient(numpy_engine.start_gradient(x, summed, lane), peephole, norm)

    def backward(
        self, saved, x, weights: Weights, dy, dh, dc, dx, add_to_dx: bool, lane: Lane, lengths, gradient
    ) -> None:
        if not isinstance(saved, Saved):
            self.small.backward(saved, x, weights, dy, dh, dc, dx, add_to_dx, lane, lengths, gradient)
            return
        options = saved.options
        options.d_peephole = address(gradient.peephole)
        if options.norm:
            options.norm.contents.sums = address(gradient.norm)
        how = (dy, dh, dc, dx, add_to_dx, lane, lengths, gradient.sums, options)
        call_backward(saved.gates, saved.cells, saved.hiddens, x, saved.weights, *how)
        taken, saved.taken = saved.taken, []
        native_memory.give_back(*taken)

    def finish_gradient(self, gradient, lane: Lane) -> Weights:
        if not isinstance(gradient, Gradient):
            return self.small.finish_gradient(gradient, lane)
        found = numpy_engine.finish_gradient(gradient.sums, lane)
        if self._drops_weights():
            self._drop_weights(found.recurrent, found.recurrent, lane)
        if gradient.peephole is not None:
            found = found._replace(peephole=gradient.peephole.sum(axis=0))
        if gradient.norm is None:
            return found
        total, hidden = gradient.norm.sum(axis=0), lane.width
        return found._replace(
            bias=total[: 4 * hidden],
            gain_input=total[4 * hidden : 8 * hidden],
            gain_recurrent=total[8 * hidden : 12 * hidden],
            gain_cell=total[12 * hidden : 13 * hidden],
            bias_cell=total[13 * hidden :],
        )

    def _options(self, weights: Weights, factor, record, normalised: Normalised | None, lane: Lane) -> library.Options:
        """What the compiled functions want to know, `state`, `d_peephole` and layer norm's `sums` apart."""
        found = library.Options.from_buffer_copy(_of_every_call(self.draws.options, self.draws.training))
        if weights.gain_input is not None:
            kept = normalised or (None,) * 3
            gains = weights.gain_input, weights.gain_recurrent, weights.gain_cell, weights.bias_cell
            found.norm = ctypes.pointer(library.Norm(*map(address, (*gains, *kept)), None))
        found.peephole, found.hidden_factor, found.record = map(address, (weights.peephole, factor, record))
        found.seed, found.stream, found.first_time = self.draws.seed or 0, lane.stream, lane.first_time
        return found

    def _records(self) -> bool:
        options = self.draws.options
        return bool(any(options.zoneout) or _dropout_on("candidate", options, self.draws.training) or options.cell_clip)

    def _hidden_factor(self, h, lane: Lane):
        probability = _dropout_on("hidden", self.draws.options, self.draws.training)
        if not probability:
            return None
        factor = native_memory.take(h.shape, h.dtype)
        masked_copy(None, factor, self.draws, lane.stream, probability, batch=len(h), first_time=WHOLE_SEQUENCE)
        return factor

    def _drops_weights(self) -> bool:
        return bool(self.draws.training and self.draws.options.weight_drop)

    def _with_weight_drop(self, weights: Weights, lane: Lane) -> Weights:
        if not self._drops_weights():
            return weights
        target = native_memory.take(weights.recurrent.shape, weights.recurrent.dtype)
        self._drop_weights(weights.recurrent, target, lane)
        return weights._replace(recurrent=target)

    def _drop_weights(self, source, target, lane: Lane) -> None:
        """Drawn once, because the gradient has the same mask, and to draw takes longer than to read."""
        recorded = lane.stream in self.dropped_weights
        if not recorded:
            self.dropped_weights[lane.stream] = native_memory.take(source.shape, np.dtype(np.uint8))
        masked_copy(
            source,
            target,
            self.draws,
            WEIGHT_STREAM + lane.stream,
            self.draws.options.weight_drop,
            batch=len(source),
            first_time=0,
            record=self.dropped_weights[lane.stream],
            recorded=recorded,
        )
