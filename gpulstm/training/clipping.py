"""Gradient clipping: by the joint norm, or by value."""

from collections.abc import Callable, MutableMapping
from numbers import Real
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from . import fused
from .nested import Nested, leaves

Place = tuple[str, MutableMapping[str, Array], str]
"""An array's name in a message, the dict that holds it, and its key there."""


def clip_by_global_norm(grads: Nested, max_norm: float) -> Array:
    """Scales all gradients by one common factor, such that their joint Euclidean norm is at most ``max_norm``.

    ::

        norm = sqrt(sum of all squares)        grads *= min(1, max_norm / (norm + 1e-6))

    ``grads`` is a dict of arrays, or of dicts of arrays, and is changed: in place where the library allows it, else by
    putting new arrays into the dict. Returns the norm from before, which stays on the device: nothing waits for a GPU.
    A NaN anywhere makes all gradients NaN, as in ``torch.nn.utils.clip_grad_norm_``. On CuPy arrays it is two kernel
    launches, with sums in an order that depends on the sizes alone: the same gradients give the same bits.

    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """
    _require_limit("max_norm", max_norm)
    places = _checked(grads)
    gradients = [holder[key] for _, holder, key in places]
    if arrays.is_cupy(gradients[0]):
        return _on_kernels(places, lambda targets: fused.clip_by_norm(targets, float(max_norm)))
    xp = arrays.namespace(gradients[0])
    squares = sum(xp.sum(gradient * gradient) for gradient in gradients)
    norm = xp.sqrt(squares)
    factor = float(max_norm) / (norm + 1e-6)
    factor = xp.minimum(factor, xp.ones_like(factor))
    for _, holder, key in places:
        gradient = holder[key]
        gradient *= factor
        holder[key] = gradient  # another array where the library's cannot be changed
    return norm


def clip_by_value(grads: Nested, limit: float) -> None:
    """Moves every element of the gradients between ``-limit`` and ``limit``; NaN stays NaN.

    ``grads`` is a dict of arrays, or of dicts of arrays, and is changed: NumPy and CuPy arrays in place, others by
    putting new arrays into the dict. Infinity becomes ``limit``. Same as ``torch.nn.utils.clip_grad_value_``.
    """
    _require_limit("limit", limit)
    places, limit = _checked(grads), float(limit)
    first = places[0][1][places[0][2]]
    if arrays.is_cupy(first):
        _on_kernels(places, lambda targets: fused.clip_values(targets, limit))
        return
    xp = arrays.namespace(first)
    for _, holder, key in places:
        if arrays.is_numpy(holder[key]):
            np.clip(holder[key], -limit, limit, out=holder[key])
        else:
            holder[key] = xp.clip(holder[key], -limit, limit)


def _require_limit(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _checked(grads: Nested) -> list[Place]:
    """The gradients' places: at least one, all of one library, dtype and device."""
    places = list(leaves("grads", grads))
    if not places:
        raise ValueError("grads must have at least one array, got an empty dict")
    arrays.check_same({name: holder[key] for name, holder, key in places})
    return places


def _on_kernels(places: list[Place], clip: Callable[[list[Array]], Any]) -> Any:
    """``clip`` of all gradients, CuPy arrays: of the arrays themselves, or of copies that are written back where a
    gradient's elements do not follow each other."""
    named = [(name, holder[key]) for name, holder, key in places]
    arrays.require_floating(*named[0])
    fused.require_own_memory(named)
    xp = arrays.namespace(named[0][1])
    with arrays.on_device_of(named[0][1]):
        targets = [xp.ascontiguousarray(gradient) for _, gradient in named]
        result = clip(targets)
        for (_, gradient), target in zip(named, targets, strict=True):
            if target is not gradient and not gradient.flags.c_contiguous:
                gradient[...] = target
    return result
