"""Whether a device holds a launch: what the driver says of a compiled kernel before it is launched for the first time.

`gpulstm.cuda.planner` lays a launch out by what a device says of itself. What it does not know are the registers and
the shared memory that the compiler took, and what else limits the device for this process: a part of it alone (MIG), or
a share of its multiprocessors (MPS). The driver knows, and answers without launching:

- how many blocks of a kernel a multiprocessor holds (cuOccupancyMaxActiveBlocksPerMultiprocessor), through CuPy
- how many clusters the device holds (cuOccupancyMaxActiveClusters, in drivers since CUDA 11.8), through ctypes, since
  CuPy has no binding of it; where the driver is not found either, nobody can be asked, and the launch itself shows it

That they are held does not promise that other processes' kernels leave room for them.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from .packed import Kernel

_NAMES = ("libcuda.so.1", "nvcuda.dll")

_instead: Any = None  # what stands for the driver's library


class _Launch(ctypes.Structure):
    """CUlaunchConfig of cuda.h. The kernels say their clusters themselves (``__cluster_dims__``), so no attributes."""

    _fields_ = [
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")),
        *(("shared_bytes", ctypes.c_uint), ("stream", ctypes.c_void_p)),
        *(("attributes", ctypes.c_void_p), ("attributes_count", ctypes.c_uint)),
    ]


def obstacle(
    cupy, function: Kernel, blocks: int, threads: int, shared_bytes: int, *, together: int = 1, cluster: int = 1
) -> str:
    """Why the current device does not hold a launch of ``blocks`` blocks; empty if it does, or nobody can be asked.

    ``shared_bytes`` are dynamic. ``together`` says how many of the blocks have to run at the same time, ``cluster`` how
    many are in a cluster.
    """
    ask = getattr(getattr(cupy.cuda, "driver", None), "occupancyMaxActiveBlocksPerMultiprocessor", None)
    if ask is None or not function.address:
        return ""
    cupy.cuda.runtime.memGetInfo()  # binds the device's context to this thread
    what = f"of {threads} threads and {shared_bytes} bytes of shared memory"
    if cluster > 1:
        held = _clusters(function.address, blocks, threads, shared_bytes)
        return f"by the driver it has no room for a cluster of {cluster} blocks {what}" if held == 0 else ""
    of_each = ask(function.address, threads, shared_bytes)
    multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    held = of_each * multiprocessors
    if held >= together:
        return ""
    many = f"{together} blocks at the same time" if together > 1 else "a block"
    return f"by the driver it has no room for {many} {what}, but for {held} on {multiprocessors} multiprocessors"


def _clusters(function: int, blocks: int, threads: int, shared_bytes: int) -> int | None:
    """How many clusters of a kernel the current device holds, or None where nobody can be asked."""
    library = _instead or _library()
    ask = getattr(library, "cuOccupancyMaxActiveClusters", None)
    if ask is None:
        return None
    found, launch = ctypes.c_int(0), _Launch(blocks, 1, 1, threads, 1, 1, shared_bytes)
    failed = ask(ctypes.pointer(found), ctypes.c_void_p(function), ctypes.pointer(launch))
    return None if failed else found.value


@cache
def _library() -> Any:
    for name in _NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@contextmanager
def asked_of(library: Any) -> Iterator[None]:
    """Within it, ``library`` is the driver's; for tests."""
    global _instead
    before, _instead = _instead, library
    try:
        yield
    finally:
        _instead = before
