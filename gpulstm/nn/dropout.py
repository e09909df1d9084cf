"""Dropout: random elements become zero in training."""

import math
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers, philox
from ..arrays import Array
from ..masks import BLOCK, LAYER_STREAM, Draws
from ..options import PLAIN


class _Cache(NamedTuple):
    x: Array
    seed: int


class Dropout:
    """In training each element becomes zero with a probability, and the others grow so that the mean stays what it is.

    ::

        out = x * mask        mask is 0 with the given probability, else 1 / (1 - probability)

    A mask is a function of the seed and of an element's place alone (`gpulstm.masks`), so it is the same in every
    library, and `backward` draws it again instead of keeping it. In inference nothing happens. There are no parameters.

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, Dropout, JMLR 2014.
    """

    def __init__(self, probability: float) -> None:
        if isinstance(probability, bool) or not isinstance(probability, (int, float, np.integer, np.floating)):
            raise TypeError(f"probability must be a number, got {probability!r}")
        if not 0 <= probability < 1:
            raise ValueError(
                f"probability must be at least 0 and below 1, got {probability}; at 1 nothing would be left to scale up"
            )
        self.probability = float(probability)
        self.params: dict[str, Array] = {}

    def __call__(self, x: Array) -> Array:
        """Inference: x itself."""
        _check(x)
        return x

    def forward(self, x: Array, rng: Any = None) -> tuple[Array, _Cache]:
        """x of one axis or more -> out of x's shape, and what `backward` needs.

        ``rng`` is a seed below 2^64 or a numpy Generator; None draws a fresh seed.
        """
        _check(x)
        seed = initialisers.seed_for(self.probability > 0, rng)
        return self._masked(x, seed), _Cache(x, seed)

    def backward(self, cache: _Cache, dout: Array) -> tuple[Array, dict[str, Array]]:
        """dout -> dx = dout * mask, both of x's shape; and no gradients."""
        x, seed = cache
        arrays.check_same({"x": x, "dout": dout})
        if tuple(dout.shape) != tuple(x.shape):
            raise ValueError(f"dout must have the shape of forward's result, {tuple(x.shape)}, got {tuple(dout.shape)}")
        return self._masked(dout, seed), {}

    def _masked(self, x: Array, seed: int) -> Array:
        """x times its mask, a new array; x itself where nothing is dropped."""
        if not self.probability or not math.prod(x.shape):
            return x
        batch = x.shape[-2] if x.ndim > 1 else 1
        if arrays.is_cupy(x):
            import cupy

            from ..engines.cupy_masks import masked_copy

            with arrays.on_device_of(x):
                source, out = cupy.ascontiguousarray(x), cupy.empty(x.shape, x.dtype)
                draws = Draws(PLAIN, seed)
                masked_copy(source, out, draws, LAYER_STREAM, self.probability, batch=batch, first_time=0)
            return out
        if arrays.is_numpy(x):
            mask = _mask(x.shape, batch, seed, self.probability, x.dtype)
            mask *= x
            return mask
        mask = _mask(tuple(x.shape), batch, seed, self.probability, np.dtype(np.float64))
        return x * arrays.beside(mask, x, x.dtype)

    def __repr__(self) -> str:
        return f"Dropout({self.probability})"


def _check(x: Any) -> None:
    arrays.require_array("x", x)
    arrays.require_floating("x", x)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got shape ()")


def _mask(shape: tuple[int, ...], batch: int, seed: int, probability: float, dtype: np.dtype) -> np.ndarray:
    """0 or 1 / (1 - probability) for each element, counted as `gpulstm.masks` says."""
    features = shape[-1]
    mask = np.empty((math.prod(shape[:-1]), features), dtype)
    unit, threshold = np.arange(features), np.uint32(philox.threshold(probability))
    rows = max(1, BLOCK // features)
    for first in range(0, len(mask), rows):
        row = np.arange(first, min(first + rows, len(mask)))[:, None]
        word, *_ = philox.words(seed, (unit, row % batch, row // batch, LAYER_STREAM))
        np.multiply(word >= threshold, dtype.type(1 / (1 - probability)), out=mask[first : first + rows])
    return mask.reshape(shape)
