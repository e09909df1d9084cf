"""The checks of a call's arguments in the usual case, that all of them hold: said in two microseconds.

`True` means that every check of `gpulstm.functional` would pass. `False` means that somebody has to look closer: the
checks themselves, which find out what is wrong and say it, or that an argument is merely unusual. Nothing is
remembered from one call to the next, since a dict of parameters may change in between; what is, for single steps, and
how changes are seen, is in `gpulstm.warm_steps`.
"""

from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .engines import cupy_engine
from .options import Options
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
    kind, dtype, device = type(x), x.dtype, _device_of(x)
    for name, wanted in checklist:
        if not _is_such(params.get(name), kind, wanted, dtype, device):
            return False
    if state is None:
        return True
    of_h, of_c = layout.shapes_of_state(None if len(shape) == 2 else shape[not batch_first])
    if not _is_pair(state):
        return False
    return _is_such(state[0], kind, of_h, dtype, device) and _is_such(state[1], kind, of_c, dtype, device)


def is_one_step(layout: Layout, x: Array, params: Any, state: Any, batch_first: bool, options: Options) -> bool:
    """Whether `arguments_hold`, on the current device, and make a single step that the CuPy engine runs by itself. Then
    no axis has to come or go: one step's features follow each other in memory, whatever its axes are."""
    if not arrays.is_cupy(x) or not 2 <= x.ndim <= 3 or not (layout.is_plain and options.is_plain_in_one_step):
        return False
    shape = x.shape
    batch = 1 if len(shape) == 2 else shape[not batch_first]
    if shape[len(shape) == 3 and batch_first] != 1 or not cupy_engine.takes_one_step(x, batch):
        return False
    return arrays.is_on_current_device(x) and arguments_hold(layout, x, params, state, batch_first)


def gradients_hold(
    layout: Layout, x: Array, dy: Any, shape_of_dy: tuple[int, ...], dstate: Any, batch: int | None
) -> bool:
    """The same of what the backward pass gets; each of the gradients may be None. x has been checked before."""
    if not _is_ours(x):
        return False
    kind, dtype, device = type(x), x.dtype, _device_of(x)
    if dy is not None and not _is_such(dy, kind, shape_of_dy, dtype, device):
        return False
    if dstate is None:
        return True
    if not _is_pair(dstate):
        return False
    given = zip(dstate, layout.shapes_of_state(batch), strict=True)
    return all(d is None or _is_such(d, kind, wanted, dtype, device) for d, wanted in given)


def step_holds(layout: Layout, x: Array, params: Any, state: Any) -> bool:
    """The same for a single step: x (batch, inputs) or (inputs,), parameters without a layer in their names, and the
    state (batch, hidden) or (hidden,)."""
    if not _is_ours(x) or type(params) is not dict:
        return False
    shape, checklist = x.shape, layout.checklist
    if not 1 <= len(shape) <= 2 or shape[-1] != layout.input_size or len(params) != len(checklist):
        return False
    kind, dtype, device = type(x), x.dtype, _device_of(x)
    for name, wanted in checklist:
        if not _is_such(params.get(name[:-3]), kind, wanted, dtype, device):  # without its "_l0"
            return False
    if state is None:
        return True
    wanted = (*shape[:-1], layout.hidden_size)
    if not _is_pair(state):
        return False
    return _is_such(state[0], kind, wanted, dtype, device) and _is_such(state[1], kind, wanted, dtype, device)


def shapes_hold(params: dict[str, Any], checklist: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether ``params`` are exactly the NumPy or CuPy arrays that ``checklist`` names, with these shapes."""
    if len(params) != len(checklist):
        return False
    for name, shape in checklist:
        array: Any = params.get(name)
        if not (type(array) is np.ndarray or arrays.is_cupy(array)) or array.shape != shape:
            return False
    return True


def _is_such(array: Any, kind: Any, shape: tuple[int, ...], dtype: np.dtype, device: int | None) -> bool:
    """Whether it is an array of this kind, NumPy's or CuPy's, with this shape and the very dtype, on this device."""
    if type(array) is not kind or array.shape != shape or array.dtype is not dtype:
        return False
    return device is None or array.data.device_id == device


def _device_of(x: Array) -> int | None:
    return None if type(x) is np.ndarray else x.data.device_id


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2


def _is_ours(x: Any) -> bool:
    """Whether x is an array that the engines compute with; of a subclass, such as a masked array, nobody knows."""
    return (type(x) is np.ndarray or arrays.is_cupy(x)) and x.dtype in _DTYPES
