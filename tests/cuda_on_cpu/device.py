"""``cupy.cuda``: two devices, streams that do everything at once, pinned memory, and the cuBLAS handle."""

import ctypes
import time
import weakref

import numpy as np

from . import capture, driver, memory, state


class Device:
    """A device; as a context manager, the current one."""

    def __init__(self, device=None) -> None:
        self.id = state.current().device if device is None else int(getattr(device, "id", device))
        if not 0 <= self.id < state.DEVICE_COUNT:
            raise ValueError(f"cudaErrorInvalidDevice: invalid device ordinal {self.id}")
        self._before: list[int] = []

    def __enter__(self):
        self._before.append(state.current().device)
        state.current().device = self.id
        return self

    def __exit__(self, *exc):
        state.current().device = self._before.pop()

    def use(self):
        state.current().device = self.id

    def synchronize(self):
        pass

    @property
    def compute_capability(self):
        return state.current().gpu.compute_capability

    @property
    def attributes(self):
        """A new dictionary under CuPy's names, of what a planner of launches may want to know."""
        gpu = state.current().gpu
        return {
            "ComputeCapabilityMajor": int(gpu.compute_capability) // 10,
            "ComputeCapabilityMinor": int(gpu.compute_capability) % 10,
            "CooperativeLaunch": 1,
            "MaxBlocksPerMultiprocessor": driver.BLOCKS_PER_MULTIPROCESSOR,
            "MaxSharedMemoryPerBlock": 48 * 1024,
            "MaxSharedMemoryPerBlockOptin": gpu.shared_memory_optin,
            "MaxSharedMemoryPerMultiprocessor": gpu.shared_memory_optin + driver.SHARED_RESERVED,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": driver.THREADS_PER_MULTIPROCESSOR,
            "MultiProcessorCount": gpu.multiprocessors,
            "ReservedSharedMemoryPerBlock": driver.SHARED_RESERVED,
            "WarpSize": 32,
        }

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # as in CuPy: devices can be compared, and are no keys of a dict

    def __int__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


class Stream:
    """Work is done when it is asked for, so a stream has nothing to order; unless it captures, see capture.py."""

    _entered: list["Stream"] = []
    _alive: "weakref.WeakSet[Stream]" = weakref.WeakSet()

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None) -> None:
        self.ptr = 0 if null else id(self)
        Stream._alive.add(self)
        self._blocks = not non_blocking

    def __enter__(self):
        Stream._entered.append(self)
        return self

    def __exit__(self, *exc):
        Stream._entered.pop()

    def synchronize(self):
        capture.refuse("a stream's synchronize")

    def wait_event(self, event):
        capture.refuse("waiting for an event from outside")

    def begin_capture(self, mode=None):
        if self._blocks:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: capture on a stream made with non_blocking=True")
        if self.ptr in state.current().captures:
            raise RuntimeError("cudaErrorIllegalState: the stream captures already")
        state.current().captures[self.ptr] = capture.Capture()

    def end_capture(self):
        if self.ptr not in state.current().captures:
            raise RuntimeError("cudaErrorIllegalState: the stream does not capture")
        return state.current().captures.pop(self.ptr).end()

    def is_capturing(self):
        return self.ptr in state.current().captures


_null = Stream(null=True)


def require_stream(ptr: int) -> None:
    """Raises what the driver would for a stream that is not there."""
    if ptr not in [stream.ptr for stream in Stream._alive]:
        raise driver.CUDADriverError(f"CUDA_ERROR_INVALID_HANDLE: {ptr!r} is not the ptr of a stream")


class Event:
    """A point in a stream; everything before it has been done. Until somebody has waited for it, that is not known."""

    def __init__(self, block=False, disable_timing=False, interprocess=False) -> None:
        self._timed, self._recorded, self._waited_for = not disable_timing, None, False

    def record(self, stream=None):
        capture.refuse("recording an event that others wait for")
        self._recorded, self._waited_for = time.perf_counter(), False

    @property
    def done(self):
        return self._recorded is not None

    def synchronize(self):
        capture.refuse("an event's synchronize")
        self._waited_for = True


def get_elapsed_time(start_event, end_event):
    """Milliseconds of this machine's time. Raises what CUDA would where nobody has waited for the second event."""
    for event in (start_event, end_event):
        if event._recorded is None or not event._timed:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: an event that was not recorded, or without timing")
    if not end_event._waited_for:
        raise CUDARuntimeError("cudaErrorNotReady: nobody has waited for the second event")
    return 1000 * (end_event._recorded - start_event._recorded)


class CUDARuntimeError(RuntimeError):
    """CuPy's; it takes a number there."""


def get_current_stream(device_id=-1):
    return Stream._entered[-1] if Stream._entered else _null


def is_available():
    return True


def get_device():
    return state.current().device


def get_device_count():
    return state.DEVICE_COUNT


def get_device_properties(device):
    """Of a GPU that does not exist, and says so."""
    name = f"stand-in {Device(device).id}, the kernels run on the CPU".encode()
    shown = state.current().gpu.multiprocessors
    return {"name": name, "major": 0, "minor": 0, "totalGlobalMem": 0, "multiProcessorCount": shown}


def get_version():
    """Of a CUDA that does not exist."""
    return 0


def check_stream(stream, what) -> None:
    """Raises unless ``stream`` is the current one: on a GPU nothing would order what else is asked for there."""
    current = get_current_stream().ptr
    if stream != current:
        raise RuntimeError(f"{what} is asked for on stream {stream:#x}, while {current:#x} is the current one")


def mem_get_info():
    """Free and all bytes of the device. Here is as much as one wants; what matters is that the thread has its context
    afterwards, which is what CuPy asks for it."""
    driver.bind_context()
    return 2**34, 2**34


def memset_async(ptr, value, size, stream):
    """``size`` bytes become ``value``, at once or when the graph runs, if one live array holds all of them."""
    check_stream(stream, "memsetAsync")
    state.current().memory["memsetAsync"] += 1
    if size:
        _rows(ptr, size, size, 1, "memsetAsync")

        def fill():
            _rows(ptr, size, size, 1, "memsetAsync")[...] = value & 0xFF

        capture.done_or_recorded(stream, "memsetAsync", fill, [ptr])


MEMCPY_DEVICE_TO_HOST, MEMCPY_DEVICE_TO_DEVICE = 2, 3
_pinned: "weakref.WeakValueDictionary[int, PinnedMemoryPointer]" = weakref.WeakValueDictionary()  # by address


def memcpy_async(dst, src, size, kind, stream):
    """Within device memory, or from there to pinned memory; each side must lie within one live array."""
    memcpy_2d_async(dst, size, src, size, size, 1, kind, stream)


def memcpy_2d_async(dst, dpitch, src, spitch, width, height, kind, stream):
    """``height`` rows of ``width`` bytes, each pitch apart from the one before."""
    what = "memcpyAsync" if height == 1 else "memcpy2DAsync"
    check_stream(stream, what)
    if kind not in (MEMCPY_DEVICE_TO_HOST, MEMCPY_DEVICE_TO_DEVICE):
        raise ValueError(f"{what}: kind must be memcpyDeviceToHost or memcpyDeviceToDevice, 2 or 3, got {kind!r}")
    if min(dpitch, spitch) < width:
        raise ValueError(
            f"cudaErrorInvalidPitchValue: {what}: rows of {width} bytes overlap, {dpitch} or {spitch} apart"
        )
    state.current().memory[what] += 1
    if not width * height:
        return
    if kind == MEMCPY_DEVICE_TO_HOST:
        capture.refuse("a copy to the host")
        target = _pinned.get(dst)
        if target is None or height != 1 or width > len(target):
            raise memory.InvalidMemory(f"{what}: {width} bytes at {dst:#x} are not the beginning of pinned memory")
        target[:width] = _rows(src, width, spitch, 1, what).tobytes()
        return

    def copy():
        source = _rows(src, width, spitch, height, what)
        _rows(dst, width, dpitch, height, what)[...] = source.copy()

    _rows(src, width, spitch, height, what), _rows(dst, width, dpitch, height, what)
    capture.done_or_recorded(stream, what, copy, [dst, src])


def _rows(address, width, pitch, height, what):
    return memory.view(address, np.uint8, (height, width), (pitch, 1), what)


class PinnedMemoryPointer(bytearray):
    """Host memory, for ``numpy.frombuffer``. Like CuPy's it is longer than asked for, and holds anything."""

    def __init__(self, size) -> None:
        super().__init__(b"\xa5" * (-(-max(size, 1) // 512) * 512))
        self.ptr = ctypes.addressof((ctypes.c_char * len(self)).from_buffer(self))
        _pinned[self.ptr] = self


def alloc_pinned_memory(size):
    return PinnedMemoryPointer(size)


def get_cublas_handle():
    """A number that is the current device's own, so that a handle of another device can be refused."""
    return 0xB1A5 + state.current().device


class CompileException(Exception):
    """CuPy's: what the compiler said."""

    def __init__(self, msg, source, name, options, backend="nvrtc") -> None:
        super().__init__(msg)
        self._msg, self.source, self.name, self.options, self.backend = msg, source, name, options, backend
