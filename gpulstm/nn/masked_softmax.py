"""The softmax over the source steps that a sequence has, forward and backward: attention's weights."""

import math

import numpy as np

from .. import arrays
from ..arrays import Array
from .padding import Padding


def masked_softmax(scores: Array, padded: Padding | None) -> Array:
    """Scores (batch, target_time, source_time) -> weights that sum to one over the source, of the same shape.

    ``padded`` has the source's lengths, positions (source_time, batch): what is past a sequence's end gets weight zero,
    whatever its score, and a sequence of length zero has weights of zero. The scores' memory may be taken for the
    weights.
    """
    if math.prod(scores.shape) == 0:
        return scores
    if arrays.is_cupy(scores):
        return _launch("masked_softmax", (), scores, padded)
    xp = arrays.namespace(scores)
    counts = source_counts(scores, padded)
    with np.errstate(invalid="ignore"):  # infinities that cancel are NaN, as they should be
        if counts is None:
            powers = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
            return powers / xp.sum(powers, axis=-1, keepdims=True)
        scores = xp.where(counts, scores, arrays.beside(np.array(-math.inf), scores, scores.dtype))
        has_any = xp.any(counts, axis=-1, keepdims=True)
        largest = xp.where(has_any, xp.max(scores, axis=-1, keepdims=True), arrays.zeros((), scores))
        powers = xp.exp(scores - largest)
        sums = xp.where(
            has_any, xp.sum(powers, axis=-1, keepdims=True), arrays.beside(np.ones(()), scores, scores.dtype)
        )
        return powers / sums


def masked_softmax_backward(weights: Array, dweights: Array, padded: Padding | None) -> Array:
    """Gradient of `masked_softmax`'s scores from its result and that one's gradient, all (batch, target_time,
    source_time). The memory of dweights may be taken for the result."""
    if math.prod(weights.shape) == 0:
        return dweights
    if arrays.is_cupy(weights):
        return _launch("masked_softmax_backward", (weights,), dweights, padded)
    xp = arrays.namespace(weights)
    counts = source_counts(weights, padded)
    if counts is not None:
        dweights = xp.where(counts, dweights, arrays.zeros((), weights))
    dscores = weights * (dweights - xp.sum(weights * dweights, axis=-1, keepdims=True))
    return dscores if counts is None else xp.where(counts, dscores, arrays.zeros((), weights))


def source_counts(like: Array, padded: Padding | None) -> Array | None:
    """Booleans (batch, 1, source_time), True where the source is not over."""
    return None if padded is None else padded.counts(like).T[:, None, :]


def _launch(entry: str, inputs: tuple[Array, ...], changed: Array, padded: Padding | None) -> Array:
    """One launch of `kernels/masked_softmax.cu`, a block for each row of ``changed``."""
    import cupy

    from ..cuda.launch import one_thread_per
    from ..cuda.modules import kernel

    batch, rows, columns = changed.shape
    with arrays.on_device_of(changed):
        given = tuple(cupy.ascontiguousarray(a) for a in (*inputs, changed))
        lengths = np.uintp(0) if padded is None else arrays.beside(padded.lengths.astype(np.int32), changed)
        _, block = one_thread_per(columns)
        kernel(entry, arrays.dtype_name(changed))(
            (batch * rows,), block, (*given, lengths, np.int32(rows), np.int32(columns))
        )
    return given[-1]
