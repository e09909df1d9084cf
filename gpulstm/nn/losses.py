"""Losses. Each returns the loss and its gradient with respect to the prediction, ready for a layer's `backward`."""

import math

from .. import arrays
from ..arrays import Array


def mean_squared_error(prediction: Array, target: Array) -> tuple[Array, Array]:
    """The mean of (prediction - target)^2 over all elements, and its gradient with respect to the prediction.

    ::

        loss = mean((prediction - target)^2)        dprediction = 2 (prediction - target) / size

    Both arrays have the same shape, of any rank. Returns (loss, gradient): the loss has no axes and stays on the
    array's device, so that a GPU need not be waited for; `float(loss)` fetches it.

    Raises ValueError for unequal shapes or no elements, TypeError for arrays that do not belong together.
    """
    arrays.check_same({"prediction": prediction, "target": target})
    arrays.require_floating("prediction", prediction)
    if prediction.shape != target.shape:
        raise ValueError(
            f"target must have prediction's shape {tuple(prediction.shape)}, got {tuple(target.shape)}; nothing is "
            "broadcast here, because a (batch, 1) against a (batch,) would compare every pair"
        )
    size = math.prod(prediction.shape)
    if size == 0:
        raise ValueError(f"prediction must have elements to average over, got shape {tuple(prediction.shape)}")
    error = prediction - target
    return arrays.namespace(error).mean(error * error), (2 / size) * error
