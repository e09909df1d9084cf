"""Where a lesson computes."""

from types import ModuleType

import numpy


def choose() -> ModuleType:
    """CuPy where it is installed and finds a GPU, else NumPy; says which, and why."""
    try:
        import cupy
    except ImportError:
        print("Runs on NumPy, on the processor: CuPy is not installed. Every lesson works like this.")
        return numpy
    try:
        gpu = cupy.cuda.runtime.getDeviceProperties(0)
    except cupy.cuda.runtime.CUDARuntimeError:
        print("Runs on NumPy, on the processor: CuPy is installed, but finds no GPU. Every lesson works like this.")
        return numpy
    print(
        f"Runs on CuPy {cupy.__version__}, on the GPU: {gpu['name'].decode()}, {gpu['totalGlobalMem'] / 2**30:.0f} GiB."
    )
    return cupy


def to_numpy(array):
    """The values as a NumPy array, for plotting and printing, wherever they were computed."""
    return array.get() if hasattr(array, "get") and hasattr(array, "dtype") else numpy.asarray(array)
