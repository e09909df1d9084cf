"""Memory that the compiled LSTM works in, kept from call to call.

A fresh page costs more than the arithmetic on it: the system clears it, one fault at a time. So what a call needs for
itself is kept, for each thread, up to `LIMIT` bytes. Results are arrays of their own, as everywhere.
"""

import threading

import numpy as np

LIMIT = 256 * 2**20  # bytes of a thread


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scratch = np.empty(0, np.float32)
        self.free: list[np.ndarray] = []  # the latest last


_kept = _Kept()


def scratch(count: int) -> np.ndarray:
    """At least ``count`` floats, whose contents last until the thread asks again."""
    if _kept.scratch.size >= count:
        return _kept.scratch
    found = np.empty(count, np.float32)
    if found.nbytes <= LIMIT:
        _kept.scratch = found
    return found


def take(shape: tuple[int, ...]) -> np.ndarray:
    """An array of floats with any contents."""
    count = int(np.prod(shape))
    for index, array in enumerate(_kept.free):
        if array.size == count:
            return _kept.free.pop(index).reshape(shape)
    return np.empty(shape, np.float32)


def give_back(*arrays: np.ndarray) -> None:
    """Arrays that `take` gave and nobody reads any more."""
    _kept.free += [array.reshape(-1) for array in arrays]
    while sum(array.nbytes for array in _kept.free) > LIMIT:
        _kept.free.pop(0)
