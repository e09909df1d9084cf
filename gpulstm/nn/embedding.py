"""The embedding: a row of a table for each integer."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array


class _Cache(NamedTuple):
    x: Array
    weight: Array


class Embedding:
    """A learned vector for each of ``count`` symbols: ``out[...] = weight[x[...]]``.

    ``params`` has ``weight`` (count, size), drawn from the normal distribution of mean 0 and variance 1, PyTorch's way.
    The row ``padding_index``, if there is one, begins with zeros and gets no gradient, so training leaves it as is.

    ``xp`` is the array library (numpy, cupy, torch, jax.numpy, ...), ``rng`` a seed or a `numpy.random.Generator`.
    """

    def __init__(
        self,
        count: int,
        size: int,
        *,
        padding_index: int | None = None,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        self.count = initialisers.require_size("count", count)
        self.size = initialisers.require_size("size", size)
        self.padding_index = (
            None if padding_index is None else initialisers.require_size("padding_index", padding_index, 0)
        )
        if self.padding_index is not None and self.padding_index >= self.count:
            raise ValueError(f"padding_index must be below count = {self.count}, got {padding_index}")
        weight = initialisers.generator(rng).normal(size=(self.count, self.size))
        if self.padding_index is not None:
            weight[self.padding_index] = 0.0
        self.params = initialisers.converted({"weight": weight}, dtype, xp)

    def __call__(self, x: Array) -> Array:
        """x (...) integers -> out (..., size); keeps nothing."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, _Cache]:
        """x (...) integers from 0 to count - 1, any axes -> out (..., size), and what `backward` needs.

        Raises TypeError for anything but integers of the table's library, and on NumPy arrays ValueError for an index
        out of range. Elsewhere that would wait for the device: there such an index gives a row of NaN, and no gradient.
        """
        weight = self.params["weight"]
        _check_indices(x, weight)
        with arrays.on_device_of(weight):
            if arrays.is_numpy(x):
                self._refuse_out_of_range(x)
                out = np.take(weight, x, axis=0)
            elif arrays.is_cupy(x):
                from ..engines import cupy_embedding

                out = cupy_embedding.forward(weight, x)
            else:
                out = _rows(weight, x)
        return out, _Cache(x, weight)

    def backward(self, cache: _Cache, dout: Array) -> tuple[None, dict[str, Array]]:
        """dout (..., size) -> None, for integers have no gradient, and that of ``weight``.

        ::

            dweight[t] = sum of dout over all places where x is t

        The sums have a fixed order: the same x and dout give the same bits.
        Raises TypeError or ValueError where dout is no match for what `forward` returned.
        """
        x, weight = cache
        arrays.check_same({"weight": weight, "dout": dout})
        expected = (*x.shape, self.size)
        if tuple(dout.shape) != expected:
            raise ValueError(f"dout must have the shape of forward's result, {expected}, got {tuple(dout.shape)}")
        with arrays.on_device_of(dout):
            if arrays.is_numpy(dout):
                gradient = _numpy_gradient(x, dout, self.count, self.padding_index)
            elif arrays.is_cupy(dout):
                from ..engines import cupy_embedding

                gradient = cupy_embedding.backward(x, dout, self.count, self.padding_index)
            else:
                gradient = _portable_gradient(x, dout, self.count, self.padding_index)
        return None, {"weight": gradient}

    def _refuse_out_of_range(self, x: np.ndarray) -> None:
        if not x.size:
            return
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= self.count:
            raise ValueError(
                f"x must be between 0 and count - 1 = {self.count - 1}, got {low if low < 0 else high}; "
                f"does the table have a row for every symbol, padding among them?"
            )

    def __repr__(self) -> str:
        padding = "" if self.padding_index is None else f", padding_index={self.padding_index}"
        return f"Embedding({self.count}, {self.size}{padding}, dtype={arrays.dtype_name(self.params['weight'])!r})"


def _check_indices(x: Any, weight: Array) -> None:
    """Raises TypeError or ValueError unless x has integers, in weight's library and on its device."""
    arrays.require_array("x", x)
    if arrays.library(x) != arrays.library(weight):
        raise TypeError(
            f"x must be a {arrays.library(weight)} array like weight, got {arrays.describe(x)}; "
            f"nothing is copied between libraries silently, so convert one of them"
        )
    if not arrays.dtype_name(x).startswith(("int", "uint")):
        raise TypeError(f"x must have an integer dtype, got {arrays.dtype_name(x)}; x numbers the table's rows")
    if arrays.device(x) != arrays.device(weight):
        raise ValueError(
            f"x must be on weight's device {arrays.device(weight)}, got {arrays.device(x)}; "
            f"nothing is copied between devices silently, so move one of them"
        )


def _numpy_gradient(x: np.ndarray, dout: np.ndarray, count: int, padding_index: int | None) -> np.ndarray:
    """One sum for each run of equal tokens in sorted order."""
    gradient = np.zeros((count, dout.shape[-1]), dout.dtype)
    if x.size:
        token = x.reshape(-1).astype(np.uint16 if count <= 2**16 else np.int64)  # NumPy sorts 16 bits fastest
        order = np.argsort(token, kind="stable")
        token = token[order]
        starts = np.flatnonzero(np.concatenate(([True], token[1:] != token[:-1])))
        gradient[token[starts]] = np.add.reduceat(dout.reshape(-1, dout.shape[-1])[order], starts, axis=0)
    if padding_index is not None:
        gradient[padding_index] = 0.0
    return gradient


def _rows(weight: Array, x: Array) -> Array:
    """weight[x] in the standard's operations, NaN where x is out of range."""
    xp = arrays.namespace(weight)
    token = _flat_tokens(xp, x)
    count, size = weight.shape
    there = (token >= 0) & (token < count)
    found = xp.take(weight, xp.where(there, token, xp.zeros_like(token)), axis=0)
    nan = arrays.zeros((1, 1), weight) + math.nan
    return xp.reshape(xp.where(there[:, None], found, nan), (*x.shape, size))


def _portable_gradient(x: Array, dout: Array, count: int, padding_index: int | None) -> Array:
    """In the standard's operations, with shapes that do not depend on values: jit takes it.

    The rows are sorted by token. After step k each row has the sum of the 2^k rows up to itself that have its token; so
    in the end a token's last row has all of them. The row of a token is looked up rather than written.
    """
    xp = arrays.namespace(dout)
    token = _flat_tokens(xp, x)
    rows, size = token.shape[0], dout.shape[-1]
    if not rows:
        return arrays.zeros((count, size), dout)
    order = xp.argsort(token, stable=True)
    token = xp.take(token, order, axis=0)
    sums = xp.take(xp.reshape(dout, (rows, size)), order, axis=0)
    zero = arrays.zeros((1, 1), dout)
    distance = 1
    while distance < rows:
        same = token[distance:] == token[:-distance]
        added = xp.where(same[:, None], sums[:-distance, :], zero)
        sums = xp.concat([sums[:distance, :], sums[distance:, :] + added])
        distance *= 2
    symbols = arrays.beside(np.arange(count), x, token.dtype)
    last = xp.searchsorted(token, symbols, side="right") - 1
    last = xp.where(last < 0, xp.zeros_like(last), last)
    wanted = xp.take(token, last, axis=0) == symbols
    if padding_index is not None:
        wanted = wanted & (symbols != padding_index)
    return xp.where(wanted[:, None], xp.take(sums, last, axis=0), zero)


def _flat_tokens(xp: Any, x: Array) -> Array:
    """x as (rows,) of the library's usual integer dtype, which is signed and wide enough for any table."""
    return xp.astype(xp.reshape(x, (math.prod(x.shape),)), xp.arange(1).dtype)
