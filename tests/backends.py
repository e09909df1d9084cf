"""The array paths that one test body runs on.

- ``numpy``: the NumPy engine
- ``equations``: `gpulstm.equations` on array-api-strict arrays, which refuse whatever the standard does not have
- ``cupy-on-cpu``: the CuPy engine and the real kernels, compiled for the CPU
- ``gpu``: the CuPy engine and the real kernels on a GPU; only with ``pytest --gpu``
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

NUMPY, EQUATIONS, CUPY_ON_CPU, GPU = "numpy", "equations", "cupy-on-cpu", "gpu"
ALL = (NUMPY, EQUATIONS, CUPY_ON_CPU, GPU)
ENGINES = (NUMPY, CUPY_ON_CPU, GPU)
KERNELS = (CUPY_ON_CPU, GPU)


@dataclass
class Backend:
    """One array library, and the ways to its arrays and back."""

    name: str
    xp: ModuleType

    def array(self, value: Any) -> Any:
        """This library's copy of a NumPy array, or of a dict, tuple or list of them; None stays None."""
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, dict):
            return {key: self.array(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(self.array(item) for item in value)
        return value.copy() if self.xp is np else self.xp.asarray(np.array(value, order="C"))

    def numpy(self, value: Any) -> Any:
        """The way back."""
        if value is None:
            return None
        if isinstance(value, dict):
            return {key: self.numpy(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(self.numpy(item) for item in value)
        return value.get() if self.name in KERNELS else np.asarray(value)

    def counted(self, function: Callable[[], object]) -> tuple[Counter, int]:
        """How often the stand-in launches each kernel in a call, and how many products it makes."""
        counts = self.xp.on_cpu
        counts.reset_counts()
        function()
        return Counter(counts.launches), sum(counts.gemms.values())


@contextmanager
def open_backend(name: str) -> Iterator[Backend]:
    if name == NUMPY:
        yield Backend(name, np)
    elif name == EQUATIONS:
        import array_api_strict

        yield Backend(name, array_api_strict)
    elif name == CUPY_ON_CPU:
        from tests.cuda_on_cpu import cupy_on_cpu

        with cupy_on_cpu() as cupy:
            yield Backend(name, cupy)
    elif name == GPU:
        import cupy

        yield Backend(name, cupy)
    else:
        raise ValueError(f"name must be one of {', '.join(ALL)}, got {name!r}")


def why_no_gpu() -> str | None:
    """Why CuPy cannot use a GPU here, or None if it can."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
        int(cupy.arange(3).sum())  # a context, an allocation and a compiled kernel
    except Exception as error:  # ImportError, CUDARuntimeError, a failed compilation: each is a reason
        return f"{type(error).__name__}: {error}"
    return None


def gpu_name() -> str:
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"]
    return name.decode() if isinstance(name, bytes) else name
