"""Gradient clipping."""

from numbers import Real

from .. import arrays
from ..arrays import Array
from .nested import Nested, leaves


def clip_by_global_norm(grads: Nested, max_norm: float) -> Array:
    """Scales all gradients by one common factor, such that their joint Euclidean norm is at most ``max_norm``.

    ::

        norm = sqrt(sum of all squares)        grads *= min(1, max_norm / (norm + 1e-6))

    ``grads`` is a dict of arrays, or of dicts of arrays, and is changed: in place where the library allows it, else by
    putting new arrays into the dict. Returns the norm from before, which stays on the device: nothing waits for a GPU.
    A NaN anywhere makes all gradients NaN, as in ``torch.nn.utils.clip_grad_norm_``.

    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013.
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, Real):
        raise TypeError(f"max_norm must be a number, got {type(max_norm).__name__}")
    if not max_norm >= 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm}")
    places = list(leaves("grads", grads))
    if not places:
        raise ValueError("grads must have at least one array, got an empty dict")
    arrays.check_same({name: holder[key] for name, holder, key in places})
    _, holder, key = places[0]
    xp = arrays.namespace(holder[key])

    squares = sum(xp.sum(holder[key] * holder[key]) for _, holder, key in places)
    norm = xp.sqrt(squares)
    factor = float(max_norm) / (norm + 1e-6)
    factor = xp.minimum(factor, xp.ones_like(factor))
    for _, holder, key in places:
        gradient = holder[key]
        gradient *= factor
        holder[key] = gradient  # another array where the library's cannot be changed
    return norm
