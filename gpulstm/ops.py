"""The LSTM's pieces as NumPy-like array functions, each followed by its backward.

NumPy arrays go through NumPy, CuPy arrays through one kernel launch each, other array-API libraries through their own
operations. ``out=`` receives the result and is returned; it has the result's shape, dtype and library, and may be the
input of that shape itself but must not overlap an input in any other way. Arrays with other strides than C's are
taken and given right, on a GPU at the price of a copy.

Gate order along a (..., 4*hidden) axis is input i, forget f, candidate g, output o. The slopes are written in the
functions' own values, so a backward needs what the forward returned, not what it was given.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array

__all__ = [
    "cell_update",
    "cell_update_backward",
    "gate_activations",
    "gate_activations_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
]


def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)) of every element, without overflow for any x."""
    named = {"x": x}
    return _one_result(named, _shape(named), out, "sigmoid", _sigmoid)


def sigmoid_backward(y: Array, dy: Array, *, out: Array | None = None) -> Array:
    """Gradient of `sigmoid`'s input: ``dy * y * (1 - y)`` where ``y = sigmoid(x)``."""
    named = {"y": y, "dy": dy}
    return _one_result(named, _shape(named), out, "sigmoid_backward", lambda y, dy: dy * (y * (1 - y)))


def tanh(x: Array, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent of every element."""
    named = {"x": x}
    return _one_result(named, _shape(named), out, "tanh_forward", lambda x: arrays.namespace(x).tanh(x))


def tanh_backward(y: Array, dy: Array, *, out: Array | None = None) -> Array:
    """Gradient of `tanh`'s input: ``dy * (1 - y * y)`` where ``y = tanh(x)``."""
    named = {"y": y, "dy": dy}
    return _one_result(named, _shape(named), out, "tanh_backward", lambda y, dy: dy * (1 - y * y))


def gate_activations(preactivations: Array, *, out: Array | None = None) -> Array:
    """The four activated gates: sigmoid for i, f and o, tanh for g.

    preactivations : (..., 4*hidden), ``W_ih x + W_hh h + b``.
    """
    named = {"preactivations": preactivations}
    hidden = _hidden_of("preactivations", preactivations)

    def twin(a: Array) -> Array:
        xp = arrays.namespace(a)
        i, f, g, o = _split(a)
        return _join([_sigmoid(i), _sigmoid(f), xp.tanh(g), _sigmoid(o)])

    return _one_result(named, _shape(named), out, "gate_activations", twin, np.int32(hidden))


def gate_activations_backward(gates: Array, dgates: Array, *, out: Array | None = None) -> Array:
    """Gradient of `gate_activations`' input from the activated gates and their gradient, all (..., 4*hidden)."""
    named = {"gates": gates, "dgates": dgates}
    hidden = _hidden_of("gates", gates)

    def twin(gates: Array, dgates: Array) -> Array:
        (i, f, g, o), (di, df, dg, do) = _split(gates), _split(dgates)
        return _join([di * (i * (1 - i)), df * (f * (1 - f)), dg * (1 - g * g), do * (o * (1 - o))])

    return _one_result(named, _shape(named), out, "gate_activations_backward", twin, np.int32(hidden))


def cell_update(gates: Array, c: Array, *, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """The new cell and hidden state ``(c, h)``: ``c' = f * c + i * g`` and ``h = o * tanh(c')``.

    gates : (..., 4*hidden), activated. c : (..., hidden). ``out`` is a pair.
    """
    hidden = _check_cell(gates, {"c": c})

    def twin(gates: Array, c: Array) -> tuple[Array, Array]:
        i, f, g, o = _split(gates)
        c_next = f * c + i * g
        return c_next, o * arrays.namespace(c).tanh(c_next)

    shape = tuple(c.shape)
    return _two_results({"gates": gates, "c": c}, (shape, shape), out, "cell_update", twin, c, hidden)


def cell_update_backward(
    gates: Array, c: Array, c_next: Array, dc_next: Array, dh: Array, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Gradients ``(dgates, dc)`` of `cell_update`'s arguments.

    ``c`` and ``c_next`` are the cell state before and after, ``dc_next`` what the loss asks of c_next directly (through
    the next step), ``dh`` of h; all (..., hidden). ``dgates`` is the gradient of the activated gates.
    """
    hidden = _check_cell(gates, {"c": c, "c_next": c_next, "dc_next": dc_next, "dh": dh})

    def twin(gates: Array, c: Array, c_next: Array, dc_next: Array, dh: Array) -> tuple[Array, Array]:
        i, f, g, o = _split(gates)
        tanh_c = arrays.namespace(c).tanh(c_next)
        dc = dc_next + dh * o * (1 - tanh_c * tanh_c)
        return _join([dc * g, dc * c, dc * i, dh * tanh_c]), dc * f

    named = {"gates": gates, "c": c, "c_next": c_next, "dc_next": dc_next, "dh": dh}
    shapes = (tuple(gates.shape), tuple(c.shape))
    return _two_results(named, shapes, out, "cell_update_backward", twin, c, hidden)


def _sigmoid(x: Array) -> Array:
    return 0.5 * arrays.namespace(x).tanh(0.5 * x) + 0.5


def _split(gates: Array) -> list[Array]:
    hidden = gates.shape[-1] // 4
    return [gates[..., k * hidden : (k + 1) * hidden] for k in range(4)]


def _join(parts: list[Array]) -> Array:
    return arrays.namespace(parts[0]).concat(parts, axis=-1)


def _shape(named: dict[str, Array]) -> tuple[int, ...]:
    """The common shape of all arguments. Raises TypeError or ValueError that names the one that differs."""
    arrays.check_same(named)
    (first_name, first), *others = named.items()
    arrays.require_floating(first_name, first)
    for name, other in others:
        if tuple(other.shape) != tuple(first.shape):
            raise ValueError(f"{name} must have {first_name}'s shape {tuple(first.shape)}, got {tuple(other.shape)}")
    return tuple(first.shape)


def _hidden_of(name: str, gates: Array) -> int:
    arrays.require_array(name, gates)
    if gates.ndim < 1 or gates.shape[-1] % 4 or gates.shape[-1] == 0:
        raise ValueError(f"{name} must have 4*hidden on its last axis, got shape {tuple(gates.shape)}")
    return gates.shape[-1] // 4


def _check_cell(gates: Array, states: dict[str, Array]) -> int:
    """hidden. Raises unless every state is (..., hidden) beside gates (..., 4*hidden)."""
    hidden = _hidden_of("gates", gates)
    arrays.check_same({"gates": gates, **states})
    arrays.require_floating("gates", gates)
    expected = (*tuple(gates.shape)[:-1], hidden)
    for name, state in states.items():
        if tuple(state.shape) != expected:
            raise ValueError(
                f"{name} must have shape (..., hidden) = {expected} beside gates {tuple(gates.shape)}, "
                f"got {tuple(state.shape)}"
            )
    return hidden


def _check_out(out: Array, name: str, like: Array, shape: tuple[int, ...]) -> None:
    if not (arrays.is_numpy(like) or arrays.is_cupy(like)):
        raise TypeError(f"{name} is for NumPy and CuPy arrays; {arrays.library(like)}'s are returned, not written to")
    arrays.check_same({"the input": like, name: out})
    if tuple(out.shape) != shape:
        raise ValueError(f"{name} must have the result's shape {shape}, got {tuple(out.shape)}")
    if arrays.is_numpy(out) and not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")


def _one_result(
    named: dict[str, Array],
    shape: tuple[int, ...],
    out: Array | None,
    kernel: str,
    twin: Callable[..., Array],
    *sizes: Any,
) -> Array:
    first = next(iter(named.values()))
    if out is not None:
        _check_out(out, "out", first, shape)
    if arrays.is_cupy(first):
        return _launch(kernel, first.size, tuple(named.values()), (shape,), (out,), sizes)[0]
    return _delivered(_quietly(twin, named), out)


def _two_results(
    named: dict[str, Array],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    out: Any,
    kernel: str,
    twin: Callable[..., tuple[Array, Array]],
    units: Array,
    hidden: int,
) -> tuple[Array, Array]:
    if out is not None:
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError(f"out must be a pair of arrays, got {type(out).__name__}")
        for k in (0, 1):
            _check_out(out[k], f"out[{k}]", units, shapes[k])
    outs = (None, None) if out is None else tuple(out)
    if arrays.is_cupy(units):
        return _launch(kernel, units.size, tuple(named.values()), shapes, outs, (np.int32(hidden),))
    first, second = _quietly(twin, named)
    return _delivered(first, outs[0]), _delivered(second, outs[1])


def _quietly(twin: Callable, named: dict[str, Array]) -> Any:
    """Infinities and NaNs come out as IEEE says, without NumPy's warnings."""
    with np.errstate(over="ignore", invalid="ignore"):
        return twin(*named.values())


def _delivered(result: Array, out: Array | None) -> Array:
    if out is None:
        return np.asarray(result) if isinstance(result, np.generic) else result
    out[...] = result
    return out


def _launch(entry: str, threads: int, inputs: tuple, shapes: tuple, outs: tuple, sizes: tuple) -> tuple[Array, ...]:
    """One kernel launch over C-contiguous arrays; an ``out`` with other strides is filled afterwards."""
    import cupy

    from .cuda.launch import one_thread_per
    from .cuda.modules import kernel

    with arrays.on_device_of(inputs[0]):
        targets = tuple(
            out if out is not None and out.flags.c_contiguous else cupy.empty(shape, inputs[0].dtype)
            for out, shape in zip(outs, shapes, strict=True)
        )
        if threads:
            grid, block = one_thread_per(threads)
            sources = tuple(cupy.ascontiguousarray(a) for a in inputs)
            compiled = kernel(entry, arrays.dtype_name(inputs[0]))
            compiled(grid, block, (*sources, *targets, np.int64(threads), *sizes))
        for out, target in zip(outs, targets, strict=True):
            if out is not None and out is not target:
                out[...] = target
        return tuple(target if out is None else out for out, target in zip(outs, targets, strict=True))
