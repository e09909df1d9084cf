"""Batches of sequences: those of like length together, padded with zeros, in an order that seed and epoch determine."""

from collections.abc import Callable, Iterator, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array
from . import draws

POOL = 50  # batches among which sequences are sorted by length: enough to fit well, few enough to mix
KINDS = ("steps", "sequences", "labels")


class Batch(NamedTuple):
    """What one training step sees.

    x : (time, batch, ...), or (batch, time, ...) for a model that is made so
    target : whatever the loss compares with
    lengths : (batch,) integers, each sequence's time steps; None where all fill x
    target_lengths : (batch,) integers, each target's entries, for losses such as CTC's
    """

    x: Array
    target: Array
    lengths: Array | None = None
    target_lengths: Array | None = None


def size_of(batch: Batch, batch_first: bool) -> tuple[int, int, int]:
    """A batch's sequences, its time steps that count, and all its time steps with the padding.

    Lengths that are on a GPU are not looked at, because that would wait for it: then all steps count.
    """
    time, sequences = tuple(batch.x.shape[:2])[:: -1 if batch_first else 1]
    lengths = batch.lengths
    if lengths is None or (arrays.is_array(lengths) and not arrays.is_numpy(lengths)):
        return sequences, time * sequences, time * sequences
    return sequences, int(np.sum(lengths)), time * sequences


def kind_of(batch: Batch) -> str:
    """Which of `KINDS` a batch's target looks like."""
    if batch.target_lengths is not None:
        return "labels"
    shape = tuple(getattr(batch.target, "shape", ()))
    return "steps" if len(shape) > 1 and shape[:2] == tuple(batch.x.shape[:2]) else "sequences"


class Batches:
    """Sequences and their targets, cut into padded batches anew in each epoch.

    ::

        batches = Batches(inputs, targets, 32, rng=0)
        for batch in batches.epoch(3):  # len(batches) of them
            out, cache = model.forward(batch.x, lengths=batch.lengths)

    An epoch's order: all sequences shuffled, then sorted by length within pools of 50 batches, cut into batches, and
    the batches shuffled. Where all have the same length, sorting changes nothing. The order is a function of ``rng``
    and the epoch's number alone. `padding_share` says what padding is left.

    Parameters
    ----------
    inputs : one array (time_i, ...) for each sequence, or one array (sequences, time, ...) for all.
    targets : as many. ``targets_are`` says which of three things they are, and None finds out:
        "steps", (time_i, ...) beside the inputs: a batch's target is (time, batch, ...), padded with zeros;
        "sequences", all of one shape, such as (): (batch, ...);
        "labels", (labels_i, ...) of other lengths: (batch, labels, ...), padded with zeros, with ``target_lengths``.
    batch_size : sequences in a batch; an epoch's leftover makes a smaller one.
    rng : a seed or a `numpy.random.Generator`, from which a seed is drawn.
    batch_first : whether a batch's x and "steps" targets are (batch, time, ...).

    Everything is NumPy; arrays of other libraries are fetched once, here. A batch's ``lengths`` are None where nothing
    is padded. Raises TypeError or ValueError where something does not match.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        batch_size: int = 32,
        *,
        rng: Any = None,
        batch_first: bool = False,
        targets_are: str | None = None,
        name: str = "",
    ) -> None:
        self.inputs = _samples(f"{name}inputs", inputs, time_first=True)
        self.targets = _samples(f"{name}targets", targets, time_first=False)
        self.batch_size = initialisers.require_size("batch_size", batch_size)
        self.seed, self.batch_first = initialisers.seed(rng), bool(batch_first)
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"{name}targets must be as many as {name}inputs, {len(self.inputs)}, got {len(self.targets)}; "
                f"both count sequences first"
            )
        self.lengths = np.array([len(a) for a in self.inputs], np.int32)
        if not len(self.lengths):
            raise ValueError(f"{name}inputs must hold at least one sequence, got none")
        if not self.lengths.all():
            raise ValueError(f"{name}inputs[{int(np.argmin(self.lengths))}] has no time steps; leave it out")
        self.targets_are = _kind(f"{name}targets", self.targets, self.lengths, targets_are)
        self._order: tuple[int, list[np.ndarray]] | None = None  # the last epoch's

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    @property
    def padded(self) -> bool:
        """Whether any batch may hold padding."""
        return bool(self.lengths.min() != self.lengths.max())

    @property
    def padding_share(self) -> float:
        """The share of an epoch's time steps that is padding, between 0 and 1."""
        filled = sum(int(self.lengths[found].max()) * len(found) for found in self.order(0))
        return 1 - int(self.lengths.sum(dtype=np.int64)) / filled

    def order(self, epoch: int) -> list[np.ndarray]:
        """The numbers of the sequences in each batch of an epoch."""
        if self._order is None or self._order[0] != epoch:
            rng = draws.generator(self.seed, "order", epoch)
            found = self._cut(rng.permutation(len(self.lengths)), POOL * self.batch_size)
            self._order = epoch, [found[k] for k in rng.permutation(len(found))]
        return self._order[1]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        return map(self.batch, self.order(epoch))

    def in_order(self) -> Iterator[Batch]:
        """All sequences once, by length: the same batches each time, with the least padding."""
        return map(self.batch, self._cut(np.arange(len(self.lengths)), len(self.lengths)))

    def _cut(self, found: np.ndarray, pool: int) -> list[np.ndarray]:
        if self.padded:
            pools = [found[k : k + pool] for k in range(0, len(found), pool)]
            found = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        return [found[k : k + self.batch_size] for k in range(0, len(found), self.batch_size)]

    def batch(self, numbers: np.ndarray) -> Batch:
        """The batch of these sequences."""
        lengths, target_lengths = self.lengths[numbers], None
        x = _padded(self.inputs, numbers, int(lengths.max()), self.batch_first)
        if self.targets_are == "steps":
            target = _padded(self.targets, numbers, int(lengths.max()), self.batch_first)
        elif self.targets_are == "sequences":
            target = self.targets[numbers] if isinstance(self.targets, np.ndarray) else _stacked(self.targets, numbers)
        else:
            target_lengths = np.array([len(self.targets[k]) for k in numbers], np.int32)
            target = _padded(self.targets, numbers, int(target_lengths.max()), True)
        return Batch(x, target, lengths if lengths.min() < lengths.max() else None, target_lengths)


class Stream:
    """Batches that a function makes: ``make(rng)`` for each step, with that step's own generator."""

    def __init__(self, make: Callable[[np.random.Generator], Batch], seed: int) -> None:
        self.make, self.seed = make, seed

    def at(self, step: int, purpose: str = "batch") -> Batch:
        batch = self.make(draws.generator(self.seed, purpose, step))
        if not isinstance(batch, Batch):
            raise TypeError(f"a function given for data must return gl.training.Batch, got {type(batch).__name__}")
        return with_one_input(batch)


def with_one_input(batch: Batch) -> Batch:
    """The batch. Raises TypeError unless its x is one array."""
    if isinstance(batch.x, (tuple, list, dict)):
        raise TypeError(
            f"a Batch's x must be one array (time, batch, ...), got {type(batch.x).__name__} of {len(batch.x)}; for a "
            f"model of several inputs, put them side by side along a last axis and let its forward take them apart"
        )
    arrays.require_array("a Batch's x", batch.x)
    return batch


def _samples(name: str, values: Any, time_first: bool) -> "np.ndarray | list[np.ndarray]":
    """One array with a row for each sequence, or a list of arrays of one dtype and one shape but for the first axis."""
    if arrays.is_array(values) and values.dtype != object:
        rows = arrays.to_numpy(values)
        if rows.ndim < 1 + time_first:
            expected = "(sequences, time, ...)" if time_first else "(sequences, ...)"
            raise ValueError(f"{name} must have shape {expected} as one array, got {rows.shape}")
        return rows
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of arrays or one array, got {type(values).__name__}")
    found = [_sample(f"{name}[{k}]", value, time_first) for k, value in enumerate(values)]
    for k, value in enumerate(found):
        first = found[0]
        if value.dtype != first.dtype:
            raise TypeError(f"{name}[{k}] must have {name}[0]'s dtype {first.dtype}, got {value.dtype}")
        if value.ndim != first.ndim or value.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name}[{k}] must have {name}[0]'s shape {first.shape} but for the first axis, got {value.shape}"
            )
    return found


def _sample(name: str, value: Any, time_first: bool) -> np.ndarray:
    if isinstance(value, (Number, np.generic)) and not time_first:
        return np.asarray(value)
    arrays.require_array(name, value)
    found = arrays.to_numpy(value)
    if time_first and found.ndim == 0:
        raise ValueError(f"{name} must have shape (time, ...), got ()")
    return found


def _kind(name: str, targets: Any, lengths: np.ndarray, asked: str | None) -> str:
    """Which of `KINDS` the targets are; refuses those that cannot be what was asked for."""
    if asked is not None and asked not in KINDS:
        raise ValueError(f"targets_are must be one of {', '.join(map(repr, KINDS))} or None, got {asked!r}")
    sizes = None if targets[0].ndim == 0 else np.array([len(a) for a in targets])
    possible = {
        "steps": sizes is not None and np.array_equal(sizes, lengths),
        "sequences": sizes is None or sizes.min() == sizes.max(),
        "labels": sizes is not None,
    }
    if asked is not None:
        if not possible[asked]:
            raise ValueError(
                f"{name} must be {asked!r}, and their shapes do not allow it: the first is {targets[0].shape}"
            )
        return asked
    if not (possible["steps"] or possible["sequences"]):
        wrong = int(np.argmax(sizes != lengths))
        raise ValueError(
            f"{name}[{wrong}] must have as many time steps as its input, {lengths[wrong]}, or the shape of all others, "
            f"got {targets[wrong].shape}; label sequences of other lengths need a loss with an argument target_lengths"
        )
    return next(kind for kind in KINDS if possible[kind])


def _padded(values: Any, numbers: np.ndarray, longest: int, batch_first: bool) -> np.ndarray:
    """(time_i, ...) each -> (time, batch, ...), or (batch, time, ...), with zeros past the ends."""
    if isinstance(values, np.ndarray):
        rows = values[numbers]  # and no take along the second axis, which would copy all values first
        return rows if batch_first else np.ascontiguousarray(rows.swapaxes(0, 1))
    first = values[numbers[0]]
    outer = (len(numbers), longest) if batch_first else (longest, len(numbers))
    padded = np.zeros((*outer, *first.shape[1:]), first.dtype)
    rows = padded if batch_first else padded.swapaxes(0, 1)
    for row, k in zip(rows, numbers, strict=True):
        row[: len(values[k])] = values[k]
    return padded


def _stacked(values: list[np.ndarray], numbers: np.ndarray) -> np.ndarray:
    return np.stack([values[k] for k in numbers])
