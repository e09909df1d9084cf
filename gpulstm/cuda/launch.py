"""Launch geometry: how many blocks of how many threads; and how a launch is handed numbers and no array."""

from functools import lru_cache

import numpy as np

# A multiple of the warp size that lets every supported device fill a multiprocessor, and the most that
# kernels/block_sums.cuh has room for.
THREADS = 256
NULL = np.uintp(0)  # stands for an array that there is none of, or that a specialisation does not read

Extent = tuple[int, int, int]
"""Blocks of a grid, or threads of a block, along x, y and z."""


def one_thread_per(count: int) -> tuple[Extent, Extent]:
    """(grid, block) of a one-dimensional launch with a thread for each of ``count`` elements, ``count`` > 0."""
    threads = threads_of(count)
    return (-(-count // threads), 1, 1), (threads, 1, 1)


def threads_of(count: int) -> int:
    """Threads of a block that has ``count`` > 0 elements to itself: whole warps, and each thread has several elements
    where there are more than `THREADS`."""
    return min(THREADS, -(-count // 32) * 32)


def or_null(array):
    """A launch argument from an array or None."""
    return NULL if array is None else array


@lru_cache(maxsize=4096)  # a NumPy scalar takes a fifth of a microsecond to make, and a launch has ten of them
def int32s(*numbers: int) -> tuple[np.int32, ...]:
    """Launch arguments of type int."""
    return tuple(np.int32(number) for number in numbers)
