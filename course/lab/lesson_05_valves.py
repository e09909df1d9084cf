"""The drawing of lesson 05: two pipes into one memory, each with a valve."""

import matplotlib.pyplot as plt
from matplotlib.patches import Circle, Rectangle

BORE = 1.0  # the height of a pipe, and of a full flow in it
OLD, NEW = 2.9, 1.1  # the heights at which the two pipes lie
VALVE, JOIN = 4.2, 7.2  # how far right the valves are, and where the pipes meet


def valves(c, f, i, g):
    """The old memory c through the valve f, the candidate g through the valve i. Returns a figure and its alt text."""
    figure, axes = plt.subplots(figsize=(9, 3.9))
    axes.set(xlim=(0, 10), ylim=(0, 4), aspect="equal")
    axes.axis("off")
    pipe(axes, OLD, c, f, "what was there", f"c = {c:.2f}", f"forget gate f = {f:.2f}")
    pipe(axes, NEW, g, i, "what might be written", f"candidate g = {g:.2f}", f"input gate i = {i:.2f}")
    for y in (OLD, NEW):
        towards = 0.28 if y > 2 else -0.28
        arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(JOIN + 0.9, 2 + towards), xytext=(JOIN, y), arrowprops=arrow)
        flow = f * c if y == OLD else i * g
        axes.text(JOIN + 0.55, y + (0.25 if y > 2 else -0.25), f"{flow:.2f}", ha="center", va="center")
    axes.add_patch(Circle((JOIN + 1.0, 2), 0.27, facecolor="white", edgecolor="black", zorder=3))
    axes.text(JOIN + 1.0, 2, "+", ha="center", va="center", fontsize=14, zorder=4)
    axes.text(JOIN + 1.45, 2, f"new c = {f * c + i * g:.2f}", ha="left", va="center", fontweight="bold")
    alt = f"""Two pipes lie above each other, each with a valve in the middle. Through the upper one comes the old
    memory, {c:.2f}, and its valve, the forget gate, stands at {f:.2f}: {f * c:.2f} is left of it behind the valve.
    Through the lower one comes the candidate, {g:.2f}, and its valve, the input gate, stands at {i:.2f}: {i * g:.2f}
    gets through. The pipes meet at a plus sign, and the new memory is {f * c + i * g:.2f}. The height of the stream
    in a pipe is the size of the number; a hatched stream is negative."""
    return figure, alt


def pipe(axes, y, value, gate, name, source, valve):
    """One pipe: a stream as high as the value, two jaws that leave the share ``gate`` open, and what gets through."""
    for start, end, amount in ((1.9, VALVE - 0.1, value), (VALVE + 0.1, JOIN, value * gate)):
        height = BORE * min(abs(amount), 1.0)
        negative = amount < 0
        axes.add_patch(
            Rectangle(
                (start, y - height / 2),
                end - start,
                height,
                facecolor="white" if negative else "0.7",
                edgecolor="0.35",
                linewidth=0.8 if height else 0,
                hatch="////" if negative else "",
            )
        )
    for edge in (y - BORE / 2, y + BORE / 2):
        axes.plot([1.9, JOIN], [edge, edge], color="black", linestyle="-", linewidth=1.8)
    jaw = BORE * (1 - gate) / 2
    for corner in (y - BORE / 2, y + BORE / 2 - jaw):
        axes.add_patch(Rectangle((VALVE - 0.1, corner), 0.2, jaw, facecolor="black", edgecolor="black"))
    axes.text(VALVE, y + BORE / 2 + 0.2, valve, ha="center", va="center")
    axes.text(1.75, y + 0.13, name, ha="right", va="center", fontsize=9)
    axes.text(1.75, y - 0.17, source, ha="right", va="center")
