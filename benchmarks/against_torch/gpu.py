"""How time and memory are measured on a GPU."""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from .cpu import Sample

LONG = 200.0  # milliseconds; what Python needs to begin such a call, less than one, need not be hidden behind another


class Gpu:
    """CuPy and PyTorch on the current GPU, both on the legacy default stream, timed by the same events."""

    name = "gpu"
    where = "cuda"
    rounds = (3, 25)  # at least, at most

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

        return self.xp.from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)  # DLPack need not know it

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def release(self) -> None:
        """Gives what both pools keep back to the device, so that neither side starves the other."""
        gc.collect()
        self.synchronize()
        torch.cuda.empty_cache()
        self.xp.get_default_memory_pool().free_all_blocks()

    def sample(self, call: Callable[[], Any], seconds: float) -> list[Sample]:
        """Two calls in a row: the first finds the device idle, the second finds it busy with the first.

        Of a call that was `LONG` before, one alone.
        """
        alone = getattr(call, "is_long", False)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2 if alone else 3)]
        self.synchronize()
        events[0].record()
        start = time.perf_counter()
        call()
        enqueued = time.perf_counter() - start
        events[1].record()
        if not alone:
            call()
            events[2].record()
        self.synchronize()
        took, from_idle = events[-2].elapsed_time(events[-1]), events[0].elapsed_time(events[1])
        call.is_long = took >= LONG  # type: ignore[attr-defined]
        return [Sample(took, from_idle, enqueued * 1e3)]

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
