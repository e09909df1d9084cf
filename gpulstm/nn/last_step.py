"""The output of each sequence's own last step: what a classifier of whole sequences reads."""

from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from .. import lengths as lengths_module
from ..arrays import Array


class _Cache(NamedTuple):
    x: Array  # (time, batch, features)
    last: Array  # (batch,) the steps taken, -1 of an empty sequence
    batched: bool


class LastStep:
    """(time, batch, features) -> (batch, features): each sequence at its last step, ``out[n] = x[lengths[n] - 1, n]``.

    With ``bidirectional`` the features' second half, which is the reverse direction's, is taken at step 0 instead: that
    direction has read the whole sequence there. So out is the final hidden state of an LSTM's last layer.

    A sequence of length 0 gives zeros. With ``batch_first`` x is (batch, time, features). There are no parameters.
    """

    def __init__(self, *, batch_first: bool = False, bidirectional: bool = False) -> None:
        self.batch_first, self.bidirectional = bool(batch_first), bool(bidirectional)
        self.params: dict[str, Array] = {}

    def __call__(self, x: Array, *, lengths: Any = None) -> Array:
        """Arguments and result are those of `forward`; keeps nothing."""
        return self.forward(x, lengths=lengths)[0]

    def forward(self, x: Array, *, lengths: Any = None) -> tuple[Array, _Cache]:
        """x (time, batch, features) -> out (batch, features), and what `backward` needs.

        ``lengths`` is (batch,) integers, or None where all sequences go to the end. Without a batch axis x is
        (time, features) and out (features,).

        Raises TypeError or ValueError for another rank, for features that two directions cannot share evenly, and for
        lengths outside of 0..time.
        """
        arrays.require_array("x", x)
        arrays.require_floating("x", x)
        if x.ndim not in (2, 3):
            axes = "(batch, time, features)" if self.batch_first else "(time, batch, features)"
            raise ValueError(f"x must have shape {axes}, or (time, features) without a batch, got {tuple(x.shape)}")
        if self.bidirectional and x.shape[-1] % 2:
            raise ValueError(f"x must have an even number of features for two directions, got shape {tuple(x.shape)}")
        batched = x.ndim == 3
        x = self._inward(x, batched)
        with arrays.on_device_of(x):
            last = self._last(x, lengths, batched)
            half = x.shape[-1] // 2 if self.bidirectional else x.shape[-1]
            out = _at(x[:, :, :half], last)
            if self.bidirectional:
                first = _first(last)
                out = arrays.namespace(x).concat([out, _at(x[:, :, half:], first)], axis=-1)
        return (out if batched else out[0, :]), _Cache(x, last, batched)

    def backward(self, cache: _Cache, dout: Array) -> tuple[Array, dict[str, Array]]:
        """dout (batch, features) -> dx (time, batch, features), zero but at the steps taken; and no gradients."""
        x, last, batched = cache
        arrays.check_same({"x": x, "dout": dout})
        expected = tuple(x.shape[1:]) if batched else (x.shape[2],)
        if tuple(dout.shape) != expected:
            raise ValueError(f"dout must have the shape of forward's result, {expected}, got {tuple(dout.shape)}")
        dout = dout if batched else dout[None, :]
        with arrays.on_device_of(x):
            half = x.shape[-1] // 2 if self.bidirectional else x.shape[-1]
            dx = _spread(dout[:, :half], last, x.shape[0])
            if self.bidirectional:
                reverse = _spread(dout[:, half:], _first(last), x.shape[0])
                dx = arrays.namespace(x).concat([dx, reverse], axis=-1)
        return self._outward(dx, batched), {}

    def _last(self, x: Array, lengths: Any, batched: bool) -> Array:
        """(batch,) the last step of each sequence of x (time, batch, features), -1 of an empty one."""
        steps, batch, _ = x.shape
        counted = lengths_module.checked(lengths, x, batched=batched)
        if counted is None:
            return arrays.beside(np.full(batch, steps - 1, np.int32), x)
        return counted - 1

    def _inward(self, x: Array, batched: bool) -> Array:
        if not batched:
            return x[:, None, :]
        return _swapped(x) if self.batch_first else x

    def _outward(self, dx: Array, batched: bool) -> Array:
        if not batched:
            return dx[:, 0, :]
        return _swapped(dx) if self.batch_first else dx

    def __repr__(self) -> str:
        flags = [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return f"LastStep({', '.join(flags)})"


def _swapped(x: Array) -> Array:
    """The first two axes of three exchanged, as a view."""
    if arrays.is_numpy(x) or arrays.is_cupy(x):
        return x.swapaxes(0, 1)
    return arrays.namespace(x).permute_dims(x, (1, 0, 2))


def _first(last: Array) -> Array:
    """Step 0 of each sequence, -1 of an empty one."""
    xp = arrays.namespace(last)
    return xp.where(last < 0, last, xp.zeros_like(last))


def _at(x: Array, step: Array) -> Array:
    """x (time, batch, features) at each sequence's own step; zeros where that is -1, whatever x has there."""
    xp = arrays.namespace(x)
    steps, batch, features = x.shape
    if steps == 0 or batch == 0:
        return arrays.zeros((batch, features), x)
    inside = xp.where(step < 0, xp.zeros_like(step), step)
    sequence = arrays.beside(np.arange(batch, dtype=np.int32), x)
    if arrays.is_numpy(x) or arrays.is_cupy(x):
        found = x[inside, sequence]
    else:
        found = xp.take(xp.reshape(x, (steps * batch, features)), inside * batch + sequence, axis=0)
    return xp.where((step >= 0)[:, None], found, arrays.zeros((1, 1), x))


def _spread(dout: Array, step: Array, steps: int) -> Array:
    """(steps, batch, features) zeros with dout (batch, features) at each sequence's own step, unless that is -1."""
    if arrays.is_numpy(dout):
        dx = np.zeros((steps, *dout.shape), dout.dtype)
        there = np.flatnonzero(step >= 0)
        dx[step[there], there] = dout[there]
        return dx
    xp = arrays.namespace(dout)
    chosen = arrays.beside(np.arange(steps, dtype=np.int32), dout)[:, None] == step
    return xp.where(chosen[:, :, None], dout[None, :, :], arrays.zeros((1, 1, 1), dout))
