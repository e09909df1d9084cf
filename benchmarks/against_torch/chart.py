"""The speed-ups as heat maps, one file for each dtype: a row for each setting, a column for each T and pass."""

import math
from pathlib import Path
from typing import Any

from . import results
from .grid import SETTINGS

PASSES = {"forward": "forward", "forward_backward": "forward + backward"}
SHORT = {"wrong": "wrong", "out of memory": "memory", "failed": "failed", "not supported": "–"}
BOUNDS = (1 / 8, 8)  # where the colours end; the numbers go on


def draw(document: dict[str, Any], folder: Path, stem: str, suffix: str = "svg") -> list[Path]:
    """The files that it wrote; a dtype in which nothing was compared has none."""
    paths = []
    for (dtype,), cells in results.by(document["cells"], "dtype").items():
        if any(cell["status"] != "not supported" for cell in cells):
            path = folder / f"{stem}-{dtype}.{suffix}"
            _draw_dtype(cells, f"{_device_name(document)}, {dtype}", path)
            paths.append(path)
    return paths


def _device_name(document: dict[str, Any]) -> str:
    machine = document["machine"]
    if document["device"] == "gpu":
        return (machine["gpu"] or {}).get("name", "GPU")
    return f"{machine['cpu']}, threads: {document['threads']['asked for']}"


def _draw_dtype(cells: list[dict[str, Any]], title: str, path: Path) -> None:
    from matplotlib import rc_context, style

    # The same results give the same bytes, whenever they are drawn, and whatever style the caller has chosen.
    with style.context("default", after_reset=True), rc_context({"svg.hashsalt": "gpulstm", "hatch.linewidth": 0.6}):
        figure = _figure(cells, title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _figure(cells: list[dict[str, Any]], title: str) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    settings = [name for name in SETTINGS if any(cell["setting"] == name for cell in cells)]
    steps, hidden, batch = (sorted({cell[axis] for cell in cells}) for axis in ("steps", "hidden", "batch"))
    columns = [(t, of_pass) for t in steps for of_pass in PASSES]
    width, height = 0.5 * len(batch) + 0.5, 0.32 * len(hidden) + 0.6  # inches of a panel
    size = (max(width * len(columns) + 1.4, 7), height * len(settings) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"torch.nn.LSTM's time over gpulstm's\n{title}", fontsize=11)
    panels = figure.subplots(len(settings), len(columns), squeeze=False, sharex=True, sharey=True)
    shades = ScalarMappable(LogNorm(*BOUNDS), cmap="cividis")
    for row, setting in zip(panels, settings, strict=True):
        row[0].set_ylabel(f"{setting}\nhidden size")
        for axes, (t, of_pass) in zip(row, columns, strict=True):
            own = [cell for cell in cells if cell["setting"] == setting and cell["steps"] == t]
            _draw_panel(axes, own, of_pass, hidden, batch, shades)
            if setting == settings[0]:
                axes.set_title(f"T = {t}\n{PASSES[of_pass]}", fontsize=9)
            if setting == settings[-1]:
                axes.set_xlabel("batch")
    bar = figure.colorbar(shades, ax=panels.ravel().tolist(), extend="both", label="speed-up; hatched: slower")
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    bar.minorticks_off()
    return figure


def _draw_panel(axes: Any, cells: list[dict[str, Any]], of_pass: str, hidden: list, batch: list, shades: Any) -> None:
    """Each cell is a rectangle with its number. Below 1 it is hatched: the shade alone need not be read."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(-0.5, len(batch) - 0.5), ylim=(-0.5, len(hidden) - 0.5))
    axes.set_xticks(range(len(batch)), batch)
    axes.set_yticks(range(len(hidden)), hidden)
    axes.tick_params(length=0, labelsize=8)
    for cell in cells:
        at = batch.index(cell["batch"]), hidden.index(cell["hidden"])
        ratio = results.speed_up(cell, of_pass)
        face, ink, text = "white", "black", SHORT.get(cell["status"], "")
        if ratio is not None:
            face = shades.to_rgba(min(max(ratio, BOUNDS[0]), BOUNDS[1]))
            ink = "white" if _luminance(face) < 0.45 else "black"
            text = _short(ratio)
        hatch = "////" if ratio is not None and ratio < 1 else None
        corner = (at[0] - 0.5, at[1] - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="0.6", linewidth=0.5, hatch=hatch))
        behind = {"facecolor": face, "edgecolor": "none", "pad": 0.8} if hatch else None
        axes.text(*at, text, ha="center", va="center", color=ink, fontsize=7, bbox=behind)


def _luminance(colour: tuple) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _short(ratio: float) -> str:
    """Two digits, and never rounded up to 1 from below."""
    if ratio < 1:
        return f"{math.floor(ratio * 100) / 100:.2f}"
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
