"""Sequences of different lengths in the NumPy engine's time loops.

The loops compute every sequence at every step, which costs less than leaving some out: sequences do not meet in any
operation, so what a sequence computes beyond its end hurts nobody. What is true of it is set here, at the few steps
where a sequence begins or ends, and afterwards.
"""

from typing import Any

import numpy as np


class Ragged:
    """For a stretch of ``steps`` time steps; ``lengths`` (batch,) counts from its beginning, and may lie outside."""

    def __init__(self, lengths: np.ndarray, steps: int, reverse: bool) -> None:
        self.lengths = np.clip(lengths, 0, steps)
        self.steps, self.reverse = steps, reverse
        self.short = np.flatnonzero(self.lengths < steps)
        self.rows_of_length = {
            length: np.flatnonzero(self.lengths == length) for length in np.unique(self.lengths[self.short]).tolist()
        }
        self._held: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, lengths: Any, steps: int, reverse: bool) -> "Ragged | None":
        """None where every sequence runs through the stretch."""
        return None if lengths is None or not (lengths < steps).any() else cls(lengths, steps, reverse)

    def running(self, steps: slice) -> np.ndarray:
        """(steps, batch): which sequence runs at which of these steps."""
        return np.arange(steps.start, steps.stop)[:, None] < self.lengths

    # Forward. The initial states are held for a reverse direction, the final ones for the other.

    def before_first_step(self, h: np.ndarray, c: np.ndarray) -> None:
        """``h`` and ``c`` (batch, hidden) are the states before the stretch."""
        self._held = h.copy(), c.copy()

    def before_step(self, time: int, h: np.ndarray, c: np.ndarray) -> None:
        """``h`` and ``c`` (batch, hidden) are what the step at ``time`` will start from."""
        rows = self.rows_of_length.get(time + 1 if self.reverse else time)
        if rows is None or self._held is None:
            return
        if self.reverse:
            h[rows], c[rows] = (held[rows] for held in self._held)
        else:
            for held, now in zip(self._held, (h, c), strict=True):
                held[rows] = now[rows]

    def final_states(self, h_last: np.ndarray, c_last: np.ndarray, h: np.ndarray, c: np.ndarray) -> None:
        """``h`` and ``c`` become the final states; the others are the states after the last step."""
        if self._held is None:
            raise RuntimeError("before_first_step comes before final_states")
        rows = self.rows_of_length.get(0, self.short[:0]) if self.reverse else self.short
        for last, held, target in zip((h_last, c_last), self._held, (h, c), strict=True):
            target[...] = last
            target[rows] = held[rows]

    def clear_outputs(self, y: np.ndarray) -> None:
        """``y`` (steps, batch, hidden) becomes zero where a sequence is over."""
        for row in self.short.tolist():
            y[self.lengths[row] :, row] = 0

    def clear_inputs(self, hiddens: np.ndarray) -> None:
        """``hiddens`` (steps + 1, batch, hidden) becomes zero where it is the input of a step that is over: the
        gradient of such a step is zero, and zero times what is not finite is not."""
        for row in self.short.tolist():
            hiddens[self.lengths[row] + self.reverse :, row] = 0

    # Backward.

    def before_first_gradient(self, dh: np.ndarray, dc: np.ndarray) -> None:
        """``dh`` and ``dc`` are the final states' gradients, which a sequence meets at its own last step."""
        self._held = dh.copy(), dc.copy()
        if not self.reverse:
            dh[self.short] = 0
            dc[self.short] = 0

    def before_gradient(self, time: int, dh: np.ndarray, dc: np.ndarray) -> None:
        """``dh`` and ``dc`` are what the step at ``time`` gets from the step after it."""
        rows = self.rows_of_length.get(time if self.reverse else time + 1)
        if rows is None or self._held is None:
            return
        for held, now in zip(self._held, (dh, dc), strict=True):
            if self.reverse:  # these have come through their first step: what follows is padding
                held[rows] = now[rows]
                now[rows] = 0
            else:
                now[rows] = held[rows]

    def initial_gradients(self, dh: np.ndarray, dc: np.ndarray) -> None:
        """``dh`` and ``dc`` become the initial states' gradients."""
        if self._held is None:
            raise RuntimeError("before_first_gradient comes before initial_gradients")
        rows = self.short if self.reverse else self.rows_of_length.get(0, self.short[:0])
        for held, now in zip(self._held, (dh, dc), strict=True):
            now[rows] = held[rows]
