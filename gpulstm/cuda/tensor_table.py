"""Many tensors in one launch: the host's side of ``kernels/tensor_table.cuh``.

A kernel takes a `TensorTable` by value: CuPy passes a NumPy array of one element as its bytes. So a step of an
optimiser costs one launch and no upload, whatever the number of parameters, up to `TENSORS` of them in a launch.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..arrays import Array
from .launch import THREADS

TENSORS = 88  # a launch carries 4096 bytes of arguments on every device and driver
CHUNK = 1024  # elements that a block takes at a time
_LAYOUT = np.dtype(
    [
        *((column, np.uintp, (TENSORS,)) for column in ("target", "gradient", "first", "second")),
        *(("size", np.int64, (TENSORS,)), ("first_chunk", np.int32, (TENSORS,))),
        *(("count", np.int32), ("chunks", np.int32)),
    ],
    align=True,
)  # as the compiler lays out the struct: the tests compare


class TensorTable:
    """Up to `TENSORS` tensors of one launch. ``members`` are their places in the caller's lists."""

    def __init__(self, members: Sequence[int], sizes: Sequence[int]) -> None:
        self.members = members
        chunks = [-(-size // CHUNK) for size in sizes]
        self.chunks = sum(chunks)
        self.values = np.zeros((), _LAYOUT)  # the argument itself
        self.values["size"][: len(sizes)] = sizes
        self.values["first_chunk"][: len(sizes)] = np.cumsum([0, *chunks[:-1]])
        self.values["count"], self.values["chunks"] = len(sizes), self.chunks

    def fill(self, column: str, tensors: Sequence[Array]) -> None:
        """Writes the pointers of those of ``tensors``, all C-contiguous, that are this table's."""
        self.values[column][: len(self.members)] = [tensors[i].data.ptr for i in self.members]

    def geometry(self, most_blocks: int | None = None) -> tuple[tuple[int], tuple[int]]:
        """(grid, block): a block for each chunk, or for several chunks."""
        return (min(self.chunks, most_blocks or self.chunks),), (THREADS,)


def tables(sizes: Iterable[int]) -> list[TensorTable]:
    """As few tables as hold all tensors that have an element; none if there is no such tensor."""
    filled = [(place, size) for place, size in enumerate(sizes) if size]
    groups = (filled[first : first + TENSORS] for first in range(0, len(filled), TENSORS))
    return [TensorTable([place for place, _ in group], [size for _, size in group]) for group in groups]
