"""Memory that the compiled LSTM works in, kept from call to call.

A fresh page costs more than the arithmetic on it: the system clears it, one fault at a time. So what a call needs for
itself is kept, for each thread: up to `LIMIT` bytes, or as much as the thread has had in use at the same time, up to
`MOST`. Sizes that change from call to call cannot make it more. Results are arrays of their own, as everywhere.
"""

import math
import mmap
import threading
from contextlib import suppress

import numpy as np

LIMIT, MOST = 256 * 2**20, 1024 * 2**20  # bytes of a thread
HUGE_PAGE = 2 * 2**20  # bytes of one, where the system has such pages
LINE = 64  # bytes of a cache line: vectors that lie across two are read twice, and NumPy's arrays begin anywhere


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scratch = np.empty(0, np.uint8)
        self.free: dict[int, list[np.ndarray]] = {}  # by bytes of an array; sizes that came the longest ago first
        self.free_bytes = 0
        self.left: list[np.ndarray] = []  # by destructors, and not among the free ones yet
        self.left_bytes = self.refused_bytes = 0
        self.in_use = self.most_in_use = 0

    @property
    def limit(self) -> int:
        return max(LIMIT, min(MOST, self.most_in_use))


_kept = _Kept()


def scratch(count: int, dtype: np.dtype) -> np.ndarray:
    """At least ``count`` numbers, whose contents last until the thread asks again.

    Weights are laid out there. 4 MB of them are on a thousand pages of the usual size, more than a core remembers the
    places of: hence huge pages, of which the last one may be half empty.
    """
    size = count * dtype.itemsize
    found = _kept.scratch
    if found.size < size:
        found = _aligned(size if size < HUGE_PAGE // 2 else -(-size // HUGE_PAGE) * HUGE_PAGE)
        if size <= MOST:
            _kept.scratch = found
    return found[: found.size // dtype.itemsize * dtype.itemsize].view(dtype)


def take(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with any contents."""
    size = math.prod(shape) * dtype.itemsize
    kept = _kept
    if kept.left:
        _gather(kept)
    in_use = kept.in_use = kept.in_use + size
    if in_use > kept.most_in_use:
        kept.most_in_use = in_use
    if size not in kept.free:
        return _aligned(size).view(dtype).reshape(shape)
    return _free_one(kept, size, -1).view(dtype).reshape(shape)


def give_back(*arrays: np.ndarray) -> None:
    """Arrays that `take` gave and nobody reads any more."""
    leave(*arrays)
    _gather(_kept)


def leave(*arrays: np.ndarray) -> None:
    """The same in a destructor. It may come in the middle of any other function here, so it only appends.

    A thread that does nothing else must not hold on to more and more: what goes beyond the limit goes to the system.
    """
    kept = _kept
    limit = kept.limit
    for array in arrays:
        if kept.left_bytes + array.nbytes <= limit:
            kept.left_bytes += array.nbytes
            kept.left.append(array.reshape(-1).view(np.uint8))
        else:
            kept.refused_bytes += array.nbytes


def kept_bytes() -> int:
    """Of the calling thread, scratch memory included."""
    arrays = [*_kept.left, *(array for alike in _kept.free.values() for array in alike), _kept.scratch]
    return sum(array.nbytes for array in arrays)


def _gather(kept: _Kept) -> None:
    """What was left becomes free. Beyond the limit, sizes that came the longest ago go to the system."""
    left, kept.left = kept.left, []
    kept.in_use -= kept.left_bytes + kept.refused_bytes
    kept.left_bytes = kept.refused_bytes = 0
    for array in left:
        alike = kept.free.pop(array.size, [])
        alike.append(array)
        kept.free[array.size] = alike  # the last one now
        kept.free_bytes += array.size
    limit = kept.limit
    while kept.free_bytes > limit:
        _free_one(kept, next(iter(kept.free)), 0)


def _free_one(kept: _Kept, size: int, index: int) -> np.ndarray:
    alike = kept.free[size]
    found = alike.pop(index)
    kept.free_bytes -= size
    if not alike:
        del kept.free[size]
    return found


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin with a cache line, and with a huge page if they fill one."""
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a system that was built without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        found, boundary = np.frombuffer(pages, np.uint8), HUGE_PAGE
    else:
        found, boundary = np.empty(size + LINE, np.uint8), LINE
    first = -found.ctypes.data % boundary
    return found[first : first + size]
