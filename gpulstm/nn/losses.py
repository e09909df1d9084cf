"""Losses that compare element by element. Each returns the loss and its gradient with respect to the prediction, ready
for a layer's `backward`.

All take ``lengths``, (batch,) integers, for predictions (time, batch, ...), or (batch, time, ...) with ``batch_first``:
elements past a sequence's end do not count and have gradient zero, whatever is there. Where nothing counts, the loss is
NaN. A loss has no axes and stays on the array's device, so that a GPU need not be waited for; `float(loss)` fetches it.
"""

import math
from numbers import Real
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from . import padding
from .padding import Padding


def mean_squared_error(
    prediction: Array, target: Array, *, lengths: Any = None, batch_first: bool = False
) -> tuple[Array, Array]:
    """The mean of (prediction - target)^2 over all elements that count, and its gradient.

    ::

        loss = mean((prediction - target)^2)        dprediction = 2 (prediction - target) / count

    Both arrays have the same shape, of any rank; for ``lengths`` see `gpulstm.nn.losses`. Returns (loss, gradient).

    Raises ValueError for unequal shapes or no elements, TypeError for arrays that do not belong together.
    """
    padded = _checked("prediction", prediction, target, lengths, batch_first)
    error = _error(prediction, target, padded)
    return _mean(error * error, padded), _shares(error, 2, padded)


def huber(
    prediction: Array, target: Array, *, delta: float = 1.0, lengths: Any = None, batch_first: bool = False
) -> tuple[Array, Array]:
    """The mean Huber loss, squared near zero and linear from ``delta`` on, and its gradient.

    ::

        e = prediction - target
        loss = mean(e^2 / 2 where |e| < delta, else delta (|e| - delta / 2))
        dprediction = (e where |e| < delta, else delta sign(e)) / count

    It is ``torch.nn.functional.huber_loss``. Arguments, result and errors otherwise as for `mean_squared_error`.

    Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics 1964.
    """
    if isinstance(delta, bool) or not isinstance(delta, Real):
        raise TypeError(f"delta must be a number, got {delta!r}")
    delta = float(delta)
    if not 0 < delta < math.inf:
        raise ValueError(f"delta must be positive and finite, got {delta}")
    padded = _checked("prediction", prediction, target, lengths, batch_first)
    xp, error = arrays.namespace(prediction), _error(prediction, target, padded)
    slope = xp.where(xp.abs(error) < delta, error, delta * xp.sign(error))
    return _mean(slope * (error - 0.5 * slope), padded), _shares(slope, 1, padded)


def binary_cross_entropy_with_logits(
    logits: Array,
    target: Array,
    *,
    positive_weight: float | Array | None = None,
    lengths: Any = None,
    batch_first: bool = False,
) -> tuple[Array, Array]:
    """The mean cross-entropy between yes-or-no targets and the sigmoid of logits, and its gradient.

    ::

        loss = mean(-w y log(s(x)) - (1 - y) log(s(-x)))        s: sigmoid, x: logits, y: target
        dlogits = ((1 - y) s(x) - w y s(-x)) / count

    Neither overflows, nor loses the digits of a probability near one.

    logits, target : the same shape, of any rank; targets are numbers from 0 to 1, which is not checked
    positive_weight : w, a number, or an array (features,) for the last axis; 1 if not given

    It is ``torch.nn.functional.binary_cross_entropy_with_logits``. Result and errors as for `mean_squared_error`.
    """
    padded = _checked("logits", logits, target, lengths, batch_first)
    weight = _checked_weight(positive_weight, logits)
    xp, zero = arrays.namespace(logits), arrays.zeros((), logits)
    x, y = _without_padding(logits, padded), _without_padding(target, padded)
    with np.errstate(invalid="ignore"):
        power = xp.exp(-xp.abs(x))
        logarithm, likely, unlikely = xp.log1p(power), 1 / (1 + power), power / (1 + power)
        no, yes = 1 - y, y if weight is None else weight * y
        losses = no * (xp.where(x > 0, x, zero) + logarithm) + yes * (xp.where(x < 0, -x, zero) + logarithm)
        slope = no * xp.where(x > 0, likely, unlikely) - yes * xp.where(x > 0, unlikely, likely)
    return _mean(_without_padding(losses, padded), padded), _shares(slope, 1, padded)


def _checked(name: str, prediction: Array, target: Array, lengths: Any, batch_first: bool) -> Padding | None:
    arrays.check_same({name: prediction, "target": target})
    arrays.require_floating(name, prediction)
    if prediction.shape != target.shape:
        raise ValueError(
            f"target must have {name}'s shape {tuple(prediction.shape)}, got {tuple(target.shape)}; nothing is "
            "broadcast here, because a (batch, 1) against a (batch,) would compare every pair"
        )
    if math.prod(prediction.shape) == 0:
        raise ValueError(f"{name} must have elements to average over, got shape {tuple(prediction.shape)}")
    return padding.checked(lengths, prediction, tuple(prediction.shape), batch_first=batch_first, name=name)


def _checked_weight(weight: Any, logits: Array) -> float | Array | None:
    if weight is None:
        return None
    if isinstance(weight, Real) and not isinstance(weight, bool):
        if not 0 <= float(weight) < math.inf:
            raise ValueError(f"positive_weight must be finite and not negative, got {weight}")
        return float(weight)
    if not arrays.is_array(weight):
        raise TypeError(f"positive_weight must be a number, an array or None, got {type(weight).__name__}")
    arrays.check_same({"logits": logits, "positive_weight": weight})
    if tuple(weight.shape) != tuple(logits.shape[-1:]):
        raise ValueError(
            f"positive_weight must have shape (features,) = {tuple(logits.shape[-1:])}, got {tuple(weight.shape)}"
        )
    return weight


def _error(prediction: Array, target: Array, padded: Padding | None) -> Array:
    with np.errstate(invalid="ignore"):  # infinities that cancel are NaN, as they should be
        return _without_padding(prediction - target, padded)


def _without_padding(x: Array, padded: Padding | None) -> Array:
    """x with zeros where nothing counts."""
    if padded is None:
        return x
    return arrays.namespace(x).where(padded.counts(x), x, arrays.zeros((), x))


def _mean(values: Array, padded: Padding | None) -> Array:
    """The mean of what counts, of values that are zero elsewhere."""
    mean = arrays.namespace(values).mean(values)
    return mean if padded is None else mean * (math.prod(values.shape) / _count(values, padded))


def _shares(slope: Array, factor: int, padded: Padding | None) -> Array:
    """factor * slope / count, zero where nothing counts."""
    if padded is None:
        return (factor / math.prod(slope.shape)) * slope
    return _without_padding((factor / _count(slope, padded)) * slope, padded)


def _count(like: Array, padded: Padding) -> Any:
    """Elements that count, as something to divide by: NaN instead of zero."""
    count = padded.count
    return (count or math.nan) if isinstance(count, int) else arrays.namespace(like).astype(count, like.dtype)
