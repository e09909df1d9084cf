"""Whose arrays are these? The library, the device and the dtype of an array; and no mixtures.

No array library but NumPy is imported here. A CuPy array can only exist after somebody imported cupy, so
``sys.modules`` knows; for all others array-api-compat looks there in the same way.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""An array of any library: there is no common base class to name."""

KERNEL_DTYPES = ("float32", "float64")
HALF_DTYPES = ("float16", "bfloat16")
PORTABLE_DTYPES = ("float16", "bfloat16", "float32", "float64")


def is_numpy(x: object) -> bool:
    """True for a NumPy array. Masked arrays are not: nothing here would honour the mask."""
    return isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray)


def is_cupy(x: object) -> bool:
    """True for a CuPy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, getattr(cupy, "ndarray", ()))


def is_array(x: object) -> bool:
    """True for an array of NumPy, CuPy or any library that follows the array-API standard."""
    if isinstance(x, (np.ndarray, np.generic)):
        return is_numpy(x)
    if is_cupy(x):
        return True
    from array_api_compat import is_array_api_obj

    return is_array_api_obj(x)


def namespace(x: Array) -> ModuleType:
    """The module whose functions work on ``x``: numpy, cupy, or what array-api-compat gives for the others."""
    if is_numpy(x):
        return np
    if is_cupy(x):
        return sys.modules["cupy"]
    found = _namespaces.get(type(x))
    if found is None:
        from array_api_compat import array_namespace

        found = _namespaces[type(x)] = array_namespace(x)
    return found


_namespaces: dict[type, ModuleType] = {}  # equations ask at every step, and array-api-compat takes microseconds to say


def standard_namespace(xp: ModuleType) -> ModuleType:
    """The namespace for a library that the user named by its plain module, such as ``torch`` or ``jax.numpy``."""
    if not isinstance(xp, ModuleType) or not hasattr(xp, "asarray"):
        raise TypeError(f"xp must be a module such as numpy, cupy or torch, got {xp!r}")
    if xp is np or xp is sys.modules.get("cupy"):
        return xp
    from array_api_compat import array_namespace

    return array_namespace(xp.asarray(0.0))


def dtypes_of(xp: ModuleType, *, half: bool = False) -> tuple[str, ...]:
    """The dtypes that this library's path computes in; ``half`` says whether there are kernels for 16 bits."""
    has_kernels = xp is np or xp is sys.modules.get("cupy") and not half
    return KERNEL_DTYPES if has_kernels else PORTABLE_DTYPES


def bfloat16() -> np.dtype:
    """The dtype of that name in NumPy and CuPy, which is ml_dtypes's. Raises ImportError where that is missing."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(
            "dtype 'bfloat16' on CuPy arrays needs the package ml_dtypes, which is not installed: pip install ml_dtypes"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def library(x: Array) -> str:
    """The library's name for a message: "NumPy", "CuPy", "torch", "jax", ..."""
    if is_numpy(x):
        return "NumPy"
    if is_cupy(x):
        return "CuPy"
    name = namespace(x).__name__
    return name.removeprefix("array_api_compat.").partition(".")[0]


_dtype_names: dict = {}  # NumPy takes 15 microseconds to spell a dtype out, and every call asks several times


def dtype_name(x: Array) -> str:
    """The dtype as a plain word such as "float32", whatever the library prints before it."""
    dtype = x.dtype
    if not isinstance(dtype, np.dtype):  # others may not be compared with each other
        return str(dtype).rpartition(".")[2]
    found = _dtype_names.get(dtype)
    if found is None:
        found = _dtype_names[dtype] = str(dtype)
    return found


def device(x: Array) -> Any:
    """Something to compare devices with; None where the library places arrays itself (JAX under jit)."""
    if is_numpy(x):
        return "cpu"
    if is_cupy(x):
        return x.device
    from array_api_compat import device as compat_device
    from array_api_compat import is_jax_array

    return None if is_jax_array(x) else compat_device(x)


def on_device_of(x: Array) -> AbstractContextManager:
    """A context in which CuPy computes, and puts new arrays, on x's device; nothing for the other libraries."""
    if not is_cupy(x) or is_on_current_device(x):
        return _HERE  # to enter a device that is the current one, and to leave it, takes two calls of CUDA
    return x.device


def is_on_current_device(x: Array) -> bool:
    """Whether a CuPy array is on the device that CuPy computes on."""
    return sys.modules["cupy"].cuda.runtime.getDevice() == x.data.device_id


_HERE = nullcontext()


def describe(x: Any) -> str:
    """An argument as an error message shows it: type, shape and dtype, never the values."""
    if not is_array(x):
        return type(x).__name__
    where = f" on {device(x)}" if is_cupy(x) else ""
    return f"a {library(x)} array{where} of shape {tuple(x.shape)} and dtype {dtype_name(x)}"


def require_array(name: str, x: object) -> None:
    """Raises TypeError unless ``x`` is an array."""
    if is_array(x):
        return
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array, got a masked array; fill it first: {name}.filled(0.0)")
    hint = f"; numpy.asarray({name}) makes one" if isinstance(x, (list, tuple, int, float, np.generic)) else ""
    raise TypeError(f"{name} must be an array (NumPy, CuPy or array-API), got {type(x).__name__}{hint}")


def require_floating(name: str, x: Array, *, half: bool = False) -> None:
    """Raises TypeError unless ``x`` has a dtype that its library's path can compute in.

    ``half`` says whether there are CuPy kernels for 16 bits.
    """
    allowed = dtypes_of(namespace(x), half=half)
    got = dtype_name(x)
    if got not in allowed:
        hint = (
            "the bytes are in the other order; convert with .astype(x.dtype.newbyteorder('='))"
            if is_numpy(x) and not x.dtype.isnative
            else f"nothing is cast silently; convert it, for example with .astype('{KERNEL_DTYPES[0]}')"
        )
        where = f"; {WHERE_HALF}" if got in HALF_DTYPES else ""
        raise TypeError(f"{name} must have dtype {' or '.join(allowed)}, got {got}; {hint}{where}")


WHERE_HALF = "16 bits are for LSTMs on CuPy arrays, and for other array-API libraries such as PyTorch"


def check_same(named: Mapping[str, Array]) -> None:
    """Raises TypeError unless all arrays share library and dtype, ValueError unless they share the device.

    The first one is what the others are compared with.
    """
    items = iter(named.items())
    first_name, first = next(items)
    require_array(first_name, first)
    first_library, first_dtype, first_device = library(first), dtype_name(first), device(first)
    is_ours = is_numpy(first) or is_cupy(first)
    for name, other in items:
        # Almost always true, and quickly said; otherwise what follows finds out what is wrong.
        if is_ours and type(other) is type(first) and other.dtype == first.dtype and device(other) == first_device:
            continue
        require_array(name, other)
        if library(other) != first_library:
            raise TypeError(
                f"{name} must be a {first_library} array like {first_name}, got {describe(other)}; "
                f"nothing is copied between libraries silently, so convert one of them"
            )
        if dtype_name(other) != first_dtype:
            raise TypeError(
                f"{name} must have {first_name}'s dtype {first_dtype}, got {dtype_name(other)}; "
                f"nothing is cast silently, so convert one of them"
            )
        if device(other) != first_device:
            raise ValueError(
                f"{name} must be on {first_name}'s device {first_device}, got {device(other)}; "
                f"nothing is copied between devices silently, so move one of them"
            )


def check_library(x: Array, params: Mapping[str, Array]) -> None:
    """Raises TypeError if all parameters are of one library and ``x`` of another: said of x, not of one of them."""
    libraries = {library(p) for p in params.values() if is_array(p)}
    if len(libraries) == 1 and (got := library(x)) not in libraries:
        xp = {"NumPy": "numpy", "CuPy": "cupy", "jax": "jax.numpy"}.get(got, got)
        module = "; a PyTorch model takes gpulstm.interop.torch.LSTM" if got == "torch" else ""
        raise TypeError(
            f"x must be a {libraries.pop()} array like the parameters, got {describe(x)}; nothing is copied between "
            f"libraries silently, so convert x, or make the LSTM with xp={xp}{module}"
        )


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of ``like``'s library, dtype and device."""
    with on_device_of(like):
        return namespace(like).zeros(shape, dtype=like.dtype, **_placed(like))


def copied(x: Array) -> Array:
    """A C-contiguous copy of a NumPy or CuPy array; on a GPU by a copy of memory where x is contiguous too."""
    return np.array(x, order="C") if isinstance(x, np.ndarray) else x.copy()


def beside(values: np.ndarray, like: Array, dtype: Any = None) -> Array:
    """NumPy values as an array of ``like``'s library and device."""
    with on_device_of(like):
        return namespace(like).asarray(values, dtype=dtype, **_placed(like))


def _placed(like: Array) -> dict[str, Any]:
    """The argument that creates an array on like's device, for libraries that take one."""
    where = None if is_numpy(like) or is_cupy(like) else device(like)
    return {} if where is None else {"device": where}


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy copy or view of any library's array, wherever it lives. For lengths, loading and tests: it may wait
    for the device."""
    if is_cupy(x):
        return x.get()
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x)
