"""The picture of lesson 03: both curves, with their slope at one place."""

import matplotlib.pyplot as plt
import numpy as np

# Where the slope falls below a tenth of what it is at zero: 1 - tanh(x)**2 = 0.1, and for the sigmoid at twice that.
FLAT = np.arctanh(np.sqrt(0.9))


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def tangents(x):
    """The sigmoid and the tanh with a line that touches each at ``x``, and its alt text."""
    s, t = float(sigmoid(x)), float(np.tanh(x))
    slopes = s * (1 - s), 1 - t * t
    figure, both = plt.subplots(1, 2, figsize=(9, 3))
    curves = [("sigmoid", sigmoid, s, 2 * FLAT, (-0.1, 1.1)), ("tanh", np.tanh, t, FLAT, (-1.2, 1.2))]
    for axes, (name, curve, value, flat, limits), slope in zip(both, curves, slopes, strict=True):
        where = np.linspace(-7, 7, 400)
        for left, right in [(-7, -flat), (flat, 7)]:
            axes.axvspan(left, right, color="0.9", zorder=0)
            axes.text(
                (left + right) / 2, np.mean(limits), "saturated", ha="center", rotation=90, va="center", fontsize=9
            )
        axes.plot(where, curve(where), color="black")
        reach = 1.5 / np.hypot(1, 4 * slope)
        line = np.array([-reach, reach])
        axes.plot(x + line, value + slope * line, color="#D55E00", linestyle="-", linewidth=3)
        axes.plot(x, value, "o", color="black")
        axes.set(xlabel="x", ylim=limits, xlim=(-7, 7), title=f"{name}({x:g}) = {value:.3f}, slope {slope:.3f}")
    alt = f"""Two S-shaped curves over x from -7 to 7. The sigmoid rises from 0 to 1 and is 0.5 at zero; tanh rises from
        -1 to 1 and is 0 at zero. Grey bands mark where they are nearly flat: beyond {2 * FLAT:.1f} on both sides for
        the sigmoid, beyond {FLAT:.1f} for tanh. A short line touches each curve at x = {x:g}. There the sigmoid is
        {s:.3f} with slope {slopes[0]:.3f}, and tanh is {t:.3f} with slope {slopes[1]:.3f}."""
    return figure, alt
