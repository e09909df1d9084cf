"""Draws which thread of a warp touches which element of an array, in greys, with the threads' numbers."""

import math

import numpy as np

from .errors import launch_error

MOST_ROWS, MOST_COLUMNS = 48, 40


def draw(
    accesses: np.ndarray, name: str, shape: tuple[int, ...], itemsize: int, *, kind, block, warp, request, axes, shared
):
    """A figure of one request: see `lab.kernels.Kernel.draw`."""
    import matplotlib.pyplot as plt

    chosen = _request(accesses, name, kind, block, warp, request)
    rows, columns = shape if len(shape) == 2 else (-(-shape[0] // 32), min(32, shape[0]))
    per_sector = max(32 // itemsize, 1)
    sectors = np.unique(chosen["element"] // per_sector)
    first, shown = _window(chosen["element"] // columns, rows, MOST_ROWS)
    left, wide = _window(chosen["element"] % columns, columns, MOST_COLUMNS)
    if axes is None:
        size = max(4.0, wide * 0.3 + 0.5), max(1.4, shown * 0.3 + 0.8)
        _, axes = plt.subplots(figsize=size, layout="constrained")
    owner = {
        int(element): int(thread) % 32 for element, thread in zip(chosen["element"], chosen["thread"], strict=True)
    }
    sharing = {int(e): int(n) for e, n in zip(*np.unique(chosen["element"], return_counts=True), strict=True)}
    for row in range(first, first + shown):
        for column in range(left, left + wide):
            element = row * columns + column
            if element < math.prod(shape):
                is_fetched = element // per_sector in sectors
                _cell(axes, column - left, row - first, owner.get(element), sharing.get(element, 0), is_fetched)
    axes.set(xlim=(0, wide), ylim=(shown, 0), aspect="equal")
    axes.set_xticks(np.arange(0, wide, 8) + 0.5, [str(left + i) for i in range(0, wide, 8)])
    per_row = columns if len(shape) == 1 else 1
    axes.set_yticks(np.arange(shown) + 0.5, [str((first + i) * per_row) for i in range(shown)])
    axes.tick_params(length=0)
    line, what = chosen["line"][0], chosen["kind"][0]
    count = "1 sector" if len(sectors) == 1 else f"{len(sectors)} sectors"
    title = f"{name}: one {what} of a warp, line {line}"
    if name in shared:
        axes.set_title(title, fontsize=10)
    else:
        axes.set_title(f"{title}, {count} of 32 bytes", fontsize=10)
    if (shown, wide) != (rows, columns):
        axes.set_xlabel(f"part of {rows} x {columns}", fontsize=8)
    return axes.figure


def _window(touched: np.ndarray, count: int, most: int) -> tuple[int, int]:
    """From where, and how many rows or columns are shown: all, or as many as fit from the first one touched."""
    if count <= most:
        return 0, count
    first = int(touched.min()) // 8 * 8
    wanted = max(int(touched.max()) + 1 - first, min(most, 16))
    return min(first, count - min(wanted, most)), min(wanted, most)


def _request(accesses: np.ndarray, name: str, kind, block: int, warp: int, request: int) -> np.ndarray:
    chosen = accesses[(accesses["array"] == name) & (accesses["block"] == block) & (accesses["warp"] == warp)]
    if kind is not None:
        chosen = chosen[chosen["kind"] == kind]
    numbers = np.unique(chosen["request"])
    if not len(numbers):
        touched = ", ".join(sorted(set(accesses["array"].tolist()))) or "nothing"
        raise launch_error(
            f"warp {warp} of block {block} does not touch {name} like this; the launch touched {touched}."
        )
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
