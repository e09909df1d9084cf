"""The drawings of lesson 24: a spectrogram with letters, and below it what the network says in each frame."""

import matplotlib.pyplot as plt
import numpy as np

from lab.figures import GREYS
from lab.lesson_24_sound import HOP, RATE, WINDOW


def powers(wave):
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP] * np.hanning(WINDOW)
    return np.log(np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-2)  # (frames, frequencies)


def draw_spectrogram(axes, wave, word, places):
    """Time to the right, frequency upwards, dark is loud; the letters stand above their places."""
    values = powers(wave)
    half = (WINDOW - HOP) / 2  # a frame stands for the middle of its window
    seconds = half / RATE, (half + len(values) * HOP) / RATE
    axes.imshow(
        values.T,
        origin="lower",
        aspect="auto",
        extent=(*seconds, 0, RATE / 2000),
        cmap="Greys",
        interpolation="nearest",
    )
    for letter, (start, end) in zip(word, places, strict=True):
        axes.text((start + end) / 2 / RATE, 4.1, letter, ha="center", va="bottom", fontsize=13, fontweight="bold")
        for edge in (start, end):
            axes.plot([edge / RATE] * 2, [0, RATE / 2000], color="black", linewidth=0.8, linestyle=":")
    axes.set(ylabel="frequency, kHz", xlim=seconds, ylim=(0, RATE / 2000))


def picture(wave, word, places):
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 4.2), sharex=True, gridspec_kw={"height_ratios": [1, 2.6]}, layout="constrained"
    )
    above.plot(np.arange(len(wave)) / RATE, wave, color="black", linewidth=0.5)
    above.set(ylabel="wave", yticks=[])
    draw_spectrogram(below, wave, word, places)
    below.set(xlabel="seconds")
    frames = [round((end - start) / HOP) for start, end in places]
    told = ", ".join(f"{letter} {many}" for letter, many in zip(word, frames, strict=True))
    alt = f"""Above, the wave of the word {word}: swings without visible letters. Below, its spectrogram,
    time to the right, frequency from 0 to 4 kilohertz upwards, dark is loud. Dotted lines bound the letters,
    which stand above: m is one dark stripe at the bottom, s a grey cloud that is darkest at the top, each vowel has
    dark stripes around two frequencies of its own. The letters are about so many frames long: {told}."""
    return figure, alt


def two_frames(blank):
    """The four paths of two frames with these probabilities of the blank, and the two texts that they are read as."""
    paths = {"__": blank**2, "_a": blank * (1 - blank), "a_": blank * (1 - blank), "aa": (1 - blank) ** 2}
    texts = {"nothing": paths["__"], "a": 1 - paths["__"]}
    figure, panels = plt.subplots(
        1, 2, figsize=(7.5, 2.8), sharey=True, gridspec_kw={"width_ratios": [2, 1]}, layout="constrained"
    )
    winners = []
    for axes, what, bars in zip(panels, ("path", "text"), (paths, texts), strict=True):
        winners.append(max(bars, key=lambda name: round(bars[name], 9)))
        shades = [GREYS[2] if name == winners[-1] else "white" for name in bars]
        drawn = axes.bar(list(bars), list(bars.values()), color=shades, edgecolor="black")
        axes.bar_label(drawn, [f"{value:.2f}" for value in bars.values()], fontsize=9)
        axes.set(xlabel=what, ylim=(0, 1), title=f"likeliest {what}: {winners[-1]}")
    panels[0].set_ylabel("probability")
    told = [", ".join(f"{name} {value:.2f}" for name, value in bars.items()) for bars in (paths, texts)]
    alt = f"""Bars for two frames in which the blank has the probability {blank:.2f}. The paths: {told[0]}; the
    likeliest is {winners[0]}. The texts: {told[1]}; the likeliest is {winners[1]}."""
    return figure, alt


def said_by_frame(wave, word, places, p, names):
    """The spectrogram, and under it the network's probabilities (frames, classes) in each frame."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 5), sharex=True, gridspec_kw={"height_ratios": [1.3, 1]}, layout="constrained"
    )
    draw_spectrogram(above, wave, word, places)
    half = (WINDOW - HOP) / 2
    extent = (half / RATE, (half + len(p) * HOP) / RATE, len(names) - 0.5, -0.5)
    below.imshow(p.T, aspect="auto", extent=extent, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    below.set(xlabel="seconds", ylabel="what the network says")
    below.set_yticks(range(len(names)), names)
    for spine in ("top", "right"):
        below.spines[spine].set_visible(True)
    return figure
