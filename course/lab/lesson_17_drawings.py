"""The picture of lesson 17: three ways to leave something out, as masks over time."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from lab import figures

UNITS, STEPS, PROBABILITY = 8, 16, 0.3


def masks():
    """The figure and its alt text."""
    rng = np.random.default_rng(3)
    fresh = rng.random((UNITS, STEPS)) < PROBABILITY
    once = np.repeat(np.isin(np.arange(UNITS), (1, 6))[:, None], STEPS, axis=1)
    kept = rng.random((UNITS, STEPS)) < PROBABILITY
    figure, panels = plt.subplots(1, 3, figsize=(10, 2.5))
    for axes, mask, title, hatch, shade in zip(
        panels,
        (fresh, once, kept),
        (
            "dropout\nnew at each step, zero",
            "recurrent dropout\none mask per sequence, zero",
            "zoneout\nnew, keeps the old value",
        ),
        ("", "", "////"),
        (3, 3, 1),
        strict=True,
    ):
        figures.grid(axes, UNITS, STEPS)
        for row, column in zip(*np.nonzero(mask), strict=True):
            corner = (column, UNITS - 1 - row)
            face = figures.GREYS[shade] if shade < 3 else "0.25"
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="black", linewidth=0.8, hatch=hatch))
        axes.set_title(title, fontsize=10)
        axes.text(STEPS / 2, -0.5, "time →", ha="center", va="top", fontsize=9)
        axes.set(xlim=(-1.2, STEPS + 0.1), ylim=(-1.2, UNITS + 0.1))
    panels[0].text(-0.4, UNITS / 2, "units", rotation=90, ha="right", va="center", fontsize=9)
    alt = f"""Three grids of {UNITS} units over {STEPS} time steps. Dropout: dark squares are
    strewn at random, others at each step. Recurrent dropout: two whole rows are dark, all others
    empty all the time. Zoneout: hatched squares are strewn at random; they do not mean zero, but
    that the unit keeps its value from the step before."""
    return figure, alt
