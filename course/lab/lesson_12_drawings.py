"""The picture of lesson 12: a grid of threads laid over an array."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lab import figures


def grid_over_array(elements: int, threads: int):
    """The elements of an array, and below them the threads that the blocks put there. A figure and its alt text."""
    blocks = -(-elements // threads)
    launched = blocks * threads
    figure, axes = plt.subplots(figsize=(max(7, 0.36 * launched + 1.4), 2.5))
    for i in range(elements):
        _square(axes, i, 2.0, str(i))
    for i in range(launched):
        idle = i >= elements
        _square(axes, i, 0.0, str(i % threads), hatch="////" if idle else "", shade=figures.GREYS[i // threads % 2])
    for block in range(blocks):
        left = block * threads
        axes.add_patch(Rectangle((left, 0), threads, 1, fill=False, edgecolor="black", linewidth=2.2, zorder=3))
        axes.text(left + threads / 2, -0.6, f"block {block}", ha="center", va="center", fontsize=9)
        axes.plot([left, left], [1, 2], color="0.6", linewidth=0.8, linestyle=":")
    axes.text(-0.3, 2.5, "array", ha="right", va="center", fontsize=9)
    axes.text(-0.3, 0.5, "threads", ha="right", va="center", fontsize=9)
    axes.set(xlim=(-2.6, launched + 0.2), ylim=(-1.0, 3.2), aspect="equal")
    axes.axis("off")
    idle = launched - elements
    rest = f"The last {idle} threads are hatched: above them there is no element."
    if idle < 2:
        rest = "The last thread is hatched: above it there is no element." if idle else "None is left over."
    many = "1 block" if blocks == 1 else f"{blocks} blocks"
    alt = f"""A row of {elements} squares, the array, numbered 0 to {elements - 1}. Below it the threads: {many}
    of {threads} side by side, {launched} threads. In each block they are numbered from 0 to {threads - 1} again.
    {rest}"""
    return figure, alt


def _square(axes, column: float, row: float, label: str, shade: str = "white", hatch: str = "") -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=shade, edgecolor="0.4", linewidth=0.8, hatch=hatch))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if hatch else None
    axes.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=8, bbox=box)
