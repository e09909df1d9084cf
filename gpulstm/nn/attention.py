"""Attention: at each target step a mean of the source's values, weighted by how well the query fits their keys.

::

    score[t, s] = fit of query[t] and keys[s]            what a class here says
    weights[t]  = softmax(score[t]) over the source      zero past the source's end
    context[t]  = sum over s of weights[t, s] values[s]

Within this module the batch comes first, so that all products are batched matrix products: scores and weights are
(batch, target_time, source_time).
"""

import math
from numbers import Real
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array
from . import padding
from .masked_softmax import masked_softmax, masked_softmax_backward
from .padding import Padding


class Cache(NamedTuple):
    """What `Attention.backward` needs."""

    query: Array  # (batch, target_time, query_size)
    keys: Array  # (batch, source_time, key_size), zero past each sequence's end; and so are the values
    values: Array  # (batch, source_time, value_size)
    weights: Array  # (batch, target_time, source_time)
    padded: Padding | None
    has_values: bool  # whether values were given beside the keys
    has_time: bool  # whether the query had an axis of target time


class Attention:
    """What all attentions share. A class of its own says how queries and keys make scores."""

    params: dict[str, Array]
    query_size: int | None  # None: as the keys
    key_size: int | None  # None: any

    def __call__(
        self, query: Array, keys: Array, values: Array | None = None, *, lengths: Any = None
    ) -> tuple[Array, Array]:
        """(context, weights), as `forward` without its cache."""
        return self.forward(query, keys, values, lengths=lengths)[:2]

    def forward(
        self, query: Array, keys: Array, values: Array | None = None, *, lengths: Any = None
    ) -> tuple[Array, Array, Cache]:
        """The context and the weights of each target step, and what `backward` needs.

        query : (target_time, batch, query_size), or (batch, query_size) for one step: then the results have no
            target_time either
        keys : (source_time, batch, key_size)
        values : (source_time, batch, value_size); None, the default, are the keys
        lengths : (batch,) integers, how many source steps each sequence has; what is past them has weight zero and is
            not looked at. A sequence of length zero has a context of zero.

        Returns context (target_time, batch, value_size), weights (target_time, batch, source_time) and the cache.
        Raises TypeError or ValueError where the arguments do not match each other or the parameters.
        """
        self._check(query, keys, values)
        padded = padding.checked(lengths, keys, tuple(keys.shape)[:2], batch_first=False, name="keys")
        has_time, has_values = query.ndim == 3, values is not None
        query = query if has_time else query[None, :, :]
        keys = permuted(_without_padding(keys, padded), (1, 0, 2))
        values = permuted(_without_padding(values, padded), (1, 0, 2)) if has_values else keys
        query = permuted(query, (1, 0, 2))
        weights = masked_softmax(self._scores(query, keys), padded)
        context = weights @ values
        cache = Cache(query, keys, values, weights, padded, has_values, has_time)
        return _time_first(context, has_time), _time_first(weights, has_time), cache

    def backward(self, cache: Cache, dcontext: Array) -> tuple[Array, Array, Array | None, dict[str, Array]]:
        """The gradients (dquery, dkeys, dvalues, grads) from the context's; ``grads`` under the parameters' names.

        Each has its argument's shape. Where the keys were the values too, dkeys has both their gradients, and dvalues
        is None. Raises TypeError or ValueError where dcontext is no match for what `forward` returned.
        """
        query, keys, values, weights, padded, has_values, has_time = cache
        arrays.check_same({"query": query, "dcontext": dcontext})
        expected = (*((query.shape[1],) if has_time else ()), query.shape[0], values.shape[2])
        if tuple(dcontext.shape) != expected:
            raise ValueError(f"dcontext must have the context's shape {expected}, got {tuple(dcontext.shape)}")
        dcontext = permuted(dcontext if has_time else dcontext[None, :, :], (1, 0, 2))
        dvalues = permuted(weights, (0, 2, 1)) @ dcontext
        dscores = masked_softmax_backward(weights, dcontext @ permuted(values, (0, 2, 1)), padded)
        dquery, dkeys, grads = self._scores_backward(query, keys, dscores)
        if not has_values:
            dkeys = dkeys + dvalues
        source_first = permuted(dkeys, (1, 0, 2)), permuted(dvalues, (1, 0, 2)) if has_values else None
        return _time_first(dquery, has_time), *source_first, grads

    def _scores(self, query: Array, keys: Array) -> Array:
        """(batch, target_time, source_time) from query (batch, target_time, query_size) and keys (batch, source_time,
        key_size)."""
        raise NotImplementedError

    def _scores_backward(self, query: Array, keys: Array, dscores: Array) -> tuple[Array, Array, dict[str, Array]]:
        """The gradients of both, and those of the parameters."""
        raise NotImplementedError

    def _check(self, query: Array, keys: Array, values: Array | None) -> None:
        arrays.require_array("query", query)
        arrays.require_floating("query", query)
        given = {"query": query, "keys": keys} | ({} if values is None else {"values": values})
        arrays.check_same(dict(list(self.params.items())[:1]) | given)
        if keys.ndim != 3 or (self.key_size is not None and keys.shape[2] != self.key_size):
            size = "key_size" if self.key_size is None else self.key_size
            raise ValueError(f"keys must have shape (source_time, batch, {size}), got {tuple(keys.shape)}")
        width = keys.shape[2] if self.query_size is None else self.query_size
        if query.ndim not in (2, 3) or tuple(query.shape[-2:]) != (keys.shape[1], width):
            why = "; this attention needs queries as wide as the keys" if self.query_size is None else ""
            raise ValueError(
                f"query must have shape (target_time, batch, query_size) or (batch, query_size) with (batch, "
                f"query_size) = ({keys.shape[1]}, {width}) beside these keys, got {tuple(query.shape)}{why}"
            )
        if values is not None and (values.ndim != 3 or tuple(values.shape[:2]) != tuple(keys.shape[:2])):
            raise ValueError(
                f"values must have shape (source_time, batch, value_size) = ({keys.shape[0]}, {keys.shape[1]}, "
                f"value_size) as the keys, got {tuple(values.shape)}"
            )


class DotAttention(Attention):
    """``score = scale * q^T k``, without parameters: queries and keys have the same size.

    ``scale`` is one as in the paper; 1/sqrt(key_size) keeps the scores of wide keys from saturating the softmax, as
    Transformers do. Luong, Pham and Manning, Effective approaches to attention-based neural machine translation,
    EMNLP 2015.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = _checked_scale(scale)
        self.query_size = self.key_size = None
        self.params = {}

    def _scores(self, query: Array, keys: Array) -> Array:
        return _scaled(query, self.scale) @ permuted(keys, (0, 2, 1))

    def _scores_backward(self, query: Array, keys: Array, dscores: Array) -> tuple[Array, Array, dict[str, Array]]:
        dscores = _scaled(dscores, self.scale)
        return dscores @ keys, permuted(dscores, (0, 2, 1)) @ query, {}


class GeneralAttention(Attention):
    """``score = scale * q^T W k``: a matrix between queries and keys of any two sizes.

    ``params`` has ``weight`` (query_size, key_size), drawn uniformly between -1/sqrt(query_size) and
    1/sqrt(query_size). For ``scale`` see `DotAttention`; ``dtype``, ``xp`` and ``rng`` as for `Linear`. Luong, Pham and
    Manning 2015.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        *,
        scale: float = 1.0,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        self.query_size = initialisers.require_size("query_size", query_size)
        self.key_size = initialisers.require_size("key_size", key_size)
        self.scale = _checked_scale(scale)
        shapes = {"weight": (self.query_size, self.key_size)}
        self.params = initialisers.uniform(shapes, self.query_size**-0.5, dtype, xp, rng)

    def _scores(self, query: Array, keys: Array) -> Array:
        return _scaled(product(query, self.params["weight"]), self.scale) @ permuted(keys, (0, 2, 1))

    def _scores_backward(self, query: Array, keys: Array, dscores: Array) -> tuple[Array, Array, dict[str, Array]]:
        weight, dscores = self.params["weight"], _scaled(dscores, self.scale)
        dprojected = dscores @ keys  # (batch, target_time, key_size), of query @ weight
        dkeys = permuted(dscores, (0, 2, 1)) @ product(query, weight)
        return product(dprojected, weight.T), dkeys, {"weight": rows(query).T @ rows(dprojected)}


def permuted(x: Array, axes: tuple[int, ...]) -> Array:
    """A view with the axes in another order, where the library has views."""
    return x.transpose(axes) if arrays.is_cupy(x) else arrays.namespace(x).permute_dims(x, axes)


def rows(x: Array) -> Array:
    """All leading axes taken together."""
    return arrays.namespace(x).reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def product(x: Array, matrix: Array) -> Array:
    """x @ matrix as one product over all rows: a matrix beside a batch would be multiplied batch by batch."""
    return arrays.namespace(x).reshape(rows(x) @ matrix, (*x.shape[:-1], matrix.shape[1]))


def _time_first(x: Array, has_time: bool) -> Array:
    """(batch, time, size) as the caller has it: (time, batch, size), or (batch, size)."""
    return permuted(x, (1, 0, 2)) if has_time else x[:, 0, :]


def _without_padding(x: Array, padded: Padding | None) -> Array:
    """Zeros past each sequence's end: a weight of zero would not hide a NaN there."""
    if padded is None:
        return x
    return arrays.namespace(x).where(padded.counts(x)[:, :, None], x, arrays.zeros((), x))


def _scaled(x: Array, scale: float) -> Array:
    return x if scale == 1 else scale * x


def _checked_scale(scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise TypeError(f"scale must be a number, got {scale!r}")
    if not math.isfinite(float(scale)):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)
