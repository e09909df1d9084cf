"""Softmax cross-entropy: the loss of choosing one class out of many."""

import math
from numbers import Real
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from . import padding
from .padding import Padding

MOST_BLOCKS = 4096  # of a launch; each leaves one sum for the last block to add up


def cross_entropy(
    logits: Array,
    target: Array,
    *,
    lengths: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    batch_first: bool = False,
) -> tuple[Array, Array]:
    """The mean cross-entropy between classes and the softmax of logits, and its gradient with respect to the logits.

    ::

        p = softmax(logits)        q = (1 - label_smoothing) * one_hot(target) + label_smoothing / classes
        loss = mean(-sum(q log p))        dlogits = (p - q) / positions that count

    logits : (..., classes); classes come last, where ``torch.nn.functional.cross_entropy`` has them second
    target : (...) integers from 0 to classes - 1
    lengths : (batch,) integers, for logits (time, batch, ..., classes), or (batch, time, ..., classes) with
        ``batch_first``: positions past a sequence's end do not count
    ignore_index : a target that does not count, whether or not it is a class; None, the default, is no such target
        (PyTorch's default is -100)
    label_smoothing : from 0 to 1, PyTorch's formula

    Returns (loss, gradient): the loss has no axes and stays on the array's device. What does not count has gradient
    zero, whatever its logits are. Where nothing counts, the loss is NaN and the gradient zero, as in PyTorch.

    Raises TypeError or ValueError for arguments that do not fit together. A target that is no class raises ValueError
    on NumPy; elsewhere nothing waits for the values, and the loss and that position's gradient are NaN.
    """
    _check_arrays(logits, target)
    _check_options(ignore_index, label_smoothing)
    padded = padding.checked(lengths, logits, tuple(target.shape), batch_first=batch_first, name="logits")
    if arrays.is_numpy(logits):
        return _by_numpy(logits, target, padded, ignore_index, float(label_smoothing))
    if arrays.is_cupy(logits):
        return _by_kernels(logits, target, padded, ignore_index, float(label_smoothing))
    with np.errstate(invalid="ignore"):  # array-api-strict computes with NumPy
        return _by_equations(logits, target, padded, ignore_index, float(label_smoothing))


def _check_arrays(logits: Array, target: Array) -> None:
    arrays.require_array("logits", logits)
    arrays.require_array("target", target)
    arrays.require_floating("logits", logits)
    if arrays.library(target) != arrays.library(logits):
        raise TypeError(
            f"target must be a {arrays.library(logits)} array like logits, got {arrays.describe(target)}; "
            f"nothing is copied between libraries silently, so convert one of them"
        )
    if not arrays.dtype_name(target).startswith(("int", "uint")):
        raise TypeError(
            f"target must be integers, one class for each position, got {arrays.describe(target)}; "
            f"one-hot vectors or probabilities are not taken"
        )
    if arrays.device(target) != arrays.device(logits):
        raise ValueError(
            f"target must be on logits' device {arrays.device(logits)}, got {arrays.device(target)}; "
            f"nothing is copied between devices silently, so move one of them"
        )
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., classes) with at least one class, got {tuple(logits.shape)}")
    if tuple(target.shape) != tuple(logits.shape)[:-1]:
        raise ValueError(
            f"target must have logits' shape without the classes, {tuple(logits.shape)[:-1]}, got "
            f"{tuple(target.shape)}; are the classes on logits' last axis?"
        )


def _check_options(ignore_index: Any, label_smoothing: Any) -> None:
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))):
        raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}")
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, Real):
        raise TypeError(f"label_smoothing must be a number, got {label_smoothing!r}")
    if not 0 <= float(label_smoothing) <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")


def _by_numpy(
    logits: np.ndarray, target: np.ndarray, padded: Padding | None, ignore_index: int | None, smoothing: float
) -> tuple[Array, Array]:
    """Only rows that count are looked at; the gradient's memory holds every step on the way to it."""
    classes, shape = logits.shape[-1], logits.shape
    counts = None if padded is None else np.broadcast_to(padded.counts(logits), target.shape)
    if ignore_index is not None:
        others = target != ignore_index
        counts = others if counts is None else others & counts
    _check_classes(target, counts, classes)
    if counts is not None and counts.all():
        counts = None  # nothing to pick out
    if counts is None:
        rows, labels = logits.reshape(target.size, classes), target.reshape(target.size)
    else:
        rows, labels = logits[counts], target[counts]  # (counted, classes), (counted,)

    count, own = len(labels), (np.arange(len(labels)), labels)
    every, more = smoothing / classes, 1 - smoothing
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        part = rows - rows.max(axis=-1, keepdims=True)
        losses = -more * part[own]
        if smoothing:
            losses -= every * part.sum(axis=-1)
        np.exp(part, out=part)
        sums = part.sum(axis=-1)
        losses += np.log(sums)
        part *= (1 / (sums * (count or 1)))[:, None]
        if smoothing:
            part -= every / count if count else 0
        part[own] -= more / (count or 1)
    loss = losses.sum() / logits.dtype.type(count or math.nan)
    if counts is None:
        return loss, part.reshape(shape)
    gradient = np.zeros(shape, logits.dtype)
    gradient[counts] = part
    return loss, gradient


def _check_classes(target: np.ndarray, counts: np.ndarray | None, classes: int) -> None:
    """Raises ValueError unless each target that counts is a class."""
    if target.size == 0 or (target.min() >= 0 and target.max() < classes):
        return
    wrong = (target < 0) | (target >= classes)
    if counts is not None:
        wrong &= counts
    if not wrong.any():
        return
    first = tuple(int(k) for k in np.argwhere(wrong)[0])
    raise ValueError(
        f"target must be between 0 and classes - 1 = {classes - 1}, got {int(target[first])} at position {first}; "
        f"ignore_index={int(target[first])} leaves out what has no class"
    )


def _by_kernels(
    logits: Array, target: Array, padded: Padding | None, ignore_index: int | None, smoothing: float
) -> tuple[Array, Array]:
    """`kernels/softmax_cross_entropy.cu`."""
    import cupy

    from ..cuda.launch import THREADS, one_thread_per
    from ..cuda.modules import kernel

    name, real, classes, rows = arrays.dtype_name(logits), logits.dtype.type, logits.shape[-1], target.size
    threads = one_thread_per(classes)[1]
    null = np.uintp(0)
    with arrays.on_device_of(logits):
        logits, labels = cupy.ascontiguousarray(logits), cupy.ascontiguousarray(target, dtype=np.int64)
        gradient, loss = cupy.empty(logits.shape, logits.dtype), cupy.empty((), logits.dtype)
        losses = cupy.empty(max(1, min(rows, MOST_BLOCKS)), logits.dtype)
        lengths, strides, count = null, (1, 1, 1, 1), rows
        if padded is not None:
            lengths, count = arrays.beside(padded.lengths.astype(np.int32), logits), padded.count
            strides = (padded.steps, padded.batch, padded.step_stride, padded.sequence_stride)
        ignored = (np.int32(ignore_index is not None), np.int64(ignore_index or 0))
        selection = (*ignored, *(np.int64(n) for n in strides))

        counted = null
        if ignore_index is not None and rows:
            counted = cupy.zeros(1, np.uint64)
            grid, block = one_thread_per(rows)
            counting = kernel("softmax_cross_entropy_count", name)
            counting(grid, block, (labels, lengths, counted, np.int64(rows), *selection))
        sizes = (np.int64(rows), np.int32(classes), np.int64(count))
        written = (gradient, losses)
        main, mean = kernel("softmax_cross_entropy", name), kernel("softmax_cross_entropy_mean", name)
        main(losses.shape, threads, (logits, labels, lengths, counted, *written, *sizes, real(smoothing), *selection))
        mean((1,), (THREADS,), (losses, counted, loss, np.int32(losses.size), np.int64(count)))
    return loss, gradient


def _by_equations(
    logits: Array, target: Array, padded: Padding | None, ignore_index: int | None, smoothing: float
) -> tuple[Array, Array]:
    """In array-API operations. Half precision is computed in float32."""
    xp, classes = arrays.namespace(logits), logits.shape[-1]
    wide = logits.dtype if arrays.dtype_name(logits) == "float64" else xp.float32
    x = xp.astype(logits, wide, copy=False)
    zero, not_a_number = arrays.zeros((), x), arrays.beside(np.array(math.nan), x, wide)
    numbers = arrays.beside(np.arange(classes), target)
    label = xp.astype(target, numbers.dtype, copy=False)
    counts = arrays.beside(np.ones(target.shape, bool), x)
    if padded is not None:
        counts = counts & padded.counts(x)
    if ignore_index is not None:
        counts = counts & (label != ignore_index)

    is_own = numbers == label[..., None]  # (..., classes)
    x = xp.where(counts[..., None], x, zero)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    powers = xp.exp(shifted)
    sums = xp.sum(powers, axis=-1, keepdims=True)
    sums = xp.where((label >= 0) & (label < classes), sums[..., 0], not_a_number)[..., None]
    own = xp.sum(xp.where(is_own, shifted, zero), axis=-1)
    losses = xp.log(sums[..., 0]) - (1 - smoothing) * own
    if smoothing:
        losses = losses - smoothing / classes * xp.sum(shifted, axis=-1)
    wanted = smoothing / classes + (1 - smoothing) * xp.astype(is_own, wide)
    count = xp.sum(xp.astype(counts, wide))
    count = xp.where(count > 0, count, not_a_number)
    loss = xp.sum(xp.where(counts, losses, zero)) / count
    gradient = xp.where(counts[..., None], (powers / sums - wanted) / count, zero)
    return xp.astype(loss, logits.dtype, copy=False), xp.astype(gradient, logits.dtype, copy=False)
