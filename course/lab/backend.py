"""Where a lesson computes."""

import ctypes
import functools
import importlib.util
import os
import sys
from types import ModuleType

import numpy


def choose() -> ModuleType:
    """CuPy where it is installed and finds a GPU, else NumPy; says which, and why."""
    cupy = cupy_with_a_gpu()
    if cupy is None:
        print(f"Runs on NumPy, on the processor: {_why_not()}. Every lesson works like this.")
        return numpy
    gpu = cupy.cuda.runtime.getDeviceProperties(0)
    print(
        f"Runs on CuPy {cupy.__version__}, on the GPU: {gpu['name'].decode()}, {gpu['totalGlobalMem'] / 2**30:.0f} GiB."
    )
    return cupy


def cupy_with_a_gpu() -> ModuleType | None:
    """CuPy, or None where it is not installed, finds no GPU, or cannot compile for it."""
    cupy = _cupy_that_finds_a_gpu()
    return None if cupy is None or _trouble(cupy) else cupy


def _cupy_that_finds_a_gpu() -> ModuleType | None:
    if not _is_installed() or ("cupy" not in sys.modules and not _has_driver()):
        return None
    try:
        import cupy
    except ImportError:
        return None
    try:
        cupy.cuda.runtime.getDeviceProperties(0)
    except cupy.cuda.runtime.CUDARuntimeError:
        return None
    return cupy


@functools.cache  # of a process whose GPU has stopped, say, nothing else can be told later
def _trouble(cupy: ModuleType) -> str:
    """What goes wrong with one addition, or "". CuPy installed by pip alone finds a GPU and no compiler for it."""
    try:
        cupy.ones(2, dtype="float32") + 1
    except Exception as error:  # whatever it is, the lessons had better run without it
        return f"{type(error).__name__}, {' '.join(str(error).split())[:100]}"
    return ""


def _why_not() -> str:
    if not _is_installed():
        return "CuPy is not installed"
    cupy = _cupy_that_finds_a_gpu()
    if cupy is None:
        return "CuPy is installed, but finds no GPU"
    advice = 'If it lacks the compiler, pip install "cupy-cuda12x[ctk]" or "cupy-cuda13x[ctk]" brings it'
    return f"CuPy finds a GPU, but cannot compute there ({_trouble(cupy)}). {advice}"


def _is_installed() -> bool:
    if "cupy" in sys.modules:
        return sys.modules["cupy"] is not None
    return importlib.util.find_spec("cupy") is not None


def _has_driver() -> bool:
    """Whether there is NVIDIA's driver. Without it CuPy finds no GPU, but takes half a second to be imported."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def to_numpy(array):
    """The values as a NumPy array, for plotting and printing, wherever they were computed."""
    return array.get() if hasattr(array, "get") and hasattr(array, "dtype") else numpy.asarray(array)
