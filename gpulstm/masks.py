"""The random masks of training, as arrays: what is drawn where.

Every word of `gpulstm.philox` has a counter (unit, sequence, time, stream). What a stream is depends on the mask:

- step masks: stream ``2 * layer + direction``; the words of a counter are for zoneout of h, zoneout of c, and
  dropout of the candidate. Recurrent dropout of h is the first word at time 2^32 - 1, the same
  for all steps of a sequence.
- weight drop: stream 2^30 + ``2 * layer + direction``, counter (column, row, 0)
- dropout between layers: stream 2^31 + layer, counter (feature, sequence, time)
- `gpulstm.nn.Dropout`: stream 3 * 2^30, counter likewise; the axes before the last two are counted as time

`kernels/philox.cuh` draws the same.
"""

from typing import Any, NamedTuple

import numpy as np

from . import arrays, philox
from .arrays import Array
from .options import Options
from .variants import StepMasks

WHOLE_SEQUENCE = 2**32 - 1
WEIGHT_STREAM = 2**30
DROPOUT_STREAM = 2**31
LAYER_STREAM = 3 * 2**30
BLOCK = 2**14  # elements that NumPy draws at a time: what it works on stays in the cache


class Draws(NamedTuple):
    """The masks of one call. ``seed`` is None in inference: then nothing is random."""

    options: Options
    seed: int | None

    @property
    def training(self) -> bool:
        return self.seed is not None

    def words(self, *counter: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The generator's four words for (unit, sequence, time, stream)."""
        return philox.words(self.seed or 0, counter)

    def steps(self, stream: int, times: range, batch: int, output: int, hidden: int, like: Array) -> "StepDraws":
        """Time -> the masks of that step, one of ``times``, as arrays beside ``like``."""
        return StepDraws(self, stream, times, batch, output, hidden, like)

    def weight(self, stream: int, shape: tuple[int, int], like: Array) -> Array | None:
        """What weight_hh is multiplied by, or None."""
        if not (self.training and self.options.weight_drop):
            return None
        return self.kept(WEIGHT_STREAM + stream, 0, *shape, self.options.weight_drop, like)

    def between(self, layer: int, shape: tuple[int, int, int], like: Array) -> Array | None:
        """What a layer's output (time, batch, features) is multiplied by on its way to the next one, or None."""
        if not (self.training and self.options.dropout):
            return None
        steps, batch, features = shape
        words = np.empty(shape, np.uint32)
        some = max(1, BLOCK // max(1, batch * features))
        for first in range(0, steps, some):
            time = np.arange(first, min(first + some, steps))[:, None, None]
            words[first : first + some] = self.words(
                np.arange(features), np.arange(batch)[:, None], time, DROPOUT_STREAM + layer
            )[0]
        return _scaled(words, self.options.dropout, like)

    def kept(self, stream: int, time: int, rows: int, columns: int, probability: float, like: Array) -> Array:
        """A dropout mask (rows, columns) of one time."""
        words = self.words(np.arange(columns), np.arange(rows)[:, None], time, stream)
        return _scaled(words[0], probability, like)


class StepDraws:
    """The masks of one layer in one direction by time. Words are drawn for many steps at once, because NumPy takes
    about as long for those of a small step as for a thousand numbers."""

    def __init__(
        self, draws: Draws, stream: int, times: range, batch: int, output: int, hidden: int, like: Array
    ) -> None:
        options = draws.options
        dropped_on = options.recurrent_dropout_on if options.recurrent_dropout > 0 else None
        self.draws, self.stream, self.times = draws, stream, times
        self.batch, self.output, self.hidden, self.like = batch, output, hidden, like
        self.on_candidate = dropped_on == "candidate"
        self.of_sequence = None
        if dropped_on == "hidden" and draws.training:
            self.of_sequence = draws.kept(stream, WHOLE_SEQUENCE, batch, output, options.recurrent_dropout, like)
        self.at_once = max(1, BLOCK // max(1, batch * max(output, hidden)))
        self.drawn = range(0)
        self.words: tuple[np.ndarray, ...] = ()

    def __call__(self, time: int) -> StepMasks:
        options = self.draws.options
        zone_h, zone_c = options.zoneout
        if not self.draws.training:
            return StepMasks(None, None, zone_h or None, zone_c or None)
        if not (self.on_candidate or zone_h or zone_c):
            return StepMasks(self.of_sequence, None, None, None)
        keep_h, keep_c, keep_g = self._words(time)
        candidate = None
        if self.on_candidate:
            candidate = _scaled(keep_g[:, : self.hidden], options.recurrent_dropout, self.like)
        return StepMasks(
            hidden=self.of_sequence,
            candidate=candidate,
            zone_h=_below(keep_h[:, : self.output], zone_h, self.like) if zone_h else None,
            zone_c=_below(keep_c[:, : self.hidden], zone_c, self.like) if zone_c else None,
        )

    def _words(self, time: int) -> list[np.ndarray]:
        """The first three words of this time, each (batch, units), out of those drawn together."""
        if time not in self.drawn:
            place = self.times.index(time)
            place -= place % self.at_once  # the same blocks in either direction
            self.drawn = self.times[place : place + self.at_once]
            units, sequences = np.arange(max(self.output, self.hidden)), np.arange(self.batch)[:, None]
            self.words = self.draws.words(units, sequences, np.array(self.drawn)[:, None, None], self.stream)
        return [word[self.drawn.index(time)] for word in self.words[:3]]


def _scaled(words: np.ndarray, probability: float, like: Array) -> Array:
    """0 with the given probability, else 1 / (1 - probability): the mean stays what it was."""
    keep = words >= np.uint32(philox.threshold(probability))
    return arrays.beside(np.where(keep, 1 / (1 - probability), 0.0), like, like.dtype)


def _below(words: np.ndarray, probability: float, like: Array) -> Array:
    """1 with the given probability, else 0."""
    return arrays.beside((words < np.uint32(philox.threshold(probability))).astype(np.float64), like, like.dtype)
