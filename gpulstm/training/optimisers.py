"""Optimisers: they change parameters by what the gradients say."""

import math
from numbers import Real

from .. import arrays
from ..arrays import Array
from .nested import Nested, leaves


class Adam:
    """Adam, with PyTorch's formulas and defaults.

    ::

        m = beta1 m + (1 - beta1) g            running mean of the gradient
        v = beta2 v + (1 - beta2) g^2          running mean of its square
        p = p - learning_rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)        t: the step's number

    ``learning_rate`` may be changed between steps.

    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """

    def __init__(
        self, learning_rate: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        self.learning_rate = _not_negative("learning_rate", learning_rate)
        self.betas = tuple(_not_negative("betas", beta) for beta in betas)
        self.epsilon = _not_negative("epsilon", epsilon)
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise ValueError(f"betas must be two numbers of at least 0 and below 1, got {betas}")
        self.steps = 0
        self.moments: dict[str, tuple[Array, Array]] = {}  # parameter -> (m, v)

    def step(self, params: Nested, grads: Nested) -> None:
        """Changes ``params``, a dict of arrays or of dicts of arrays, by ``grads``, which has the same keys and shapes.

        Arrays change in place where the library allows it; else new ones take their place in the dict.
        Raises TypeError or ValueError where the two do not match, before anything has changed.
        """
        pairs = _paired(params, grads)
        self.steps += 1
        for name, holder, key, gradient in pairs:
            holder[key] = self._updated(name, holder[key], gradient)

    def _updated(self, name: str, parameter: Array, gradient: Array) -> Array:
        beta1, beta2 = self.betas
        xp = arrays.namespace(parameter)
        m, v = self.moments.get(name) or (xp.zeros_like(parameter), xp.zeros_like(parameter))
        m *= beta1
        m += (1 - beta1) * gradient
        v *= beta2
        v += (1 - beta2) * (gradient * gradient)
        self.moments[name] = m, v
        step_size = float(self.learning_rate) / (1 - beta1**self.steps)
        parameter -= step_size * m / (xp.sqrt(v) / math.sqrt(1 - beta2**self.steps) + self.epsilon)
        return parameter


def _paired(params: Nested, grads: Nested) -> list[tuple[str, Nested, str, Array]]:
    """Each parameter's name, its place and its gradient; refuses two trees that do not match."""
    places = {name.removeprefix("params"): (holder, key) for name, holder, key in leaves("params", params)}
    gradients = {name.removeprefix("grads"): holder[key] for name, holder, key in leaves("grads", grads)}
    problems = [f"missing {name}" for name in places if name not in gradients]
    problems += [f"unexpected {name}" for name in gradients if name not in places]
    if problems:
        raise ValueError(f"grads must have the keys of params: {', '.join(problems)}")
    for name, (holder, key) in places.items():
        parameter, gradient = holder[key], gradients[name]
        arrays.check_same({f"params{name}": parameter, f"grads{name}": gradient})
        if parameter.shape != gradient.shape:
            raise ValueError(
                f"grads{name} must have its parameter's shape {tuple(parameter.shape)}, got {tuple(gradient.shape)}"
            )
    return [(name, holder, key, gradients[name]) for name, (holder, key) in places.items()]


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)
