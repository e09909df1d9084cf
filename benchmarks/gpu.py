"""The GPU under measurement: its kernels, the time of what it does, and what machine it is."""

import datetime
import platform
import re
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

KERNELS = Path(__file__).resolve().parent / "kernels"
REPEATS = 7
CLUSTERS = (2, 8, 16)
VECTORS = (1, 4, 16)  # of 16 bytes, that a thread holds in an all-to-all

# File -> (its kernels, the definitions that it is compiled with).
PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[dict[str, int], ...]]] = {
    "hold.cu": (("hold",), ({},)),
    "kernel_boundary.cu": (("next_value",), ({},)),
    "grid_barrier.cu": (("grid_barrier",), ({},)),
    "flag_ping_pong.cu": (("flag_ping_pong",), ({},)),
    "flag_all_to_all.cu": (("flag_all_to_all",), tuple({"VECTORS": n} for n in VECTORS)),
    "cluster_ping_pong.cu": (
        ("cluster_ping_pong_polling", "cluster_ping_pong_async"),
        tuple({"CLUSTER": n} for n in CLUSTERS),
    ),
    "cluster_all_to_all.cu": (
        ("cluster_all_to_all",),
        tuple({"CLUSTER": n, "VECTORS": v} for n in CLUSTERS for v in VECTORS[:2]),
    ),
    "l2_read.cu": (("l2_read",), ({},)),
    "mma_rates.cu": (("mma_tf32", "mma_fp16", "mma_bf16", "mma_fp32_by_three_tf32", "fma_fp32"), ({},)),
    "many_arguments.cu": (("arguments_5", "arguments_18", "arguments_55", "arguments_15"), ({},)),
}

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14  # of CUfunction_attribute: clusters of more than 8 blocks
# Of cudaDeviceAttr; the last one is what a kernel can ask for.
_MULTIPROCESSORS, _SHARED_PER_MULTIPROCESSOR, _SHARED_PER_BLOCK = 16, 81, 97


def source(file: str) -> str:
    """A kernel file with its headers in it: CuPy's cache of compiled kernels looks at nothing but the text."""
    return _INCLUDE.sub(lambda found: (KERNELS / found[1]).read_text(), (KERNELS / file).read_text())


def options(definitions: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in definitions.items())


def entry_file(entry: str) -> str:
    return next(file for file, (entries, _) in PROGRAMS.items() if entry in entries)


class Gpu:
    """The current device, with a stream of its own for everything that is measured.

    What is done here needs no kernel of CuPy's own: those want CUDA's headers, which may not be installed.
    """

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.runtime = cupy.cuda.runtime
        self.device = self.runtime.getDevice()
        self.multiprocessors = self.runtime.deviceGetAttribute(_MULTIPROCESSORS, self.device)
        per_block = self.runtime.deviceGetAttribute(_SHARED_PER_BLOCK, self.device)
        per_multiprocessor = self.runtime.deviceGetAttribute(_SHARED_PER_MULTIPROCESSOR, self.device)
        self.one_each = min(per_multiprocessor // 2 + 1024, per_block)  # bytes with which blocks never share an SM
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self._hold = self.kernel("hold")

    def kernel(self, entry: str, shared: int = 0, **definitions: int):
        """A function (grid, block, args) that launches, with ``shared`` bytes of dynamic shared memory."""
        file = entry_file(entry)
        if definitions not in PROGRAMS[file][1]:
            raise ValueError(f"{file} is not to be compiled with {definitions}; PROGRAMS lists {PROGRAMS[file][1]}")
        function = self.cupy.RawModule(code=source(file), options=options(definitions)).get_function(entry)
        if shared:
            function.max_dynamic_shared_size_bytes = shared
        if definitions.get("CLUSTER", 0) > 8:
            self.cupy.cuda.driver.funcSetAttribute(function.kernel.ptr, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
        return lambda grid, block, args: function((grid,), (block,), args, shared_mem=shared)

    def empty(self, *shape: int, dtype: str = "uint32", fill: int = 0):
        """An array whose bytes are all ``fill``."""
        array = self.cupy.empty(shape, dtype)
        self.fill(array, fill)
        return array

    def fill(self, array, byte: int) -> None:
        array.data.memset_async(byte, array.nbytes, self.stream)

    def seconds(
        self, launch: Callable[[], object], before: Callable[[], object] = lambda: None, hold: int = 200_000
    ) -> list[float]:
        """The GPU's time for ``launch``, REPEATS times. It is queued while the GPU is held for some cycles."""
        import numpy as np

        events = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        found = []
        for _ in range(REPEATS + 1):
            before()
            self._hold(1, 1, (np.int32(hold),))
            events[0].record(self.stream)
            launch()
            events[1].record(self.stream)
            events[1].synchronize()
            found.append(self.cupy.cuda.get_elapsed_time(*events) / 1e3)
        return found[1:]  # the first one loads the kernel

    def machine(self) -> dict[str, object]:
        return machine(self.cupy)


def machine(cupy) -> dict[str, object]:
    """The current device, the versions of everything, and the date."""
    runtime = cupy.cuda.runtime
    device = runtime.getDevice()
    properties = runtime.getDeviceProperties(device)
    return {
        "gpu": properties["name"].decode(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": runtime.deviceGetAttribute(_MULTIPROCESSORS, device),
        "L2 bytes": properties.get("l2CacheSize"),
        "memory bytes": properties["totalGlobalMem"],
        "nvidia-smi": _ask_nvidia_smi(),
        "CUDA driver": runtime.driverGetVersion(),
        "CUDA runtime": runtime.runtimeGetVersion(),
        "NVRTC": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "CuPy": cupy.__version__,
        "Python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _ask_nvidia_smi() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known: {error}"


class Report:
    """The lines that were measured, and those that failed."""

    def __init__(self, group: str, save: Callable[["Report"], None] = lambda report: None) -> None:
        self.group = group
        self.save = save
        self.machine: dict[str, object] = {}
        self.lines: list[dict[str, object]] = []
        self.failed: list[dict[str, str]] = []

    def measure(self, name: str, unit: str, function: Callable[[], list[float]], **details: object) -> None:
        """Keeps and prints the median, lowest and highest of what ``function`` gives, or why it gave nothing."""
        try:
            values = function()
        except Exception as error:  # a line that fails must not take the others with it
            self.fail(name, f"{type(error).__name__}: {error}")
            return
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"{name:<68} {median:>10.4g} {unit:<9} {low:.4g} to {high:.4g}", flush=True)
        line = {"group": self.group, "name": name, "median": median, "unit": unit, "low": low, "high": high}
        self.lines.append({**line, "count": len(values), **details})
        self.save(self)

    def fail(self, name: str, why: str) -> None:
        print(f"{name:<68} FAILED: {why}", flush=True)
        self.failed.append({"group": self.group, "name": name, "why": why})
        self.save(self)

    def as_dict(self) -> dict[str, object]:
        return {"machine": self.machine, "lines": self.lines, "failed": self.failed}
