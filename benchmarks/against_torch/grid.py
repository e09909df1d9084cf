"""Which LSTM calls are compared, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

SETTINGS = ("one-layer", "two-layers", "both-directions", "lengths")
DTYPES = ("float32", "tf32", "float16", "bfloat16")

# Along each axis in the order of interest: the whole grid is walked from coarse to fine, so that a run which is cut
# short has covered every axis. The level of a value is how many steps of refinement it waits.
LEVELS: Mapping[str, Mapping[str, Mapping[Any, int]]] = {
    "gpu": {
        "setting": {"one-layer": 0, "two-layers": 1, "both-directions": 1, "lengths": 1},
        "dtype": {"float32": 0, "tf32": 1, "float16": 1, "bfloat16": 1},
        "hidden": {256: 0, 1024: 0, 64: 1, 512: 1, 128: 2, 768: 2, 2048: 2},
        "batch": {1: 0, 32: 0, 128: 1, 8: 2, 64: 2, 256: 2},
        "steps": {128: 0, 1024: 1},
    },
    "cpu": {
        "setting": {"one-layer": 0, "two-layers": 1, "both-directions": 1, "lengths": 1},
        "dtype": {"float32": 0},
        "hidden": {64: 0, 256: 0, 128: 1, 512: 1},
        "batch": {1: 0, 32: 0, 8: 1, 128: 1},
        "steps": {128: 0, 32: 1},
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
        """Whether cuDNN has its persistent kernel for large layers here; everywhere else it goes step by step."""
        plain = self.setting == "one-layer" and self.dtype == "float16"
        sizes = self.hidden <= 1024 and self.hidden % 128 == 0 and self.batch % 8 == 0 and self.batch <= 128
        return plain and sizes

    def __str__(self) -> str:
        return f"{self.setting}, {self.dtype}, H={self.hidden}, N={self.batch}, T={self.steps}"


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
    return sorted(found, key=lambda cell: (_level(cell, levels), cell.work))


def _is_quick(cell: Cell, axes: Mapping[str, list]) -> bool:
    """Setting and dtype vary one at a time, and then at one size."""
    changed = (cell.setting != axes["setting"][0]) + (cell.dtype != axes["dtype"][0])
    return changed == 0 or changed == 1 and (cell.hidden, cell.batch) == (axes["hidden"][0], axes["batch"][0])


def _level(cell: Cell, levels: Mapping[str, Mapping[Any, int]]) -> int:
    return sum(of_value.get(getattr(cell, axis), 0) for axis, of_value in levels.items())
