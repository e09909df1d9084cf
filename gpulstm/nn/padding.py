"""Which positions of (time, batch, ...) predictions count, when sequences have lengths."""

import math
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, lengths
from ..arrays import Array


class Padding(NamedTuple):
    """Checked lengths, and the way from a flat position to its time step and sequence.

    With all axes taken together, position p is step ``p // step_stride % steps`` of sequence
    ``p // sequence_stride % batch``.
    """

    lengths: Array  # (batch,) integers in NumPy; under jax.jit as they came
    shape: tuple[int, ...]  # of the positions: (time, batch, ...), or (batch, time, ...) with batch_first
    batch_first: bool

    @property
    def steps(self) -> int:
        return self.shape[1 if self.batch_first else 0]

    @property
    def batch(self) -> int:
        return self.shape[0 if self.batch_first else 1]

    @property
    def step_stride(self) -> int:
        return math.prod(self.shape[2 if self.batch_first else 1 :])

    @property
    def sequence_stride(self) -> int:
        return math.prod(self.shape[1 if self.batch_first else 2 :])

    @property
    def count(self) -> Any:
        """How many positions count: an integer, or under jax.jit an array."""
        total = self.lengths.sum() * math.prod(self.shape[2:])
        return int(total) if arrays.is_numpy(self.lengths) else total

    def counts(self, like: Array) -> Array:
        """Booleans beside ``like``, True where a sequence is not over; as many axes as `shape`, of size 1 behind the
        second."""
        steps, lengths_of = np.arange(self.steps)[:, None], self.lengths
        if not arrays.is_numpy(lengths_of):
            steps = arrays.beside(steps, lengths_of)
        running = steps < lengths_of
        running = (running.T if self.batch_first else running).reshape((*self.shape[:2], *[1] * (len(self.shape) - 2)))
        return arrays.beside(running, like) if arrays.is_numpy(running) else running


def checked(given: Any, x: Array, shape: tuple[int, ...], *, batch_first: bool, name: str) -> Padding | None:
    """``given`` lengths for positions of this shape, or None. ``x``, called ``name``, is what has the positions.

    Raises TypeError or ValueError as `gpulstm.lengths` does, and where there are no axes of time and batch.
    """
    if given is None:
        return None
    if len(shape) < 2:
        expected = "(batch, time, ...)" if batch_first else "(time, batch, ...)"
        raise ValueError(f"{name} must have axes {expected} with lengths, got shape {tuple(x.shape)}")
    steps, batch = (shape[1], shape[0]) if batch_first else shape[:2]
    return Padding(lengths.values_of(given, x, steps, batch, batched=True), shape, batch_first)
