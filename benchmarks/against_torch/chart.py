"""Heat maps, one file for each dtype: a row for each setting, a column for each T and pass.

They show the speed-ups, and where there is a bound, in files of their own, our time over it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import bounds, results
from .grid import SETTINGS
from .results import SHOWN

SHORT = {"wrong": "wrong", "out of memory": "memory", "failed": "failed", "not supported": "–"}


class Shown(NamedTuple):
    """What a heat map is of."""

    title: str
    label: str  # of the colours
    value: Callable[[dict[str, Any], str], float | None]
    ends: tuple[float, float]  # where the colours end; the numbers go on
    ticks: tuple[float, ...]
    colours: str


EIGHTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
SPEED_UPS = Shown("torch.nn.LSTM's time over gpulstm's", "speed-up; hatched: slower", results.speed_up, (1 / 8, 8),
                  EIGHTHS, "cividis")  # fmt: skip
OVER_BOUND = Shown("gpulstm's time over the bound", "time over the bound; hatched: below 1", bounds.over, (1, 32),
                   (1, 2, 4, 8, 16, 32), "cividis_r")  # fmt: skip


def draw(document: dict[str, Any], folder: Path, stem: str, suffix: str = "svg") -> list[Path]:
    """The files that it wrote; a dtype in which nothing was compared has none."""
    paths = []
    for (dtype,), cells in results.by(document["cells"], "dtype").items():
        if any(cell["status"] != "not supported" for cell in cells):
            for what, ending in ((SPEED_UPS, ""), (OVER_BOUND, "-bound")):
                if what is OVER_BOUND and not any("bound" in cell for cell in cells):
                    continue
                path = folder / f"{stem}-{dtype}{ending}.{suffix}"
                _draw_dtype(cells, f"{_device_name(document)}, {dtype}", path, what)
                paths.append(path)
    return paths


def _device_name(document: dict[str, Any]) -> str:
    machine = document["machine"]
    if document["device"] == "gpu":
        return (machine["gpu"] or {}).get("name", "GPU")
    return f"{machine['cpu']}, threads: {document['threads']['asked for']}"


def _draw_dtype(cells: list[dict[str, Any]], title: str, path: Path, what: Shown) -> None:
    from matplotlib import rc_context, style

    # The same results give the same bytes, whenever they are drawn, and whatever style the caller has chosen.
    with style.context("default", after_reset=True), rc_context({"svg.hashsalt": "gpulstm", "hatch.linewidth": 0.6}):
        figure = _figure(cells, title, what)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _figure(cells: list[dict[str, Any]], title: str, what: Shown) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    settings = [name for name in SETTINGS if any(cell["setting"] == name for cell in cells)]
    steps, hidden, batch = (sorted({cell[axis] for cell in cells}) for axis in ("steps", "hidden", "batch"))
    columns = [(t, of_pass) for t in steps for of_pass in SHOWN]
    width, height = 0.5 * len(batch) + 0.5, 0.32 * len(hidden) + 0.6  # inches of a panel
    size = (max(width * len(columns) + 1.4, 7), height * len(settings) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{what.title}\n{title}", fontsize=11)
    panels = figure.subplots(len(settings), len(columns), squeeze=False, sharex=True, sharey=True)
    shades = ScalarMappable(LogNorm(*what.ends), cmap=what.colours)
    for row, setting in zip(panels, settings, strict=True):
        row[0].set_ylabel(f"{setting}\nhidden size")
        for axes, (t, of_pass) in zip(row, columns, strict=True):
            own = [cell for cell in cells if cell["setting"] == setting and cell["steps"] == t]
            _draw_panel(axes, own, of_pass, hidden, batch, shades, what)
            if setting == settings[0]:
                axes.set_title(f"T = {t}\n{SHOWN[of_pass]}", fontsize=9)
            if setting == settings[-1]:
                axes.set_xlabel("batch")
    bar = figure.colorbar(shades, ax=panels.ravel().tolist(), extend="both", label=what.label)
    bar.set_ticks(list(what.ticks), labels=[f"{tick:g}" for tick in what.ticks], minor=False)
    bar.minorticks_off()
    return figure


def _draw_panel(
    axes: Any, cells: list[dict[str, Any]], of_pass: str, hidden: list, batch: list, shades: Any, what: Shown
) -> None:
    """Each cell is a rectangle with its number. Below 1 it is hatched: the shade alone need not be read."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(-0.5, len(batch) - 0.5), ylim=(-0.5, len(hidden) - 0.5))
    axes.set_xticks(range(len(batch)), batch)
    axes.set_yticks(range(len(hidden)), hidden)
    axes.tick_params(length=0, labelsize=8)
    for cell in cells:
        at = batch.index(cell["batch"]), hidden.index(cell["hidden"])
        ratio = what.value(cell, of_pass)
        face, ink, text = "white", "black", SHORT.get(cell["status"], "")
        if ratio is not None:
            face = shades.to_rgba(min(max(ratio, what.ends[0]), what.ends[1]))
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
