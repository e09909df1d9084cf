"""The results file, and what is summed up from it."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .others import DISTURBED

PASSES = ("forward", "forward_backward")
SHOWN = {"forward": "forward", "forward_backward": "forward + backward"}
STATUSES = ("timed", "wrong", "not supported", "out of memory", "failed")


def write(path: Path, document: dict[str, Any]) -> None:
    """Replaces the file in one step: whoever stops the run finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    cells = ",\n".join("  " + json.dumps(cell, allow_nan=False) for cell in document["cells"])
    head = json.dumps(document | {"cells": []}, indent=1, allow_nan=False)
    text = head.replace('"cells": []', f'"cells": [\n{cells}\n ]', 1) if cells else head
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def is_disturbed(cell: dict[str, Any]) -> bool:
    """Whether something else ran while the cell was timed, so that its figures say little."""
    return (cell.get("cores_of_others") or 0) > DISTURBED


def speed_up(cell: dict[str, Any], of_pass: str) -> float | None:
    """PyTorch's time over ours; None for a cell that was not timed."""
    if cell["status"] != "timed":
        return None
    return cell["torch"][of_pass]["ms"] / cell["ours"][of_pass]["ms"]


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all cells, and by pass: geometric mean of the speed-ups, the slowest cell, and how many are below 1."""
    found: dict[str, Any] = {"counts": {s: sum(cell["status"] == s for cell in cells) for s in STATUSES}}
    found["all"] = _of(cells, PASSES)
    for of_pass in PASSES:
        found[of_pass] = _of(cells, [of_pass])
    return found


def by(cells: list[dict[str, Any]], *axes: str) -> dict[tuple, list[dict[str, Any]]]:
    """The cells in groups of equal values along the axes, in the order of the first of each."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[axis] for axis in axes), []).append(cell)
    return groups


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _of(cells: list[dict[str, Any]], passes: Iterable[str]) -> dict[str, Any]:
    every = [(speed_up(cell, of_pass), cell, of_pass) for cell in cells for of_pass in passes]
    rated = [(ratio, cell, of_pass) for ratio, cell, of_pass in every if ratio is not None]
    slowest = min(rated, key=lambda entry: entry[0], default=None)
    mean = geometric_mean(ratio for ratio, _, _ in rated)
    return {
        "geometric_mean": None if mean is None else round(mean, 4),
        "compared": len(rated),
        "slower": sum(ratio < 1 for ratio, _, _ in rated),
        "slowest": None
        if slowest is None
        else {"speed_up": round(slowest[0], 4), "cell": name(slowest[1], slowest[2])},
    }


def rounded(value: float) -> float | str:
    """Four digits; JSON has no NaN and no infinity, so those are words."""
    return float(f"{value:.4g}") if abs(value) < float("inf") else str(value)


def name(cell: dict[str, Any], of_pass: str | None = None) -> str:
    words = f"{cell['setting']}, {cell['dtype']}, H={cell['hidden']}, N={cell['batch']}, T={cell['steps']}"
    return words if of_pass is None else f"{words}, {of_pass.replace('_', ' + ')}"
