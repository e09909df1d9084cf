"""Memory that the compiled LSTM works in, kept from call to call.

A fresh page costs more than the arithmetic on it: the system clears it, one fault at a time. So what a call needs for
itself is kept, for each thread, up to `LIMIT` bytes. Results are arrays of their own, as everywhere.
"""

import math
import threading

import numpy as np

LIMIT = 256 * 2**20  # bytes of a thread
LINE = 64  # bytes of a cache line: vectors that lie across two are read twice, and NumPy's arrays begin anywhere


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scratch = np.empty(0, np.uint8)
        self.free: list[np.ndarray] = []  # of bytes, the latest last
        self.within_limit = 0  # so many of the first ones are known to be


_kept = _Kept()


def scratch(count: int, dtype: np.dtype) -> np.ndarray:
    """At least ``count`` numbers, whose contents last until the thread asks again."""
    size = count * dtype.itemsize
    found = _kept.scratch
    if found.size < size:
        found = _aligned(size)
        if size <= LIMIT:
            _kept.scratch = found
    return found[: found.size // dtype.itemsize * dtype.itemsize].view(dtype)


def take(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with any contents."""
    size = math.prod(shape) * dtype.itemsize
    if len(_kept.free) > _kept.within_limit:  # a destructor left some
        _keep_to_the_limit()
    for index, array in enumerate(_kept.free):
        if array.size == size:
            _kept.within_limit -= 1
            return _kept.free.pop(index).view(dtype).reshape(shape)
    return _aligned(size).view(dtype).reshape(shape)


def give_back(*arrays: np.ndarray) -> None:
    """Arrays that `take` gave and nobody reads any more."""
    leave(*arrays)
    _keep_to_the_limit()


def leave(*arrays: np.ndarray) -> None:
    """The same in a destructor. It may come in the middle of `take`, so it only appends."""
    _kept.free += [array.reshape(-1).view(np.uint8) for array in arrays]


def _keep_to_the_limit() -> None:
    while sum(array.nbytes for array in _kept.free) > LIMIT:
        _kept.free.pop(0)
    _kept.within_limit = len(_kept.free)


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin with a cache line."""
    found = np.empty(size + LINE, np.uint8)
    first = -found.ctypes.data % LINE
    return found[first : first + size]
