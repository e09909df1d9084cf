"""The figures by which this project is judged, of one results file: what is wanted, what was found."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from . import grid, results
from .grid import AXES, Cell, in_cudnn_window
from .results import SHOWN

# The least geometric mean of PyTorch's time over ours, of each pass.
WANTED = {"gpu": 1.5, "cpu": 1.0}
WANTED_OUTSIDE_WINDOW = 2.0


def acceptance(document: dict[str, Any]) -> dict[str, Any]:
    """Speed-ups of all cells, by dtype and by setting; the slower ones by name; and each line that is to hold."""
    cells = document["cells"]
    unreached = document.get("not_measured", [])
    left = max(len(unreached), document["cells_left"])  # older files do not name them
    counts = {status: sum(cell["status"] == status for cell in cells) for status in results.STATUSES}
    found: dict[str, Any] = {
        "cells": len(cells) + left,
        "counts": {status: count for status, count in counts.items() if count} | {"not measured": left},
        "all": means(cells),
        "by dtype": {dtype: means(members) for (dtype,), members in results.by(cells, "dtype").items()},
        "by setting": {setting: means(members) for (setting,), members in results.by(cells, "setting").items()},
        "slower": slower(cells),
        "largest error by dtype": _largest_errors(cells),
        "cells run twice": sum("same_bits" in cell for cell in cells),
        "other bits in a second run": sum(not cell.get("same_bits", True) for cell in cells),
    }
    whole = {str(cell) for cell in grid.cells(document["device"])}
    other = len(whole - {results.name(cell) for cell in cells} - set(unreached))
    found["not asked for"] = max(0, other - (left - len(unreached)))
    if document["device"] == "gpu":
        found["outside of cuDNN's float16 window"] = means([cell for cell in cells if not in_window(cell)])
    of_flashrnn = means(cells, lambda cell, of_pass: ratio_to(cell, of_pass, "flashrnn"))
    if any(of_flashrnn[of_pass]["compared"] for of_pass in SHOWN):
        found["FlashRNN's time over ours"] = of_flashrnn
    found["lines"] = _lines(document["device"], found)
    found["complete"] = set(found["counts"]) <= {"timed", "not measured"} and not found["counts"]["not measured"]
    return found


def in_window(cell: dict[str, Any]) -> bool:
    return in_cudnn_window(Cell(*(cell[axis] for axis in AXES)))


def ratio_to(cell: dict[str, Any], of_pass: str, side: str) -> float | None:
    """Another side's time over ours; None where either was not timed."""
    times = [cell.get(name, {}).get(of_pass) for name in (side, "ours")]
    return times[0]["ms"] / times[1]["ms"] if all(times) else None


def means(
    cells: Iterable[dict[str, Any]], ratio: Callable[[dict, str], float | None] = results.speed_up
) -> dict[str, Any]:
    """By pass: geometric mean of the ratios, and of how many cells."""
    found = {}
    for of_pass in SHOWN:
        ratios = [value for cell in cells if (value := ratio(cell, of_pass)) is not None]
        mean = results.geometric_mean(ratios)
        found[of_pass] = {"geometric_mean": None if mean is None else round(mean, 4), "compared": len(ratios)}
    return found


def slower(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells and passes in which PyTorch is faster, the worst one first."""
    rated = [(results.speed_up(cell, of_pass), cell, of_pass) for cell in cells for of_pass in SHOWN]
    below = sorted(
        ((ratio, cell, of_pass) for ratio, cell, of_pass in rated if ratio is not None and ratio < 1),
        key=lambda entry: entry[0],
    )
    return [{"cell": results.name(cell, of_pass), "speed_up": round(ratio, 4)} for ratio, cell, of_pass in below]


def texts(found: dict[str, Any]) -> list[str]:
    """For people: a line for each that is to hold, then the figures behind them."""
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items())
    others = f"; {found['not asked for']} more of the grid were not asked for" if found["not asked for"] else ""
    head = [f"{found['cells']} cells: {counts}{others}"]
    of_what = " so far" if not found["complete"] else " for these cells" if others else ""
    head += [_sentence(line, of_what) for line in found["lines"]]
    groups = [("over the grid", found["all"])]
    for axis in ("by dtype", "by setting"):
        groups += list(found[axis].items())
    for key in ("outside of cuDNN's float16 window", "FlashRNN's time over ours"):
        if key in found:
            groups.append((key, found[key]))
    return head + [f"{label}: {_means_text(of)}" for label, of in groups]


def slower_texts(found: dict[str, Any]) -> list[str]:
    return [f"{entry['speed_up']:.2f}: {entry['cell']}" for entry in found["slower"]]


def _lines(device: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    lines = [_at_least(f"geometric mean, {shown}", found["all"][of_pass]["geometric_mean"], WANTED[device])
             for of_pass, shown in SHOWN.items()]  # fmt: skip
    if device == "gpu":
        compared = any(found["all"][of_pass]["compared"] for of_pass in SHOWN)
        count = len(found["slower"])
        held = count == 0 if compared else None
        lines.append({"what": "figures slower than PyTorch", "wanted": "0", "found": count, "holds": held})
        outside = found["outside of cuDNN's float16 window"]
        lines += [
            _at_least(f"outside of cuDNN's float16 window, {shown}", mean, WANTED_OUTSIDE_WINDOW)
            for of_pass, shown in SHOWN.items()
            for mean in [outside[of_pass]["geometric_mean"]]
        ]
    for dtype, error in found["largest error by dtype"].items():
        what = f"largest relative error, {dtype}"
        lines.append({"what": what, "wanted": f"<= {error['allowed']:g}", "found": error["found"],
                      "holds": error["holds"]})  # fmt: skip
    if found["cells run twice"]:
        count = found["other bits in a second run"]
        lines.append({"what": "cells with other bits in a second run", "wanted": "0", "found": count,
                      "holds": not count})  # fmt: skip
    return lines


def _at_least(what: str, found: float | None, wanted: float) -> dict[str, Any]:
    holds = None if found is None else found >= wanted
    return {"what": what, "wanted": f">= {wanted:g}", "found": found, "holds": holds}


def _largest_errors(cells: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of all results and gradients, against the reference that the cells name."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for error in cell.get("errors", {}).values():
            value = float(error)  # "nan" and "inf" are words in the file
            entry = found.setdefault(cell["dtype"], {"found": 0.0, "allowed": cell["tolerance"], "holds": True})
            if not value <= (worst := float(entry["found"])) and not math.isnan(worst):
                entry["found"] = results.rounded(value)
            entry["holds"] = entry["holds"] and value <= cell["tolerance"]
    return found


def _sentence(line: dict[str, Any], of_what: str) -> str:
    if line["holds"] is None:
        return f"{line['what']}: nothing to compare, wanted {line['wanted']}"
    word = "holds" if line["holds"] else "DOES NOT HOLD"
    found = f"{line['found']:.4g}" if isinstance(line["found"], float) else line["found"]
    return f"{line['what']}: {found}, wanted {line['wanted']}, {word}{of_what}"


def _means_text(of: dict[str, Any]) -> str:
    parts = []
    for of_pass, shown in SHOWN.items():
        mean, compared = of[of_pass]["geometric_mean"], of[of_pass]["compared"]
        parts.append(f"{shown} " + ("not compared" if mean is None else f"{mean:.2f} ({compared} cells)"))
    return ", ".join(parts)
