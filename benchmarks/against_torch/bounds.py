"""How fast a cell could be at best on the GPU that it is timed on: `benchmarks.model` with that GPU's own floors."""

import os
from pathlib import Path
from typing import Any

from benchmarks import model

from .grid import AXES, Cell, filled
from .turns import PASSES

RESULTS = Path(__file__).resolve().parent.parent / "results"


class NoBound(Exception):
    """Why there is none."""


class Bounds:
    """The bound of each cell. Without floors of the same GPU there is none, and ``about`` says why."""

    def __init__(self, gpu: str | None, places: list[Path], only: Path | None = None) -> None:
        """``gpu`` is the device's name. Floors are looked for in ``places``, files, or are those in ``only``."""
        self.floors: model.Floors | None = None
        try:
            self.floors = _find(gpu, [only] if only else places)
        except NoBound as reason:
            if only:
                raise
            self.about = {"missing": str(reason)}
        else:
            machine, path = self.floors.machine, self.floors.path.resolve()
            root = RESULTS.parent.parent
            shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            self.about = {"gpu": machine["gpu"], "floors": shown, "date": machine.get("date", "unknown")}

    def of(self, cell: Cell) -> dict[str, Any]:
        """For a cell's record: ``bound``, by pass; nothing where there is none."""
        if self.floors is None:
            return {}
        shape = cell.hidden, cell.batch, cell.steps, cell.dtype, cell.num_layers, cell.directions
        call = model.Call(*shape, filled=filled(cell))
        try:
            bounds = {name: self.floors.bound_of_call(call, training=kind) for name, kind in PASSES.items()}
        except KeyError as missing:
            self.about["incomplete"] = f"the floors have no line {missing}"
            return {}
        return {"bound": {name: _numbers(bound) for name, bound in bounds.items()}}


def add(document: dict[str, Any], out: Path) -> None:
    """To a GPU's document that was written without."""
    gpu = (document["machine"].get("gpu") or {}).get("name")
    found = Bounds(gpu, places(out))
    for record in document["cells"]:
        record |= found.of(Cell(*(record[axis] for axis in AXES)))
    document["bound"] = found.about


def places(out: Path) -> list[Path]:
    """Where floors.json may be: beside the results first, then in the checkout."""
    return [out / "floors.json", *sorted(RESULTS.glob("*/floors.json"))]


def over(cell: dict[str, Any], of_pass: str, side: str = "ours") -> float | None:
    """A side's time over the bound; None where either is missing."""
    bound = cell.get("bound", {}).get(of_pass)
    times = cell.get(side, {}).get(of_pass)
    return times["ms"] / bound["ms"] if bound and times else None


def _numbers(bound: model.Bound) -> dict[str, Any]:
    parts = {"products_ms": bound.products, "memory_ms": bound.memory, "hand_overs_ms": bound.hand_overs}
    found = {"ms": bound.ms} | parts
    return {name: float(f"{value:.4g}") for name, value in found.items()} | {"schedules": bound.schedules}


def _find(gpu: str | None, paths: list[Path]) -> model.Floors:
    if gpu is None:
        raise NoBound("the name of this device is unknown; floors are measured on GPUs, by benchmarks/floors.py")
    others = []
    for path in paths:
        if not path.exists():
            continue
        try:
            floors = model.Floors(path)
            name = floors.machine["gpu"]
        except (ValueError, KeyError, TypeError) as error:
            others.append(f"{os.path.relpath(path)} cannot be read, {type(error).__name__}: {error}")
            continue
        if name == gpu:
            return floors
        others.append(f"{os.path.relpath(path)} is of {name}")
    found = "; ".join(others) or "there is no floors.json"
    raise NoBound(f"no floors of {gpu} were found: {found}. Measure them with benchmarks/floors.py --out")
