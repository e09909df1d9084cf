"""The LSTM on NumPy arrays in float32, compiled: `gpulstm/native/lstm.c`. See `gpulstm.engines` for what each function
takes.

What is too small to be worth laying the weights out goes to `numpy_engine`, step for step the same equations.
"""

from typing import Any, NamedTuple

import numpy as np

from ..native import library
from ..parameters import Weights
from . import Lane, native_memory, numpy_engine
from . import cpu_window as window
from .numpy_ragged import Ragged

contiguous, empty, zeros = numpy_engine.contiguous, numpy_engine.empty, numpy_engine.zeros
wide_zeros, assign, rounded = numpy_engine.wide_zeros, numpy_engine.assign, numpy_engine.rounded
without_padding, dropped = numpy_engine.without_padding, numpy_engine.dropped
start_gradient, finish_gradient = numpy_engine.start_gradient, numpy_engine.finish_gradient

__all__ = ["backward", "contiguous", "dropped", "empty", "finish_gradient", "forward", "inference", "start_gradient"]
__all__ += ["window", "without_padding", "zeros", "wide_zeros", "assign", "rounded", "GATE_BUFFER_BYTES"]

GATE_BUFFER_BYTES = 32 * 2**20  # address space: of it, the compiled loop uses what fits into the cache
ROWS_THAT_PAY = 8  # time steps times sequences from which on laying the weights out is made up for
WORK_OF_A_THREAD = 32 * 1024  # multiplications of a step that another thread is worth waking up for


class Saved(NamedTuple):
    """What the backward pass needs, as `numpy_engine.Saved`, and for which functions."""

    gates: np.ndarray  # (time, batch, 4*hidden) activated
    cells: np.ndarray  # (time + 1, batch, hidden)
    hiddens: np.ndarray  # (time + 1, batch, hidden)


def takes(x: np.ndarray) -> bool:
    """Whether x goes through here."""
    return x.dtype == np.float32 and library.load() is not None


def forward(x, weights: Weights, h, c, y, lane: Lane, lengths) -> Any:
    steps, batch, _ = x.shape
    if not _pays(lane.first_time + steps, batch):
        return numpy_engine.forward(x, weights, h, c, y, lane, lengths)
    gates = native_memory.take((steps, batch, 4 * lane.width))
    cells, hiddens = (native_memory.take((steps + 1, batch, lane.width)) for _ in "ch")
    first, last = (-1, 0) if lane.reverse else (0, -1)
    # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
    takes_part = None if lengths is None else lengths[:, None] > 0
    cells[first], hiddens[first] = c, h if takes_part is None else np.where(takes_part, h, x.dtype.type(0))
    _forward(x, weights, gates, cells, hiddens, y, lane, lengths, 0, keep=True)
    c[...], h[...] = cells[last], hiddens[last] if takes_part is None else np.where(takes_part, hiddens[last], h)
    if ragged := Ragged.of(lengths, steps, lane.reverse):
        ragged.clear_inputs(hiddens)
    return Saved(gates, cells, hiddens)


def inference(x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
    steps, batch, _ = x.shape
    if _pays(first_time + steps, batch):
        _forward(x, weights, gates, c, h, y, lane, lengths, first_time, keep=False)
    else:
        numpy_engine.inference(x, weights, h, c, y, lane, gates, lengths, first_time)


def backward(saved, x, weights: Weights, dy, dh, dc, dx, add_to_dx: bool, lane: Lane, lengths, gradient) -> None:
    if not isinstance(saved, Saved):
        numpy_engine.backward(saved, x, weights, dy, dh, dc, dx, add_to_dx, lane, lengths, gradient)
        return
    native = _native()
    steps, batch, inputs = x.shape
    threads = _threads(native, batch, inputs, lane.width)
    scratch = native_memory.scratch(native.backward_scratch(inputs, lane.width, threads))
    lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
    is_first = gradient.input.total is None
    sums = [None if found is None else found.array(cleared=found is gradient.bias) for found in gradient[:3]]
    arrays = (saved.gates, saved.cells, saved.hiddens, x, weights.input, weights.recurrent)
    native.backward(
        library.Backward(
            *map(_address, arrays),
            None if dy is None else _address(dy) + lane.first * dy.itemsize,
            *map(_address, (dh, dc, dx, *sums, lengths, scratch)),
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
    native_memory.give_back(*saved)


def _forward(x, weights: Weights, gates, cells, hiddens, y, lane: Lane, lengths, first_time: int, keep: bool) -> None:
    native = _native()
    steps, batch, inputs = x.shape
    scratch = native_memory.scratch(native.forward_scratch(batch, inputs, lane.width))
    lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int32)
    native.forward(
        library.Forward(
            *map(_address, (x, weights.input, weights.recurrent, weights.bias, gates, cells, hiddens)),
            _address(y) + lane.first * y.itemsize,
            *map(_address, (lengths, scratch)),
            steps,
            batch,
            inputs,
            lane.width,
            y.shape[2],
            first_time,
            keep,
            lane.reverse,
            _threads(native, batch, inputs, lane.width),
        )
    )


def _native() -> library.Library:
    found = library.load()
    if found is None:
        raise RuntimeError(f"the compiled LSTM is gone: {library.why_not()}")
    return found


def _pays(steps_so_far: int, batch: int) -> bool:
    """Each stretch of a long sequence decides alike, for the same bits: hence the steps from the beginning."""
    return steps_so_far * batch >= ROWS_THAT_PAY


def _threads(native: library.Library, batch: int, inputs: int, hidden: int) -> int:
    work = 4 * hidden * (hidden + inputs) * batch
    return max(1, min(native.threads, work // WORK_OF_A_THREAD, -(-hidden // 16) * batch))


def _address(array) -> int | None:
    return None if array is None else array.ctypes.data
