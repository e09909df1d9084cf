"""Engines run one layer in one direction, in place, on one library's arrays.

Every engine is a module with the same functions, so `gpulstm.stack` works with any of them:

- ``GATE_BUFFER_BYTES``: how large a gate buffer may grow in inference
- ``contiguous(x)``, ``empty(shape, like)``, ``zeros(shape, like)``
- ``without_padding(x, lengths)``: a copy of x (time, batch, inputs) with zeros where a sequence is over
- ``forward(x, weights, h, c, y, columns, lengths, reverse) -> saved``: training; h and c become the final state
- ``inference(x, weights, h, c, y, columns, gates, lengths, first_time, reverse)``: the same, and keeps nothing
- ``backward(saved, x, weights, dy, dh, dc, dx, add_to_dx, columns, lengths, reverse) -> Weights``: dh and dc become
  the initial state's gradients

x (time, batch, inputs) contiguous; h, c, dh, dc (batch, hidden) contiguous; y and dy (time, batch, directions*hidden)
contiguous, of which a direction owns the columns that `columns` names; lengths (batch,) int32 or None.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Columns(NamedTuple):
    """Which columns of the output (time, batch, width) one direction writes: ``hidden`` of them from ``first``."""

    first: int
    hidden: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.hidden)


def slots(time: int, reverse: bool) -> tuple[int, int]:
    """Where the states before and after the step at ``time`` stand in a (steps + 1, batch, hidden) history."""
    return (time + 1, time) if reverse else (time, time + 1)


WINDOW = 128
"""Time steps whose gradients are added up in one matrix product.

Windows begin at multiples of this, so the order of every sum, and with it every bit, is the same however many steps
are at hand at once.
"""


def windows(steps: int, reverse: bool) -> Iterator[slice]:
    """Time windows in the order in which the backward pass comes to them."""
    for first in range(0, steps, WINDOW)[:: 1 if reverse else -1]:
        yield slice(first, min(first + WINDOW, steps))


def inputs_of(window: slice, reverse: bool) -> slice:
    """Where the states that a window's steps started from stand in a history."""
    return slice(window.start + reverse, window.stop + reverse)
