"""Launch geometry: how many blocks of how many threads."""

from functools import lru_cache

import numpy as np

THREADS = 256  # a multiple of the warp size that lets every supported device fill a multiprocessor


Extent = tuple[int, int, int]
"""Blocks of a grid, or threads of a block, along x, y and z."""


def one_thread_per(count: int) -> tuple[Extent, Extent]:
    """(grid, block) of a one-dimensional launch with a thread for each of ``count`` elements, ``count`` > 0."""
    threads = min(THREADS, -(-count // 32) * 32)
    return (-(-count // threads), 1, 1), (threads, 1, 1)


@lru_cache(maxsize=4096)  # a NumPy scalar takes a fifth of a microsecond to make, and a launch has ten of them
def int32s(*numbers: int) -> tuple[np.int32, ...]:
    """Launch arguments of type int."""
    return tuple(np.int32(number) for number in numbers)
