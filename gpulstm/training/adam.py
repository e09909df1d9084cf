"""Adam, and AdamW with its decoupled weight decay."""

import math
from typing import NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Array
from .optimisers import Optimiser, not_negative


class _Numbers(NamedTuple):
    """What the update needs besides arrays, in the kernel's order."""

    beta1: float
    new_share1: float  # 1 - beta1
    beta2: float
    new_share2: float
    step_size: float  # learning_rate / (1 - beta1^t)
    root_correction: float  # sqrt(1 - beta2^t)
    epsilon: float
    keep: float  # what weight decay leaves of a parameter


class Adam(Optimiser):
    """Adam, with PyTorch's formulas and defaults.

    ::

        m = beta1 m + (1 - beta1) g            running mean of the gradient
        v = beta2 v + (1 - beta2) g^2          running mean of its square
        p = p - learning_rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)        t: the step's number

    ``learning_rate`` may be changed between steps. On a GPU float32 numbers below 1e-38 count as 0, v's among them.

    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """

    _moment_names = ("m", "v")
    _kernel = "adam_step"

    def __init__(
        self, learning_rate: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.betas = tuple(not_negative("betas", beta) for beta in betas)
        self.epsilon = not_negative("epsilon", epsilon)
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise ValueError(f"betas must be two numbers of at least 0 and below 1, got {betas}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.learning_rate}, betas={self.betas}, epsilon={self.epsilon})"

    def _keep(self) -> float:
        return 1.0

    def _numbers(self) -> _Numbers:
        beta1, beta2 = self.betas
        step_size = self.learning_rate / (1 - beta1**self.steps)
        root_correction = math.sqrt(1 - beta2**self.steps)
        return _Numbers(beta1, 1 - beta1, beta2, 1 - beta2, step_size, root_correction, self.epsilon, self._keep())

    def _update_numpy(self, p: np.ndarray, g: np.ndarray, means: list[np.ndarray], numbers: _Numbers) -> None:
        m, v = means
        term, update = self._scratch_like(p, "term"), self._scratch_like(p, "update")
        m *= numbers.beta1
        m += np.multiply(g, numbers.new_share1, out=term)
        v *= numbers.beta2
        np.multiply(g, g, out=term)
        v += np.multiply(term, numbers.new_share2, out=term)
        np.sqrt(v, out=term)
        term /= numbers.root_correction
        term += numbers.epsilon
        np.multiply(m, numbers.step_size, out=update)
        update /= term
        if numbers.keep != 1:
            p *= numbers.keep
        p -= update

    def _update(self, p: Array, g: Array, means: tuple[Array, ...], numbers: _Numbers) -> tuple[Array, ...]:
        m, v = means
        m *= numbers.beta1
        m += numbers.new_share1 * g
        v *= numbers.beta2
        v += numbers.new_share2 * (g * g)
        if numbers.keep != 1:
            p *= numbers.keep
        p -= numbers.step_size * m / (arrays.namespace(p).sqrt(v) / numbers.root_correction + numbers.epsilon)
        return p, m, v

    def _kernel_scalars(self, numbers: _Numbers, real: type[np.floating]) -> tuple:
        return tuple(map(real, numbers))


class AdamW(Adam):
    """Adam with decoupled weight decay, with PyTorch's formulas and defaults.

    ::

        p = (1 - learning_rate * weight_decay) p        before Adam's own update, which does not see it

    so that all weights decay alike, where a decay inside the gradient would be divided by sqrt(v). It falls on every
    parameter, biases among them; for parameters without it use a second optimiser with ``weight_decay=0``.

    Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(learning_rate, betas=betas, epsilon=epsilon)
        self.weight_decay = not_negative("weight_decay", weight_decay)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, weight_decay={self.weight_decay})"

    def _keep(self) -> float:
        return 1 - self.learning_rate * self.weight_decay
