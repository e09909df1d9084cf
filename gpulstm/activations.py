"""The non-linearities that a gate, the candidate or the cell can go through, by name.

Each slope is written in the function's own value, which is all that the forward pass leaves behind; that is possible
because every one of them is monotonic. Names and default parameters are those of the ONNX operator LSTM.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, namespace


class Activation(NamedTuple):
    """A non-linearity with its two parameters; those without parameters leave them at zero."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, a: Array) -> Array:
        """The function's value, element by element."""
        return _VALUES[self.name](namespace(a), a, self.alpha, self.beta)

    def __repr__(self) -> str:
        """As a user writes it."""
        return repr(tuple(self) if self.name in WITH_PARAMETERS else self.name)

    def slope(self, value: Array) -> Array:
        """The derivative where the function has this value."""
        return _SLOPES[self.name](namespace(value), value, self.alpha, self.beta)


DEFAULTS: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 0.0),
    "tanh": (0.0, 0.0),
    "relu": (0.0, 0.0),
    "hard_sigmoid": (0.2, 0.5),
    "softsign": (0.0, 0.0),
    "affine": (1.0, 0.0),
}
"""Name -> alpha and beta where none are given."""

WITH_PARAMETERS = ("hard_sigmoid", "affine")

SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")

_VALUES: dict[str, Callable[..., Array]] = {
    "sigmoid": lambda xp, a, alpha, beta: 0.5 * xp.tanh(0.5 * a) + 0.5,
    "tanh": lambda xp, a, alpha, beta: xp.tanh(a),
    "relu": lambda xp, a, alpha, beta: xp.where(a <= 0, xp.zeros_like(a), a),
    "hard_sigmoid": lambda xp, a, alpha, beta: _clamped(xp, alpha * a + beta, 0.0, 1.0),
    "softsign": lambda xp, a, alpha, beta: a / (1 + xp.abs(a)),
    "affine": lambda xp, a, alpha, beta: alpha * a + beta,
}

_SLOPES: dict[str, Callable[..., Array]] = {
    "sigmoid": lambda xp, v, alpha, beta: v * (1 - v),
    "tanh": lambda xp, v, alpha, beta: 1 - v * v,
    "relu": lambda xp, v, alpha, beta: xp.where(v > 0, xp.ones_like(v), xp.zeros_like(v)),
    "hard_sigmoid": lambda xp, v, alpha, beta: xp.where((v > 0) & (v < 1), xp.ones_like(v) * alpha, xp.zeros_like(v)),
    "softsign": lambda xp, v, alpha, beta: (1 - xp.abs(v)) * (1 - xp.abs(v)),
    "affine": lambda xp, v, alpha, beta: xp.ones_like(v) * alpha,
}


def _clamped(xp: Any, a: Array, low: float, high: float) -> Array:
    """Between low and high; NaN stays NaN. At the ends themselves it is the bound that is taken, so that the slope
    which automatic differentiation finds there is zero, as ours is."""
    a = xp.where(a <= low, xp.ones_like(a) * low, a)
    return xp.where(a >= high, xp.ones_like(a) * high, a)


def clamp(a: Array, limit: float) -> Array:
    """Between -limit and limit; NaN stays NaN."""
    return _clamped(namespace(a), a, -limit, limit)


def named(what: str, given: Any) -> Activation:
    """An `Activation` from a name or from (name, alpha[, beta]). Raises TypeError or ValueError naming ``what``."""
    name, *parameters = (
        (given,) if isinstance(given, str) else given if isinstance(given, (tuple, list)) and given else (None,)
    )
    if not isinstance(name, str) or len(parameters) > 2:
        raise TypeError(f"{what} must be a name or (name, alpha, beta), got {given!r}")
    if name not in DEFAULTS:
        raise ValueError(f"{what} must be one of {', '.join(DEFAULTS)}, got {name!r}")
    if any(isinstance(p, bool) or not isinstance(p, (int, float, np.integer, np.floating)) for p in parameters):
        raise TypeError(f"{what} must have numbers for alpha and beta, got {given!r}")
    if not all(math.isfinite(p) for p in parameters):
        raise ValueError(f"{what} must have finite alpha and beta, got {given!r}")
    if any(parameters) and name not in WITH_PARAMETERS:
        raise ValueError(f"{what}: {name} has no parameters, got {given!r}")
    return Activation(name, *(float(p) for p in (*parameters, *DEFAULTS[name][len(parameters) :])))
