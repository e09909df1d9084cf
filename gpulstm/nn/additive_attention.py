"""Additive attention: a small network compares each query with each key."""

from types import ModuleType
from typing import Any

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array
from .attention import Attention, product, rows

WINDOW_ELEMENTS = {"NumPy": 2**16, "elsewhere": 2**22}
"""Of the compared pairs (batch, steps, source_time, attention_size) that are in memory at a time: few enough for a
CPU's cache, enough to keep a GPU busy."""


class AdditiveAttention(Attention):
    """``score = v^T tanh(W_q q + W_k k)``.

    ``params`` has ``weight_query`` (attention_size, query_size), ``weight_key`` (attention_size, key_size) and
    ``weight_score`` (attention_size,), v; each drawn uniformly between -1/sqrt(n) and 1/sqrt(n) with the size n of what
    it multiplies. ``dtype``, ``xp`` and ``rng`` as for `Linear`.

    The pairs' hidden units are never all in memory: both passes go through the target in windows, and the backward pass
    computes them again.

    Bahdanau, Cho and Bengio, Neural machine translation by jointly learning to align and translate, ICLR 2015.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        attention_size: int,
        *,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        self.query_size = initialisers.require_size("query_size", query_size)
        self.key_size = initialisers.require_size("key_size", key_size)
        self.attention_size = initialisers.require_size("attention_size", attention_size)
        draw = initialisers.generator(rng)
        self.params = {}
        for name, shape in {
            "weight_query": (self.attention_size, self.query_size),
            "weight_key": (self.attention_size, self.key_size),
            "weight_score": (self.attention_size,),
        }.items():
            self.params |= initialisers.uniform({name: shape}, shape[-1] ** -0.5, dtype, xp, draw)

    def _scores(self, query: Array, keys: Array) -> Array:
        query, keys = product(query, self.params["weight_query"].T), product(keys, self.params["weight_key"].T)
        parts = []
        for window in _windows(query, keys):
            hidden = _hidden(query, keys, window)
            scores = rows(hidden) @ self.params["weight_score"]
            parts.append(arrays.namespace(scores).reshape(scores, hidden.shape[:-1]))
        return _joined(parts)

    def _scores_backward(self, query: Array, keys: Array, dscores: Array) -> tuple[Array, Array, dict[str, Array]]:
        """::

        da = ds v (1 - tanh(a)^2)        a = W_q q + W_k k        dv = sum of ds tanh(a)
        """
        weight_query, weight_key, v = (self.params[f"weight_{name}"] for name in ("query", "key", "score"))
        projected_query, projected_keys = product(query, weight_query.T), product(keys, weight_key.T)
        xp = arrays.namespace(query)
        dv, dprojected_keys, parts = arrays.zeros(v.shape, v), arrays.zeros(projected_keys.shape, v), []
        for window in _windows(projected_query, projected_keys):
            hidden = _hidden(projected_query, projected_keys, window)
            ds = dscores[:, window, :]
            dv = dv + xp.reshape(ds, (rows(hidden).shape[0],)) @ rows(hidden)
            da = (1 - hidden * hidden) * (ds[..., None] * v)
            parts.append(xp.sum(da, axis=2))
            dprojected_keys = dprojected_keys + xp.sum(da, axis=1)
        dprojected_query = _joined(parts)
        grads = {
            "weight_query": rows(dprojected_query).T @ rows(query),
            "weight_key": rows(dprojected_keys).T @ rows(keys),
            "weight_score": dv,
        }
        return product(dprojected_query, weight_query), product(dprojected_keys, weight_key), grads


def _windows(query: Array, keys: Array) -> list[slice]:
    """Slices of the target's steps, at least one."""
    batch, steps, size = query.shape
    room = WINDOW_ELEMENTS["NumPy" if arrays.is_numpy(query) else "elsewhere"]
    length = max(1, room // max(1, batch * keys.shape[1] * size))
    return [slice(first, min(first + length, steps)) for first in range(0, max(1, steps), length)]


def _hidden(query: Array, keys: Array, window: slice) -> Array:
    """tanh of each pair's sum (batch, steps, source_time, attention_size), of projected queries and keys."""
    sums = query[:, window, None, :] + keys[:, None, :, :]
    xp = arrays.namespace(sums)
    return xp.tanh(sums, out=sums) if xp is np or arrays.is_cupy(sums) else xp.tanh(sums)


def _joined(parts: list[Array]) -> Array:
    """The windows' results along the target's time."""
    return parts[0] if len(parts) == 1 else arrays.namespace(parts[0]).concat(parts, axis=1)
