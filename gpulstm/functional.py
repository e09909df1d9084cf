"""The LSTM as functions of its parameters: check the arguments, hand over to an engine.

NumPy and CuPy arrays go through `gpulstm.stack` and their engine, all others through `gpulstm.array_api_stack`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import array_api_stack, arrays, checkpoints, engine_choice, initialisers, plans, quick_checks, stack
from . import lengths as lengths_module
from .arrays import Array
from .cuda import planner
from .engines import cupy_engine
from .masks import Draws
from .options import PLAIN, Options, as_options, refuse_tf32, refuse_two_reverses
from .parameters import Layout, State
from .warm_steps import WarmSteps


@dataclass
class Cache:
    """What one forward pass hands to its backward pass. Opaque, and good for one use."""

    layout: Layout
    saved: Any  # of the stack that ran; None where there was nothing to compute
    x: Array  # (time, batch, inputs)
    params: Mapping[str, Array]
    batched: bool
    batch_first: bool
    used: bool = False


class _Call(NamedTuple):
    """Checked arguments, time first and with a batch axis."""

    layout: Layout
    x: Array
    initial: State | None
    lengths: Array | None
    batched: bool
    draws: Draws

    @property
    def is_plain(self) -> bool:
        """Whether every step is the plain LSTM's."""
        return engine_choice.is_plain(self.layout, self.draws)

    def engine(self, *, backward: bool) -> Any:
        """The in-place engine for x's library, or None: then the equations run as they stand."""
        if not (arrays.is_numpy(self.x) or arrays.is_cupy(self.x)):
            return None
        return engine_choice.engine_for(self.layout, self.x, self.draws, backward=backward)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute. Other libraries run their operations on no sequence as well: their
        automatic differentiation must find a way from the results to the parameters."""
        steps, batch, _ = self.x.shape
        return not steps or (not batch and (arrays.is_numpy(self.x) or arrays.is_cupy(self.x)))


def lstm_forward(
    x: Array,
    params: Mapping[str, Array],
    state: State | tuple[Array, Array] | None = None,
    *,
    lengths: Any = None,
    batch_first: bool = False,
    options: Options | Mapping[str, Any] = PLAIN,
    rng: Any = None,
    checkpoint_every: int | None = None,
) -> tuple[Array, State, Cache]:
    """Runs an LSTM for training.

    Parameters
    ----------
    x : (time, batch, inputs), or (batch, time, inputs) with ``batch_first``, or (time, inputs).
    params : parameters as `LSTM.params` names them; the number of layers and directions is read off the names.
    state : ``(h, c)``, each (layers * directions, batch, hidden); None is zeros. Without a batch axis in x there is
        none here either. Both have x's dtype, here and where they come back. Of 16 bits, c is float32 in between, and
        is rounded where it is handed out.
    lengths : (batch,) integers, the time steps of each sequence, in any order, 0 allowed. Outputs past a sequence's
        end are zero, its final state is the one at its own last step, the reverse direction starts at its own end.
    options : what `LSTM` takes beyond sizes, such as ``{"zoneout": 0.1}`` or ``{"tf32": True}``.
    rng : seed below 2^64 or numpy Generator for the random masks of training; None draws a fresh seed.
    checkpoint_every : keep only the states of every so many steps, and compute the rest again in the backward pass:
        less memory for a second forward pass, and the same gradients to the bit (but on a GPU for a stack whose layers
        would run side by side, those of peepholes, and with layer norm). NumPy and CuPy round it up to a multiple of
        the window in which they add up gradients: 128 steps, on a GPU more for fewer than 64 sequences.

    Returns
    -------
    y : (time, batch, directions * hidden), laid out as x is.
    state : `State`, the final h and c.
    cache : for `lstm_backward`, once. It refers to x, y and params: do not write to them before.

    Raises TypeError or ValueError that names the argument, what was expected and what came.
    Equations: `gpulstm.equations`, and with options `gpulstm.variants`.
    """
    options = as_options(options)
    draws = Draws(options, initialisers.seed_for(options.is_random, rng))
    return forward(None, x, params, state, lengths, batch_first, draws, checkpoint_every)


def forward(
    layout: Layout | None,
    x: Array,
    params: Mapping[str, Array],
    state: Any,
    lengths: Any,
    batch_first: bool,
    draws: Draws,
    checkpoint_every: Any = None,
) -> tuple[Array, State, Cache]:
    """`lstm_forward` with the layout that ``params`` must have; None reads it off them."""
    every = checkpoints.checked(checkpoint_every)
    call = _check(layout, x, params, state, lengths, batch_first, draws)
    weights = call.layout.weights(params)
    saved: Any = None
    with arrays.on_device_of(x):
        if call.is_empty:
            y, final = _nothing(call)
        elif (engine := call.engine(backward=True)) is None:
            y, final, saved = array_api_stack.forward(
                call.layout,
                weights,
                call.x,
                call.initial,
                call.lengths,
                call.draws,
                call.is_plain,
                checkpoint_every=every,
            )
        else:
            engine = engine if every is None else checkpoints.CheckpointedEngine(engine, every)
            y, final, saved = stack.forward(
                engine, call.layout, weights, call.x, call.initial, call.lengths, call.draws
            )
    cache = Cache(call.layout, saved, call.x, params, call.batched, batch_first)
    return _outward(y, call.batched, batch_first), _state_outward(final, call.batched), cache


def lstm_inference(
    x: Array,
    params: Mapping[str, Array],
    state: State | tuple[Array, Array] | None = None,
    *,
    lengths: Any = None,
    batch_first: bool = False,
    options: Options | Mapping[str, Any] = PLAIN,
) -> tuple[Array, State]:
    """`lstm_forward` without cache and randomness: no dropout, and zoneout mixes old and new state by its probability.
    On NumPy and CuPy arrays memory beyond x and y stays bounded; others collect the outputs and join them last."""
    return inference(None, x, params, state, lengths, batch_first, Draws(as_options(options), None))


def inference(
    layout: Layout | None,
    x: Array,
    params: Mapping[str, Array],
    state: Any,
    lengths: Any,
    batch_first: bool,
    draws: Draws,
    warm: WarmSteps | None = None,
) -> tuple[Array, State]:
    """`lstm_inference` with the layout that ``params`` must have; None reads it off them. ``warm`` gets what a single
    step leaves for the next one of the same layer."""
    if lengths is None and layout and quick_checks.is_one_step(layout, x, params, state, batch_first, draws.options):
        weights = layout.weights(params)
        if warm is not None:
            of_state, layers = stack.shapes_of_one_step(layout, weights, x.shape)
            warm.keep(x, of_state, params, (layout, draws.options, batch_first), layers)
        return stack.infer_one_step(cupy_engine, layout, weights, x, state)
    call = _check(layout, x, params, state, lengths, batch_first, draws)
    weights = call.layout.weights(params)
    with arrays.on_device_of(x):
        if call.is_empty:
            y, final = _nothing(call)
        elif (engine := call.engine(backward=False)) is None:
            y, final, _ = array_api_stack.forward(
                call.layout, weights, call.x, call.initial, call.lengths, call.draws, call.is_plain, keep=False
            )
        else:
            y, final = stack.inference(
                engine, call.layout, weights, call.x, call.initial, call.lengths, call.draws.options.reverse
            )
    return _outward(y, call.batched, batch_first), _state_outward(final, call.batched)


def plan(
    layout: Layout, x: Array, params: Mapping[str, Array], batch_first: bool, draws: Draws, *, checkpoints: bool = False
) -> planner.Plan:
    """What would run each layer's time steps forward and back, and why; the same for all layers and directions."""
    return plans.of(_check(layout, x, params, None, None, batch_first, draws), checkpoints=checkpoints)


def lstm_backward(
    cache: Cache, dy: Array | None = None, dstate: State | tuple[Array | None, Array | None] | None = None
) -> tuple[Array, dict[str, Array], State]:
    """Backpropagation through time for one `lstm_forward`.

    ``dy`` is the gradient of y, ``dstate`` of the final state; either may be None, and so may each half of ``dstate``.

    Returns dx, a dict of gradients under the parameters' names, and the gradient of the initial state.
    Raises ValueError when the cache has been used before: its memory holds the gradients by then.
    """
    if not isinstance(cache, Cache):
        raise TypeError(f"cache must be that of y, state, cache = forward(x), got {type(cache).__name__}")
    if cache.used:
        raise ValueError("cache was used by an earlier backward, which works in its memory; run forward again")
    dy, dstate = _check_gradients(cache, dy, dstate)
    cache.used = True
    saved, cache.saved = cache.saved, None
    with arrays.on_device_of(cache.x):
        if saved is None:
            dx, gradients, dinitial = _no_gradients(cache, dstate)
        else:
            run = array_api_stack if isinstance(saved, array_api_stack.Saved) else stack
            dx, weights, dinitial = run.backward(saved, dy, dstate)
            gradients = cache.layout.named(weights)
    return _outward(dx, cache.batched, cache.batch_first), gradients, _state_outward(dinitial, cache.batched)


def _check(
    layout: Layout | None,
    x: Array,
    params: Mapping[str, Array],
    state: Any,
    lengths: Any,
    batch_first: bool,
    draws: Draws,
) -> _Call:
    if layout is not None and quick_checks.arguments_hold(layout, x, params, state, batch_first):
        refuse_two_reverses(layout, draws.options)
        if draws.options.tf32:
            refuse_tf32(draws.options, arrays.dtype_name(x))
        batched = x.ndim == 3
        initial = None
        if state is not None:
            initial = State(*state) if batched else State(*(s[:, None, :] for s in state))
    else:
        layout, batched, initial = _check_closely(layout, x, params, state, batch_first, draws)
    inward = _inward(x, batched, batch_first)
    steps = None if lengths is None else lengths_module.checked(lengths, inward, batched=batched)
    return _Call(layout, inward, initial, steps, batched, draws)


def _check_closely(
    layout: Layout | None, x: Array, params: Mapping[str, Array], state: Any, batch_first: bool, draws: Draws
) -> tuple[Layout, bool, State | None]:
    """The layout, whether there is a batch axis, and the initial state with one. Raises what `lstm_forward` says."""
    arrays.require_array("x", x)
    arrays.require_floating("x", x, half=True)
    if layout is None:
        layout = Layout.of(params)
    else:
        layout.check(params)
    refuse_two_reverses(layout, draws.options)
    arrays.check_library(x, params)
    _check_dtype_of_x(x, params)
    arrays.check_same({"x": x, **params})
    refuse_tf32(draws.options, arrays.dtype_name(x))
    if x.ndim not in (2, 3):
        axes = "(batch, time, inputs)" if batch_first else "(time, batch, inputs)"
        raise ValueError(f"x must have shape {axes}, or (time, inputs) without a batch, got {tuple(x.shape)}")
    if x.shape[-1] != layout.input_size:
        raise ValueError(
            f"x must have inputs = {layout.input_size} on its last axis as weight_ih_l0 has, got shape {tuple(x.shape)}"
        )
    batched = x.ndim == 3
    batch = _inward(x, batched, batch_first).shape[1]
    return layout, batched, _check_state("state", state, x, layout, batch, batched)


def _check_dtype_of_x(x: Array, params: Mapping[str, Array]) -> None:
    """The commonest mistake is a float64 input for float32 parameters: say it of x, not of the first parameter."""
    dtypes = {arrays.dtype_name(p) for p in params.values()}
    if len(dtypes) == 1 and arrays.dtype_name(x) not in dtypes:
        (wanted,) = dtypes
        raise TypeError(
            f"x must have the parameters' dtype {wanted}, got {arrays.dtype_name(x)}; nothing is cast silently, "
            f"so convert x, for example with .astype('{wanted}'), or make the parameters {arrays.dtype_name(x)}"
        )


def _check_state(name: str, state: Any, x: Array, layout: Layout, batch: int, batched: bool) -> State | None:
    """The pair (h, c) with a batch axis, or None."""
    if state is None:
        return None
    h, c = pair(name, state)
    if h is None or c is None:
        raise TypeError(f"{name} must have both h and c, got None for one; pass zeros, or None for the pair")
    arrays.check_same({"x": x, f"{name}.h": h, f"{name}.c": c})
    return State(
        _with_batch(f"{name}.h", h, layout, batch, batched), _with_batch(f"{name}.c", c, layout, batch, batched)
    )


def pair(name: str, state: Any) -> tuple[Any, Any]:
    """(h, c) as they came. Raises TypeError for anything but two."""
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        got = f"{len(state)} items" if isinstance(state, (tuple, list)) else arrays.describe(state)
        raise TypeError(f"{name} must be a pair (h, c), got {got}")
    return tuple(state)


def _with_batch(name: str, array: Array, layout: Layout, batch: int, batched: bool) -> Array:
    count, _, width = layout.state_shapes(batch)[name.endswith(".c")]
    shape = (count, batch, width) if batched else (count, width)
    if tuple(array.shape) != shape:
        size = "proj" if layout.proj_size and name.endswith(".h") else "hidden"
        words = f"(layers*directions, batch, {size})" if batched else f"(layers*directions, {size})"
        raise ValueError(f"{name} must have shape {words} = {shape}, got {tuple(array.shape)}")
    return array if batched else array[:, None, :]


def _check_gradients(cache: Cache, dy: Any, dstate: Any) -> tuple[Array | None, tuple[Array | None, Array | None]]:
    """Both gradients time first and with a batch axis."""
    steps, batch, _ = cache.x.shape
    middle = ((batch, steps) if cache.batch_first else (steps, batch)) if cache.batched else (steps,)
    shape = (*middle, cache.layout.output_size)
    if quick_checks.gradients_hold(cache.layout, cache.x, dy, shape, dstate, batch if cache.batched else None):
        dh, dc = (None, None) if dstate is None else dstate
        if not cache.batched:
            dh, dc = (None if d is None else d[:, None, :] for d in (dh, dc))
        return None if dy is None else _inward(dy, cache.batched, cache.batch_first), (dh, dc)
    if dy is not None:
        arrays.check_same({"x": cache.x, "dy": dy})
        if tuple(dy.shape) != shape:
            raise ValueError(f"dy must have y's shape {shape}, got {tuple(dy.shape)}")
        dy = _inward(dy, cache.batched, cache.batch_first)
    if dstate is None:
        return dy, (None, None)
    parts = []
    for part, array in zip(("h", "c"), pair("dstate", dstate), strict=True):
        if array is not None:
            arrays.check_same({"x": cache.x, f"dstate.{part}": array})
            array = _with_batch(f"dstate.{part}", array, cache.layout, batch, cache.batched)
        parts.append(array)
    return dy, (parts[0], parts[1])


def _inward(x: Array, batched: bool, batch_first: bool) -> Array:
    """(time, batch, features) from the caller's layout, as a view."""
    if not batched:
        return x[:, None, :]
    return _swap_first_axes(x) if batch_first else x


def _outward(y: Array, batched: bool, batch_first: bool) -> Array:
    """The caller's layout from (time, batch, features), as a view."""
    if not batched:
        return y[:, 0, :]
    return _swap_first_axes(y) if batch_first else y


def _swap_first_axes(x: Array) -> Array:
    if arrays.is_numpy(x) or arrays.is_cupy(x):
        return x.swapaxes(0, 1)
    return arrays.namespace(x).permute_dims(x, (1, 0, 2))


def _state_outward(state: State, batched: bool) -> State:
    return state if batched else State(state.h[:, 0, :], state.c[:, 0, :])


def _nothing(call: _Call) -> tuple[Array, State]:
    """No sequence or no time step: an empty output, and the state as it was."""
    steps, batch, _ = call.x.shape
    layout = call.layout
    if call.initial is None:
        final = State(*(arrays.zeros(shape, call.x) for shape in layout.state_shapes(batch)))
    else:
        final = State(call.initial.h + 0, call.initial.c + 0)
    return arrays.zeros((steps, batch, layout.output_size), call.x), final


def _no_gradients(cache: Cache, dstate: tuple[Array | None, Array | None]) -> tuple[Array, dict[str, Array], State]:
    """The backward of `_nothing`: the state's gradient passes through, everything else is zero."""
    layout = cache.layout
    shapes = layout.state_shapes(cache.x.shape[1])
    passed = zip(shapes, dstate, strict=True)
    dinitial = State(*(arrays.zeros(shape, cache.x) if d is None else d + 0 for shape, d in passed))
    gradients = {name: arrays.zeros(tuple(p.shape), p) for name, p in cache.params.items()}
    return arrays.zeros(tuple(cache.x.shape), cache.x), gradients, dinitial
