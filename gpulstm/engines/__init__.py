"""Engines run one layer in one direction, in place, on one library's arrays.

Every engine is a module, or an object, with the same functions, so `gpulstm.stack` works with any of them:

- ``GATE_BUFFER_BYTES``: how large a gate buffer may grow in inference
- ``window(batch)``: time steps of a window, see `windows`
- ``contiguous(x)``, ``empty(shape, like)``, ``zeros(shape, like)``
- ``wide_zeros(shape, like)``: in the dtype of cell states and sums, which is float32 where numbers have 16 bits;
  ``assign(target, source)`` writes between it and like's, ``rounded(array, like)`` gives an array in like's
- ``without_padding(x, lengths)``: a copy of x (time, batch, inputs) with zeros where a sequence is over
- ``dropped(y, draws, layer)``: y (time, batch, features) with the mask of dropout between layers on it, or y itself
- ``forward(x, weights, h, c, y, lane, lengths) -> saved``: training; h and c become the final state
- ``forward_from(x, weights, before, h, c, y, lane, lengths) -> saved``, which an engine may do without: the same with
  the initial state apart, (h, c) or None for zeros, both of the dtype in which they came; what h and c hold before is
  not looked at. ``wide_empty(shape, like)`` comes with it
- ``part(states, index)``, which an engine may do without: the h or c of one layer and direction out of all of them
- ``inference(x, weights, h, c, y, lane, gates, lengths, first_time)``: the same, and keeps nothing
- ``takes_one_step(x, batch)`` and ``one_step(x, weights, before, index, y, lane, after)``, which an engine may do
  without: whether it runs a single step by itself, and that step, from the (h, c) of all layers and directions to
  another `State`
- ``forward_both(x, weights, before, h, c, y, lanes, lengths)``, ``inference_both(x, weights, h, c, y, lanes, gates,
  lengths)`` and ``backward_both(saved, x, weights, dy, dh, dc, dx, lanes, lengths, gradients)``, which an engine may do
  without: both directions of a layer at the same time, with the same results; of all but x, y, dy, dx, gates and
  lengths there are two. They return nothing true, and have done nothing, where the engine runs one after the other
- ``forward_layers(x, weights, before, h, c, lanes, lengths)``, ``inference_layers(x, weights, h, c, y, lanes, gates,
  lengths, first_time, steps)`` and ``backward_layers(saved, inputs, weights, dy, dh, dc, lanes, lengths,
  gradients)``, which an engine may do without: all layers of a stack of one direction at the same time, with states and
  lists of all of them. The first one gives what each layer saves and puts out, the last one dx; they give None or
  False, and have done nothing, where the layers run one after the other
- ``backward(saved, x, weights, dy, dh, dc, dx, add_to_dx, lane, lengths, gradient)``: dh and dc become the initial
  state's gradients; what the weights' gradient is made of is added to ``gradient``, which
  ``start_gradient(x, weights, lane)`` makes and ``finish_gradient(gradient, lane)`` turns into `Weights`, wide ones

x (time, batch, inputs) contiguous; h, c, dh, dc (batch, features) contiguous, all but h wide; y and dy (time, batch,
all directions) contiguous, of which a `Lane` names one direction's columns; lengths (batch,) int32 or None.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Lane(NamedTuple):
    """One direction of one layer: where it writes and in which order it reads."""

    first: int  # the columns of the output (time, batch, all directions) that it writes begin here
    width: int  # and are this many
    reverse: bool  # it reads each sequence from its end
    stream: int  # tells its random numbers from those of the others
    first_time: int = 0  # in training, the time of x[0]: where a stretch of a longer sequence begins

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.width)


def slots(time: int, reverse: bool) -> tuple[int, int]:
    """Where the states before and after the step at ``time`` stand in a (steps + 1, batch, hidden) history."""
    return (time + 1, time) if reverse else (time, time + 1)


WINDOW = 128
"""Time steps whose gradients are added up in one matrix product.

Windows begin at multiples of this, so the order of every sum, and with it every bit, is the same however many steps
are at hand at once.
"""

GPU_ROWS = 8192
"""Time steps times sequences that a window has at least on a GPU, where every product costs a launch."""


def cpu_window(batch: int) -> int:
    """Time steps of a window on a CPU, the same for any batch: its rows stay in the cache."""
    return WINDOW


def gpu_window(batch: int) -> int:
    """Time steps of a window on a GPU: of few sequences it takes more."""
    return WINDOW * max(1, GPU_ROWS // (WINDOW * max(batch, 1)))


def windows(steps: int, window: int, reverse: bool) -> Iterator[slice]:
    """Time windows in the order in which the backward pass comes to them."""
    for first in range(0, steps, window)[:: 1 if reverse else -1]:
        yield slice(first, min(first + window, steps))


def inputs_of(window: slice, reverse: bool) -> slice:
    """Where the states that a window's steps started from stand in a history."""
    return slice(window.start + reverse, window.stop + reverse)
