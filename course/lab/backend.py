"""Where a lesson computes."""

import ctypes
import importlib.util
import os
import sys
from types import ModuleType

import numpy


def choose() -> ModuleType:
    """CuPy where it is installed and finds a GPU, else NumPy; says which, and why."""
    cupy = cupy_with_a_gpu()
    if cupy is None:
        why = "CuPy is installed, but finds no GPU" if _is_installed() else "CuPy is not installed"
        print(f"Runs on NumPy, on the processor: {why}. Every lesson works like this.")
        return numpy
    gpu = cupy.cuda.runtime.getDeviceProperties(0)
    print(
        f"Runs on CuPy {cupy.__version__}, on the GPU: {gpu['name'].decode()}, {gpu['totalGlobalMem'] / 2**30:.0f} GiB."
    )
    return cupy


def cupy_with_a_gpu() -> ModuleType | None:
    """CuPy, or None where it is not installed or finds no GPU."""
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
