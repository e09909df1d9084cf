"""The drawings of lesson 23: a padded batch, and opinion and memory along a sentence."""

import matplotlib.pyplot as plt
import numpy as np

from lab import figures


def padded_batch(sentences):
    """One row for each sentence, one box for each word; hatched is padding, dark where to read."""
    steps = max(len(sentence) for sentence in sentences)
    sheet = figures.Diagram(1.35 * steps + 0.4, 0.75 * len(sentences) + 0.7)
    top = 0.75 * len(sentences) + 0.3
    for t in range(steps):
        sheet.text(0.9 + 1.35 * t, top, f"t = {t}", size=9)
    for n, sentence in enumerate(sentences):
        for t in range(steps):
            place, y = f"{n} {t}", top - 0.55 - 0.75 * n
            if t >= len(sentence):
                sheet.box(place, 0.9 + 1.35 * t, y, "0", width=1.25, hatch="////", edge=":", round_=False)
            else:
                shade = 3 if t == len(sentence) - 1 else 0
                sheet.box(place, 0.9 + 1.35 * t, y, sentence[t], width=1.25, shade=shade, round_=False)
    return sheet.figure


def along(words, opinions, memory, units):
    """Above the opinion after each word, below the cell states of some units. Returns the figure."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 5), sharex=True, layout="constrained", gridspec_kw={"height_ratios": [1, 1.4]}
    )
    above.axhline(0, color="0.7", linewidth=0.8)
    above.plot(opinions, color="black", marker="o")
    for t, value in enumerate(opinions):
        above.annotate(
            shown(value), (t, value), (0, 8 if value > -1 else -16), textcoords="offset points", ha="center", fontsize=9
        )
    low, high = min(opinions), max(opinions)
    above.set(ylabel="opinion so far", ylim=(low - 0.9, high + 0.6))
    below.imshow(memory.T, cmap="Greys", vmin=-1.3, vmax=1.3, aspect="auto")
    for (t, row), value in np.ndenumerate(memory):
        dark = value > 0.35
        below.text(t, row, shown(value), ha="center", va="center", color="white" if dark else "black")
    below.set_yticks(range(len(units)), [f"unit {unit}" for unit in units])
    below.set_xticks(range(len(words)), words)
    below.tick_params(length=0)
    below.set_ylabel("cell state")
    return figure


def shown(value) -> str:
    """With one digit, and no minus before a zero."""
    return f"{round(float(value), 1) + 0.0:.1f}"
