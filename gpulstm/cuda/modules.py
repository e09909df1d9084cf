"""Compiles a kernel once per device and specialisation, at its first use."""

import threading

from .catalogue import Specialisation
from .packed import Kernel, binding_of

USUAL_CLUSTER = 8  # blocks; more have to be asked for
NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14  # CU_FUNC_ATTRIBUTE_..., for which CuPy has no name

_kernels: dict = {}  # (cupy module, device id, and what else `kernel` takes) -> Kernel
_lock = threading.Lock()


def kernel(entry: str, dtype: str, *features: bool, tiles: tuple[int, ...] = (), shared_bytes: int = 0) -> Kernel:
    """The compiled kernel for the current device: call it as ``kernel(grid, block, args)``.

    ``entry`` and the order of ``features`` are those of `catalogue.KERNELS`, ``tiles`` one of `catalogue.TILES`;
    ``dtype`` is a name such as "float32". ``shared_bytes`` is the dynamic shared memory that its launches will ask for.
    """
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice(), entry, dtype, features, tiles)
    found = _kernels.get(key)
    if found is None:
        with _lock:  # two threads that come first together must not compile twice
            found = _kernels.get(key)
            if found is None:
                found = _kernels[key] = _compile(cupy, Specialisation(entry, dtype, features, tiles), shared_bytes)
    return found


def _compile(cupy, specialisation: Specialisation, shared_bytes: int) -> Kernel:
    cooperative = specialisation.is_cooperative
    by_cupy = cooperative and binding_of(cupy, cooperative=True) is None  # else `packed` says why not
    how = {"enable_cooperative_groups": True} if by_cupy else {}
    module = cupy.RawModule(code=specialisation.source, options=specialisation.options, **how)
    function = module.get_function(specialisation.entry)
    if specialisation.cluster > USUAL_CLUSTER:
        cupy.cuda.driver.funcSetAttribute(function.kernel.ptr, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    if shared_bytes:  # more than 48 KB less the static part has to be asked for, and the rest may be
        function.max_dynamic_shared_size_bytes = shared_bytes
    return Kernel(cupy, function, cooperative=cooperative)
