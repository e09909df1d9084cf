"""Layers x directions over `gpulstm.equations`, for every array-API library: nothing is written in place.

It does what `gpulstm.stack` does, with the same arguments but for the engine, so that a library's own automatic
differentiation and compiler see nothing but its own operations.
"""

from typing import Any, NamedTuple

from . import equations
from .arrays import Array, namespace, zeros
from .checkpoints import CheckpointedRun
from .masks import Draws
from .parameters import Layout, State, Weights
from .variant_sequence import VariantRun


class Saved(NamedTuple):
    """What `backward` needs."""

    layout: Layout
    x: Array
    runs: list[tuple]  # (run, steps) per layer and direction
    lengths: Array | None
    draws: Draws


def forward(
    layout: Layout,
    weights: list[Weights],
    x: Array,
    initial: State | None,
    lengths: Array | None,
    draws: Draws,
    plain: bool,
    *,
    keep: bool = True,
    checkpoint_every: int | None = None,
) -> tuple[Array, State, Saved]:
    """Output, final state and what `backward` needs; that is nothing of use unless ``keep``."""
    xp = namespace(x)
    if lengths is not None:
        # A nan in the padding would reach the gradients of automatic differentiation as 0 * nan.
        running = xp.stack([equations.running_at(t, lengths) for t in range(x.shape[0])])  # (time, batch, 1)
        x = xp.where(running, x, xp.zeros_like(x))
    if initial is None:
        initial = State(*(zeros(shape, x) for shape in layout.state_shapes(x.shape[1])))
    runs: list[tuple] = []
    inputs = x
    h_final, c_final = [], []
    for layer in range(layout.num_layers):
        outputs = []
        for direction, index, reverse in _directions(layout, layer, draws):
            run = _run(weights[index], draws, 2 * layer + direction, plain, checkpoint_every)
            y, h, c, steps = run.forward(x, initial.h[index, ...], initial.c[index, ...], lengths, reverse, keep=keep)
            outputs.append(y)
            h_final.append(h)
            c_final.append(c)
            runs.append((run, steps))
        y = xp.concat(outputs, axis=-1)
        mask = None if layer == layout.num_layers - 1 else draws.between(layer, tuple(y.shape), y)
        x = y if mask is None else y * mask
    return y, State(xp.stack(h_final), xp.stack(c_final)), Saved(layout, inputs, runs, lengths, draws)


def backward(
    saved: Saved, dy: Array | None, dstate: tuple[Array | None, Array | None]
) -> tuple[Array, list[Weights], State]:
    """Gradients of the input, of each layer's and direction's weights, and of the initial state."""
    layout, like, runs, lengths, draws = saved
    xp = namespace(like)
    shapes = layout.state_shapes(like.shape[1])
    dfinal = [zeros(shape, like) if d is None else d for shape, d in zip(shapes, dstate, strict=True)]
    gradients: list[Any] = [None] * len(runs)
    dh_initial: list[Any] = [None] * len(runs)
    dc_initial: list[Any] = [None] * len(runs)
    for layer in reversed(range(layout.num_layers)):
        dx_parts = []
        for direction, index, reverse in _directions(layout, layer, draws):
            columns = slice(direction * layout.width, (direction + 1) * layout.width)
            run, steps = runs[index]
            dh, dc = (d[index, ...] for d in dfinal)
            dx, gradient, dh_initial[index], dc_initial[index] = run.backward(
                steps, None if dy is None else dy[..., columns], dh, dc, lengths, reverse
            )
            gradients[index] = run.finish_gradient(gradient)
            dx_parts.append(dx)
        dy = sum(dx_parts[1:], start=dx_parts[0])
        mask = None if layer == 0 else draws.between(layer - 1, tuple(dy.shape), dy)
        dy = dy if mask is None else dy * mask
    return dy, gradients, State(xp.stack(dh_initial), xp.stack(dc_initial))


class _PlainRun:
    """One layer in one direction by `equations`, with the methods of `VariantRun`."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def forward(
        self, x: Array, h: Array, c: Array, lengths: Array | None, reverse: bool, *, keep: bool = True
    ) -> tuple:
        return equations.sequence(x, h, c, self.weights, lengths, reverse, keep=keep)

    def backward(
        self,
        steps: list,
        dy: Array | None,
        dh: Array,
        dc: Array,
        lengths: Array | None,
        reverse: bool,
        gradient: Weights | None = None,
    ) -> tuple:
        return equations.sequence_backward(steps, dy, dh, dc, self.weights, lengths, reverse, gradient)

    def finish_gradient(self, gradient: Weights) -> Weights:
        return gradient


def _run(weights: Weights, draws: Draws, stream: int, plain: bool, checkpoint_every: int | None) -> Any:
    def run_from(first_time: int) -> _PlainRun | VariantRun:
        return _PlainRun(weights) if plain else VariantRun(weights, draws, stream, first_time)

    return run_from(0) if checkpoint_every is None else CheckpointedRun(run_from, checkpoint_every)


def _directions(layout: Layout, layer: int, draws: Draws) -> list[tuple[int, int, bool]]:
    """(direction, index into state and weights, whether it reads from the end) of a layer's directions."""
    first = layer * layout.directions
    return [(each, first + each, each == 1 or draws.options.reverse) for each in range(layout.directions)]
