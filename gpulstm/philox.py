"""Random masks from a counter instead of a state: Philox4x32-10.

Every random number of an LSTM is a function of a seed and of where it is used: stream (which layer and direction),
time, sequence and unit. So masks need not be stored for the backward pass, the kernels draw the same bits as NumPy, and
a run repeats on any machine. `kernels/philox.cuh` is the same in CUDA.

Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from typing import Any

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def words(seed: int, counter: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four independent uniform 32-bit words for each counter.

    ``seed`` is below 2^64. ``counter`` is four arrays or integers below 2^32 that broadcast against each other.
    """
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):  # the words mix, so that each has the shape of all from the fourth round on
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(key0), (product0 >> _SHIFT) ^ c3 ^ np.uint64(key1)
        c1, c3 = product1 & _LOW, product0 & _LOW
        key0, key1 = (key0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def threshold(probability: float) -> int:
    """A uniform 32-bit word is below this with the given probability, to within 2^-33."""
    return min(round(probability * 2**32), 2**32 - 1)
