"""PackedSequence: its rows as a padded batch with lengths, and back, with one gather each way."""

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence


class Rows:
    """Where the rows of a packed sequence stand in a batch (time, batch, features) sorted by falling length."""

    def __init__(self, packed: PackedSequence) -> None:
        sizes = packed.batch_sizes.numpy()
        if sizes.ndim != 1 or not sizes.size or (np.diff(sizes) > 0).any() or sizes[-1] < 1:
            raise ValueError(f"input.batch_sizes must be positive and must not grow, got {packed.batch_sizes.tolist()}")
        if int(sizes.sum()) != len(packed.data):
            raise ValueError(
                f"input.batch_sizes must add up to the rows of input.data, {len(packed.data)}, got {int(sizes.sum())}"
            )
        self.steps, self.batch = len(sizes), int(sizes[0])
        there = np.arange(self.batch) < sizes[:, None]  # (time, batch)
        full = bool(sizes[-1] == self.batch)
        self.lengths: np.ndarray | None = None if full else there.sum(axis=0)
        self._indices = None if full else torch.from_numpy(np.flatnonzero(there)).to(packed.data.device)

    def padded(self, data: torch.Tensor) -> torch.Tensor:
        """(time, batch, features) with zeros behind the sequences' ends."""
        shape = (self.steps, self.batch, *data.shape[1:])
        if self._indices is None:
            return data.reshape(shape)
        zeros = data.new_zeros((self.steps * self.batch, *data.shape[1:]))
        return zeros.index_copy(0, self._indices, data).reshape(shape)

    def packed(self, y: torch.Tensor) -> torch.Tensor:
        """The rows of (time, batch, features) that belong to a sequence, in a packed sequence's order."""
        rows = y.reshape(self.steps * self.batch, *y.shape[2:])
        return rows if self._indices is None else rows.index_select(0, self._indices)
