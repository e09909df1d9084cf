"""Device memory: NumPy bytes of exact size between guards, and a register of what is alive.

An address that a kernel or a GEMM gets must lie in one of these allocations. New memory holds no zeros that a
forgotten initialisation could live on: it is NaN to a floating-point type and a huge negative number to an integer.
"""

import threading
import weakref
from bisect import bisect_right, insort

import numpy as np

from . import state

GARBAGE = {"f": np.nan, "i": -0x5A5A5A5B, "u": 0xA5A5A5A5, "b": True, "c": np.nan, "V": np.nan}  # V: bfloat16
_GUARD = bytes(range(0x80, 0x100))  # a write beside an array changes these
_alive: "weakref.WeakValueDictionary[int, Allocation]" = weakref.WeakValueDictionary()  # by address
_addresses: list[int] = []  # of those alive, sorted
_lock = threading.RLock()  # an allocation may be collected while this thread holds it


class InvalidMemory(RuntimeError):
    """An address outside of live stand-in memory, or a write beside an array."""


class Allocation:
    """``nbytes`` of memory on the current device. ``bytes`` is a NumPy view of exactly them."""

    address = None  # until there is memory

    def __init__(self, nbytes: int) -> None:
        if state.current().captures:
            raise InvalidMemory(f"{nbytes} bytes were allocated while a stream captures: a pool would reuse them")
        self.nbytes = nbytes
        self.device = state.current().device
        state.current().memory["new"] += 1
        self._memory = np.empty(nbytes + 2 * len(_GUARD), np.uint8)
        self._set_guards()
        self.bytes = self._memory[len(_GUARD) : len(_GUARD) + nbytes]
        self.address = self.bytes.ctypes.data
        with _lock:
            _alive[self.address] = self
            insort(_addresses, self.address)

    def __del__(self) -> None:
        if self.address is None or _lock is None:  # the latter at the interpreter's end
            return
        with _lock:
            _addresses.remove(self.address)

    def _set_guards(self) -> None:
        self._memory[: len(_GUARD)] = self._memory[len(_GUARD) + self.nbytes :] = _GUARD_BYTES

    def check_guards(self, blame: str) -> None:
        """Raises InvalidMemory if somebody wrote just before or just after this memory."""
        memory = self._memory.data
        for side, found in (("before", memory[: len(_GUARD)]), ("behind", memory[len(_GUARD) + self.nbytes :])):
            if found != _GUARD:
                self._set_guards()  # the next launch is not to blame
                raise InvalidMemory(f"{blame} wrote {side} an allocation of {self.nbytes} bytes")


_GUARD_BYTES = np.frombuffer(_GUARD, np.uint8)


def holder(address: int) -> Allocation | None:
    """The live allocation that ``address`` lies in."""
    with _lock:
        below = bisect_right(_addresses, address)
        allocation = _alive.get(_addresses[below - 1]) if below else None
    inside = allocation is not None and address - allocation.address < allocation.nbytes
    return allocation if inside else None


def view(address: int, dtype, shape: tuple[int, ...], strides: tuple[int, ...], what: str) -> np.ndarray:
    """The memory at ``address`` as an array, if one live allocation on the current device holds all of it."""
    dtype = np.dtype(dtype)
    extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    allocation = holder(address)
    if allocation is not None:
        offset = address - allocation.address
        if offset + extent <= allocation.nbytes:
            if allocation.device != state.current().device:
                raise InvalidMemory(
                    f"{what} is on device {allocation.device}, the current device is {state.current().device}"
                )
            if offset % dtype.itemsize:
                raise InvalidMemory(f"{what} is not aligned to {dtype}")
            return np.ndarray(shape, dtype, allocation.bytes, offset, strides)
    raise InvalidMemory(f"{what}: {extent} bytes at {address:#x} do not lie in one live array")
