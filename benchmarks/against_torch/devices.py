"""Where a comparison runs: how time and memory are measured there."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

# Seconds. A side's threads spin for a while after their work, OpenBLAS' for 2**26 cycles, and would slow the other's.
SETTLING = 0.05
SHORT = 0.05  # seconds


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
    """NumPy and PyTorch on a fixed number of threads. A call there is over when it returns."""

    name = "cpu"
    where = "cpu"
    xp: Any = np
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,)

    def __init__(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def allow_tf32(self, allowed: bool) -> None:
        """There is no TF32 on a CPU."""

    def to_array(self, tensor: torch.Tensor) -> np.ndarray:
        return tensor.numpy()

    def synchronize(self) -> None:
        """Nothing is under way."""

    def release(self) -> None:
        """No pool keeps memory."""
        gc.collect()

    def sample(self, call: Callable[[], Any]) -> Sample:
        """After the pause caches are cold and threads asleep: a short call is measured the second time in a row."""
        time.sleep(SETTLING)
        took = _seconds(call)
        if took < SHORT:
            took = _seconds(call)
        return Sample(took * 1e3, None, None)

    def peak_of_ours(self, call: Callable[[], Any]) -> None:
        """Not measured: NumPy and PyTorch count their memory in ways that cannot be compared."""

    def peak_of_torch(self, call: Callable[[], Any]) -> None:
        """Not measured, as `peak_of_ours`."""


class Gpu:
    """CuPy and PyTorch on the current GPU, both on the legacy default stream, timed by the same events."""

    name = "gpu"
    where = "cuda"

    def __init__(self) -> None:
        import cupy

        if not torch.cuda.is_available():
            raise RuntimeError("--device gpu needs a GPU that PyTorch can use, and torch.cuda.is_available() is False")
        self.xp = cupy
        self.out_of_memory = (torch.cuda.OutOfMemoryError, cupy.cuda.memory.OutOfMemoryError)
        torch.cuda.init()
        streams = torch.cuda.current_stream().cuda_stream, cupy.cuda.get_current_stream().ptr
        if streams[0] != streams[1]:
            raise RuntimeError(f"PyTorch and CuPy must compute on the same stream, got {streams[0]} and {streams[1]}")

    def allow_tf32(self, allowed: bool) -> None:
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cuda.matmul.allow_tf32 = allowed

    def to_array(self, tensor: torch.Tensor) -> Any:
        if tensor.dtype != torch.bfloat16:
            return self.xp.from_dlpack(tensor)
        import ml_dtypes

        return self.xp.from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)  # as above

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def release(self) -> None:
        """Gives what both pools keep back to the device, so that neither side starves the other."""
        gc.collect()
        self.synchronize()
        torch.cuda.empty_cache()
        self.xp.get_default_memory_pool().free_all_blocks()

    def sample(self, call: Callable[[], Any]) -> Sample:
        """Two calls in a row: the first finds the device idle, the second finds it busy with the first."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        self.synchronize()
        events[0].record()
        start = time.perf_counter()
        call()
        enqueued = time.perf_counter() - start
        events[1].record()
        call()
        events[2].record()
        self.synchronize()
        return Sample(events[1].elapsed_time(events[2]), events[0].elapsed_time(events[1]), enqueued * 1e3)

    def peak_of_ours(self, call: Callable[[], Any]) -> int:
        """Bytes in use at the same time, beyond what was there before, in CuPy's pool."""
        hook = _peak_hook(self.xp)
        with hook:
            call()
            self.synchronize()
        return hook.peak

    def peak_of_torch(self, call: Callable[[], Any]) -> int:
        """The same in PyTorch's allocator."""
        self.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before


def _peak_hook(cupy: Any) -> Any:
    """A hook that follows the bytes in use, as ``torch.cuda.max_memory_allocated`` does; CuPy's pool does not."""

    class Peak(cupy.cuda.MemoryHook):
        name = "Peak"
        used = peak = 0

        def malloc_postprocess(self, **call: int) -> None:
            self.used += call["mem_size"]
            self.peak = max(self.peak, self.used)

        def free_postprocess(self, **call: int) -> None:
            self.used -= call["mem_size"]

    return Peak()
