"""All layers of a stack on CuPy arrays in one launch, each of them a step behind the one below it.

`gpulstm.cuda.stacked_layers` says when; the kernels are those of `gpulstm.engines.cupy_one_launch` with the switch
LAYERS. GEMMs before and after are `gpulstm.engines.cupy_engine`'s: forward that of the lowest layer's input alone, back
that of its gradient and those of all weights' gradients.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cuda import half_layouts, planner, stacked_layers
from ..cuda.copies import put, take
from ..cuda.planner import Choice
from ..masks import Draws
from ..parameters import Layout, Weights
from . import Lane, cupy_engine, cupy_one_launch, windows
from .cupy_engine import Saved, empty
from .cupy_refusals import begun_again

HANDED_BYTES = (
    64 * 2**20
)  # of gradients that a backward pass hands from layer to layer in one launch, in 16 bits within
# a layer too; longer ones take several launches

OPTIONS = "does not hold options"
_ABOVE = stacked_layers.MOST - 1


def _pointers(*names: str) -> np.dtype:
    return np.dtype([(name, np.uintp, (_ABOVE,)) for name in names], align=True)


_OF_FORWARD = _pointers("input_weight", "weight", "bias", "gates", "cells", "hiddens", "y")
_OF_BACKWARD = _pointers("input_weight", "weight", "gates", "cells", "dh", "dc", "handed")
# as the compiler lays out the structs LayersAbove and GradientsAbove, in 16 bits too: the tests compare


def why_not(layout: Layout, draws: Draws, *, is_plain: bool, training: bool) -> str:
    """What keeps a stack's layers one after the other, whatever the sizes; empty if nothing does."""
    if not is_plain:
        return OPTIONS
    return "does not hold dropout between layers" if training and draws.options.dropout else ""


def engine_for(layout: Layout, draws: Draws, engine: Any) -> Any:
    """``engine``, the plain one, or what may run a stack's layers side by side over it."""
    if layout.num_layers == 1 or layout.bidirectional:
        return engine
    if why_not(layout, draws, is_plain=True, training=draws.training):
        return engine
    return SideBySide(engine, tf32=draws.options.tf32)


class SideBySide:
    """A plain engine that may run all layers of a stack at the same time, for one call.

    Its three functions say by None or False that they have done nothing, since the layers run one after the other.
    ``lanes`` has one for each layer, and so do lists of weights and states.
    """

    def __init__(self, engine: Any, *, tf32: bool) -> None:
        self.engine, self.tf32 = engine, tf32

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)  # all that knows one layer

    def _choose(self, direction: str, x: Any, lanes: Sequence[Lane], steps: int) -> Choice | None:
        batch, hidden = x.shape[1], lanes[0].width
        one = cupy_one_launch.choose(direction, x, batch, hidden, tf32=self.tf32)
        device = cupy_one_launch.current_device()
        return stacked_layers.side_by_side(direction, one, len(lanes), steps, batch, hidden, device)[0]

    @begun_again
    def forward_layers(
        self, x, weights: list[Weights], initial, h, c, lanes: Sequence[Lane], lengths
    ) -> tuple[list[Saved], list] | None:
        """Training: what each layer saves, and each layer's y. ``initial`` is (h, c) of all layers or None for zeros;
        h and c only receive the final ones."""
        steps, batch, _ = x.shape
        choice = self._choose(planner.FORWARD, x, lanes, steps)
        if choice is None:
            return None
        before = [initial and (initial[0][layer], initial[1][layer]) for layer in range(len(lanes))]
        runs = [
            cupy_engine._begin(choice, x, w, state, c.dtype, lane, lengths, self.tf32, multiply=layer == 0)
            for layer, (w, state, lane) in enumerate(zip(weights, before, lanes, strict=True))
        ]
        outputs = [empty((steps, batch, lane.width), x) for lane in lanes]
        gates, cells, hiddens = zip(*runs, strict=True)
        _forward_steps(choice, gates, cells, hiddens, weights, outputs, lanes[0], lengths, 0, keep=True)
        for layer, (saved, state, lane) in enumerate(zip(runs, before, lanes, strict=True)):
            cupy_engine._end(saved, state, h[layer], c[layer], lane, lengths)
        return runs, outputs

    @begun_again
    def inference_layers(
        self, x, weights: list[Weights], h, c, y, lanes: Sequence[Lane], gates, lengths, first_time: int, steps: int
    ) -> bool:
        """``steps`` are those of the whole call, of which this may be a part: parts all run alike."""
        choice = self._choose(planner.FORWARD, x, lanes, steps)
        if choice is None:
            return False
        last, reverse = len(x), lanes[0].reverse
        cupy_engine._multiply_inputs(x, weights[0], gates, lanes[0], self.tf32)
        histories = [cupy_one_launch.history(choice, (last + 1, *of_layer.shape), x) for of_layer in h]
        for history, of_layer in zip(histories, h, strict=True):
            put(history, last if reverse else 0, of_layer)
        nothing = [None] * (len(lanes) - 1)
        all_gates = [gates, *nothing]
        _forward_steps(
            choice, all_gates, c, histories, weights, [*nothing, y], lanes[0], lengths, first_time, keep=False
        )
        for history, of_layer in zip(histories, h, strict=True):
            take(history, 0 if reverse else last, of_layer)
        return True

    @begun_again
    def backward_layers(
        self, runs: list[Saved], xs: list, weights: list[Weights], dy, dh, dc, lanes, lengths, gradients: list
    ) -> Any:
        """The gradient of the lowest layer's input. ``xs`` are the layers' inputs, ``gradients`` the weights'."""
        choice = self._choose(planner.BACKWARD, xs[0], lanes, len(xs[0]))
        if choice is None:
            return None
        dx = empty(xs[0].shape, xs[0])
        _backward_steps(choice, runs, weights, dy, dh, dc, lanes[0], lengths)
        for layer, (saved, x, w, lane, gradient) in enumerate(zip(runs, xs, weights, lanes, gradients, strict=True)):
            of_input = dx if layer == 0 else None
            cupy_engine._multiply_gradients(saved, x, w, of_input, False, lane, gradient, self.tf32)
        return dx


def _forward_steps(
    choice: Choice, gates, cells, hiddens, weights: list[Weights], outputs, lane: Lane, lengths, first_time: int, keep
) -> None:
    """All steps of all layers; there is a list with one for each layer of each kind of array. Without ``keep`` only the
    lowest one has gates, and y may be None."""
    steps, batch, columns = gates[0].shape
    of_layers = _table(
        _OF_FORWARD,
        input_weight=[w.input for w in weights],
        weight=[w.recurrent for w in weights],
        bias=[w.bias for w in weights],
        gates=gates,
        cells=cells,
        hiddens=hiddens,
        y=outputs,
    )
    arrays = (gates[0], weights[0].recurrent, weights[0].bias, cells[0], hiddens[0], outputs[0], lengths)
    sizes = (steps, batch, columns // 4, columns // 4, 0, keep, lane.reverse, first_time)
    cupy_one_launch._launch(choice, arrays, sizes, second_sizes=(len(gates),), of_layers=(of_layers,))


def _backward_steps(choice: Choice, runs: list[Saved], weights: list[Weights], dy, dh, dc, lane: Lane, lengths) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's, in
    stretches of time, so that what the layers hand each other is bounded."""
    import cupy

    steps, batch, columns = runs[0].gates.shape
    layers, in_half = len(runs), choice.kernel == half_layouts.BACKWARD
    # In 16 bits each layer's blocks read what they hand each other where the layer below reads it too.
    handing, words = (layers, columns // 2) if in_half else (layers - 1, columns)
    stretch = max(1, HANDED_BYTES // (4 * handing * batch * words))
    handed = [cupy.empty((min(steps, stretch), batch, words), np.uint32) for _ in range(handing)]
    for t in windows(steps, stretch, lane.reverse):
        for each in handed:
            cupy_one_launch._empty_words(each)
        gates, cells = [run.gates[t] for run in runs], [run.cells[t.start : t.stop + 1] for run in runs]
        of_layers = _table(
            _OF_BACKWARD,
            input_weight=[w.input for w in weights],
            weight=[w.recurrent for w in weights],
            gates=gates,
            cells=cells,
            dh=dh,
            dc=dc,
            handed=[None, *handed[-(layers - 1) :]],
        )
        exchange = handed[0] if in_half else cupy.zeros(planner.exchange_words(choice), np.uint32)
        part_dy = None if dy is None else dy[t]
        arrays = (gates[0], weights[0].recurrent, cells[0], part_dy, dh[0], dc[0], lengths, exchange)
        sizes = (t.stop - t.start, batch, lane.width, lane.width, lane.first, lane.reverse)
        before, behind = ((layers,), (t.start,)) if in_half else ((layers, t.start), ())
        cupy_one_launch._launch(choice, arrays, (*sizes, *behind), second_sizes=before, of_layers=(of_layers,))


def _table(dtype: np.dtype, **of_layers: Sequence[Any]) -> np.ndarray:
    """The struct with the pointers of the layers above the lowest one, None as null. It does not keep the arrays."""
    values = np.zeros((), dtype)
    for name, arrays in of_layers.items():
        above = arrays[1:]
        values[name][: len(above)] = [0 if array is None else array.data.ptr for array in above]
    return values
