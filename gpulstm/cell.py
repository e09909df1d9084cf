"""One time step of an LSTM as a layer of its own."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from . import functional, initialisers
from .arrays import Array
from .parameters import Layout, State


@dataclass(frozen=True)
class CellCache:
    """What `LSTMCell.forward` hands to `LSTMCell.backward`."""

    inner: functional.Cache


class LSTMCell:
    """One step: ``h, c = cell(x, (h, c))``.

    Parameters are those of `gpulstm.LSTM` with one layer; ``params`` has ``weight_ih`` (4*hidden, input),
    ``weight_hh`` (4*hidden, hidden) and ``bias`` (4*hidden,), gate order i, f, g, o.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        require = initialisers.require_size
        self.layout = Layout(require("input_size", input_size), require("hidden_size", hidden_size), bias=bool(bias))
        shapes = {_ours(name): shape for name, shape in self.layout.shapes().items()}
        self.params = initialisers.uniform(shapes, self.layout.hidden_size**-0.5, dtype, xp, rng)

    def __call__(self, x: Array, state: State | tuple[Array, Array] | None = None) -> State:
        """The next state: x (batch, inputs), h and c (batch, hidden), or all of them without the batch axis."""
        _, final = functional.lstm_inference(_one_step(x), self._sequence_params(), _one_layer(state))
        return State(final.h[0, ...], final.c[0, ...])

    def forward(self, x: Array, state: State | tuple[Array, Array] | None = None) -> tuple[State, CellCache]:
        """The next state, and a cache for one `backward`."""
        _, final, cache = functional.lstm_forward(_one_step(x), self._sequence_params(), _one_layer(state))
        return State(final.h[0, ...], final.c[0, ...]), CellCache(cache)

    def backward(
        self, cache: CellCache, dstate: State | tuple[Array | None, Array | None]
    ) -> tuple[Array, dict[str, Array], State]:
        """Gradients of x, of the parameters and of the state before, from those of the state after."""
        if not isinstance(cache, CellCache):
            raise TypeError(f"cache must be what LSTMCell.forward returned last, got {type(cache).__name__}")
        dx, grads, dinitial = functional.lstm_backward(cache.inner, None, _one_layer(dstate, "dstate"))
        named = {_ours(name): gradient for name, gradient in grads.items()}
        return dx[0, ...], named, State(dinitial.h[0, ...], dinitial.c[0, ...])

    def _sequence_params(self) -> dict[str, Array]:
        return {name + "_l0": array for name, array in self.params.items()}

    def __repr__(self) -> str:
        return f"LSTMCell({self.layout.input_size}, {self.layout.hidden_size})"


def _ours(name: str) -> str:
    return name.removesuffix("_l0")


def _one_step(x: Array) -> Array:
    """x with a time axis of length one."""
    functional.arrays.require_array("x", x)
    if x.ndim not in (1, 2):
        raise ValueError(f"x must have shape (batch, inputs), or (inputs,) without a batch, got {tuple(x.shape)}")
    return x[None, ...]


def _one_layer(state: Any, name: str = "state") -> Any:
    """The pair with a layer axis of length one."""
    if state is None:
        return None
    pair = functional._pair(name, state)
    return tuple(a if a is None or not functional.arrays.is_array(a) else a[None, ...] for a in pair)
