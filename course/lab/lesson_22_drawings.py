"""The drawings of lesson 22: the choice of a next letter, and text coloured by one cell."""

import matplotlib.pyplot as plt
import numpy as np

from lab import figures

# How a model might go on after "th": made up, so that the picture is the same for everyone.
NEXT = {"e": 4.0, "a": 2.8, "i": 2.5, "o": 2.1, "r": 1.9, "␣": 1.3, "u": 0.6, "x": -1.0}


def task(text):
    """The model unrolled over ``text``, above each letter the one that follows."""
    diagram = figures.strip(text[:-1], above=text[1:], columns=1.3)
    diagram.text(0.55, 2.7, "to be\nguessed", size=9)
    pairs = ", ".join(f"at {one} it is {other}" for one, other in zip(text, text[1:], strict=False))
    alt = f"""An LSTM unrolled over the letters {" ".join(text[:-1])}, one cell for each, with the cell
    state c and the hidden state h going from each cell to the next, from zeros at the start. Above each cell
    stands the letter that it is to guess, which is the next one of the same text: {pairs}."""
    return diagram.figure, alt


def shares(logits, temperature, top_k):
    """Probabilities of the ``top_k`` largest logits at a temperature. Without ties."""
    logits = np.asarray(logits, dtype=float) / temperature
    kept = np.argsort(-logits)[: int(top_k)]
    p = np.zeros_like(logits)
    p[kept] = np.exp(logits[kept] - logits.max())
    return p / p.sum()


def bits(p):
    p = p[p > 0]
    return float(abs(np.sum(p * np.log2(p))))


def choices(temperature, top_k):
    """Bars of the probabilities after "th"."""
    p = shares(list(NEXT.values()), temperature, top_k)
    figure, axes = plt.subplots(figsize=(6, 3))
    bars = axes.bar(list(NEXT), p, color=figures.GREYS[2], edgecolor="black")
    axes.bar_label(bars, [f"{share:.2f}" if share else "–" for share in p], padding=2, fontsize=9)
    axes.set(xlabel='the character after "th"', ylabel="probability", ylim=(0, 1.1))
    title = f"temperature {temperature:.1f}, the {int(top_k)} likeliest: {bits(p):.2f} bits"
    axes.set_title(title)
    told = ", ".join(f"{letter} {share:.2f}" for letter, share in zip(NEXT, p, strict=True))
    alt = f"""Bars: the probability of each of eight characters after th, {title} of entropy.
    {told.replace("␣", "space")}."""
    return figure, alt


def coloured(lines, values, title=""):
    """Lines of text, each character on a grey: dark where its value is high. ``values`` has one for each character, and
    one for each line break. Returns the figure."""
    order = np.argsort(np.argsort(values)) / max(1, len(values) - 1)  # ranks: few extremes cannot wash out the rest
    widest = max(map(len, lines))
    figure, axes = plt.subplots(figsize=(min(10.0, 0.135 * widest + 0.3), 0.27 * len(lines) + 0.4))
    shades, place = np.zeros((len(lines), widest)), 0
    for row, line in enumerate(lines):
        shades[row, : len(line)] = order[place : place + len(line)]
        place += len(line) + 1
        for column, character in enumerate(line):
            if character != " ":
                axes.text(column, row, character, ha="center", va="center", family="monospace", fontsize=10)
    axes.imshow(shades, cmap="Greys", vmin=0, vmax=1.9, aspect="auto")  # never darker than black text can stand
    axes.axis("off")
    axes.set_title(title)
    return figure
