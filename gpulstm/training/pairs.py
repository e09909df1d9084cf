"""Parameters and their gradients, side by side and checked."""

from typing import NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Array
from .nested import Nested, leaves

_KERNEL_DTYPES = frozenset(map(np.dtype, arrays.KERNEL_DTYPES))  # in this machine's byte order


class Pair(NamedTuple):
    """A parameter and its gradient."""

    name: str  # behind "params" or "grads" in a message: "['head']['weight']"
    holder: Nested  # the dict that the parameter is in
    key: str
    parameter: Array
    gradient: Array


def paired(params: Nested, grads: Nested) -> list[Pair]:
    """All parameters with their gradients, in the order of ``params``.

    Raises TypeError or ValueError unless both trees have the same keys, and each gradient its parameter's library,
    dtype, device and shape; and where a parameter's dtype cannot be computed in, or its memory not be written.
    """
    places = parameters(params)
    gradients = {name.removeprefix("grads"): holder[key] for name, holder, key in leaves("grads", grads)}
    problems = [f"missing {name}" for name in places if name not in gradients]
    problems += [f"unexpected {name}" for name in gradients if name not in places]
    if problems:
        raise ValueError(f"grads must have the keys of params: {', '.join(problems)}")
    pairs = [Pair(name, holder, key, holder[key], gradients[name]) for name, (holder, key) in places.items()]
    for pair in pairs:
        _check(pair)
    return pairs


def parameters(params: Nested) -> dict[str, tuple[Nested, str]]:
    """Each parameter's name, with the dict and the key that it is found at."""
    return {name.removeprefix("params"): (holder, key) for name, holder, key in leaves("params", params)}


def alike(one: Array, other: Array) -> bool:
    """True for two NumPy or CuPy arrays of one float dtype, shape and device: a quick yes for every step. False may
    mean anything, and the careful checks say what."""
    return (
        type(one) is type(other)
        and (arrays.is_numpy(one) or arrays.is_cupy(one))
        and one.dtype == other.dtype
        and one.dtype in _KERNEL_DTYPES
        and one.shape == other.shape
        and arrays.device(one) == arrays.device(other)
    )


def _check(pair: Pair) -> None:
    parameter, gradient = pair.parameter, pair.gradient
    if not alike(parameter, gradient):
        _check_carefully(pair)
    if arrays.is_numpy(parameter) and not parameter.flags.writeable:
        raise ValueError(
            f"params{pair.name} must be writeable, got a read-only array; it is changed in place, so put a copy there"
        )


def _check_carefully(pair: Pair) -> None:
    parameter, gradient = pair.parameter, pair.gradient
    arrays.check_same({f"params{pair.name}": parameter, f"grads{pair.name}": gradient})
    arrays.require_floating(f"params{pair.name}", parameter)
    if parameter.shape != gradient.shape:
        raise ValueError(
            f"grads{pair.name} must have its parameter's shape {tuple(parameter.shape)}, got {tuple(gradient.shape)}"
        )
