"""From the logits of a network trained with `gpulstm.nn.ctc` to labels.

Both functions fetch the logits once and decode on the host: a decoder follows few hypotheses one step at a time, and
its result is a list of labels.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from .. import lengths as lengths_module
from ..arrays import Array
from .ctc import check_logits


class Labelling(NamedTuple):
    """One sequence's labels, and the logarithm of their probability."""

    labels: list[int]
    log_probability: float


def ctc_greedy(logits: Array, *, lengths: Any = None, blank: int = 0) -> list[list[int]]:
    """The labels that the most likely path collapses to: repeats merged, then blanks dropped.

    logits : (time, batch, classes), or log-probabilities; the lowest class wins a tie
    lengths : (batch,) integers, time steps of each sequence; None is all of them
    blank : the class that stands for no label

    Gives a list of labels for each sequence. These need not be the most likely labels, as many paths may collapse to
    others: see `ctc_beam`.

    Raises TypeError or ValueError for arguments that do not fit together, and ValueError for a NaN.
    """
    values, lengths = _on_host(logits, lengths, blank)
    best = values.argmax(axis=2)
    return [
        [int(label) for label, _ in itertools.groupby(best[:length, n]) if label != blank]
        for n, length in enumerate(lengths)
    ]


def ctc_beam(
    logits: Array, *, width: int = 10, lengths: Any = None, blank: int = 0, top: int = 1
) -> list[list[Labelling]]:
    """The most likely labels, by prefix beam search.

    At each step the ``width`` most likely beginnings of a labelling are kept. Each has the probability of all paths
    followed that collapse to it, in two parts: of those that end in a blank, and in its last label. With a width of
    all beginnings that there are, the probabilities are those of `gpulstm.nn.ctc`; with fewer they are lower bounds.

    logits : (time, batch, classes), or log-probabilities, of which the log-softmax is taken in float64
    width : beginnings that are kept
    lengths : (batch,) integers, time steps of each sequence; None is all of them
    blank : the class that stands for no label
    top : labellings that are returned, at most ``width``

    Gives a list for each sequence: up to ``top`` pairs (labels, log_probability), the likeliest first. Fewer where no
    more are possible. Raises TypeError or ValueError for arguments that do not fit together, and ValueError for a NaN.

    Graves, Fernández, Gomez and Schmidhuber, ICML 2006; Hannun, Maas, Jurafsky and Ng, First-pass large vocabulary
    continuous speech recognition using bi-directional recurrent DNNs, 2014.
    """
    width, top = initialisers.require_size("width", width), initialisers.require_size("top", top)
    if top > width:
        raise ValueError(f"top must be at most width {width}, got {top}: no more than width labellings are followed")
    values, lengths = _on_host(logits, lengths, blank)
    log_y = log_softmax(values.astype(np.float64))
    _require_numbers(log_y, lengths, "a softmax")  # which infinity, or minus infinity for all classes, has not
    return [_beam(log_y[:length, n], width, blank, top) for n, length in enumerate(lengths)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits (..., classes)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = logits - logits.max(axis=-1, keepdims=True)
        x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x


def on_host(values: Array) -> np.ndarray:
    """Floating-point values in NumPy; of dtypes that NumPy does not have, in float32."""
    if arrays.dtype_name(values) not in arrays.KERNEL_DTYPES:
        xp = arrays.namespace(values)
        values = xp.astype(values, xp.float32)
    return arrays.to_numpy(values)


def _on_host(logits: Array, lengths: Any, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked logits and lengths in NumPy."""
    check_logits(logits, blank)
    steps, batch, _ = logits.shape
    many = np.full(batch, steps)
    if lengths is not None:
        many = lengths_module.values_of(lengths, logits, steps, batch, batched=True)
    values = on_host(logits)
    _require_numbers(values, many, "numbers")
    return values, many


def _require_numbers(values: np.ndarray, lengths: np.ndarray, what: str) -> None:
    running = np.arange(len(values))[:, None] < lengths
    wrong = np.argwhere(np.isnan(values).any(axis=2) & running)
    if len(wrong):
        raise ValueError(f"logits must have {what}, got NaN at step {wrong[0, 0]} of sequence {wrong[0, 1]}")


class _Prefixes:
    """All beginnings of labellings that were ever followed, as a tree; 0 is the empty one."""

    def __init__(self) -> None:
        self.parents = [-1]  # of each one, the beginning without its last label
        self.last_labels = [-1]
        self.children: dict[tuple[int, int], int] = {}  # (beginning, label) -> the beginning with that label

    def child(self, parent: int, label: int) -> int:
        found = self.children.setdefault((parent, label), len(self.parents))
        if found == len(self.parents):
            self.parents.append(parent)
            self.last_labels.append(label)
        return found

    def labels(self, prefix: int) -> list[int]:
        backwards = []
        while prefix:
            backwards.append(self.last_labels[prefix])
            prefix = self.parents[prefix]
        return backwards[::-1]


class _Followed(NamedTuple):
    """The beginnings in the beam. Probabilities are logarithms, over all paths that collapse to the beginning."""

    prefixes: list[int]
    blank_ends: np.ndarray  # (followed,) of paths that end in a blank
    label_ends: np.ndarray  # (followed,) of those that end in the last label

    @property
    def totals(self) -> np.ndarray:
        return np.logaddexp(self.blank_ends, self.label_ends)


def _beam(log_y: np.ndarray, width: int, blank: int, top: int) -> list[Labelling]:
    """One sequence's (time, classes)."""
    tree = _Prefixes()
    followed = _Followed([0], np.array([0.0]), np.array([-np.inf]))
    for step in log_y:
        followed = _next(tree, followed, step, width, blank)
    totals = followed.totals
    return [Labelling(tree.labels(followed.prefixes[k]), float(totals[k])) for k in highest(totals, top)]


def _next(tree: _Prefixes, followed: _Followed, log_y: np.ndarray, width: int, blank: int) -> _Followed:
    """One time step (classes,)."""
    totals, classes = followed.totals, len(log_y)
    last = np.array([tree.last_labels[prefix] for prefix in followed.prefixes])
    some = np.flatnonzero(last >= 0)  # all but the empty beginning
    repeated = log_y[last[some]]

    blank_ends = totals + log_y[blank]
    label_ends = np.full_like(totals, -np.inf)
    label_ends[some] = followed.label_ends[some] + repeated
    longer = totals[:, None] + log_y  # (followed, classes): with one label more
    longer[some, last[some]] = followed.blank_ends[some] + repeated  # an equal label needs a blank between
    longer[:, blank] = -np.inf
    where = {prefix: k for k, prefix in enumerate(followed.prefixes)}
    for k in some:  # where the longer one is followed already, there is one beginning, and two ways to it
        parent = where.get(tree.parents[followed.prefixes[k]])
        if parent is not None:
            label_ends[k] = np.logaddexp(label_ends[k], longer[parent, last[k]])
            longer[parent, last[k]] = -np.inf

    as_they_are = len(totals)
    prefixes, ends = [], []
    for best in highest(np.concatenate([np.logaddexp(blank_ends, label_ends), longer.ravel()]), width):
        if best < as_they_are:
            prefixes.append(followed.prefixes[best])
            ends.append((blank_ends[best], label_ends[best]))
        else:
            parent, label = divmod(int(best) - as_they_are, classes)
            prefixes.append(tree.child(followed.prefixes[parent], label))
            ends.append((-np.inf, longer[parent, label]))
    found = np.array(ends)
    return _Followed(prefixes, found[:, 0], found[:, 1])


def highest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` largest values above minus infinity, in descending order; the first wins a tie."""
    if count < len(values):
        candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
    else:
        candidates = np.arange(len(values))
    candidates = candidates[values[candidates] > -np.inf]
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]
