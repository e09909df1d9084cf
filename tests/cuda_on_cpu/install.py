"""Puts the stand-in where ``import cupy`` finds it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import numpy as np

from gpulstm.cuda import folding, occupancy, own_cublas, planner
from gpulstm.engines import cupy_one_launch

from . import cublas, device, driver, functions, ndarray, nvrtc, profiler, raw, state
from .compilation import MODES

INSTEAD_OF_FIBERS = "GPULSTM_KERNELS_AS"
"""Environment variable: "ptx" runs all tests of the kernels' values on their PTX."""

_PACKAGES = ("cupy", "cupyx", "cupy_backends")


@contextmanager
def cupy_on_cpu(
    mode: str = "fibers",
    *,
    thread_order: str = "ascending",
    block_order: str | None = None,
    seed: int = 0,
    late_block: int | None = None,
    spin_limit: int = 10_000,
    multiprocessors: int = 16,
    shared_memory_optin: int = 227 * 1024,
    compute_capability: str = "90",
    blocks_at_once: int | None = None,
    clusters_at_once: int | None = None,
    rounds_tf32: bool = False,
    schedules: tuple[str, ...] = ("loop",),
    folded: bool | None = False,
) -> Iterator[ModuleType]:
    """``import cupy`` gives the stand-in, until the end; gives the stand-in module.

    ``mode`` is "fibers", "asan", "tsan" or "ptx" (see compilation.py). ``thread_order`` and ``block_order`` (the same,
    if not given) are "ascending", "descending" or "random", which ``seed`` determines. What was counted is in
    ``module.on_cpu.launches`` and ``.gemms``. A real cupy that was imported before is back afterwards.

    In cooperative launches and in those with clusters, the threads of block ``late_block`` (its number: x first) run
    only while no other thread gets on, and threads that spin ``spin_limit`` times while no memory changes are a
    deadlock. The device pretends to have ``multiprocessors``, ``shared_memory_optin`` bytes for a block that asks for
    them, and ``compute_capability``. Where ``blocks_at_once`` is given, it refuses cooperative launches of more blocks,
    whatever it says of itself; where ``clusters_at_once`` is, it says that it has room for no more clusters.
    With ``rounds_tf32``, in the mode "ptx", its `mma` rounds operands of TF32 to the nearest.

    ``schedules`` are those that `gpulstm.cuda.planner` may choose from: by itself it would hardly ever take the loop
    for what is small enough to be run here. ``folded`` is what `gpulstm.cuda.folding` is forced to: by itself it
    would leave the kernels of projections aside.
    """
    block_order = thread_order if block_order is None else block_order
    if mode == "fibers":
        mode = os.environ.get(INSTEAD_OF_FIBERS, mode)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not {thread_order, block_order} <= set(state.ORDERS):
        raise ValueError(f"an order must be one of {', '.join(state.ORDERS)}, got {thread_order!r}, {block_order!r}")
    if late_block is not None and (mode == "tsan" or late_block < 0):
        raise ValueError(f"late_block must be a block's number, in fibers or asan, got {late_block!r} in {mode}")
    if mode == "ptx":
        nvrtc.version()  # found while `import cupy` still means CuPy; raises NvrtcMissing
    sizes = multiprocessors, shared_memory_optin, compute_capability
    gpu = state.Gpu(*sizes, blocks_at_once, clusters_at_once, rounds_tf32)
    before, devices = _taken_out(), cupy_one_launch._devices
    cupy_one_launch._devices = {}  # what is known of another context's device, and what has been given up on it
    state.push(state.State(mode, thread_order, block_order, seed, late_block, spin_limit, gpu))
    modules = _modules()
    sys.modules.update(modules)
    try:
        libraries = own_cublas.loaded_as(cublas.Library()), occupancy.asked_of(driver.Library())
        with planner.only(*schedules), folding.forced(folded), libraries[0], libraries[1]:
            yield modules["cupy"]
    finally:
        _taken_out()
        sys.modules.update(before)
        state.pop()
        cupy_one_launch._devices = devices


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]
    return {name: sys.modules.pop(name) for name in names}


@cache  # one module for the process: who kept `cupy` or a kernel from an earlier context may go on with it
def _modules() -> dict[str, ModuleType]:
    cupy = _Cupy("cupy")
    cupy.__version__ = "0 (the stand-in on the CPU)"
    cupy.__dict__.update({name: value for name, value in vars(functions).items() if name in FUNCTIONS})
    cupy.__dict__.update({name: getattr(np, name) for name in CONSTANTS})
    cupy.ndarray, cupy.RawModule, cupy.RawKernel = ndarray.ndarray, raw.RawModule, raw.RawKernel
    cuda = cupy.cuda = ModuleType("cupy.cuda")
    for name in (
        "Device",
        "Stream",
        "Event",
        "get_elapsed_time",
        "get_current_stream",
        "is_available",
        "get_cublas_handle",
        "alloc_pinned_memory",
    ):
        setattr(cuda, name, getattr(device, name))
    cuda.runtime = _module(
        "cupy.cuda.runtime",
        getDevice=device.get_device,
        getDeviceCount=device.get_device_count,
        getDeviceProperties=device.get_device_properties,
        runtimeGetVersion=device.get_version,
        driverGetVersion=device.get_version,
        memGetInfo=device.mem_get_info,
        memsetAsync=device.memset_async,
        memcpyAsync=device.memcpy_async,
        memcpy2DAsync=device.memcpy_2d_async,
        CUDARuntimeError=device.CUDARuntimeError,
        memcpyDeviceToHost=device.MEMCPY_DEVICE_TO_HOST,
        memcpyDeviceToDevice=device.MEMCPY_DEVICE_TO_DEVICE,
        **cublas.DATA_TYPES,
    )
    cuda.driver = _module("cupy.cuda.driver", **{name: getattr(driver, name) for name in DRIVER})
    cuda.device = _module("cupy.cuda.device", Device=device.Device, get_cublas_handle=device.get_cublas_handle)
    cuda.stream = _module("cupy.cuda.stream", Stream=device.Stream, get_current_stream=device.get_current_stream)
    cuda.compiler = _module("cupy.cuda.compiler", CompileException=device.CompileException)
    cuda.cublas = _module("cupy.cuda.cublas", **{name: getattr(cublas, name) for name in CUBLAS})
    cupyx = ModuleType("cupyx")
    cupyx.profiler = _module("cupyx.profiler", benchmark=profiler.benchmark)
    below = {f"cupy.cuda.{name}": getattr(cuda, name) for name in SUBMODULES}
    return {"cupy": cupy, "cupy.cuda": cuda, **below, "cupyx": cupyx, "cupyx.profiler": cupyx.profiler}


class _Cupy(ModuleType):
    """The top module. ``on_cpu`` is the only name that CuPy does not have."""

    @property
    def on_cpu(self) -> state.State:
        return state.current()


FUNCTIONS = (
    *("empty", "empty_like", "zeros", "zeros_like", "ones", "ones_like", "full", "asarray", "array", "arange"),
    *("linspace", "copyto", "allclose"),
    *("ascontiguousarray", "asnumpy", "where", "take", "stack", "concat", "concatenate", "flip", "array_equal"),
    *("argsort", "log1p", "mean", "reshape"),
    *("tanh", "exp", "sqrt", "log", "sign", "sum", "abs", "maximum", "minimum", "matmul"),
    *("isfinite", "isnan", "any", "all"),
)
CONSTANTS = ("float32", "float64", "int32", "int64", "uint32", "bool_", "newaxis", "pi", "inf", "nan")
CUBLAS = (
    *("sgemm", "dgemm", "gemmEx", "getMathMode", "setMathMode", "CUBLASError"),
    *("CUBLAS_OP_N", "CUBLAS_OP_T", "CUBLAS_COMPUTE_32F", "CUBLAS_COMPUTE_32F_FAST_TF32", "CUBLAS_GEMM_DEFAULT"),
)
SUBMODULES = ("runtime", "device", "stream", "compiler")
DRIVER = (
    *("launchKernel", "launchCooperativeKernel", "funcSetAttribute"),
    *("occupancyMaxActiveBlocksPerMultiprocessor", "CUDADriverError"),
)
ATTRIBUTES = ("cublas", "driver")  # modules too, but `import cupy.cuda.cublas` does not find them in CuPy either


def _module(name: str, **contents) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    return module
