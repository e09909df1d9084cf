"""Arrays by name in a safetensors file, shared with PyTorch and all that reads the format.

    gl.save("model.safetensors", model.params)
    model.load_state_dict(gl.load("model.safetensors"))

    lstm = gl.LSTM.from_torch(gl.load("from_pytorch.safetensors"))

A file holds arrays and texts, and nothing in it is ever run.
"""

import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from .. import arrays, files
from ..arrays import Array
from . import safetensors_file


def save(path: str | os.PathLike, params: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays to a safetensors file, whole or not at all; an older file of the name stays until then.

    Parameters
    ----------
    path : the file; its folder must exist.
    params : name -> array, such as a layer's ``params``. Arrays of any library, on any device, of any strides; dtypes
        bool, int8 to int64, uint8 to uint64, float16, bfloat16, float32 and float64. A dict in it becomes names with
        dots: ``{"lstm": {"bias_l0": a}}`` is saved as "lstm.bias_l0".
    metadata : texts to go with them; some readers want ``{"format": "pt"}``. `load_metadata` gives them back.

    It waits for the arrays' devices. Raises TypeError or ValueError that names the array which cannot be saved;
    FileNotFoundError for a missing folder, RuntimeError where two programs write to one path.
    """
    target = files.checked_target(path)
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of arrays, such as lstm.params, got {type(params).__name__}")
    _check_metadata(metadata)
    tensors: dict[str, np.ndarray] = {}
    for shown, name, value in _leaves("params", "", params):
        if name in tensors:
            raise ValueError(f"{shown} must have a name of its own, and {name!r} is in params twice")
        tensors[name] = safetensors_file.on_host(shown, value)
    safetensors_file.write(target, tensors, metadata)


def load(path: str | os.PathLike, xp: ModuleType = np) -> dict[str, Array]:
    """Reads all arrays of a safetensors file: name -> array, in the order of the names.

    Parameters
    ----------
    path : the file, ours or anybody's.
    xp : the arrays' library: numpy, cupy, torch, jax.numpy or any array-API library; on its default device.

    The arrays are the caller's own: nothing else refers to their memory, and they can be written to where the library
    has that. Their dtype is the file's. bfloat16 in NumPy is that of the package ml_dtypes.

    Raises FileNotFoundError for no file. Raises ValueError for whatever is not a whole safetensors file (damaged, or of
    another kind; a pickle is never unpickled), saying what is wrong with it, and then no more memory than the file's
    size has been taken; and for a dtype that the library does not have, such as float64 in JAX as it is configured by
    default.
    """
    namespace = arrays.standard_namespace(xp)
    found, _ = safetensors_file.read(path)
    return {name: _in_library(f"{os.fspath(path)}: {name!r}", *found.pop(name), namespace) for name in list(found)}


def load_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Reads the texts that `save` was given as ``metadata``, without the arrays. Raises as `load` does."""
    return safetensors_file.read_metadata(path)


def _leaves(shown: str, prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, str, Array]]:
    """Each array's place for a message, its name in the file, and itself."""
    for key, value in tree.items():
        place = f"{shown}[{key!r}]"
        if not isinstance(key, str):
            raise TypeError(f"params must have strings as names, got {key!r} in {shown}")
        name = prefix + key
        if isinstance(value, Mapping):
            yield from _leaves(place, f"{name}.", value)
            continue
        if name == "__metadata__":
            raise ValueError(f"{place} must have another name: the format keeps this one for the metadata")
        _check_unicode(f"the name {key!r} in {shown}", name)
        arrays.require_array(place, value)
        yield place, name, value


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dict of strings or None, got {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must have strings as names and values, got {key!r}: {value!r}")
        _check_unicode(f"metadata[{key!r}]", key + value)


def _check_unicode(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be a text that UTF-8 can hold: {error}") from None


def _in_library(name: str, dtype: str, value: np.ndarray, xp: ModuleType) -> Array:
    """A NumPy array as one of the library, with the same dtype or not at all."""
    if dtype == "bfloat16" and xp.__name__.endswith("torch"):  # which needs no ml_dtypes
        return xp.asarray(value.view(np.int16)).view(xp.bfloat16)
    value = safetensors_file.as_numpy(name, dtype, value)
    if xp is np:
        return value
    try:
        found = xp.asarray(value)
        got = arrays.dtype_name(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {dtype}, which {xp.__name__} does not have; load it with xp=numpy") from error
    if got != dtype:
        hint = "jax.config.update('jax_enable_x64', True) at the start allows it" if "jax" in xp.__name__ else ""
        hint = f"{hint}, or load it with xp=numpy and cast" if hint else "load it with xp=numpy and cast"
        raise ValueError(f"{name} is {dtype}, and {xp.__name__} would make it {got}; nothing is cast silently: {hint}")
    return found
