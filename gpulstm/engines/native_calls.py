"""Calls of the compiled functions on NumPy arrays: arguments, memory, and how many threads a call is worth."""

import ctypes
import sys

import numpy as np

from .. import philox
from ..masks import Draws
from ..native import library
from ..parameters import Weights
from . import Lane, native_memory
from . import cpu_window as window

WORK_OF_A_THREAD = 32 * 1024  # multiplications of a step that another thread is worth waking up for
DRAWS_OF_A_THREAD = 16 * 1024  # numbers of a dropout mask, likewise
COPIES_OF_A_THREAD = 32 * 1024  # and of one that has been drawn before


def call_forward(
    x,
    weights: Weights,
    gates,
    cells,
    hiddens,
    y,
    lane: Lane,
    lengths,
    first_time: int,
    keep: bool,
    options: library.Options | None = None,
) -> None:
    """`Forward` of layer.h has the arguments. ``gates`` are None without ``keep``, which needs a stretch of them."""
    native = loaded()
    functions = native.of[x.dtype]
    steps, batch, inputs = x.shape
    threads = _threads(native, batch, inputs, lane.width)
    numbers = functions.forward_scratch(batch, inputs, lane.width)
    if options is not None and options.norm:
        numbers += functions.norm_scratch(batch, lane.width, threads)
    of_stretch = 0 if keep else functions.gates(steps, batch, lane.width)
    scratch = native_memory.scratch(numbers + of_stretch, x.dtype)
    gates = gates if keep else scratch[numbers:]
    lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
    functions.forward(
        library.Forward(
            *map(address, (x, weights.input, weights.recurrent, weights.bias, gates, cells, hiddens)),
            address(y) + lane.first * y.itemsize,
            *map(address, (lengths, scratch)),
            None if options is None else ctypes.pointer(options),
            steps,
            batch,
            inputs,
            lane.width,
            y.shape[2],
            first_time,
            keep,
            lane.reverse,
            threads,
        )
    )


def call_backward(
    gates,
    cells,
    hiddens,
    x,
    weights: Weights,
    dy,
    dh,
    dc,
    dx,
    add_to_dx: bool,
    lane: Lane,
    lengths,
    gradient: Weights,
    options: library.Options | None = None,
) -> None:
    """`Backward` of layer.h has the arguments; ``gradient`` holds a `numpy_engine.Sum` for each weight."""
    native = loaded()
    functions = native.of[x.dtype]
    steps, batch, inputs = x.shape
    threads = _threads(native, batch, inputs, lane.width)
    numbers = functions.backward_scratch(batch, inputs, lane.width, threads)
    if options is not None and options.norm:
        numbers += functions.norm_scratch(batch, lane.width, threads)
    scratch = native_memory.scratch(numbers, x.dtype)
    lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
    is_first = gradient.input.total is None
    sums: list = [None if found is None else found.array(cleared=found is gradient.bias) for found in gradient[:3]]
    functions.backward(
        library.Backward(
            *map(address, (gates, cells, hiddens, x, weights.input, weights.recurrent)),
            None if dy is None else address(dy) + lane.first * dy.itemsize,
            *map(address, (dh, dc, dx, *sums, lengths, scratch)),
            None if options is None else ctypes.pointer(options),
            steps,
            batch,
            inputs,
            lane.width,
            0 if dy is None else dy.shape[2],
            window(batch),
            lane.reverse,
            add_to_dx,
            not is_first,
            threads,
        )
    )


def masked_copy(
    source,
    target,
    draws: Draws,
    stream: int,
    probability: float,
    *,
    batch: int,
    first_time: int,
    record=None,
    recorded: bool = False,
) -> None:
    """target = source * dropout mask, or the mask itself for None. Both (..., columns) contiguous; they may be the
    same array.

    ``record`` of bytes, like target, if given says what was dropped: it is written, or with ``recorded`` it is read and
    nothing drawn.

    With all leading axes taken together, row r draws for sequence ``r % batch`` at time ``first_time + r // batch``.
    """
    native = loaded()
    columns = target.shape[-1]
    native.of[target.dtype].drop(
        library.Dropout(
            address(target),
            address(source),
            address(record),
            target.size // columns,
            columns,
            batch,
            draws.seed or 0,
            stream,
            first_time,
            philox.threshold(probability),
            recorded,
            max(1, min(native.threads, target.size // (COPIES_OF_A_THREAD if recorded else DRAWS_OF_A_THREAD))),
            1 / (1 - probability),
        )
    )


def loaded() -> library.Library:
    found = library.load()
    if found is None:
        raise RuntimeError(f"the compiled LSTM is gone: {library.why_not()}")
    return found


def _offset_of_the_address() -> int | None:
    """Bytes from the beginning of a NumPy array's object to the address of its data, or None where that is not known.

    NumPy's binary interface has it right behind Python's own header, and CPython's `id` is where the object is. To ask
    the array itself makes two objects on the way, six times as long, and a call asks for two dozen addresses.
    """
    if sys.implementation.name != "cpython":
        return None
    header, array = object.__basicsize__, np.zeros(3)
    return header if _word_at(id(array) + header).value == array.ctypes.data else None


_word_at = ctypes.c_void_p.from_address
_HEADER = _offset_of_the_address()


def address(array: np.ndarray | None) -> int | None:
    """Where the first element is."""
    if array is None:
        return None
    return array.ctypes.data if _HEADER is None else _word_at(id(array) + _HEADER).value


def _threads(native: library.Library, batch: int, inputs: int, hidden: int) -> int:
    work = 4 * hidden * (hidden + inputs) * batch
    return max(1, min(native.threads, work // WORK_OF_A_THREAD, -(-hidden // 16) * batch))
