"""Which LSTM calls are compared, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

INPUT_SETS = 3  # calls rotate among them, so that none finds its input in a cache
SETTINGS = ("one-layer", "two-layers", "both-directions", "lengths")
AXES = ("setting", "dtype", "hidden", "batch", "steps")
DTYPES = ("float32", "tf32", "float16", "bfloat16")

# The level of a size is how many steps of refinement it waits: the corners of the grid come first, then what lies
# between them. All settings and dtypes of a size follow each other, so that a run which is cut short has covered all of
# them at the same sizes, from both ends.
LEVELS: Mapping[str, Mapping[str, Mapping[Any, int]]] = {
    "gpu": {
        "setting": dict.fromkeys(SETTINGS, 0),
        "dtype": dict.fromkeys(DTYPES, 0),
        "hidden": {64: 0, 2048: 0, 512: 1, 256: 2, 1024: 2, 128: 3, 768: 3},
        "batch": {1: 0, 256: 0, 32: 1, 8: 2, 128: 2, 64: 3},
        "steps": {128: 0, 1024: 0},
    },
    "cpu": {
        "setting": dict.fromkeys(SETTINGS, 0),
        "dtype": {"float32": 0},
        "hidden": {64: 0, 512: 0, 256: 1, 128: 2},
        "batch": {1: 0, 128: 0, 32: 1, 8: 2},
        "steps": {128: 0, 32: 0},
    },
}
# One layer in float32 over all of these; every other setting and dtype at the first hidden size and batch alone.
QUICK: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "gpu": {"hidden": (512, 128, 1024), "batch": (32, 1, 128), "steps": (128, 1024)},
    "cpu": {"hidden": (128, 64, 256), "batch": (32, 1), "steps": (32, 128)},
}


@dataclass(frozen=True)
class Cell:
    """One LSTM call. The input has as many features as the hidden state."""

    setting: str
    dtype: str
    hidden: int
    batch: int
    steps: int

    @property
    def num_layers(self) -> int:
        return 2 if self.setting == "two-layers" else 1

    @property
    def directions(self) -> int:
        return 2 if self.setting == "both-directions" else 1

    @property
    def has_lengths(self) -> bool:
        return self.setting == "lengths"

    @property
    def storage(self) -> str:
        """The dtype of the arrays: TF32 is a way to multiply float32."""
        return "float32" if self.dtype == "tf32" else self.dtype

    @property
    def work(self) -> int:
        """Multiplications in a forward call."""
        return self.num_layers * self.directions * self.steps * self.batch * 8 * self.hidden**2

    @property
    def in_cudnn_window(self) -> bool:
        """Whether cuDNN runs its persistent kernel of large layers here; see `in_cudnn_window`."""
        return in_cudnn_window(self)

    def __str__(self) -> str:
        return f"{self.setting}, {self.dtype}, H={self.hidden}, N={self.batch}, T={self.steps}"


def in_cudnn_window(cell: Cell) -> bool:
    """cuDNN's float16 window: the cells for which PyTorch asks cuDNN for its persistent kernel of large layers.

    ``get_algo`` in PyTorch's aten/src/ATen/native/cudnn/RNN.cpp takes CUDNN_RNN_ALGO_PERSIST_STATIC where the dtype is
    float16, the input is not packed (so there are no lengths), and there is one layer in one direction; hidden and
    input size are multiples of 128, the hidden size at most 1024; and on compute capability 8.0 and up the batch is a
    multiple of 8, at most 128. Devices with fewer than 98 multiprocessors, and those of compute capability 8.6, have no
    such window. Everywhere else cuDNN goes step by step, but for the kernel that it has for up to 192 hidden units.
    """
    plain = cell.setting == "one-layer" and cell.dtype == "float16"
    return plain and cell.hidden <= 1024 and cell.hidden % 128 == 0 and cell.batch % 8 == 0 and cell.batch <= 128


def lengths(cell: Cell, seed: int) -> np.ndarray | None:
    """Those of one input set: the longest is the number of time steps, the others are evenly spread below it."""
    if not cell.has_lengths:
        return None
    found = np.random.default_rng(seed).integers(1, cell.steps + 1, size=cell.batch)
    found[0] = cell.steps
    return found


def filled(cell: Cell) -> float:
    """The part of all time steps of all sequences that is no padding, on average over the input sets."""
    if not cell.has_lengths:
        return 1.0
    return float(np.mean([lengths(cell, seed) for seed in range(INPUT_SETS)])) / cell.steps


def cells(device: str, *, quick: bool = False, chosen: Mapping[str, Sequence[Any]] | None = None) -> list[Cell]:
    """The grid of "gpu" or "cpu" in the order to walk it. ``chosen`` replaces the values of the axes that it names."""
    chosen = {axis: values for axis, values in (chosen or {}).items() if values}
    levels = LEVELS[device]
    axes = {axis: list(values) for axis, values in levels.items()}
    if quick:
        axes.update({axis: list(values) for axis, values in QUICK[device].items()})
    axes.update({axis: list(values) for axis, values in chosen.items()})
    found = [Cell(*values) for values in product(*(axes[axis] for axis in levels))]
    if quick:
        found = [cell for cell in found if _is_quick(cell, axes)]
    return _in_order(found, axes, levels)


def _is_quick(cell: Cell, axes: Mapping[str, list]) -> bool:
    """Setting and dtype vary one at a time, and then at one size."""
    changed = (cell.setting != axes["setting"][0]) + (cell.dtype != axes["dtype"][0])
    return changed == 0 or changed == 1 and (cell.hidden, cell.batch) == (axes["hidden"][0], axes["batch"][0])


def _in_order(found: list[Cell], axes: Mapping[str, list], levels: Mapping[str, Mapping[Any, int]]) -> list[Cell]:
    """Size by size, from coarse to fine; within a level the smallest and the largest in turn."""
    sizes: dict[tuple[int, int, int], list[Cell]] = {}
    for cell in found:
        sizes.setdefault((cell.hidden, cell.batch, cell.steps), []).append(cell)
    of_level: dict[int, list[list[Cell]]] = {}
    for members in sizes.values():
        members.sort(key=lambda cell: (axes["setting"].index(cell.setting), axes["dtype"].index(cell.dtype)))
        of_level.setdefault(_level(members[0], levels), []).append(members)
    ordered: list[Cell] = []
    for _, groups in sorted(of_level.items()):
        groups.sort(key=lambda members: (members[0].work, members[0].steps))
        while groups:
            ordered += groups.pop(0)
            if groups:
                ordered += groups.pop()
    return ordered


def _level(cell: Cell, levels: Mapping[str, Mapping[Any, int]]) -> int:
    return sum(of_value.get(getattr(cell, axis), 0) for axis, of_value in levels.items())
