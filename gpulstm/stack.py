"""Layers x directions over an engine that works in place: NumPy and CuPy.

Each layer's output (time, batch, directions * hidden) is one buffer; each direction writes its own columns of it, so
nothing is concatenated. `gpulstm.array_api_stack` is the same for libraries whose arrays cannot be written to.
"""

from collections.abc import Iterator
from functools import lru_cache
from operator import getitem
from typing import Any, NamedTuple

from . import arrays
from .arrays import Array
from .engines import Lane
from .masks import Draws
from .parameters import Layout, State, Weights
from .warm_steps import Layers

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
    weights, x = _contiguous_weights(engine, weights), engine.contiguous(x)
    forward_from, part = getattr(engine, "forward_from", None), getattr(engine, "part", getitem)
    if forward_from is None:
        final = _state(engine, layout, x, initial)
    else:
        of_h, of_c = layout.state_shapes(x.shape[1])
        final = State(engine.empty(of_h, x), engine.wide_empty(of_c, x))
        initial = initial and State(*map(engine.contiguous, initial))
    steps, batch, _ = x.shape
    inputs: list[Array] = []
    runs: list[Any] = []
    layer_input = x if lengths is None else engine.without_padding(x, lengths)
    if run_layers := getattr(engine, "forward_layers", None):
        lanes_of_stack = _lanes_of_stack(layout, draws.options.reverse)
        if done := run_layers(layer_input, weights, initial, *final, lanes_of_stack, lengths):
            runs, (*between, y) = done
            inputs = [layer_input, *between]
            return y, _rounded(engine, final, x), Saved(engine, layout, weights, inputs, runs, lengths, draws)
    for layer in range(layout.num_layers):
        y = engine.empty((steps, batch, layout.output_size), x)
        lanes = _lanes(layout, layer, draws.options.reverse)
        if run_both := _run_both(engine, "forward_both", layout):
            (h, c), of_both = _pairs(lanes, *final), [lane for _, lane in lanes]
            pairs_before = [initial and (initial.h[index], initial.c[index]) for index, _ in lanes]
            if done := run_both(layer_input, *_pairs(lanes, weights), pairs_before, h, c, y, of_both, lengths):
                runs += done
                lanes = ()
        for index, lane in lanes:
            h, c = part(final.h, index), part(final.c, index)
            if forward_from is None:
                runs.append(engine.forward(layer_input, weights[index], h, c, y, lane, lengths))
            else:
                before = initial and (part(initial.h, index), part(initial.c, index))
                runs.append(forward_from(layer_input, weights[index], before, h, c, y, lane, lengths))
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
    part = getattr(engine, "part", getitem)
    dstate = _gradient_state(engine, layout, saved.inputs[0], dstate)
    gradients: list[Any] = [None] * len(saved.runs)
    begun: list[Any] = []  # of all layers, if they might have run side by side
    dy = None if dy is None else engine.contiguous(dy)
    if run_layers := getattr(engine, "backward_layers", None):
        x, lanes_of_stack = saved.inputs[0], _lanes_of_stack(layout, saved.draws.options.reverse)
        begun = [engine.start_gradient(*each) for each in zip(saved.inputs, saved.weights, lanes_of_stack, strict=True)]
        of_all = saved.runs, saved.inputs, saved.weights, dy, *dstate
        if (dx := run_layers(*of_all, lanes_of_stack, lengths, begun)) is not None:
            return dx, _finished(engine, begun, lanes_of_stack, x), _rounded(engine, dstate, x)
    for layer in reversed(range(layout.num_layers)):
        x = saved.inputs[layer]
        dx = engine.empty(x.shape, x)
        lanes, started, done = _lanes(layout, layer, saved.draws.options.reverse), dict(enumerate(begun)), False
        if run_both := _run_both(engine, "backward_both", layout):
            started = {index: engine.start_gradient(x, saved.weights[index], lane) for index, lane in lanes}
            runs, weights, dh, dc = _pairs(lanes, saved.runs, saved.weights, *dstate)
            of_both = [lane for _, lane in lanes]
            done = run_both(runs, x, weights, dy, dh, dc, dx, of_both, lengths, list(started.values()))
        for index, lane in lanes:
            gradient = started[index] if started else engine.start_gradient(x, saved.weights[index], lane)
            if not done:
                engine.backward(
                    saved.runs[index],
                    x,
                    saved.weights[index],
                    dy,
                    part(dstate.h, index),
                    part(dstate.c, index),
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


def _finished(engine: Engine, gradients: list[Any], lanes: list[Lane], x: Array) -> list[Weights]:
    """The weights' gradients of one direction's layers as they are handed out."""
    finished = (engine.finish_gradient(*each) for each in zip(gradients, lanes, strict=True))
    return [Weights(*(None if w is None else engine.rounded(w, x) for w in each)) for each in finished]


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
    if steps == 1 and lengths is None and hasattr(engine, "takes_one_step") and engine.takes_one_step(x, batch):
        return infer_one_step(engine, layout, weights, x, initial)
    weights = _contiguous_weights(engine, weights)
    final = _state(engine, layout, x, initial)
    y = engine.empty((steps, batch, layout.output_size), x)
    tile_steps, tile_batch = tile(layout, steps, batch, x.dtype.itemsize, engine.GATE_BUFFER_BYTES)
    if (tile_steps, tile_batch) == (steps, batch):
        _infer_in_one_piece(engine, layout, weights, engine.contiguous(x), final, y, lengths, reverse)
        return y, _rounded(engine, final, x)
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
    run_layers = getattr(engine, "inference_layers", None) if tile_batch == batch else None
    for t, n in _tiles(steps, batch, tile_steps, tile_batch, reverse):
        source = engine.contiguous(x[t, n])
        if run_layers:
            gates = scratch[: len(source) * batch * 4 * layout.hidden_size].reshape(len(source), batch, -1)
            lanes, in_time = _lanes_of_stack(layout, reverse), (t.start, steps)
            if run_layers(source, weights, *final, y[t], lanes, gates, lengths, *in_time):
                continue
        for layer in range(layout.num_layers):
            last = layer == layout.num_layers - 1
            target = y[t, n] if last else between[layer % 2][: t.stop - t.start, : n.stop - n.start]
            run(source, target, layer, Lane(0, layout.width, reverse, 2 * layer), t, n)
            source = target
    return y, _rounded(engine, final, x)


def infer_one_step(
    engine: Engine, layout: Layout, weights: list[Weights], x: Array, initial: State | tuple[Array, Array] | None
) -> tuple[Array, State]:
    """`inference` of one step by an engine that needs no buffers for it, and no copy of the state.

    The axes may be the caller's: x (time, batch, inputs), (batch, time, inputs) or without a batch (time, inputs), with
    a time of 1; the state (layers * directions, batch, features) or without a batch.
    """
    source, weights = engine.contiguous(x), _contiguous_weights(engine, weights)
    before = None if initial is None else (engine.contiguous(initial[0]), engine.contiguous(initial[1]))
    of_state, layers = shapes_of_one_step(layout, weights, x.shape)
    after = State(*(engine.empty(shape, x) for shape in of_state))
    for of_y, directions in layers:
        target = engine.empty(of_y, x)
        for index, lane, of_lane in directions:
            engine.one_step(source, of_lane, before, index, target, lane, after)
        source = target
    return source, after


def shapes_of_one_step(layout: Layout, weights: list[Weights], shape: tuple[int, ...]) -> tuple[tuple, Layers]:
    """Shapes of h and c, and what each layer's directions are, of a single step for x of this shape."""
    of_y = (*shape[:-1], layout.output_size)
    layers: Layers = []
    for layer in range(layout.num_layers):
        lanes = _lanes(layout, layer, False)  # which end a sequence is read from makes no difference
        layers.append((of_y, [(index, lane, weights[index]) for index, lane in lanes]))
    return layout.shapes_of_state(None if len(shape) == 2 else shape[0] * shape[1]), layers


def _infer_in_one_piece(
    engine: Engine,
    layout: Layout,
    weights: list[Weights],
    source: Array,
    final: State,
    y: Array,
    lengths: Array | None,
    reverse: bool,
) -> None:
    """Inference where the gates of all steps fit into the buffer: nothing is cut, and every view left out costs less
    time than a small layer takes."""
    gates = engine.empty((*source.shape[:2], 4 * layout.hidden_size), source)
    run_both = _run_both(engine, "inference_both", layout) if 2 * gates.nbytes <= engine.GATE_BUFFER_BYTES else None
    if run_layers := getattr(engine, "inference_layers", None):
        in_time = 0, len(source)
        if run_layers(source, weights, *final, y, _lanes_of_stack(layout, reverse), gates, lengths, *in_time):
            return
    part = getattr(engine, "part", getitem)
    between = [y, engine.empty(y.shape, y) if layout.num_layers > 1 else None]
    for layer in range(layout.num_layers):
        target = between[(layout.num_layers - 1 - layer) % 2]  # the last layer's is y
        lanes = _lanes(layout, layer, reverse)
        if run_both:
            of_both = [lane for _, lane in lanes]
            if run_both(source, *_pairs(lanes, weights, *final), target, of_both, gates, lengths):
                lanes = ()
        for index, lane in lanes:
            h, c = part(final.h, index), part(final.c, index)
            engine.inference(source, weights[index], h, c, target, lane, gates, lengths, 0)
        source = target


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


def _lanes(layout: Layout, layer: int, reverse: bool) -> tuple[tuple[int, Lane], ...]:
    """(index into state and weights, lane) of a layer's directions; ``reverse`` is for a single one."""
    return _lanes_of(layout.width, layout.bidirectional, layer, reverse)


@lru_cache(maxsize=1024)  # every call of every layer asks
def _lanes_of(width: int, bidirectional: bool, layer: int, reverse: bool) -> tuple[tuple[int, Lane], ...]:
    if not bidirectional:
        return ((layer, Lane(0, width, reverse, 2 * layer)),)
    return tuple((2 * layer + d, Lane(d * width, width, d == 1, 2 * layer + d)) for d in (0, 1))


def _lanes_of_stack(layout: Layout, reverse: bool) -> list[Lane]:
    """Those of the only direction, layer by layer."""
    return [_lanes(layout, layer, reverse)[0][1] for layer in range(layout.num_layers)]


def _run_both(engine: Engine, name: str, layout: Layout) -> Any:
    """What runs both directions of a layer at the same time, where it has two and the engine may; else None."""
    return getattr(engine, name, None) if layout.bidirectional else None


def _pairs(lanes: tuple[tuple[int, Lane], ...], *of_all: Any) -> list[list]:
    """Those of one layer's directions, of each of what is there for every layer and direction."""
    return [[each[index] for index, _ in lanes] for each in of_all]


def _contiguous_weights(engine: Engine, weights: list[Weights]) -> list[Weights]:
    """Copies only what is not C-contiguous already: the kernels and cuBLAS know no other layout."""
    return [w if _are_contiguous(w) else _made_contiguous(engine, w) for w in weights]


def _are_contiguous(weights: Weights) -> bool:
    for array in weights:
        if array is not None and not array.flags.c_contiguous:
            return False
    return True


def _made_contiguous(engine: Engine, weights: Weights) -> Weights:
    return Weights(*(None if a is None else engine.contiguous(a) for a in weights))


def _state(engine: Engine, layout: Layout, x: Array, initial: State | None) -> State:
    """The state that the engines update in place: a copy of the initial one, or zeros. c stays wide to the end, so that
    it is rounded no more often where time is cut into parts."""
    of_h, of_c = layout.state_shapes(x.shape[1])
    h, c = initial or (None, None)
    return State(_begun(engine, engine.zeros, of_h, x, h), _begun(engine, engine.wide_zeros, of_c, x, c))


def _begun(engine: Engine, zeros: Any, shape: tuple[int, ...], like: Array, given: Array | None) -> Array:
    """What is updated in place: a copy of ``given`` in the dtype of ``zeros``, or these if it is None."""
    if given is not None and given.dtype.itemsize > 2:  # then both dtypes are like's
        return arrays.copied(given)
    target = zeros(shape, like)
    if given is not None:
        engine.assign(target, given)
    return target


def _rounded(engine: Engine, state: State, like: Array) -> State:
    """The state in like's dtype, as it is handed out."""
    return State(*(engine.rounded(part, like) for part in state))


def _gradient_state(engine: Engine, layout: Layout, like: Array, dstate: tuple[Array | None, Array | None]) -> State:
    """The final state's gradients, which the engines turn into the initial state's in place."""
    shapes = layout.state_shapes(like.shape[1])
    dh, dc = (
        _begun(engine, engine.wide_zeros, shape, like, given) for shape, given in zip(shapes, dstate, strict=True)
    )
    return State(dh, dc)
