"""Layers x directions over `gpulstm.equations`, for every array-API library: nothing is written in place.

It does what `gpulstm.stack` does, with the same arguments but for the engine, so that a library's own automatic
differentiation and compiler see nothing but its own operations.
"""

from typing import Any, NamedTuple

from . import equations
from .arrays import Array, namespace, zeros
from .parameters import Layout, State, Weights


class Saved(NamedTuple):
    """What `backward` needs."""

    layout: Layout
    weights: list[Weights]
    runs: list[list[equations.Step]]  # per layer and direction
    lengths: Array | None


def forward(
    layout: Layout,
    weights: list[Weights],
    x: Array,
    initial: State | None,
    lengths: Array | None,
    *,
    keep: bool = True,
) -> tuple[Array, State, Saved]:
    """Output, final state and what `backward` needs; that is nothing of use unless ``keep``."""
    xp = namespace(x)
    if lengths is not None:
        # A nan in the padding would reach the gradients of automatic differentiation as 0 * nan.
        running = xp.stack([equations.running_at(t, lengths) for t in range(x.shape[0])])  # (time, batch, 1)
        x = xp.where(running, x, xp.zeros_like(x))
    if initial is None:
        zero = zeros((layout.num_layers * layout.directions, x.shape[1], layout.hidden_size), x)
        initial = State(zero, zero)
    runs: list[list[equations.Step]] = []
    h_final, c_final = [], []
    for layer in range(layout.num_layers):
        outputs = []
        for index, reverse in _directions(layout, layer):
            y, h, c, steps = equations.sequence(
                x, initial.h[index, ...], initial.c[index, ...], weights[index], lengths, reverse, keep=keep
            )
            outputs.append(y)
            h_final.append(h)
            c_final.append(c)
            runs.append(steps)
        x = xp.concat(outputs, axis=-1)
    return x, State(xp.stack(h_final), xp.stack(c_final)), Saved(layout, weights, runs, lengths)


def backward(
    saved: Saved, dy: Array | None, dstate: tuple[Array | None, Array | None]
) -> tuple[Array, list[Weights], State]:
    """Gradients of the input, of each layer's and direction's weights, and of the initial state."""
    layout, weights, runs, lengths = saved
    like = runs[0][0].h_previous
    xp = namespace(like)
    gradients: list[Any] = [None] * len(runs)
    dh_initial: list[Any] = [None] * len(runs)
    dc_initial: list[Any] = [None] * len(runs)
    for layer in reversed(range(layout.num_layers)):
        dx_parts = []
        for index, reverse in _directions(layout, layer):
            columns = slice(reverse * layout.hidden_size, (reverse + 1) * layout.hidden_size)
            dh, dc = (xp.zeros_like(like) if d is None else d[index, ...] for d in dstate)
            dx, gradients[index], dh_initial[index], dc_initial[index] = equations.sequence_backward(
                runs[index], None if dy is None else dy[..., columns], dh, dc, weights[index], lengths, reverse
            )
            dx_parts.append(dx)
        dy = sum(dx_parts[1:], start=dx_parts[0])
    return dy, gradients, State(xp.stack(dh_initial), xp.stack(dc_initial))


def _directions(layout: Layout, layer: int) -> list[tuple[int, bool]]:
    """(index into state and weights, reverse) of a layer's directions."""
    first = layer * layout.directions
    return [(first + direction, direction == 1) for direction in range(layout.directions)]
