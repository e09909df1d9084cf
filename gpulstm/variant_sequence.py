"""`gpulstm.variants` over all time steps: what `equations.sequence` is for the plain LSTM."""

from collections.abc import Callable
from typing import Any

from .arrays import Array, namespace
from .equations import running_at, times, zero_gradient
from .masks import Draws
from .options import Options
from .parameters import Weights
from .variants import StepMasks, VariantStep, step, step_backward

MasksAt = Callable[[int], StepMasks]
"""Time -> that step's masks."""


class VariantRun:
    """One layer in one direction for one call's random draws: weight drop, masks, and the steps between them."""

    def __init__(self, weights: Weights, draws: Draws, stream: int, first_time: int = 0) -> None:
        self.draws, self.stream, self.first_time = draws, stream, first_time
        self.weights = self.finish_gradient(weights)

    def forward(
        self, x: Array, h: Array, c: Array, lengths: Array | None, reverse: bool, first_time: int = 0, keep: bool = True
    ) -> tuple[Array, Array, Array, list[VariantStep]]:
        """`sequence` with this run's weights and masks."""
        masks_at = self._masks_at(range(first_time, first_time + x.shape[0]), x.shape[1])
        options = self.draws.options
        return sequence(x, h, c, self.weights, options, masks_at, lengths, reverse, first_time, keep)

    def backward(
        self,
        steps: list,
        dy: Array | None,
        dh: Array,
        dc: Array,
        lengths: Array | None,
        reverse: bool,
        gradient: Weights | None = None,
    ) -> tuple[Array, Weights, Array, Array]:
        """`sequence_backward` with this run's weights and masks; `finish_gradient` must follow."""
        masks_at = self._masks_at(range(len(steps)), dh.shape[0])
        options = self.draws.options
        return sequence_backward(steps, dy, dh, dc, self.weights, options, masks_at, lengths, reverse, gradient)

    def _masks_at(self, times: range, batch: int) -> MasksAt:
        like = self.weights.recurrent
        hidden, output = like.shape[0] // 4, like.shape[1]
        own = range(self.first_time + times.start, self.first_time + times.stop)
        masks_at = self.draws.steps(self.stream, own, batch, output, hidden, like)
        return lambda time: masks_at(self.first_time + time)

    def finish_gradient(self, weights: Weights) -> Weights:
        """The weights' gradient, or the weights themselves, with the mask of weight drop on weight_hh."""
        mask = self.draws.weight(self.stream, tuple(weights.recurrent.shape), weights.recurrent)
        return weights if mask is None else weights._replace(recurrent=weights.recurrent * mask)


def sequence(
    x: Array,
    h: Array,
    c: Array,
    weights: Weights,
    options: Options,
    masks_at: MasksAt,
    lengths: Array | None,
    reverse: bool,
    first_time: int = 0,
    keep: bool = True,
) -> tuple[Array, Array, Array, list[VariantStep]]:
    """Output (time, batch, output), final h and c, and the steps by time, unless ``keep`` is False.

    ``first_time`` is x[0]'s own time.
    """
    xp = namespace(x)
    outputs: list[Array] = [h] * x.shape[0]
    steps: list[Any] = [None] * x.shape[0]
    for t in times(x.shape[0], reverse):
        h_next, c_next, saved = step(x[t, ...], h, c, weights, options, masks_at(first_time + t))
        steps[t] = saved if keep else None
        if lengths is None:
            h, c, outputs[t] = h_next, c_next, h_next
        else:
            running = running_at(first_time + t, lengths)
            h, c = xp.where(running, h_next, h), xp.where(running, c_next, c)
            outputs[t] = xp.where(running, h_next, xp.zeros_like(h_next))
    return xp.stack(outputs), h, c, steps


def sequence_backward(
    steps: list[VariantStep],
    dy: Array | None,
    dh: Array,
    dc: Array,
    weights: Weights,
    options: Options,
    masks_at: MasksAt,
    lengths: Array | None,
    reverse: bool,
    gradient: Weights | None = None,
) -> tuple[Array, Weights, Array, Array]:
    """Backpropagation through the steps of `sequence`, weight gradients added up, onto ``gradient`` if there is one.

    Returns dx (time, batch, inputs), the weights' gradients, and dh and dc of the initial state.
    """
    xp = namespace(dh)
    dx: list[Array] = [dh] * len(steps)
    total = zero_gradient(weights) if gradient is None else gradient
    for t in reversed(times(len(steps), reverse)):
        saved, running = steps[t], None if lengths is None else running_at(t, lengths)
        dh_total, dc_total = (dh if dy is None else dh + dy[t, ...]), dc
        if running is not None:
            # A sequence that is over asks nothing of this step, and what stands in its padding must not get through.
            saved = VariantStep(*(_or_zero(running, field) for field in saved))
            dh_total, dc_total = _or_zero(running, dh_total), _or_zero(running, dc)
        found = step_backward(saved, dh_total, dc_total, weights, options, masks_at(t))
        dx[t] = found.dx
        dh = found.dh if running is None else xp.where(running, found.dh, dh)
        dc = found.dc if running is None else xp.where(running, found.dc, dc)
        total = Weights(*(None if a is None else a + b for a, b in zip(total, found.weights, strict=True)))
    return xp.stack(dx), total, dh, dc


def _or_zero(running: Array, value: Any) -> Any:
    """``value``, an array or a tuple of arrays with the batch first, with zero where a sequence is over."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return type(value)(*(_or_zero(running, part) for part in value))
    xp = namespace(value)
    return xp.where(running, value, xp.zeros_like(value))
