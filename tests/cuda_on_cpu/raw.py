"""``cupy.RawModule`` and ``cupy.RawKernel``: the real source, compiled for the mode of the moment."""

import warnings

from . import arguments, capture, device, driver, launcher, memory, state
from .compilation import CompileError, build
from .device import CompileException, get_current_stream
from .ndarray import ndarray


def _launch_again(one: launcher.Launch, pointers: list[arguments.Pointer]) -> None:
    """As part of a graph, whose arrays are known to be there."""
    for pointer in pointers:
        pointer.allocation = memory.holder(pointer.address)
    launcher.launch(one, state.current())
    for pointer in pointers:
        pointer.allocation = None
    state.current().launches[one.kernel] += 1


class RawModule:
    """Source with options; it is compiled when a kernel of it is first asked for."""

    def __init__(self, code=None, *, options=(), enable_cooperative_groups=False) -> None:
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple of str, got {type(options).__name__}")
        self.code, self.options, self.enable_cooperative_groups = code, options, enable_cooperative_groups

    def get_function(self, name):
        cooperative = self.enable_cooperative_groups
        return RawKernel(self.code, name, self.options, enable_cooperative_groups=cooperative)


class RawKernel:
    """One kernel. A kernel may be kept and called under another mode: it is then compiled for that one too."""

    def __init__(self, code, name, options=(), *, enable_cooperative_groups=False) -> None:
        capture.refuse("loading a kernel")
        self.code, self.name, self.options = code, name, options
        self.enable_cooperative_groups = enable_cooperative_groups
        self.kernel = driver.Function(self)
        self._build()
        self._dynamic_limit = max(0, arguments.DEFAULT_SHARED_BYTES - self.shared_size_bytes)

    def compile(self, log_stream=None):
        """Nothing is left to do: it was compiled when it was made, which CuPy does at the first use."""

    def __call__(self, grid, block, args, *, shared_mem=0):
        built = self._build()
        grid, block, shared_mem = arguments.geometry(self.name, grid, block, shared_mem, self._dynamic_limit)
        cooperative = bool(self.enable_cooperative_groups)
        if cooperative:
            grid = self._resident(grid, block, shared_mem)
        checked = arguments.check(built, self.name, self._kinds(built), args, ndarray)
        driver.bind_context()
        self._launch(built, grid, block, checked, shared_mem, cooperative, get_current_stream().ptr)

    def launch_by_driver(self, grid, block, table, shared_mem, cooperative, stream):
        """As the driver does it: ``table`` is the address of the arguments' addresses, and no grid is made smaller."""
        built = self._build()
        grid, block, shared_mem = arguments.geometry(self.name, grid, block, shared_mem, self._dynamic_limit)
        most = min(self._most_blocks(block, shared_mem), state.current().gpu.blocks_at_once or 2**31)
        if cooperative and grid[0] * grid[1] * grid[2] > most:
            raise driver.CUDADriverError(f"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: {self.name}: grid {grid}")
        device.require_stream(stream)
        checked = arguments.unpack(built, self.name, self._kinds(built), table)
        state.current().packed[self.name] += 1
        self._launch(built, grid, block, checked, shared_mem, cooperative, stream)

    @property
    def cluster(self):
        """Blocks of a cluster, as the kernel was declared."""
        return self._build().kernels[self.name].cluster

    def _kinds(self, built):
        return launcher.kinds(built, state.current().mode)[self.name]

    def _launch(self, built, grid, block, checked, shared_mem, cooperative, stream):
        now, cluster = state.current(), built.kernels[self.name].cluster
        if cooperative and cluster > 1:
            raise NotImplementedError(f"{self.name}: the stand-in has no cooperative launches of clusters")
        driver.check_clusters(self.kernel, cluster, grid)
        one = launcher.Launch(built, self.name, grid, block, checked, shared_mem, cooperative, cluster)
        if capture.begun_by(stream) is not None:
            pointers = arguments.pointers_of(checked)
            for pointer in pointers:
                pointer.allocation = None  # a graph keeps nothing alive
            addresses = [pointer.address for pointer in pointers]
            capture.done_or_recorded(stream, self.name, lambda: _launch_again(one, pointers), addresses)
            return
        launcher.launch(one, now)
        now.launches[self.name] += 1

    @property
    def shared_size_bytes(self):
        """Bytes of static shared memory; of all kernels of the source, which is more than CUDA says."""
        return launcher.static_shared_bytes(self._build(), state.current().mode)

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._dynamic_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, bytes):
        limit = state.current().gpu.shared_memory_optin - self.shared_size_bytes
        if not 0 <= bytes <= limit:
            what = f"{self.name}: {bytes} bytes of dynamic shared memory, the device has {limit}"
            raise driver.CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {what}")
        self._dynamic_limit = bytes

    def _most_blocks(self, block, shared_mem):
        """As many as the device can hold at once."""
        per_multiprocessor = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self.kernel.ptr, block[0] * block[1] * block[2], shared_mem
        )
        return per_multiprocessor * state.current().gpu.multiprocessors

    def _resident(self, grid, block, shared_mem):
        """The grid, made smaller as CuPy does it if the device cannot hold all its blocks at once."""
        limit = self._most_blocks(block, shared_mem)
        if grid[0] * grid[1] * grid[2] <= limit:
            return grid
        if grid[1:] != (1, 1):
            raise ValueError(f"The specified grid size ({' * '.join(map(str, grid))}) exceeds the limit ({limit}).")
        warnings.warn(
            f"The grid size will be reduced from {grid[0]} to {limit}, as the specified grid size exceeds the limit.",
            stacklevel=3,
        )
        if limit == 0:
            raise driver.CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: no block fits the device")
        return (limit, 1, 1)

    def _build(self):
        try:
            now = state.current()
            built = build(self.code, self.options, now.mode, now.gpu.architecture)
        except CompileError as error:
            raise CompileException(str(error), self.code, self.name, self.options) from None
        if self.name not in built.kernels:
            raise CompileException(
                f"there is no kernel {self.name!r} in this source; it has {', '.join(built.kernels)}",
                self.code,
                self.name,
                self.options,
            )
        return built
