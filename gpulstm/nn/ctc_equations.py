"""Connectionist temporal classification in array-API operations, with the recursion on NumPy in place.

The twin of `kernels/ctc.cu`, whose header has the formulas. Here the backward recursion is the forward one on the
sequences and labellings turned round, so both run in one loop over time, as 2 * batch sequences.
"""

import math
from typing import NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Array


class Problem(NamedTuple):
    """Labellings as positions: blank, label, blank, ..., label, blank."""

    lengths: Array  # (batch,) time steps
    counts: Array  # (batch,) positions, 2 * labels + 1
    classes: Array  # (batch, positions) the class of each position, the blank where there is none
    wrong: Array  # (batch,) whether a label or their number is none


def ctc(
    logits: Array,
    target: Array,
    lengths: Array,
    target_lengths: Array,
    blank: int,
    reduction: str,
    zero_infinity: bool,
) -> tuple[Array, Array]:
    """`gpulstm.nn.ctc` of checked arguments."""
    xp, (steps, batch, classes) = arrays.namespace(logits), logits.shape
    wide = logits.dtype if arrays.dtype_name(logits) in arrays.KERNEL_DTYPES else xp.float32
    integer = arrays.beside(np.arange(1), logits).dtype  # wide enough for flat indices
    target, lengths, target_lengths = (xp.astype(a, integer, copy=False) for a in (target, lengths, target_lengths))
    if steps == 0 or batch == 0:
        nothing = arrays.zeros((batch,), logits)
        losses = xp.where(target_lengths > 0, nothing + math.inf, nothing)
        loss, _ = reduced(losses, target_lengths, reduction, zero_infinity)
        return loss, arrays.zeros(tuple(logits.shape), logits)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # log(0) and inf - inf are as they should be
        running = _range(steps, lengths)[:, None] < lengths  # (time, batch)
        x = xp.astype(logits, wide, copy=False)
        x = x - xp.max(x, axis=-1, keepdims=True)
        x = x - xp.log(xp.sum(xp.exp(x), axis=-1, keepdims=True))
        problem = _problem(target, lengths, target_lengths, classes, blank)
        losses, occupancy = _losses(x, problem, running)
        loss, weights = reduced(losses, target_lengths, reduction, zero_infinity)
        gradient = _without_occupancy(xp.exp(x), problem, occupancy)
        gradient = gradient * weights[:, None]
        zero = arrays.zeros((), losses)
        none = xp.where((losses == math.inf) & zero_infinity, zero, _number(math.nan, losses))
        gradient = xp.where(xp.isfinite(losses)[:, None], gradient, none[:, None])
        gradient = xp.where(running[..., None], gradient, zero)
    return xp.astype(loss, logits.dtype, copy=False), xp.astype(gradient, logits.dtype, copy=False)


def reduced(losses: Array, target_lengths: Array, reduction: str, zero_infinity: bool) -> tuple[Array, Array]:
    """The loss from each sequence's (batch,), and what each one counts in it (batch,)."""
    xp = arrays.namespace(losses)
    weights = xp.ones_like(losses)
    if reduction == "mean":
        labels = xp.asarray(target_lengths, dtype=losses.dtype)
        weights = weights / (xp.where(labels > 1, labels, weights) * losses.shape[0])
    if zero_infinity:
        losses = xp.where(losses == math.inf, xp.zeros_like(losses), losses)
    return (losses if reduction == "none" else xp.sum(losses * weights)), weights


def _problem(target: Array, lengths: Array, target_lengths: Array, classes: int, blank: int) -> Problem:
    xp, (batch, longest) = arrays.namespace(target), target.shape
    wrong = (target_lengths < 0) | (target_lengths > longest)
    labels = xp.where(wrong, xp.zeros_like(target_lengths), target_lengths)
    padding = xp.full_like(target, blank)
    inside = _range(longest, target) < labels[:, None]
    own = xp.where(inside, target, padding)
    illegal = (own < 0) | (own >= classes) | (inside & (own == blank))
    own = xp.where(illegal, padding, own)
    blanks = xp.full_like(target[:, :1] if longest else target_lengths[:, None], blank)
    between = xp.reshape(xp.stack([padding, own], axis=-1), (batch, 2 * longest))
    return Problem(lengths, 2 * labels + 1, xp.concat([between, blanks], axis=1), wrong | xp.any(illegal, axis=1))


def _losses(log_y: Array, problem: Problem, running: Array) -> tuple[Array, Array]:
    """(batch,) losses and (time, batch, positions) probabilities of being at a position."""
    xp, (steps, batch, _) = arrays.namespace(log_y), log_y.shape
    lengths, counts, positions = problem.lengths, problem.counts, problem.classes.shape[1]
    sequence, time = _range(batch, lengths), _range(steps, lengths)[:, None]
    # Turned round: where step t and position s of each sequence come to stand. Past an end it does not matter.
    zero = xp.zeros_like(lengths)
    turned_time = lengths - 1 - time
    turned_time = xp.where(turned_time < 0, zero, turned_time)  # (time, batch)
    turned = counts[:, None] - 1 - _range(positions, lengths)
    turned = xp.where(turned < 0, zero[:, None], turned)  # (batch, positions)
    turned_classes = _taken(problem.classes, sequence[:, None] * positions + turned)

    rows = (time * batch + sequence)[..., None], (turned_time * batch + sequence)[..., None]
    width = log_y.shape[2]
    places = xp.concat([rows[0] * width + problem.classes, rows[1] * width + turned_classes], axis=1)
    emitted = _taken(log_y, places)  # (time, 2 * batch, positions)
    both = xp.concat([problem.classes, turned_classes], axis=0)
    recursion = _recursion_in_place if arrays.is_numpy(log_y) else _recursion
    sums = recursion(emitted, both)
    alpha, turned_before = sums[:, :batch, :] + emitted[:, :batch, :], sums[:, batch:, :]

    last = (xp.where(lengths > 0, lengths - 1, zero) * batch + sequence) * positions + counts - 1
    impossible = _number(-math.inf, log_y)
    labelled = counts > 1
    ends = _taken(alpha, last), xp.where(labelled, _taken(alpha, xp.where(labelled, last - 1, last)), impossible)
    total = _log_sum_exp(*ends, impossible)
    total = xp.where(lengths > 0, total, xp.where(labelled, impossible, arrays.zeros((), log_y)))
    before = _taken(turned_before, (turned_time * batch + sequence)[..., None] * positions + turned)
    occupancy = xp.exp(alpha + before - total[:, None])
    inside = running[..., None] & (_range(positions, lengths) < counts[:, None])
    losses = xp.where(problem.wrong, _number(math.nan, log_y), 0 - total)
    return losses, xp.where(inside, occupancy, arrays.zeros((), log_y))


def _without_occupancy(y: Array, problem: Problem, occupancy: Array) -> Array:
    """y (time, batch, classes) less each class's occupancies. NumPy's y is changed."""
    xp, (_, batch, width), positions = arrays.namespace(y), y.shape, occupancy.shape[2]
    if arrays.is_numpy(y):
        sequence = np.arange(batch)
        y[:, sequence, problem.classes[:, 0]] -= occupancy[:, :, ::2].sum(axis=2)
        for label in range(1, positions, 2):  # one position of each sequence at a time, so none is there twice
            y[:, sequence, problem.classes[:, label]] -= occupancy[:, :, label]
        return y
    belongs = xp.astype(problem.classes[..., None] == _range(width, problem.classes), y.dtype)
    of_classes = xp.matmul(xp.permute_dims(occupancy, (1, 0, 2)), belongs)  # (batch, time, classes)
    return y - xp.permute_dims(of_classes, (1, 0, 2))


def _recursion(emitted: Array, classes: Array) -> Array:
    """(time, sequences, positions): log-probability of all paths to a position, without that step's own emission."""
    xp, (steps, sequences, positions) = arrays.namespace(emitted), emitted.shape
    impossible = arrays.zeros((sequences, 2), emitted) - math.inf
    skips = _skips(classes, emitted)
    start = xp.where(_range(positions, classes) < 2, arrays.zeros((), emitted), _number(-math.inf, emitted))
    sums = [xp.broadcast_to(start, (sequences, positions))]
    for step in range(1, steps):
        alpha = xp.concat([impossible, sums[-1] + emitted[step - 1, ...]], axis=1)
        sums.append(_log_sum_exp(alpha[:, 2:], alpha[:, 1:-1], alpha[:, :-2] + skips))
    return xp.stack(sums)


def _recursion_in_place(emitted: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """`_recursion` on NumPy."""
    steps, sequences, positions = emitted.shape
    skips, lowest = _skips(classes, emitted), np.finfo(emitted.dtype).min
    padded = np.full((sequences, 2 + positions), -np.inf, emitted.dtype)
    alpha, from_last, from_second_last = padded[:, 2:], padded[:, 1:-1], padded[:, :-2]
    skipped, largest, power = (np.empty_like(alpha, order="C") for _ in range(3))
    sums = np.empty_like(emitted)
    sums[0, :, :2], sums[0, :, 2:] = 0, -np.inf
    for step in range(1, steps):
        np.add(sums[step - 1], emitted[step - 1], out=alpha)
        np.add(from_second_last, skips, out=skipped)
        np.maximum(alpha, from_last, out=largest)
        np.maximum(largest, skipped, out=largest)
        np.maximum(largest, lowest, out=largest)  # as in `_log_sum_exp`
        total = np.subtract(alpha, largest, out=sums[step])
        np.exp(total, out=total)
        for term in (from_last, skipped):
            np.subtract(term, largest, out=power)
            np.exp(power, out=power)
            total += power
        np.log(total, out=total)
        total += largest
    return sums


def _skips(classes: Array, like: Array) -> Array:
    """(sequences, positions) 0 where a path may come from two positions before, else minus infinity.

    Blanks and equal labels are equal classes: what stands between them cannot be skipped.
    """
    xp, positions = arrays.namespace(classes), classes.shape[1]
    at, first = _range(positions, classes), min(2, positions)
    before = xp.concat([classes[:, :first], classes[:, : positions - first]], axis=1)
    return xp.where((classes != before) & (at >= 2), arrays.zeros((), like), _number(-math.inf, like))


def _log_sum_exp(a: Array, b: Array, c: Array) -> Array:
    """log(exp(a) + exp(b) + exp(c)). Where all are minus infinity the largest is taken as finite, for inf - inf, and no
    log of 0 is taken: automatic differentiation would multiply its slope by 0."""
    xp = arrays.namespace(a)
    largest = xp.maximum(xp.maximum(xp.maximum(a, b), c), _number(float(np.finfo(arrays.dtype_name(a)).min), a))
    total = xp.exp(a - largest) + xp.exp(b - largest) + xp.exp(c - largest)
    is_impossible = total == 0
    logarithm = xp.log(xp.where(is_impossible, _number(1.0, a), total))
    return xp.where(is_impossible, _number(-math.inf, a), largest + logarithm)


def _taken(values: Array, places: Array) -> Array:
    """Elements by their flat index."""
    xp = arrays.namespace(values)
    flat = xp.take(xp.reshape(values, (-1,)), xp.reshape(places, (-1,)), axis=0)
    return xp.reshape(flat, tuple(places.shape))


def _range(count: int, like: Array) -> Array:
    return arrays.namespace(like).astype(arrays.beside(np.arange(count), like), like.dtype, copy=False)


def _number(value: float, like: Array) -> Array:
    return arrays.beside(np.asarray(value), like, like.dtype)
