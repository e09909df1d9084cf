"""The LSTM on NumPy arrays, compiled: `gpulstm/native/`. See `gpulstm.engines` for what each function takes.

What is too small to be worth laying the weights out goes to `numpy_engine`, step for step the same equations.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..masks import DROPOUT_STREAM, Draws
from ..native import library
from ..parameters import Weights
from . import Lane, native_memory, numpy_engine
from . import cpu_window as window
from .native_calls import call_backward, call_forward, masked_copy
from .numpy_ragged import Ragged

contiguous, empty, zeros = numpy_engine.contiguous, numpy_engine.empty, numpy_engine.zeros
wide_zeros, assign, rounded = numpy_engine.wide_zeros, numpy_engine.assign, numpy_engine.rounded
without_padding = numpy_engine.without_padding
start_gradient, finish_gradient = numpy_engine.start_gradient, numpy_engine.finish_gradient

__all__ = ["backward", "contiguous", "dropped", "empty", "finish_gradient", "forward", "inference", "start_gradient"]
__all__ += ["window", "without_padding", "zeros", "wide_zeros", "assign", "rounded", "GATE_BUFFER_BYTES"]

GATE_BUFFER_BYTES = 128 * 2**20  # address space: the compiled loop has its own, of the cache's size
ROWS_THAT_PAY = 8  # time steps times sequences from which on laying the weights out is made up for


@dataclass(eq=False)
class Saved:
    """What the backward pass needs, as `numpy_engine.Saved`. Its memory goes back when it has been used, or when nobody
    holds it any more: the system would take it back from the allocator, and clear it for the next call."""

    gates: np.ndarray  # (time, batch, 4*hidden) activated
    cells: np.ndarray  # (time + 1, batch, hidden)
    hiddens: np.ndarray  # (time + 1, batch, hidden)
    is_given_back: bool = field(default=False, init=False)

    def __del__(self) -> None:
        if not (self.is_given_back or sys.is_finalizing()):
            native_memory.leave(self.gates, self.cells, self.hiddens)


def takes(x: np.ndarray) -> bool:
    """Whether x goes through here."""
    found = library.load()
    return found is not None and x.dtype in found.of


def forward(x, weights: Weights, h, c, y, lane: Lane, lengths) -> Any:
    steps, batch, _ = x.shape
    if not pays(lane.first_time + steps, batch):
        return numpy_engine.forward(x, weights, h, c, y, lane, lengths)
    gates = native_memory.take((steps, batch, 4 * lane.width), x.dtype)
    cells, hiddens = (native_memory.take((steps + 1, batch, lane.width), x.dtype) for _ in "ch")
    first, last = (-1, 0) if lane.reverse else (0, -1)
    # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
    takes_part = None if lengths is None else lengths[:, None] > 0
    cells[first], hiddens[first] = c, h if takes_part is None else np.where(takes_part, h, x.dtype.type(0))
    call_forward(x, weights, gates, cells, hiddens, y, lane, lengths, 0, keep=True)
    c[...], h[...] = cells[last], hiddens[last] if takes_part is None else np.where(takes_part, hiddens[last], h)
    if ragged := Ragged.of(lengths, steps, lane.reverse):
        ragged.clear_inputs(hiddens)
    return Saved(gates, cells, hiddens)


def inference(x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
    steps, batch, _ = x.shape
    if pays(first_time + steps, batch):
        call_forward(x, weights, None, c, h, y, lane, lengths, first_time, keep=False)
    else:
        numpy_engine.inference(x, weights, h, c, y, lane, gates, lengths, first_time)


def backward(saved, x, weights: Weights, dy, dh, dc, dx, add_to_dx: bool, lane: Lane, lengths, gradient) -> None:
    if not isinstance(saved, Saved):
        numpy_engine.backward(saved, x, weights, dy, dh, dc, dx, add_to_dx, lane, lengths, gradient)
        return
    of_steps = saved.gates, saved.cells, saved.hiddens
    call_backward(*of_steps, x, weights, dy, dh, dc, dx, add_to_dx, lane, lengths, gradient)
    saved.is_given_back = True
    native_memory.give_back(*of_steps)


def dropped(y, draws: Draws, layer: int):
    probability = draws.options.dropout
    if not (draws.training and probability):
        return y
    target = np.empty_like(y)
    masked_copy(y, target, draws, DROPOUT_STREAM + layer, probability, batch=y.shape[1], first_time=0)
    return target


def pays(steps_so_far: int, batch: int) -> bool:
    """Each stretch of a long sequence decides alike, for the same bits: hence the steps from the beginning."""
    return steps_so_far * batch >= ROWS_THAT_PAY
