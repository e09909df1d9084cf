"""How a CPU is measured: by a process that has it for itself, in calls that follow each other as in a training loop.

Nothing here imports PyTorch: this is also what the process has that runs gpulstm.
"""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LONG = 0.1  # seconds; of a call that takes as long, little is owed to cold caches and to waking the threads
WINDOW = 0.01  # seconds
ASLEEP = 0.1  # of one core, on average over a window: a thread that spins takes all of one
PATIENCE = 5.0  # seconds
ENVIRONMENT = ("GPULSTM_", "OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "VECLIB_", "NPY_", "ATEN_", "DNNL_", "ONEDNN_")


class Sample(NamedTuple):
    """One measurement of one call, in milliseconds."""

    ms: float  # of a call that finds the device busy with the one before, as in a training loop
    from_idle_ms: float | None  # of a call that finds the device idle
    enqueue_ms: float | None  # until the Python call returned, with an idle device before


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Cpu:
    """NumPy and PyTorch, with the threads that the process has. A call is over when it returns."""

    name = "cpu"
    where = "cpu"
    xp: Any = np
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,)
    rounds = (3, 4)  # at least, at most

    def allow_tf32(self, allowed: bool) -> None:
        """There is no TF32 on a CPU."""

    def to_array(self, tensor: Any) -> np.ndarray:
        return tensor.numpy()

    def synchronize(self) -> None:
        """Nothing is under way."""

    def release(self) -> None:
        """No pool keeps memory."""
        gc.collect()

    def sample(self, call: Callable[[], Any], seconds: float) -> list[Sample]:
        """Calls in a row for about so long; the first one, which finds caches cold and threads asleep, does not count.

        It does if it is so long that this does not matter.
        """
        start = time.perf_counter()
        first = _seconds(call)
        times = [first] if first >= LONG else []
        while not times or time.perf_counter() - start < seconds:
            times.append(_seconds(call))
        return [Sample(took * 1e3, None, None) for took in times]

    def peak_of_ours(self, call: Callable[[], Any]) -> None:
        """Not measured: NumPy and PyTorch count their memory in ways that cannot be compared."""

    def peak_of_torch(self, call: Callable[[], Any]) -> None:
        """Not measured, as `peak_of_ours`."""


def settle() -> None:
    """Returns when this process' threads sleep.

    After their work they spin for a while, in case that there is more: OpenBLAS' for 2**28 cycles of the processor's
    clock, which is 0.1 s (THREAD_TIMEOUT in its driver/others/blas_server.c, and the environment variable
    OPENBLAS_THREAD_TIMEOUT), GNU OpenMP's for some milliseconds. A spinning thread takes a core from whoever computes
    next. How long it spins depends on library, settings and machine, so what is waited for is the thing itself: that
    the process takes next to no processor time, in two windows in a row.
    """
    start, quiet = time.perf_counter(), 0
    while quiet < 2:
        began, used = time.perf_counter(), time.process_time()
        time.sleep(WINDOW)
        used, took = time.process_time() - used, time.perf_counter() - began
        quiet = quiet + 1 if used < ASLEEP * took else 0
        if time.perf_counter() - start > PATIENCE:
            raise RuntimeError(
                f"a thread of this process was still busy {PATIENCE:g} s after its work; does the environment, for "
                f"example OMP_WAIT_POLICY=active, tell it to spin for ever? Got {environment()}"
            )


def environment() -> dict[str, str]:
    """The variables that change how either side computes."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)}


def thread_pools() -> list[dict[str, Any]] | str:
    """The libraries in this process that have threads, with how many, and the kernels that OpenBLAS picked."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown: threadpoolctl is not installed"
    wanted = ("user_api", "internal_api", "num_threads", "version", "architecture")
    return [
        {key: pool[key] for key in wanted if key in pool} | {"file": Path(pool["filepath"]).name}
        for pool in threadpool_info()
    ]
