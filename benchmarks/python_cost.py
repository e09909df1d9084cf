"""What a call on CuPy arrays costs the CPU beside CUDA itself: our Python and CuPy's, with every call of CUDA left out.

    python benchmarks/python_cost.py                  # needs CuPy, and no GPU
    python benchmarks/python_cost.py --profile step   # where the time goes, function by function

On a GPU each launch comes on top, with what the driver takes for it: see floors.py and first_call.py, which measure the
whole. Arrays here are CuPy's own, over addresses that nobody reads.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

HIDDEN, STEPS = 128, 128
CALLS, ROUNDS = 200, 25  # so many calls are timed together, so often
H200 = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448, "CooperativeLaunch": 1}
NOTHING = "".format  # takes any arguments that have no name, and returns at once, as fast as a call can be


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--profile", choices=("step", "cell", "inference", "training", "loop"))
    chosen = parser.parse_args(arguments)
    from benchmarks.needs import need

    need("cupy")
    with without_cuda():
        calls = calls_to_time()
        if chosen.profile:
            profile(next(call for name, call in calls.items() if name.startswith(chosen.profile)))
            return 0
        found = {name: microseconds(call) for name, call in calls.items()}
    for name, times in found.items():
        print(f"{name:<58} {statistics.median(times):8.1f} us   {min(times):8.1f} to {max(times):.1f}")
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def calls_to_time() -> dict[str, Callable[[], object]]:
    """Name -> a call of the library, with one sequence."""
    import cupy
    import numpy

    import gpulstm as gl
    from gpulstm.cuda import planner

    rng = numpy.random.default_rng(0)
    lstm, cell = (kind(HIDDEN, HIDDEN, rng=0) for kind in (gl.LSTM, gl.LSTMCell))
    for layer in (lstm, cell):
        layer.params = {name: on_device(p) for name, p in layer.params.items()}
    x = on_device(rng.normal(size=(STEPS, 1, HIDDEN)).astype("float32"))
    one, of_layer, of_cell = x[:1], (cupy.empty((1, 1, HIDDEN), "f"),) * 2, (cupy.empty((1, HIDDEN), "f"),) * 2

    def in_schedule(schedule: str, call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with planner.only(schedule):
                call()

        return run

    def train() -> None:
        y, final, cache = lstm.forward(x, of_layer)
        lstm.backward(cache, y, final)

    size = f"H {HIDDEN}, N 1"
    return {
        f"step: lstm(x, state), {size}, T 1": lambda: lstm(one, of_layer),
        f"cell: cell(x, state), {size}": lambda of_x=one[0]: cell(of_x, of_cell),
        f"inference: lstm(x, state), {size}, T {STEPS}": lambda: lstm(x, of_layer),
        f"training: lstm.forward, {size}, T {STEPS}": lambda: lstm.forward(x, of_layer),
        f"training: forward and backward, {size}, T {STEPS}": train,
        f"loop: lstm(x, state), {size}, T {STEPS}": in_schedule("loop", lambda: lstm(x, of_layer)),
        f"loop: forward and backward, {size}, T {STEPS}": in_schedule("loop", train),
    }


def on_device(values: Any) -> Any:
    """An array of CuPy's of this shape and dtype."""
    import cupy

    return cupy.empty(values.shape, values.dtype)


def microseconds(call: Callable[[], object]) -> list[float]:
    found = []
    calls = CALLS
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for _ in repeat(None, calls):
            call()
        elapsed = time.perf_counter() - start
        found.append(elapsed / calls * 1e6)
        calls = max(5, min(CALLS, int(0.02 / found[0] * 1e6)))
    return found[1:]


def profile(call: Callable[[], object], calls: int = 20_000) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in repeat(None, calls):
        call()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


@contextmanager
def without_cuda() -> Iterator[None]:
    """CuPy with nothing where it calls CUDA: memory is an address, a launch and a product are nothing.

    What is put in place are functions written in C, as those that they stand for.
    """
    import cupy

    cuda = cupy.cuda
    addresses = count(2**40, 2**20)  # 256 bytes apart at least, as the pool has it

    def memory(size: int) -> Any:
        return cuda.MemoryPointer(cuda.UnownedMemory(next(addresses), size, None, device_id=0), 0)

    stream = SimpleNamespace(ptr=0, synchronize=lambda: None)
    device = SimpleNamespace(compute_capability="90", attributes=H200)
    always_zero = repeat(0).__next__
    in_place: list[tuple[Any, str, Any]] = [
        (cuda.runtime, "getDevice", always_zero),
        (cuda.runtime, "memcpyAsync", NOTHING),
        (cuda.runtime, "memsetAsync", NOTHING),
        (cuda.runtime, "memGetInfo", NOTHING),
        (cuda.driver, "launchKernel", NOTHING),
        (cuda.driver, "launchCooperativeKernel", NOTHING),
        (cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *_: 1),
        (cuda, "get_current_stream", repeat(stream).__next__),
        (cuda, "Device", lambda *_: device),
        (cuda, "Event", lambda **_: SimpleNamespace(record=NOTHING, done=True)),
        (cuda, "alloc_pinned_memory", lambda size: _Pinned(size)),
        (cuda.device, "get_cublas_handle", always_zero),
        *((cuda.cublas, name, NOTHING) for name in ("sgemm", "dgemm")),
        (cupy, "zeros", cupy.empty),
        (cupy, "RawModule", _Module),
    ]
    from gpulstm import arrays

    in_place.append((arrays, "copied", lambda x: cupy.empty(x.shape, x.dtype)))  # CuPy copies without asking Python
    with ExitStack() as stack:
        for owner, name, instead in in_place:
            stack.enter_context(mock.patch.object(owner, name, instead))
        stack.enter_context(cuda.using_allocator(memory))
        yield


class _Module:
    def __init__(self, **_: Any) -> None:
        pass

    def get_function(self, name: str) -> "_Kernel":
        return _Kernel()


class _Kernel:
    """A launch through CuPy's RawKernel is counted with CuPy's own share of it left out: see floors.py."""

    kernel = SimpleNamespace(ptr=1)

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        pass


class _Pinned(bytearray):
    ptr = 0


if __name__ == "__main__":
    sys.exit(main())
