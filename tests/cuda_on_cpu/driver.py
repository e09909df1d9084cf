"""``cupy.cuda.driver``: launches with arguments that the caller has laid out, and how many blocks the device holds."""

import itertools
import threading
import weakref

from . import state

THREADS_PER_MULTIPROCESSOR = 2048
BLOCKS_PER_MULTIPROCESSOR = 32
SHARED_RESERVED = 1024  # bytes that each block takes beside its own
NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14  # CU_FUNC_ATTRIBUTE_...
PORTABLE_CLUSTER, LARGEST_CLUSTER = 8, 16
_functions: "weakref.WeakValueDictionary[int, Function]" = weakref.WeakValueDictionary()
_numbers = itertools.count(0xF000, 16)
_thread = threading.local()  # ``devices``: those whose context is bound to the thread


class CUDADriverError(RuntimeError):
    """CuPy's name. The real one takes a status; this one says what was wrong."""


class Function:
    """What ``RawKernel.kernel`` gives: ``ptr`` stands for the kernel in the driver's functions."""

    def __init__(self, raw_kernel) -> None:
        self.ptr = next(_numbers)
        self._raw_kernel = weakref.ref(raw_kernel)
        self.device = state.current().device  # whose memory has its machine code
        self.attributes: dict[int, int] = {}
        _functions[self.ptr] = self

    @property
    def raw_kernel(self):
        return self._raw_kernel()

    @property
    def static_shared_bytes(self) -> int:
        return self._raw_kernel().shared_size_bytes


def funcSetAttribute(f, attribute, value):  # noqa: N802 - CuPy's name
    """Of all attributes only that larger clusters than the portable ones are allowed."""
    if f not in _functions:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_HANDLE: {f!r} is not the ptr of a kernel")
    if attribute != NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        raise CUDADriverError(f"the stand-in does not know the attribute {attribute!r} of a function")
    _functions[f].attributes[attribute] = value


def launchKernel(  # noqa: N802 - CuPy's name; and as there, no argument has one
    f,
    grid_dim_x,
    grid_dim_y,
    grid_dim_z,
    block_dim_x,
    block_dim_y,
    block_dim_z,
    shared_mem_bytes,
    stream,
    kernel_params,
    extra,
    /,
):
    """cuLaunchKernel. The grid and the block must be what CUDA takes: nothing here is made at least 1."""
    if extra:
        raise NotImplementedError("the stand-in has no other way to pass arguments than kernel_params")
    grid, block = (grid_dim_x, grid_dim_y, grid_dim_z), (block_dim_x, block_dim_y, block_dim_z)
    _launch(f, grid, block, shared_mem_bytes, stream, kernel_params, cooperative=False)


def launchCooperativeKernel(  # noqa: N802 - CuPy's name
    f,
    grid_dim_x,
    grid_dim_y,
    grid_dim_z,
    block_dim_x,
    block_dim_y,
    block_dim_z,
    shared_mem_bytes,
    stream,
    kernel_params,
    /,
):
    """cuLaunchCooperativeKernel."""
    grid, block = (grid_dim_x, grid_dim_y, grid_dim_z), (block_dim_x, block_dim_y, block_dim_z)
    _launch(f, grid, block, shared_mem_bytes, stream, kernel_params, cooperative=True)


def bind_context():
    """What CuPy does before it launches, and who calls the driver has to see to: here RawKernel does it, and
    ``runtime.memGetInfo``. On a GPU all of the runtime's functions do that need a context."""
    _thread.devices = {*getattr(_thread, "devices", ()), state.current().device}


def _launch(f, grid, block, shared_mem, stream, table, *, cooperative):
    if f not in _functions:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_HANDLE: {f!r} is not the ptr of a kernel")
    device = state.current().device
    if device not in getattr(_thread, "devices", ()):
        raise CUDADriverError(f"CUDA_ERROR_INVALID_CONTEXT: device {device}'s context is not bound to this thread")
    if _functions[f].device != device:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_HANDLE: a kernel of device {_functions[f].device}, not of {device}")
    _functions[f].raw_kernel.launch_by_driver(grid, block, table, shared_mem, cooperative, stream)


def check_clusters(function: Function, size: int, grid: tuple[int, int, int]) -> None:
    """Raises what a launch with clusters of ``size`` blocks would, if the device, the kernel or the grid forbid it."""
    if size == 1:
        return
    capability = int(state.current().gpu.compute_capability)
    if capability < 90:
        raise CUDADriverError(f"CUDA_ERROR_NO_BINARY_FOR_GPU: clusters need compute capability 9.0, not {capability}")
    allowed = function.attributes.get(NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 0)
    if size > (LARGEST_CLUSTER if allowed else PORTABLE_CLUSTER):
        raise CUDADriverError(f"CUDA_ERROR_INVALID_CLUSTER_SIZE: {size} blocks, and the attribute 14 is {allowed}")
    if state.current().gpu.clusters_at_once == 0:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_CLUSTER_SIZE: no room for {size} blocks side by side")
    if grid[0] % size:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {grid[0]} blocks along x are no multiple of {size}")


def occupancyMaxActiveBlocksPerMultiprocessor(func, blockSize, dynamicSMemSize):  # noqa: N802, N803 - CuPy's names
    """By threads and shared memory. Registers are not known here, and may allow fewer on a GPU."""
    if func not in _functions:
        raise CUDADriverError(f"CUDA_ERROR_INVALID_HANDLE: {func!r} is not the ptr of a kernel")
    gpu = state.current().gpu
    threads = -(-blockSize // 32) * 32
    shared = _functions[func].static_shared_bytes + dynamicSMemSize
    if shared > gpu.shared_memory_optin:
        return 0
    room = gpu.shared_memory_optin + SHARED_RESERVED
    by_shared = room // (shared + SHARED_RESERVED)
    return min(BLOCKS_PER_MULTIPROCESSOR, THREADS_PER_MULTIPROCESSOR // threads, by_shared)


class Library:
    """What CuPy has no binding of, as ctypes gives it: 0 is success."""

    def cuOccupancyMaxActiveClusters(self, found, func, config) -> int:  # noqa: N802 - the driver's name
        """As many as multiprocessors have room for their blocks, wherever these lie; fewer if so set."""
        launch, function = config.contents, _functions[func.value]
        size = function.raw_kernel.cluster
        if size == 1 or launch.grid_x % size or launch.attributes_count:
            return 1  # CUDA_ERROR_INVALID_VALUE
        gpu, threads = state.current().gpu, launch.block_x * launch.block_y * launch.block_z
        of_each = occupancyMaxActiveBlocksPerMultiprocessor(func.value, threads, launch.shared_bytes)
        held = of_each * gpu.multiprocessors // size
        found.contents.value = held if gpu.clusters_at_once is None else min(held, gpu.clusters_at_once)
        return 0
