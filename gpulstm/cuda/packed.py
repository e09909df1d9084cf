"""Launches whose arguments are laid out here, for what has to be quick or is launched again and again.

CuPy's RawKernel makes an object of every argument of every launch, and looks up device, kernel and context each time:
6 microseconds of the CPU with 5 arguments, 8 with 18 and 14 with 55 (benchmarks/results). The driver itself takes a
table of addresses, and copies from each of them one argument before the launch returns. So here is room for arguments,
with its table made once: a launch writes what has changed and calls the driver, through CuPy's own binding.

What stays as it is with RawKernel: the current stream, a capture on it, the current device, and that whoever launches
keeps the arrays until then (what is freed later, the pool hands out in the stream's order).

A thread's first launch of a kernel goes through RawKernel all the same, which binds the device's context to the thread.
So do all of them where CuPy has no such binding.

But no cooperative launch goes through it. For one, CuPy 14.0 and 14.1 compile otherwise, for which they need a library
of CUDA's that an installation from pip does not have; and it makes a grid that does not fit smaller, which the driver
refuses.
"""

import ctypes
import struct
import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .launch import NULL, Extent, int32s

SLOT = 8  # bytes between the arguments that are not longer than that
SLOTS = 64  # of a thread's own room


class Kernel:
    """A compiled kernel of one device. ``kernel(grid, block, args)`` is what CuPy's RawKernel of it does."""

    __slots__ = ("function", "address", "driver_launch", "current_stream", "last", "bind_context", "taken")

    def __init__(self, cupy, function, *, cooperative: bool = False) -> None:
        self.function = function  # has the machine code loaded as long as it lives
        self.address: int = getattr(getattr(function, "kernel", None), "ptr", 0)  # CUfunction; asking compiles it
        self.driver_launch: Any = binding_of(cupy, cooperative=cooperative) if self.address else None
        self.last = () if cooperative else (0,)  # cuLaunchKernel's other way to pass arguments: none
        self.current_stream: Any = cupy.cuda.get_current_stream
        self.taken: set[int] = set()  # blocks of launches that the driver has taken, where somebody keeps a record
        # What binds the device's context to a thread where RawKernel does not: it asks this, too.
        self.bind_context = cupy.cuda.runtime.memGetInfo if cooperative and self.driver_launch is not None else None

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple, *, shared_mem: int = 0) -> None:
        if self.bind_context is None:
            self.function(grid, block, args, shared_mem=shared_mem)
            return
        if not self.was_ready():
            self.bind_context()
            self.is_ready()
        room, _ = _laid_out([*map(_bytes, args)])
        self.driver_launch(self.address, *grid, *block, shared_mem, self.current_stream().ptr, room.table, *self.last)

    def launch(
        self,
        grid: Extent,
        block: Extent,
        arrays: Sequence[Any],
        numbers: Sequence[int],
        shared_mem: int = 0,
        wide: tuple[int, ...] = (),
    ) -> None:
        """A launch of a kernel that takes ``arrays``, C-contiguous or None for a null pointer, and then ints, of which
        those at the places ``wide`` are long long."""
        thread = _thread
        if self.address not in thread.ready:
            typed = [NULL if array is None else array for array in arrays]
            typed += [np.int64(n) if place in wide else np.int32(n) for place, n in enumerate(numbers)]
            self(grid, block, tuple(typed), shared_mem=shared_mem)
            self.is_ready()
            return
        # Taken away while they are in use: what else this thread may come to run in between finds others.
        room = thread.free.pop() if thread.free else _Room(range(0, SLOTS * SLOT, SLOT), SLOTS * SLOT)
        addresses = [0 if array is None else array.data.ptr for array in arrays]
        _pointers_and_ints(len(addresses), len(numbers), wide).pack_into(room.bytes, 0, *addresses, *numbers)
        self.driver_launch(self.address, *grid, *block, shared_mem, self.current_stream().ptr, room.table, *self.last)
        thread.free.append(room)

    def is_ready(self) -> None:
        """Says that this thread has the device's context, as after a launch through CuPy."""
        if self.driver_launch is not None:
            _thread.ready.add(self.address)

    def was_ready(self) -> bool:
        """Whether this thread has it, so that the driver may be called."""
        return self.address in _thread.ready


def binding_of(cupy, *, cooperative: bool) -> Any:
    """CuPy's binding of the driver's launch, or None."""
    name = "launchCooperativeKernel" if cooperative else "launchKernel"
    return getattr(getattr(cupy.cuda, "driver", None), name, None)


class Series:
    """Launches of a kernel on the current stream that differ in ``count`` ints alone, from the argument ``first`` on.

    ``args`` are RawKernel's: arrays, NumPy scalars, and arrays of NumPy's with one element, passed by value. What
    stands in the place of the ints that change is not looked at. Call it with those ints.
    """

    def __init__(self, kernel: Kernel, grid: Extent, block: Extent, args: tuple, first: int, count: int) -> None:
        self.kernel, self.geometry = kernel, (grid, block)
        self.before, self.after = args[:first], args[first + count :]  # keeps the arrays, too
        if kernel.driver_launch is None:
            return
        data = [*map(_bytes, self.before), *[bytes(SLOT)] * count, *map(_bytes, self.after)]
        self.room, starts = _laid_out(data)
        self.write = partial(struct.Struct("=" + count * "i4x").pack_into, self.room.bytes, starts[first])
        stream, table = kernel.current_stream().ptr, self.room.table
        self.go = partial(kernel.driver_launch, kernel.address, *grid, *block, 0, stream, table, *kernel.last)

    def __call__(self, *numbers: int) -> None:
        if self.kernel.address in _thread.ready:
            self.write(*numbers)
            self.go()
        else:
            self.kernel(*self.geometry, (*self.before, *int32s(*numbers), *self.after))
            self.kernel.is_ready()


class Repeated:
    """Launches of a kernel that differ in some addresses alone, by any thread, each on the stream that is current then.

    ``arrays`` are what `Kernel.launch` takes, with ``...`` in place of each one that changes, and so are ``numbers``.
    Call it with the addresses of those that change, 0 for a null pointer, in a thread in which ``kernel.was_ready()``.
    The other arrays are known by their addresses alone: that they are alive is the caller's business.
    """

    def __init__(
        self, kernel: Kernel, grid: Extent, block: Extent, arrays: Sequence[Any], numbers: Sequence[int]
    ) -> None:
        changing = sum(array is ... for array in arrays)
        same = [0 if array is None else array.data.ptr for array in arrays if array is not ...]
        size = SLOT * (len(arrays) + len(numbers))
        first, rest = iter(range(0, SLOT * changing, SLOT)), iter(range(SLOT * changing, size, SLOT))
        # What changes stands side by side, so that it is written in one go; the table has the kernel's own order.
        self.starts = [next(first if array is ... else rest) for array in arrays] + [*rest]
        self.same = bytes(SLOT * changing) + _pointers_and_ints(len(same), len(numbers)).pack(*same, *numbers)
        self.write = _pointers_and_ints(changing, 0).pack_into
        self.kernel, self.free = kernel, [self._room()]
        if kernel.driver_launch is not None:
            self.go = partial(kernel.driver_launch, kernel.address, *grid, *block, 0)

    def __call__(self, *addresses: int) -> None:
        kernel = self.kernel
        try:
            room = self.free.pop()  # in use it is nobody else's: other threads, and what may run in between
        except IndexError:
            room = self._room()
        self.write(room.bytes, 0, *addresses)
        self.go(kernel.current_stream().ptr, room.table, *kernel.last)
        self.free.append(room)

    def _room(self) -> "_Room":
        room = _Room(self.starts, len(self.same))
        room.bytes[:] = self.same
        return room


class _Thread(threading.local):
    def __init__(self) -> None:
        self.ready: set[int] = set()  # addresses of kernels
        self.free: list[_Room] = []


class _Room:
    """Memory for arguments that begin at ``starts``, and the address of the table of their addresses."""

    __slots__ = ("bytes", "table", "_addresses")

    def __init__(self, starts: Sequence[int], size: int) -> None:
        self.bytes = bytearray(size)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes)) if size else 0  # it stays: the size does
        self._addresses = (ctypes.c_void_p * len(starts))(*(begin + start for start in starts))
        self.table = ctypes.addressof(self._addresses)


_thread = _Thread()


def _laid_out(data: list[bytes]) -> tuple[_Room, list[int]]:
    """Room with these arguments in it, and where they begin."""
    starts = [0]
    for each in data:
        starts.append(starts[-1] + -(-len(each) // SLOT) * SLOT)
    room = _Room(starts[:-1], starts[-1])
    for start, each in zip(starts, data, strict=False):
        room.bytes[start : start + len(each)] = each
    return room, starts


@lru_cache(maxsize=256)
def _pointers_and_ints(pointers: int, ints: int, wide: tuple[int, ...] = ()) -> struct.Struct:
    return struct.Struct("=" + pointers * "Q" + "".join("q" if place in wide else "i4x" for place in range(ints)))


def _bytes(arg: Any) -> bytes:
    """An argument as the kernel gets it."""
    if isinstance(arg, (np.generic, np.ndarray)):
        if arg.size != 1:
            raise TypeError(f"a NumPy array of one element goes to a kernel by value, got shape {arg.shape}")
        return arg.tobytes()
    return struct.pack("=Q", arg.data.ptr)
