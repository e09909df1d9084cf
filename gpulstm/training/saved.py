"""Checkpoints: all that a training run is, in one safetensors file that is always whole.

The file's arrays are tensors of their own, readable by anything that reads safetensors. Everything else is JSON in the
file's header, with the names of tensors where the arrays were.

Whoever looks, even after a power cut, finds the old checkpoint or the new one: see `gpulstm.files`.
"""

import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import arrays, files
from ..arrays import Array
from ..files import leftovers
from ..interop import safetensors_file
from .nested import Nested, leaves

__all__ = ["Checkpoint", "checked_target", "leftovers", "load_checkpoint", "save_checkpoint"]

FORMAT, VERSION = "gpulstm checkpoint", 1


@dataclass
class Checkpoint:
    """What a checkpoint holds. Whatever is not an array may be any of what JSON has, tuples included.

    params : the parameters, a dict of arrays or of such dicts
    optimiser : the optimiser's state
    best : the parameters of the best validation so far, or None
    position : where training is
    records : the history's records
    """

    params: Nested
    optimiser: Any = None
    best: Nested | None = None
    position: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def load_into(self, params: Nested, *, best: bool = False) -> None:
        """Puts the saved parameters, or with ``best`` those of the best validation, into a model's ``params``.

        Raises ValueError that lists every name, shape and dtype that differs; then nothing has changed.
        """
        saved = self.best if best else self.params
        if saved is None:
            raise ValueError("best must be False for this checkpoint: it was written without validation")
        problems = mismatches(params, saved)
        if problems:
            raise ValueError("params must match the checkpoint's: " + "; ".join(problems))
        put(params, saved)


def save_checkpoint(path: str | os.PathLike, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint to ``path``, whole or not at all.

    It waits for the arrays' device. What an interrupted writer has left beside ``path`` is removed.
    Raises FileNotFoundError where the folder is missing, RuntimeError where two programs write to one path.
    """
    target = checked_target(path)
    tensors: dict[str, np.ndarray] = {}
    tree = {
        name: _encoded(getattr(checkpoint, name), name, tensors)
        for name in ("params", "optimiser", "best", "position", "records")
    }
    header = {"format": FORMAT, "version": str(VERSION), "contents": json.dumps(tree)}
    safetensors_file.write(target, tensors, header)


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Reads what `save_checkpoint` wrote; all arrays are NumPy.

    Raises FileNotFoundError for no file, ValueError for a file that is something else, or of a newer version.
    """
    target = files.as_path(path)
    if not target.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {target}")
    found, header = safetensors_file.read(target, "a checkpoint, and is no whole safetensors file", metadata=True)
    if header.get("format") != FORMAT:
        raise ValueError(f"{target} must be a checkpoint of gpulstm, and is another safetensors file")
    tensors = {name: safetensors_file.as_numpy(name, *value) for name, value in found.items()}
    try:
        version, contents = int(header["version"]), header["contents"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{target} must be a checkpoint, and its header is damaged: {error!r}") from error
    if version > VERSION:
        raise ValueError(f"{target} must have version {VERSION} or below, got {version}; a newer gpulstm wrote it")
    try:
        return Checkpoint(**{name: _decoded(value, tensors) for name, value in json.loads(contents).items()})
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{target} must be a checkpoint, and its contents are damaged: {error!r}") from error


def checked_target(path: str | os.PathLike) -> Path:
    """``path`` as a file that a checkpoint can be written to: see `gpulstm.files.checked_target`."""
    return files.checked_target(path, "checkpoint")


def mismatches(params: Nested, saved: Nested) -> list[str]:
    """Every difference in names, shapes and dtypes between a model's parameters and saved ones."""
    ours = {name.removeprefix("params"): holder[key] for name, holder, key in leaves("params", params)}
    theirs = {name.removeprefix("params"): holder[key] for name, holder, key in leaves("params", saved)}
    problems = [f"{name} is missing in the checkpoint" for name in ours if name not in theirs]
    problems += [f"{name} is unexpected in the checkpoint" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        given, found = ours[name], theirs[name]
        if tuple(given.shape) != tuple(found.shape):
            problems.append(f"{name} has shape {tuple(given.shape)} here and {tuple(found.shape)} in the checkpoint")
        elif arrays.dtype_name(given) != arrays.dtype_name(found):
            problems.append(
                f"{name} has dtype {arrays.dtype_name(given)} here and {arrays.dtype_name(found)} in the checkpoint"
            )
    return problems


def put(params: Nested, values: Nested) -> None:
    """Gives each parameter the value of the same name: in place where the library allows it, else by another array."""
    found = {name.removeprefix("params"): holder[key] for name, holder, key in leaves("params", values)}
    for name, holder, key in list(leaves("params", params)):
        parameter, value = holder[key], found[name.removeprefix("params")]
        if arrays.is_numpy(value) and not arrays.is_numpy(parameter):
            value = arrays.beside(value, parameter)
        if arrays.is_numpy(parameter) or arrays.is_cupy(parameter):
            with arrays.on_device_of(parameter):
                parameter[...] = value
        else:
            holder[key] = copied(value)


def copied(value: Array) -> Array:
    """A copy on the array's own device."""
    if arrays.is_numpy(value) or arrays.is_cupy(value):
        with arrays.on_device_of(value):
            return value.copy()
    return arrays.namespace(value).asarray(value, copy=True)


def tree_copied(params: Nested) -> Nested:
    """A copy of the dict and of all its arrays, on their own device."""
    return {
        key: tree_copied(value) if isinstance(value, MutableMapping) else copied(value) for key, value in params.items()
    }


def tree_beside(tree: Any, like: Array) -> Any:
    """The same tree of dicts, lists and tuples, with NumPy's arrays in another one's library and on its device."""
    if isinstance(tree, Mapping):
        return {key: tree_beside(value, like) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_beside(value, like) for value in tree)
    return arrays.beside(tree, like) if arrays.is_numpy(tree) and not arrays.is_numpy(like) else tree


def _encoded(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """JSON's view of a tree. Its arrays move into ``tensors``, under names that say where they were."""
    if isinstance(value, Mapping):
        return {"dict": [[key, _encoded(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encoded(item, f"{name}/{k}", tensors) for k, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, np.generic):
        return value.item()
    if arrays.is_array(value):
        while name in tensors:  # {"a": {"b": x}, "a/b": y}
            name += "'"
        tensors[name] = safetensors_file.on_host(name, value)
        return {"array": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} must be an array, a number, a string, None, or a dict or list of them, got {value!r}")


def _decoded(value: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return tensors[content]
    if kind == "dict":
        return {key: _decoded(item, tensors) for key, item in content}
    items = [_decoded(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
