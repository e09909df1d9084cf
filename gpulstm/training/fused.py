"""Training on CuPy arrays: one kernel launch for all parameters or gradients of a model.

A launch takes `tensor_table.TENSORS` arrays of one dtype and device; where there are more, or several dtypes or
devices, there are several launches. Nothing is uploaded and nothing waits for the device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from ..cuda import modules, tensor_table
from ..cuda.tensor_table import TensorTable

MOST_BLOCKS = 512  # of the clipping kernels, whose every block adds up a number from each block


def require_contiguous(named: Sequence[tuple[str, Array]]) -> None:
    """Raises ValueError where an array's elements do not follow each other, as a kernel takes for granted."""
    for name, array in named:
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name} must be C-contiguous, got shape {array.shape} with strides {array.strides}; the kernel "
                f"changes it in place, so replace it by cupy.ascontiguousarray({name})"
            )


def require_own_memory(named: Sequence[tuple[str, Array]]) -> None:
    """Raises ValueError where two names stand for one piece of memory: two blocks would change it at once."""
    names: dict[int, str] = {}
    for name, array in named:
        if array.size and names.setdefault(array.data.ptr, name) != name:
            raise ValueError(
                f"{name} must have memory of its own, got that of {names[array.data.ptr]}; one launch changes all "
                f"arrays at once, so one that is shared must come once"
            )


class Launcher:
    """Launches a kernel on all parameters; keeps its tables for as long as the sizes are the same."""

    def __init__(self) -> None:
        self._tables: dict[Any, tuple[list[int], list[TensorTable]]] = {}

    def __call__(
        self, kernel: str, columns: dict[str, list[Array]], scalars: Callable[[type[np.floating]], tuple]
    ) -> None:
        """``columns`` has for each column of the table one array per parameter, of one dtype and device for each
        parameter; ``scalars(real)`` gives the kernel's arguments behind the table, numbers of type ``real``."""
        for (device, dtype), places in _groups(columns["target"]).items():
            chosen = {name: [column[i] for i in places] for name, column in columns.items()}
            with chosen["target"][0].device:
                if "gradient" in chosen:
                    xp = arrays.namespace(chosen["gradient"][0])
                    # The contiguous copies, where there are any, must live until the launch is under way.
                    chosen["gradient"] = [xp.ascontiguousarray(gradient) for gradient in chosen["gradient"]]
                function, values = modules.kernel(kernel, dtype), scalars(np.dtype(dtype).type)
                for table in self._tables_for((device, dtype), chosen["target"]):
                    for name, column in chosen.items():
                        table.fill(name, column)
                    function(*table.geometry(), (table.values, *values))

    def _tables_for(self, key: Any, targets: list[Array]) -> list[TensorTable]:
        sizes = [target.size for target in targets]
        known_sizes, tables = self._tables.get(key, (None, []))
        if known_sizes != sizes:
            tables = tensor_table.tables(sizes)
            self._tables[key] = sizes, tables
        return tables


def clip_by_norm(targets: list[Array], max_norm: float) -> Array:
    """Scales CuPy arrays of one dtype and device as `clip_by_global_norm` says; gives the norm. Two launches."""
    xp, dtype = arrays.namespace(targets[0]), arrays.dtype_name(targets[0])
    real = np.dtype(dtype).type
    with targets[0].device:
        tables = _filled(targets)
        grids = [table.geometry(MOST_BLOCKS) for table in tables]
        count = sum(grid[0] for grid, _ in grids)
        norm = xp.empty((), dtype) if tables else xp.zeros((), dtype)
        partials, first = xp.empty(count, dtype), 0
        for table, (grid, block) in zip(tables, grids, strict=True):
            modules.kernel("sum_of_squares", dtype)(grid, block, (table.values, partials, np.int32(first)))
            first += grid[0]
        numbers = np.int32(count), real(max_norm)
        for table, (grid, block) in zip(tables, grids, strict=True):
            modules.kernel("scale_to_norm", dtype)(grid, block, (table.values, partials, norm, *numbers))
    return norm


def clip_values(targets: list[Array], limit: float) -> None:
    """Moves all elements of CuPy arrays of one dtype and device between -limit and limit. One launch."""
    dtype = arrays.dtype_name(targets[0])
    with targets[0].device:
        for table in _filled(targets):
            values = table.values, np.dtype(dtype).type(limit)
            modules.kernel("clip_values", dtype)(*table.geometry(MOST_BLOCKS), values)


def _filled(targets: list[Array]) -> list[TensorTable]:
    tables = tensor_table.tables(target.size for target in targets)
    for table in tables:
        table.fill("target", targets)
    return tables


def _groups(targets: list[Array]) -> dict[tuple[int, str], list[int]]:
    """(number of the device, dtype) -> places of the arrays that have them."""
    found: dict[tuple[int, Any], list[int]] = {}
    for place, target in enumerate(targets):
        found.setdefault((target.device.id, target.dtype), []).append(place)
    return {(device, str(dtype)): places for (device, dtype), places in found.items()}
