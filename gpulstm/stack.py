"""Layers x directions over an engine that works in place: NumPy and CuPy.

Each layer's output (time, batch, directions * hidden) is one buffer; each direction writes its own columns of it, so
nothing is concatenated. `gpulstm.array_api_stack` is the same for libraries whose arrays cannot be written to.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .arrays import Array
from .engines import Lane
from .masks import Draws
from .parameters import Layout, State, Weights

Engine = Any
"""A module or an object with the functions that `gpulstm.engines` lists."""


class Saved(NamedTuple):
    """What `backward` needs, layer by layer and direction by direction."""

    engine: Engine
    layout: Layout
    weights: list[Weights]
    inputs: list[Array]  # per layer: (time, batch, inputs)
    runs: list  # what the engine saved, per layer and direction
    lengths: Array | None
    draws: Draws


def forward(
    engine: Engine,
    layout: Layout,
    weights: list[Weights],
    x: Array,
    initial: State | None,
    lengths: Array | None,
    draws: Draws,
) -> tuple[Array, State, Saved]:
    """Training: output, final state and what `backward` needs."""
    weights, x, initial = _contiguous(engine, weights, x, initial)
    final = _state(engine, layout, x, initial)
    steps, batch, _ = x.shape
    inputs, runs = [], []
    layer_input = x if lengths is None else engine.without_padding(x, lengths)
    for layer in range(layout.num_layers):
        y = engine.empty((steps, batch, layout.output_size), x)
        for index, lane in _lanes(layout, layer, draws.options.reverse):
            h, c = final.h[index], final.c[index]
            runs.append(engine.forward(layer_input, weights[index], h, c, y, lane, lengths))
        inputs.append(layer_input)
        layer_input = y if layer == layout.num_layers - 1 else engine.dropped(y, draws, layer)
    return y, _rounded(engine, final, x), Saved(engine, layout, weights, inputs, runs, lengths, draws)


def backward(
    saved: Saved, dy: Array | None, dstate: tuple[Array | None, Array | None]
) -> tuple[Array, list[Weights], State]:
    """Gradients of the input, of each layer's and direction's weights, and of the initial state.

    ``dstate`` is a pair of arrays or None for the final state's gradients.
    """
    engine, layout, lengths = saved.engine, saved.layout, saved.lengths
    dstate = _gradient_state(engine, layout, saved.inputs[0], dstate)
    gradients: list[Any] = [None] * len(saved.runs)
    dy = None if dy is None else engine.contiguous(dy)
    for layer in reversed(range(layout.num_layers)):
        x = saved.inputs[layer]
        dx = engine.empty(x.shape, x)
        for index, lane in _lanes(layout, layer, saved.draws.options.reverse):
            gradient = engine.start_gradient(x, saved.weights[index], lane)
            engine.backward(
                saved.runs[index],
                x,
                saved.weights[index],
                dy,
                dstate.h[index],
                dstate.c[index],
                dx,
                index % layout.directions > 0,  # the second direction adds to what the first one left
                lane,
                lengths,
                gradient,
            )
            finished = engine.finish_gradient(gradient, lane)
            gradients[index] = Weights(*(None if w is None else engine.rounded(w, x) for w in finished))
        dy = dx if layer == 0 else engine.dropped(dx, saved.draws, layer - 1)
    return dy, gradients, _rounded(engine, dstate, saved.inputs[0])


def inference(
    engine: Engine,
    layout: Layout,
    weights: list[Weights],
    x: Array,
    initial: State | None,
    lengths: Array | None,
    reverse: bool = False,
) -> tuple[Array, State]:
    """Output and final state alone. Beyond x, y and the state it needs one gate buffer of bounded size.

    Layers of one direction pass a stretch of time from layer to layer before the next stretch, so what lies between
    layers is bounded too. A bidirectional layer needs the whole of the layer below: there it is one more y.
    """
    steps, batch, _ = x.shape
    weights, _, initial = _contiguous(engine, weights, None, initial)
    final = _state(engine, layout, x, initial)
    y = engine.empty((steps, batch, layout.output_size), x)
    tile_steps, tile_batch = tile(layout, steps, batch, x.dtype.itemsize, engine.GATE_BUFFER_BYTES)
    scratch = engine.empty((tile_steps * tile_batch * 4 * layout.hidden_size,), x)

    def run(source: Array, target: Array, index: int, lane: Lane, t: slice, n: slice) -> None:
        shape = (t.stop - t.start, n.stop - n.start, 4 * layout.hidden_size)
        gates = scratch[: shape[0] * shape[1] * shape[2]].reshape(shape)
        of_tile = None if lengths is None else lengths[n]
        h, c = final.h[index][n], final.c[index][n]
        engine.inference(source, weights[index], h, c, target, lane, gates, of_tile, t.start)

    if layout.bidirectional:
        between = [y, engine.empty(y.shape, y) if layout.num_layers > 1 else None]
        source = x
        for layer in range(layout.num_layers):
            target = between[(layout.num_layers - 1 - layer) % 2]  # the last layer's is y
            for index, lane in _lanes(layout, layer, reverse):
                for t, n in _tiles(steps, batch, tile_steps, tile_batch, lane.reverse):
                    run(engine.contiguous(source[t, n]), target[t, n], index, lane, t, n)
            source = target
        return y, _rounded(engine, final, x)

    between = [engine.empty((tile_steps, tile_batch, layout.width), x) for _ in range(min(layout.num_layers - 1, 2))]
    for t, n in _tiles(steps, batch, tile_steps, tile_batch, reverse):
        source = engine.contiguous(x[t, n])
        for layer in range(layout.num_layers):
            last = layer == layout.num_layers - 1
            target = y[t, n] if last else between[layer % 2][: t.stop - t.start, : n.stop - n.start]
            run(source, target, layer, Lane(0, layout.width, reverse, 2 * layer), t, n)
            source = target
    return y, _rounded(engine, final, x)


def tile(layout: Layout, steps: int, batch: int, itemsize: int, limit: int) -> tuple[int, int]:
    """(steps, sequences) of gates that stay within ``limit`` bytes: many steps of the whole batch, or where one step
    alone is larger, a part of the batch for one step. Either way the rows of a tile follow each other in memory."""
    row = 4 * layout.hidden_size * itemsize
    if batch * row <= limit:
        return min(steps, limit // (batch * row)), batch
    return 1, max(1, limit // row)


def _tiles(steps: int, batch: int, tile_steps: int, tile_batch: int, reverse: bool) -> Iterator[tuple[slice, slice]]:
    """(time, batch) slices in the order in which a direction needs them."""
    for first in range(0, steps, tile_steps)[:: -1 if reverse else 1]:
        for n in range(0, batch, tile_batch):
            yield slice(first, min(first + tile_steps, steps)), slice(n, min(n + tile_batch, batch))


def _lanes(layout: Layout, layer: int, reverse: bool) -> Iterator[tuple[int, Lane]]:
    """(index into state and weights, lane) of a layer's directions; ``reverse`` is for a single one."""
    for direction in range(layout.directions):
        lane = Lane(direction * layout.width, layout.width, reverse or direction == 1, 2 * layer + direction)
        yield layer * layout.directions + direction, lane


def _contiguous(engine: Engine, weights: list[Weights], x: Array | None, initial: State | None):
    """Copies only what is not C-contiguous already: the kernels and cuBLAS know no other layout."""
    weights = [Weights(*(None if a is None else engine.contiguous(a) for a in w)) for w in weights]
    x = None if x is None else engine.contiguous(x)
    initial = None if initial is None else State(*(engine.contiguous(a) for a in initial))
    return weights, x, initial


def _state(engine: Engine, layout: Layout, x: Array, initial: State | None) -> State:
    """The state that the engines update in place: a copy of the initial one, or zeros. c stays wide to the end, so that
    it is rounded no more often where time is cut into parts."""
    of_h, of_c = layout.state_shapes(x.shape[1])
    state = State(engine.zeros(of_h, x), engine.wide_zeros(of_c, x))
    if initial is not None:
        for target, given in zip(state, initial, strict=True):
            engine.assign(target, given)
    return state


def _rounded(engine: Engine, state: State, like: Array) -> State:
    """The state in like's dtype, as it is handed out."""
    return State(*(engine.rounded(part, like) for part in state))


def _gradient_state(engine: Engine, layout: Layout, like: Array, dstate: tuple[Array | None, Array | None]) -> State:
    """The final state's gradients, which the engines turn into the initial state's in place."""
    state = State(*(engine.wide_zeros(shape, like) for shape in layout.state_shapes(like.shape[1])))
    for target, given in zip(state, dstate, strict=True):
        if given is not None:
            engine.assign(target, given)
    return state
