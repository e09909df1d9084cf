"""Compiles a kernel once per device and specialisation, at its first use."""

import threading

from .catalogue import Specialisation

_kernels: dict = {}  # (cupy module, device id, specialisation) -> compiled kernel
_lock = threading.Lock()


def kernel(entry: str, dtype: str, *features: bool):
    """The compiled kernel for the current device: call it as ``kernel(grid, block, args)``.

    ``entry`` and the order of ``features`` are those of `catalogue.KERNELS`; ``dtype`` is a name such as "float32".
    """
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice(), entry, dtype, features)
    found = _kernels.get(key)
    if found is None:
        with _lock:  # two threads that come first together must not compile twice
            found = _kernels.get(key)
            if found is None:
                found = _kernels[key] = _compile(cupy, Specialisation(entry, dtype, features))
    return found


def _compile(cupy, specialisation: Specialisation):
    module = cupy.RawModule(code=specialisation.source, options=specialisation.options)
    return module.get_function(specialisation.entry)
