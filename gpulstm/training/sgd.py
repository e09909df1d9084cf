"""Gradient descent, with momentum."""

from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .optimisers import Optimiser, not_negative


class _Numbers(NamedTuple):
    learning_rate: float
    momentum: float
    weight_decay: float


class SGD(Optimiser):
    """Stochastic gradient descent, with PyTorch's formulas (its dampening being 0).

    ::

        d = g + weight_decay * p
        b = momentum * b + d                             only with momentum; b begins as zero
        p = p - learning_rate * b                        or, nesterov: p - learning_rate * (d + momentum * b)

    Without momentum b is d, and no array is kept. ``learning_rate`` may be changed between steps.

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964; Sutskever, Martens, Dahl and Hinton,
    On the importance of initialization and momentum in deep learning, ICML 2013, which has this form of Nesterov's.
    """

    _kernel = "sgd_step"

    def __init__(
        self, learning_rate: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = not_negative("momentum", momentum)
        self.weight_decay = not_negative("weight_decay", weight_decay)
        if not isinstance(nesterov, (bool, np.bool_)):
            raise TypeError(f"nesterov must be True or False, got {type(nesterov).__name__}")
        if nesterov and not self.momentum:
            raise ValueError("nesterov must come with a momentum above 0, got momentum 0.0")
        self.nesterov = bool(nesterov)
        self._moment_names = ("momentum",) if self.momentum else ()

    def __repr__(self) -> str:
        return (
            f"SGD({self.learning_rate}, momentum={self.momentum}, nesterov={self.nesterov}, "
            f"weight_decay={self.weight_decay})"
        )

    def _numbers(self) -> _Numbers:
        return _Numbers(self.learning_rate, self.momentum, self.weight_decay)

    def _update_numpy(self, p: np.ndarray, g: np.ndarray, means: list[np.ndarray], numbers: _Numbers) -> None:
        direction, term = g, self._scratch_like(p, "term")
        if numbers.weight_decay:
            direction = np.multiply(p, numbers.weight_decay, out=self._scratch_like(p, "direction"))
            direction += g
        for b in means:
            b *= numbers.momentum
            b += direction
            if self.nesterov:
                np.multiply(b, numbers.momentum, out=term)
                direction = np.add(term, direction, out=term)
            else:
                direction = b
        p -= np.multiply(direction, numbers.learning_rate, out=term)

    def _update(self, p: Array, g: Array, means: tuple[Array, ...], numbers: _Numbers) -> tuple[Array, ...]:
        direction = g + numbers.weight_decay * p if numbers.weight_decay else g
        kept = []
        for b in means:
            b *= numbers.momentum
            b += direction
            kept.append(b)
            direction = direction + numbers.momentum * b if self.nesterov else b
        p -= numbers.learning_rate * direction
        return p, *kept

    def _kernel_scalars(self, numbers: _Numbers, real: type[np.floating]) -> tuple:
        return *map(real, numbers), np.int32(self.nesterov)
