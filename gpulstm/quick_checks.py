"""The checks of a call's arguments in the usual case, that all of them hold: said in two microseconds.

`True` means that every check of `gpulstm.functional` would pass. `False` means that somebody has to look closer: the
checks themselves, which find out what is wrong and say it, or that an argument is merely unusual. Nothing is
remembered from one call to the next, since a dict of parameters may change in between.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .parameters import Layout

_DTYPES = tuple(map(np.dtype, arrays.KERNEL_DTYPES))


def arguments_hold(layout: Layout, x: Array, params: Any, state: Any, batch_first: bool) -> bool:
    """Whether x, ``params`` and the initial state have the shapes, the library, the dtype and the device that they
    must have. The state may be None."""
    if not _is_ours(x) or type(params) is not dict:
        return False
    shape, checklist = x.shape, layout.checklist
    if not 2 <= len(shape) <= 3 or shape[-1] != layout.input_size or len(params) != len(checklist):
        return False
    if not _all_alike(x, [(params.get(name), wanted) for name, wanted in checklist]):
        return False
    if state is None:
        return True
    batch = None if len(shape) == 2 else shape[not batch_first]
    return _is_pair(state) and _all_alike(x, zip(state, layout.shapes_of_state(batch), strict=True))


def gradients_hold(
    layout: Layout, x: Array, dy: Any, shape_of_dy: tuple[int, ...], dstate: Any, batch: int | None
) -> bool:
    """The same of what the backward pass gets; each of the gradients may be None. x has been checked before."""
    if not _is_ours(x):
        return False
    given = [] if dy is None else [(dy, shape_of_dy)]
    if dstate is not None:
        if not _is_pair(dstate):
            return False
        given += [(d, shape) for d, shape in zip(dstate, layout.shapes_of_state(batch), strict=True) if d is not None]
    return _all_alike(x, given)


def step_holds(layout: Layout, x: Array, params: Any, state: Any) -> bool:
    """The same for a single step: x (batch, inputs) or (inputs,), parameters without a layer in their names, and the
    state (batch, hidden) or (hidden,)."""
    if not _is_ours(x) or type(params) is not dict:
        return False
    shape, checklist = x.shape, layout.checklist
    if not 1 <= len(shape) <= 2 or shape[-1] != layout.input_size or len(params) != len(checklist):
        return False
    if not _all_alike(x, [(params.get(name[:-3]), wanted) for name, wanted in checklist]):  # without its "_l0"
        return False
    of_state = (*shape[:-1], layout.hidden_size)
    return state is None or (_is_pair(state) and _all_alike(x, [(s, of_state) for s in state]))


def shapes_hold(params: dict[str, Any], checklist: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether ``params`` are exactly the NumPy or CuPy arrays that ``checklist`` names, with these shapes."""
    if len(params) != len(checklist):
        return False
    for name, shape in checklist:
        array: Any = params.get(name)
        if not (type(array) is np.ndarray or arrays.is_cupy(array)) or array.shape != shape:
            return False
    return True


def _all_alike(x: Array, others: Iterable[tuple[Any, tuple[int, ...]]]) -> bool:
    """Whether each of ``others``, given with the shape that it must have, is an array of x's library, dtype and
    device. x is known to be NumPy's or CuPy's."""
    kind, dtype = type(x), x.dtype
    device = None if kind is np.ndarray else x.data.device_id
    for other, shape in others:
        if type(other) is not kind or other.shape != shape or other.dtype != dtype:
            return False
        if device is not None and other.data.device_id != device:
            return False
    return True


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2


def _is_ours(x: Any) -> bool:
    """Whether x is an array that the engines compute with; of a subclass, such as a masked array, nobody knows."""
    return (type(x) is np.ndarray or arrays.is_cupy(x)) and x.dtype in _DTYPES
