"""The LSTM's options on NumPy arrays: `gpulstm.variants` step by step, behind an engine's functions.

Unlike the plain LSTM's engine this one makes temporaries in the time loop. A projection alone goes through that one
where `gpulstm.engines.folded_on_cpu` says so.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..equations import zero_gradient
from ..masks import Draws
from ..parameters import Weights
from ..variant_sequence import VariantRun
from ..variants import VariantStep
from . import Lane, numpy_engine


class Saved(NamedTuple):
    """What the backward pass needs."""

    run: VariantRun
    steps: list[VariantStep]


@dataclass
class Gradient:
    """The weights' gradient so far, without the mask of weight drop."""

    run: VariantRun
    total: Weights


class NumpyVariantEngine:
    """An engine for one call's random draws. See `gpulstm.engines` for what each function takes."""

    GATE_BUFFER_BYTES = numpy_engine.GATE_BUFFER_BYTES
    window = staticmethod(numpy_engine.window)
    contiguous = staticmethod(numpy_engine.contiguous)
    empty = staticmethod(numpy_engine.empty)
    zeros = staticmethod(numpy_engine.zeros)
    wide_zeros = staticmethod(numpy_engine.wide_zeros)
    assign = staticmethod(numpy_engine.assign)
    rounded = staticmethod(numpy_engine.rounded)
    without_padding = staticmethod(numpy_engine.without_padding)
    dropped = staticmethod(numpy_engine.dropped)

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    @np.errstate(over="ignore", invalid="ignore")
    def forward(self, x, weights: Weights, h, c, y, lane: Lane, lengths) -> Saved:
        run = self._run(weights, lane)
        found, h[...], c[...], steps = run.forward(x, h.copy(), c.copy(), lengths, lane.reverse)
        y[:, :, lane.columns] = found
        return Saved(run, steps)

    @np.errstate(over="ignore", invalid="ignore")
    def inference(self, x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
        run = self._run(weights, lane)
        found, h[...], c[...], _ = run.forward(x, h, c, lengths, lane.reverse, first_time, keep=False)
        y[:, :, lane.columns] = found

    def start_gradient(self, x, weights: Weights, lane: Lane) -> Gradient:
        return Gradient(self._run(weights, lane), zero_gradient(weights))

    @np.errstate(over="ignore", invalid="ignore")
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
        own_dy = None if dy is None else dy[:, :, lane.columns]
        found, gradient.total, dh[...], dc[...] = saved.run.backward(
            saved.steps, own_dy, dh.copy(), dc.copy(), lengths, lane.reverse, gradient.total
        )
        dx[...] = dx + found if add_to_dx else found

    def finish_gradient(self, gradient: Gradient, lane: Lane) -> Weights:
        return gradient.run.finish_gradient(gradient.total)

    def _run(self, weights: Weights, lane: Lane) -> VariantRun:
        return VariantRun(weights, self.draws, lane.stream, lane.first_time)
