"""The picture of lesson 04: what a forget gate leaves of a memory."""

import matplotlib.pyplot as plt
import numpy as np


def decay(f):
    """The memory over 60 steps if the share ``f`` is kept at each, among others, and the figure's alt text."""
    steps = np.arange(61)
    half_life = np.log(0.5) / np.log(f)
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for other in (0.5, 0.8, 0.95, 0.99):
        axes.plot(steps, other**steps, color="0.6", linestyle="--", linewidth=1)
        at = min(54, np.log(0.32) / np.log(other))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(at, other**at, f"{other}", color="0.35", ha="center", va="center", fontsize=9, bbox=box)
    axes.plot(steps, f**steps, color="black", linewidth=2.5, linestyle="-")
    marks = [n for n in (half_life, 2 * half_life, 3 * half_life) if n <= 60]
    for n in marks:
        axes.plot([n, n, 0], [0, f**n, f**n], color="black", linewidth=0.8, linestyle=":")
    axes.plot(marks, [f**n for n in marks], "o", color="black")
    axes.set(xlabel="steps", ylabel="left of the memory", xlim=(0, 60), ylim=(0, 1.05))
    axes.set_yticks([0, 0.125, 0.25, 0.5, 1], ["0", "⅛", "¼", "½", "1"])
    axes.set_title(f"forget gate {f:.2f}: half of it is gone after {half_life:.1f} steps")
    alt = f"""What is left of a memory, over 60 steps, if the forget gate is {f:.2f} at each: a curve that falls from 1,
        steeply first and then ever more slowly. Half is left after {half_life:.1f} steps, a quarter after
        {2 * half_life:.1f}, an eighth after {3 * half_life:.1f}. Thin dashed curves for the gates 0.5, 0.8, 0.95 and
        0.99 stand beside it: the first is near zero after 5 steps, the last is still above a half at the end."""
    return figure, alt
