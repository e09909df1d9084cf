"""Long sequences in little memory: keep every k-th state, and run a stretch again when backward needs it.

Chen, Xu, Zhang and Guestrin, Training deep nets with sublinear memory cost, 2016; for recurrent networks Gruslys et
al., Memory-efficient backpropagation through time, NIPS 2016.
"""

from collections.abc import Callable
from typing import Any

from .arrays import Array, namespace
from .engines import Lane
from .parameters import Weights


def checked(every: Any) -> int | None:
    """``checkpoint_every`` as a positive integer or None. Raises TypeError or ValueError."""
    if every is None:
        return None
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"checkpoint_every must be a number of time steps or None, got {every!r}")
    if every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {every}")
    return every


def stretches(steps: int, every: int, reverse: bool) -> list[slice]:
    """Stretches of time in the order in which a direction visits them."""
    found = [slice(first, min(first + every, steps)) for first in range(0, steps, every)]
    return found[::-1] if reverse else found


def within(lengths: Array | None, stretch: slice) -> Array | None:
    """Lengths counted from the beginning of a stretch: below 1 where a sequence is over by then."""
    return None if lengths is None else lengths - stretch.start


class CheckpointedEngine:
    """An engine (see `gpulstm.engines`) over another one, for training.

    ``every`` is rounded up to a multiple of the window in which weight gradients are added up, which is what makes
    every sum the same as without checkpoints, to the bit.
    """

    forward_from = None  # `forward` keeps the states in between, and begins with what h and c hold
    forward_both = backward_both = None  # the directions come to their stretches in opposite orders
    forward_layers = backward_layers = None  # a stretch is run again for one layer at a time

    def __init__(self, engine: Any, every: int) -> None:
        self.engine, self.every = engine, every

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)  # all that does not go through time

    def _stretches(self, x: Array, reverse: bool) -> list[slice]:
        steps, batch = x.shape[:2]
        window = self.engine.window(batch)
        return stretches(steps, -(-self.every // window) * window, reverse)

    def forward(self, x: Array, weights: Weights, h: Array, c: Array, y: Array, lane: Lane, lengths: Any) -> list:
        """Gives the state before each stretch, a copy of its own."""
        kept = []
        for t in self._stretches(x, lane.reverse):
            kept.append((h.copy(), c.copy()))
            self.engine.forward(x[t], weights, h, c, y[t], lane._replace(first_time=t.start), within(lengths, t))
        return kept

    def backward(
        self,
        kept: list,
        x: Array,
        weights: Weights,
        dy: Array | None,
        dh: Array,
        dc: Array,
        dx: Array,
        add_to_dx: bool,
        lane: Lane,
        lengths: Any,
        gradient: Any,
    ) -> None:
        """Stretch by stretch, the last one first: forward again, this time to keep everything, and backward."""
        visited = self._stretches(x, lane.reverse)
        for t, (h, c) in zip(reversed(visited), reversed(kept), strict=True):
            own, left = lane._replace(first=0, first_time=t.start), within(lengths, t)
            y = self.engine.empty((*x[t].shape[:2], lane.width), x)  # written once more, and not looked at
            saved = self.engine.forward(x[t], weights, h, c, y, own, left)
            own = own._replace(first=lane.first)
            of_y = None if dy is None else dy[t]
            self.engine.backward(saved, x[t], weights, of_y, dh, dc, dx[t], add_to_dx, own, left, gradient)


class CheckpointedRun:
    """The same for a run of `gpulstm.array_api_stack`, whose sums go step by step: ``every`` is taken as it is."""

    def __init__(self, run_from: Callable[[int], Any], every: int) -> None:
        self.run_from, self.every = run_from, every  # run_from(first_time) is the run of a stretch

    def forward(self, x: Array, h: Array, c: Array, lengths: Any, reverse: bool, *, keep: bool = True) -> tuple:
        xp, parts, kept = namespace(x), [], []
        for t in stretches(x.shape[0], self.every, reverse):
            kept.append((x[t, ...], h, c))
            run = self.run_from(t.start)
            y, h, c, _ = run.forward(x[t, ...], h, c, within(lengths, t), reverse, keep=False)
            parts.append(y)
        return xp.concat(parts[::-1] if reverse else parts), h, c, kept

    def backward(
        self, kept: list, dy: Any, dh: Array, dc: Array, lengths: Any, reverse: bool, gradient: Any = None
    ) -> tuple:
        parts = []
        visited = stretches(sum(x.shape[0] for x, _, _ in kept), self.every, reverse)
        for t, (x, h, c) in zip(reversed(visited), reversed(kept), strict=True):
            run, left = self.run_from(t.start), within(lengths, t)
            *_, steps = run.forward(x, h, c, left, reverse)
            of_y = None if dy is None else dy[t, ...]
            dx, gradient, dh, dc = run.backward(steps, of_y, dh, dc, left, reverse, gradient)
            parts.append(dx)
        return namespace(dh).concat(parts if reverse else parts[::-1]), gradient, dh, dc

    def finish_gradient(self, gradient: Weights) -> Weights:
        return self.run_from(0).finish_gradient(gradient)
