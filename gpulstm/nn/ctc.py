"""Connectionist temporal classification: the loss of a labelling whose alignment with time is unknown."""

from typing import Any

import numpy as np

from .. import arrays
from .. import lengths as lengths_module
from ..arrays import Array
from . import ctc_equations

REDUCTIONS = ("mean", "sum", "none")


def ctc(
    logits: Array,
    target: Array,
    *,
    lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> tuple[Array, Array]:
    """The negative log-probability of labellings, summed over all alignments, and its gradient.

    ::

        y = softmax(logits)        p(labels) = sum over all paths that collapse to labels of prod_t y[t, path[t]]
        loss = -log p(labels)      dlogits[t, k] = y[t, k] - p(the path is at class k at time t | labels)

    A path has one class for each time step; it collapses to a labelling when repeats are merged and then blanks
    dropped.

    logits : (time, batch, classes), before any softmax
    target : (batch, longest) integers, each sequence's labels from the left, never the blank; what stands behind
        ``target_lengths`` is not looked at
    lengths : (batch,) integers on the host or beside logits, time steps of each sequence; None is all of them
    target_lengths : (batch,) integers likewise, labels of each sequence; None is all of them
    blank : the class that stands for no label
    reduction : "mean" divides each loss by its number of labels (by 1 where there are none) and takes the mean over
        the batch, "sum" adds up, "none" gives (batch,) losses, and each sequence's gradient of its own loss
    zero_infinity : a labelling that no path collapses to, because there are too few time steps for it, has an
        infinite loss and gradient NaN; with ``zero_infinity`` both are 0

    Returns (loss, gradient), what ``torch.nn.functional.ctc_loss`` gives on the ``log_softmax`` of the logits. The
    softmax is part of this function, and the gradient is with respect to the logits. Log-probabilities may be given in
    their place: the log-softmax of log-probabilities is themselves, so the loss is the same, and so is the gradient,
    the one with respect to the logits that they came from. It is what PyTorch calls the gradient with respect to the
    log-probabilities, too; as its rows add up to 0, a log-softmax's backward returns it unchanged.

    A logit of minus infinity is a class of probability 0, with gradient 0. Half precision is computed in float32. There
    the gradient's error grows with a sequence's own loss, as PyTorch's does: 4e-4 at a loss of 1200, 3e-2 at 13000.

    Raises TypeError or ValueError for arguments that do not fit together. A label that is no class or is the blank, or
    a target length beyond ``target``, raises ValueError on the host; on other libraries' arrays nothing waits for the
    values, and that sequence's loss and gradient are NaN.

    Graves, Fernández, Gomez and Schmidhuber, Connectionist temporal classification, ICML 2006.
    """
    check_logits(logits, blank)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    steps, batch, classes = logits.shape
    _check_target(target, logits)
    if reduction == "mean" and batch == 0:
        raise ValueError(f"logits must have sequences to average over, got shape {tuple(logits.shape)}")
    many = lengths_module.checked(lengths, logits, batched=True)
    if many is None:
        many = arrays.beside(np.full(batch, steps, np.int32), logits)
    labels = _target_lengths(target_lengths, target)
    if arrays.is_numpy(target) and arrays.is_numpy(labels):
        _check_labels(target, labels, classes, blank)
    compute = _by_kernels if arrays.is_cupy(logits) else ctc_equations.ctc
    return compute(logits, target, many, labels, int(blank), reduction, bool(zero_infinity))


def check_logits(logits: Array, blank: Any) -> None:
    """Raises TypeError or ValueError unless logits are (time, batch, classes) with a class of this number."""
    arrays.require_array("logits", logits)
    arrays.require_floating("logits", logits)
    if logits.ndim != 3 or logits.shape[2] == 0:
        raise ValueError(
            f"logits must have shape (time, batch, classes) with at least one class, got {tuple(logits.shape)}"
        )
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)):
        raise TypeError(f"blank must be an integer, got {blank!r}")
    if not 0 <= blank < logits.shape[2]:
        raise ValueError(f"blank must be between 0 and classes - 1 = {logits.shape[2] - 1}, got {blank}")


def _check_target(target: Array, logits: Array) -> None:
    arrays.require_array("target", target)
    if arrays.library(target) != arrays.library(logits):
        raise TypeError(
            f"target must be a {arrays.library(logits)} array like logits, got {arrays.describe(target)}; "
            f"nothing is copied between libraries silently, so convert one of them"
        )
    _require_integers("target", target)
    if arrays.device(target) != arrays.device(logits):
        raise ValueError(
            f"target must be on logits' device {arrays.device(logits)}, got {arrays.device(target)}; "
            f"nothing is copied between devices silently, so move one of them"
        )
    if target.ndim != 2 or target.shape[0] != logits.shape[1]:
        raise ValueError(
            f"target must have shape (batch, longest) = ({logits.shape[1]}, any), got {tuple(target.shape)}; "
            f"is the batch axis first, and each sequence's labels padded to the longest one's?"
        )


def _target_lengths(given: Any, target: Array) -> Array:
    """(batch,) integers beside ``target``. Values on the host are looked at, others are not waited for."""
    batch, longest = target.shape
    if given is None:
        return arrays.beside(np.full(batch, longest, np.int32), target)
    if not arrays.is_array(given):
        given = np.asarray(given, dtype=None if len(given) else np.int32)
    _require_integers("target_lengths", given)
    if tuple(given.shape) != (batch,):
        raise ValueError(f"target_lengths must have shape (batch,) = ({batch},), got {tuple(given.shape)}")
    if arrays.is_numpy(given):
        wrong = np.flatnonzero((given < 0) | (given > longest))
        if wrong.size:
            raise ValueError(
                f"target_lengths must be between 0 and target's {longest} columns, got {int(given[wrong[0]])} for "
                f"sequence {int(wrong[0])}"
            )
        return arrays.beside(given.astype(np.int32), target)
    if arrays.library(given) != arrays.library(target) or arrays.device(given) != arrays.device(target):
        raise TypeError(
            f"target_lengths must be integers on the host or a {arrays.library(target)} array beside target, "
            f"got {arrays.describe(given)}"
        )
    return given


def _require_integers(name: str, values: Array) -> None:
    if not arrays.dtype_name(values).startswith(("int", "uint")):
        raise TypeError(f"{name} must be integers, got {arrays.describe(values)}")


def _check_labels(target: np.ndarray, target_lengths: np.ndarray, classes: int, blank: int) -> None:
    inside = np.arange(target.shape[1]) < target_lengths[:, None]
    wrong = np.argwhere(inside & ((target < 0) | (target >= classes) | (target == blank)))
    if not len(wrong):
        return
    n, k = (int(i) for i in wrong[0])
    raise ValueError(
        f"target must be classes between 0 and {classes - 1} other than the blank {blank}, got {int(target[n, k])} as "
        f"label {k} of sequence {n}; does target_lengths say where its labels end?"
    )


def _by_kernels(
    logits: Array,
    target: Array,
    lengths: Array,
    target_lengths: Array,
    blank: int,
    reduction: str,
    zero_infinity: bool,
) -> tuple[Array, Array]:
    """`kernels/ctc.cu`."""
    import cupy

    from ..cuda.launch import one_thread_per
    from ..cuda.modules import kernel

    (steps, batch, classes), longest = logits.shape, target.shape[1]
    name, positions, rows = arrays.dtype_name(logits), 2 * target.shape[1] + 1, steps * batch
    with arrays.on_device_of(logits):
        logits = cupy.ascontiguousarray(logits)
        target, lengths, target_lengths = (
            cupy.ascontiguousarray(a, dtype=np.int32) for a in (target, lengths, target_lengths)
        )
        normaliser, gradient = cupy.empty((steps, batch), logits.dtype), cupy.empty(logits.shape, logits.dtype)
        occupancy = cupy.empty((batch, steps, positions), logits.dtype)
        betas, losses = cupy.empty((batch, 2, positions), logits.dtype), cupy.empty(batch, logits.dtype)
        first, following = cupy.empty((batch, classes), np.int32), cupy.empty((batch, positions), np.int32)
        sizes = tuple(np.int32(n) for n in (steps, batch, classes, longest))
        if rows:
            grid, block = one_thread_per(32 * rows)
            kernel("ctc_log_normaliser", name)(grid, block, (logits, lengths, normaliser, *sizes[1:3]))
        if batch:
            labelled = (target, lengths, target_lengths, occupancy, betas, first, following, losses)
            args = (logits, normaliser, *labelled, *sizes, np.int32(blank))
            kernel("ctc_forward_backward", name)((batch,), one_thread_per(positions)[1], args)
        loss, weights = ctc_equations.reduced(losses, target_lengths, reduction, zero_infinity)
        if rows:
            grid, block = one_thread_per(logits.size)
            found = (logits, normaliser, occupancy, first, following, lengths, losses, weights, gradient)
            args = (*found, np.int64(logits.size), *sizes, np.int32(zero_infinity))
            kernel("ctc_gradient", name)(grid, block, args)
    return loss, gradient
