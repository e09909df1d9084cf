"""Draws which thread of a warp touches which element of an array, in greys, with the threads' numbers."""

import numpy as np

from .errors import launch_error

MOST_ROWS = 48


def draw(accesses: np.ndarray, name: str, shape: tuple[int, ...], itemsize: int, *, kind, block, warp, request, axes):
    """A figure of one request: see `lab.kernels.Kernel.draw`."""
    import matplotlib.pyplot as plt

    chosen = _request(accesses, name, kind, block, warp, request)
    rows, columns = shape if len(shape) == 2 else (-(-shape[0] // 32), 32)
    total = int(np.prod(shape))
    touched = chosen["element"] // columns
    first = int(touched.min())
    last = min(int(touched.max()), first + MOST_ROWS - 1)
    if rows <= MOST_ROWS:
        first, last = 0, rows - 1
    shown = last - first + 1
    if axes is None:
        _, axes = plt.subplots(figsize=(max(4.0, columns * 0.3), max(1.4, shown * 0.3 + 0.8)), layout="constrained")
    per_sector = max(32 // itemsize, 1)
    sectors = np.unique(chosen["element"] // per_sector)
    owner = {int(element): int(thread) % 32 for element, thread in zip(chosen["element"], chosen["thread"], strict=True)}
    sharing = {int(e): int(n) for e, n in zip(*np.unique(chosen["element"], return_counts=True), strict=True)}
    for element in range(first * columns, min((last + 1) * columns, total)):
        row, column = divmod(element, columns)
        fetched = element // per_sector in sectors
        _cell(axes, column, row - first, owner.get(element), sharing.get(element, 0), fetched)
    axes.set(xlim=(0, columns), ylim=(shown, 0), aspect="equal")
    axes.set_xticks(np.arange(0, columns, 8) + 0.5, [str(i) for i in range(0, columns, 8)])
    axes.set_yticks(np.arange(shown) + 0.5, [str((first + i) * (columns if len(shape) == 1 else 1)) for i in range(shown)])
    axes.tick_params(length=0)
    line, what = chosen["line"][0], chosen["kind"][0]
    count = "1 sector" if len(sectors) == 1 else f"{len(sectors)} sectors"
    crop = "" if shown == rows else f" (rows {first} to {last} of {rows})"
    axes.set_title(f"{name}: one {what} of a warp, line {line}, {count} of 32 bytes{crop}", fontsize=10)
    return axes.figure


def _request(accesses: np.ndarray, name: str, kind, block: int, warp: int, request: int) -> np.ndarray:
    chosen = accesses[(accesses["array"] == name) & (accesses["block"] == block) & (accesses["warp"] == warp)]
    if kind is not None:
        chosen = chosen[chosen["kind"] == kind]
    numbers = np.unique(chosen["request"])
    if not len(numbers):
        touched = ", ".join(sorted(set(accesses["array"].tolist()))) or "nothing"
        raise launch_error(f"warp {warp} of block {block} does not touch {name} like this; the launch touched {touched}.")
    if not 0 <= request < len(numbers):
        raise launch_error(f"there are requests 0 to {len(numbers) - 1} of this warp to {name}, and not {request}.")
    return chosen[chosen["request"] == numbers[request]]


def _cell(axes, column: int, row: int, lane: int | None, count: int, fetched: bool) -> None:
    """One element: with the lane that wants it, or hatched if it only comes along in a sector."""
    from matplotlib.patches import Rectangle

    style = {"facecolor": "white", "edgecolor": "0.6", "linewidth": 0.5}
    if lane is not None:
        style["facecolor"] = str(0.95 - 0.75 * lane / 31)
    elif fetched:
        style |= {"hatch": "////", "edgecolor": "0.75"}
    axes.add_patch(Rectangle((column, row), 1, 1, **style))
    if lane is not None:
        label = "all" if count == 32 else f"{lane}+" if count > 1 else str(lane)
        color = "white" if lane > 15 else "black"
        axes.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=7, color=color)
