"""Long sequences in pieces: streaming, and backpropagation through time that is cut off."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from .. import lengths as lengths_module
from ..arrays import Array


class Window(NamedTuple):
    """A stretch of time. ``lengths`` counts from the stretch's own beginning; without lengths it is None."""

    x: Array
    lengths: Array | None


def windows(x: Array, length: int, *, batch_first: bool = False, lengths: Any = None) -> Iterator[Window]:
    """Cuts ``x`` along time into windows of ``length`` steps, in order; the last one is what remains.

    ::

        state = None
        for x_window, lengths_window in windows(x, 100, lengths=lengths):
            y, state, cache = lstm.forward(x_window, state, lengths=lengths_window)
            dx, grads, _ = lstm.backward(cache, dy=...)

    As ``state`` is carried on, the outputs are those of one call on all of x, to rounding, and so is the state after
    the last window; what has to be kept for backward is one window instead of all time. In inference,
    ``y, state = lstm(x_window, state, lengths=lengths_window)``, that is streaming.

    The gradient is not carried on: the loop above drops that of the initial state, so a loss reaches back to the
    beginning of its own window and no further, and what is remembered across a longer distance is used but not learned.
    This is truncated backpropagation through time (Williams and Peng 1990). The full gradient needs every cache: run
    backward over the windows in reverse order and give each one the next window's initial gradient as ``dstate``.

    For LSTMs in the forward direction alone. A reverse direction begins at a sequence's end, so its state at a window's
    edge comes from the windows that are still to follow, and no order of windows serves both directions.

    Random masks are drawn anew by every call of ``forward``, and count time from the window's beginning.

    Parameters
    ----------
    x : (time, ...), such as (time, batch, inputs), (time, inputs) or targets (time, batch); with ``batch_first``
        (batch, time, ...) with at least 3 axes.
    length : time steps of a window.
    lengths : (batch,) integers, time steps of each sequence, in any order, 0 allowed, or one number where x is
        (time, inputs). A sequence that has ended has length 0 in all later windows, which leaves its state as it is.

    Yields `Window`: a view of x, and the lengths within it as NumPy integers. No window for no time step.
    Raises TypeError or ValueError, at the call, where an argument is not as above.
    """
    length = initialisers.require_size("length", length)
    arrays.require_array("x", x)
    if batch_first and x.ndim < 3:
        raise ValueError(
            f"x must have shape (batch, time, ...) with at least 3 axes for batch_first, got {tuple(x.shape)}; "
            f"leave batch_first out if time is its first axis"
        )
    if x.ndim == 0:
        raise ValueError("x must have a time axis, got shape ()")
    values = None if lengths is None else _lengths(lengths, x, batch_first)
    return _cut(x, length, 1 if batch_first else 0, values)


def _lengths(lengths: Any, x: Array, batch_first: bool) -> Array:
    """Checked ``lengths``, of the shape that a call on all of x would take."""
    if x.ndim < 2:
        raise ValueError(
            f"lengths must come with x of shape (time, batch, ...) or (time, inputs), got {tuple(x.shape)}"
        )
    batched = x.ndim > 2
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    values = lengths_module.values_of(lengths, x, steps, batch if batched else 1, batched=batched)
    values = values.astype(np.int32)  # before anything is subtracted: they may have been unsigned
    return values if batched else values[0]


def _cut(x: Array, length: int, axis: int, lengths: Array | None) -> Iterator[Window]:
    steps = x.shape[axis]
    for first in range(0, steps, length):
        last = min(first + length, steps)
        within = None if lengths is None else (lengths - first).clip(0, last - first)
        yield Window(x[:, first:last, ...] if axis else x[first:last, ...], within)
