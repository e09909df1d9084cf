"""The activations of the ONNX operator LSTM: by name, with alphas and betas in two lists, in f, g, h order.

A list has an entry for each activation that takes that parameter, and none for the others. Eleven activations exist;
a `gpulstm.LSTM` can hold six of them, and `run_node` computes all.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..activations import DEFAULTS, Activation
from ..arrays import Array, namespace

_OURS = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "HardSigmoid": "hard_sigmoid",
    "Softsign": "softsign",
    "Affine": "affine",
}
"""ONNX's name -> ours, of those that an LSTM can hold."""

_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Sigmoid": (None, None),
    "Tanh": (None, None),
    "Relu": (None, None),
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (1.0, None),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
    "Softsign": (None, None),
    "Softplus": (None, None),
}
"""ONNX's name -> default alpha and beta; None where there is no such parameter.

The text says "as of corresponding ONNX operators". Affine and ScaledTanh are no operators any more; theirs are those of
the last version that had them, under which they change nothing. onnxruntime takes 0 for the parameters of Affine,
ScaledTanh and ThresholdedRelu where the lists have none.
"""

_BY_LOWER_CASE = {name.lower(): name for name in _PARAMETERS}


class ForeignActivation(Activation):
    """One that no engine of ours has. It has a value and no slope."""

    __slots__ = ()

    def __call__(self, a: Array) -> Array:
        return _FOREIGN[self.name](namespace(a), a, self.alpha, self.beta)


_FOREIGN: dict[str, Callable[..., Array]] = {
    "LeakyRelu": lambda xp, a, alpha, beta: xp.where(a >= 0, a, alpha * a),
    "ThresholdedRelu": lambda xp, a, alpha, beta: xp.where(a >= alpha, a, xp.zeros_like(a)),
    "ScaledTanh": lambda xp, a, alpha, beta: alpha * xp.tanh(beta * a),
    # What where does not choose is computed too, and must not overflow.
    "Elu": lambda xp, a, alpha, beta: xp.where(a >= 0, a, alpha * (xp.exp(xp.where(a >= 0, xp.zeros_like(a), a)) - 1)),
    "Softplus": lambda xp, a, alpha, beta: xp.where(a > 0, a, xp.zeros_like(a)) + xp.log1p(xp.exp(-xp.abs(a))),
}


def as_written(value: float) -> float:
    """The shortest decimal of an attribute. Attributes are float32: 0.2 comes out of a file as 0.20000000298."""
    return float(str(np.float32(value)))


def from_attributes(
    names: Sequence[bytes], alphas: Sequence[float], betas: Sequence[float], directions: int
) -> list[tuple[Activation, Activation, Activation]]:
    """For each direction f, g and h: `Activation` where ours has it, else `ForeignActivation`.

    Raises ValueError for an unknown name, and for a number of names or parameters that does not fit.
    """
    given = [name.decode("utf-8", "replace") for name in names] or ["Sigmoid", "Tanh", "Tanh"] * directions
    if len(given) != 3 * directions:
        raise ValueError(
            f"activations must be three for each of {directions} directions, got {len(given)}: {', '.join(given[:8])}"
        )
    waiting = {"activation_alpha": list(alphas), "activation_beta": list(betas)}
    found = []
    for name in given:
        if name.lower() not in _BY_LOWER_CASE:
            raise ValueError(f"activations must be among {', '.join(_PARAMETERS)}, got {name!r}")
        known = _BY_LOWER_CASE[name.lower()]
        numbers = []
        for values, default in zip(waiting.values(), _PARAMETERS[known], strict=True):
            takes_one = default is not None and values
            numbers.append(as_written(values.pop(0)) if takes_one else default or 0.0)
        if not np.isfinite(numbers).all():
            raise ValueError(f"activations must have finite parameters, got {numbers} for {known}")
        kind = Activation if known in _OURS else ForeignActivation
        found.append(kind(_OURS.get(known, known), *numbers))
    left = [f"{len(values)} too many in {name}" for name, values in waiting.items() if values]
    if left:
        raise ValueError(
            f"activation_alpha and activation_beta must have one number for each activation that takes one "
            f"({', '.join(given)}), got {' and '.join(left)}"
        )
    return [(found[k], found[k + 1], found[k + 2]) for k in range(0, len(found), 3)]


def to_attributes(activations: Sequence[Activation], directions: int) -> dict[str, list]:
    """The attributes of a node; none for sigmoid, tanh, tanh.

    Parameters are always written: runtimes differ in their defaults. Raises ValueError for a parameter that float32,
    as which ONNX keeps it, does not hold.
    """
    if [a.name for a in activations] == ["sigmoid", "tanh", "tanh"]:
        return {}
    theirs = {ours: name for name, ours in _OURS.items()}
    names: list[str] = []
    alphas: list[float] = []
    betas: list[float] = []
    for k, activation in enumerate(activations):
        name = theirs[activation.name]
        names.append(name)
        if DEFAULTS[activation.name] == (0.0, 0.0):
            continue
        for values, number in ((alphas, activation.alpha), (betas, activation.beta)):
            values.append(checked_attribute(f"activations[{k}]", number))
    found: dict[str, list] = {"activations": names, "activation_alpha": alphas, "activation_beta": betas}
    return {key: values * directions for key, values in found.items() if values}


def checked_attribute(what: str, number: float) -> float:
    """Raises ValueError where a float32 does not give the same number back."""
    with np.errstate(over="ignore"):
        held = as_written(number)
    if held != number:
        raise ValueError(
            f"{what} must be a number that ONNX's float32 attributes can hold, such as {held}, got {number!r}"
        )
    return number
