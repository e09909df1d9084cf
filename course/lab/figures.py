"""Figures that read in grey, and that can also be heard."""

import base64
import html
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.patches import FancyBboxPatch, Rectangle

DPI = 100
LINES = (
    cycler(color=["black", "0.45", "#0072B2", "#D55E00"])
    + cycler(linestyle=["-", "--", "-.", ":"])
    + cycler(linewidth=[1.6, 1.6, 1.4, 2.0])
)
PHONE = "(max-width: 760px)"  # windows as narrow as a phone, in the words of a style sheet
HATCHES = ("", "////", "....", "xxxx")  # for bars and boxes, beside their greys
GREYS = ("white", "0.85", "0.65", "0.4")


def style() -> None:
    """Lines that differ in their dashes as well as in their colour, greys for heat maps. `start` calls it."""
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": LINES,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": DPI,
            "font.size": 10,
            "image.cmap": "Greys",
            "savefig.facecolor": "white",
        }
    )


def show(figure, alt: str, narrow=None) -> None:
    """Shows a figure with a description for those who do not see it, and closes it.

    ``alt`` says in whole sentences what the figure shows: what the axes are, what the eye would notice, and the
    numbers that matter, rounded. ``narrow`` is a second figure that says the same and takes its place on phones.
    """
    display(Picture(figure, alt, narrow))
    plt.close(figure)
    if narrow is not None:
        plt.close(narrow)


class Picture:
    """A figure as an <img> with its alt text. JupyterLab gives its own image outputs no alt text, whatever their
    metadata say, but keeps that of HTML, as do Colab, VS Code, nbconvert and the makers of static sites."""

    def __init__(self, figure, alt: str, narrow=None):
        self.alt = " ".join(alt.split())
        if len(self.alt) < 40:
            raise ValueError(f"alt must say in whole sentences what the figure shows, and is {alt!r}")
        self.html = image_tag(png(figure), self.alt)
        if narrow is not None:  # where <picture> is not known or not trusted, the <img> inside it remains
            source = f'<source media="{PHONE}" srcset="{data_url(png(narrow))}">'
            self.html = f"<picture>{source}{self.html}</picture>"

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def png(figure) -> bytes:
    """The figure as a PNG of 64 colours: a quarter of the bytes, and no difference to the eye."""
    from PIL import Image  # comes with matplotlib

    large, small = io.BytesIO(), io.BytesIO()
    figure.savefig(large, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    image = Image.open(large).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def image_tag(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="{data_url(data)}">'


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


# ---- pictures that many lessons draw ----


def gate_map(values, words, rows=None, *, low=0.0, high=1.0, title="", axes=None):
    """A heat map of ``values`` (rows, words): one column per word, dark is ``high``, with the numbers written into the
    cells if they fit. Returns the axes."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    if axes is None:
        _, axes = plt.subplots(figsize=(1.1 + 0.9 * values.shape[1], 0.9 + 0.42 * values.shape[0]))
    axes.imshow(values, cmap="Greys", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(values.shape[1]), words)
    axes.set_yticks(range(values.shape[0]), rows if rows is not None else range(values.shape[0]))
    axes.tick_params(length=0)
    axes.set_title(title)
    if values.size <= 120:
        for (row, column), value in np.ndenumerate(values):
            dark = (value - low) / (high - low) > 0.55
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    return axes


def say_map(values, words, rows) -> str:
    """The numbers of a `gate_map` in words, for its alt text: "forget gate: John 0.5, likes 0.9; ..."."""
    lines = []
    for name, line in zip(rows, np.atleast_2d(np.asarray(values, dtype=float)), strict=True):
        lines.append(f"{name}: " + ", ".join(f"{word} {value:.2f}" for word, value in zip(words, line, strict=True)))
    return "; ".join(lines) + "."


class Diagram:
    """Boxes and arrows on a sheet of ``width`` times ``height``; the corner below on the left is (0, 0).

    diagram = Diagram(8, 3)
    diagram.box("x", 1, 0.5, "coffee")
    diagram.box("cell", 1, 1.5, "cell", shade=1)
    diagram.arrow("x", "cell")
    figures.show(diagram.figure, alt="...")
    """

    def __init__(self, width: float, height: float, scale: float = 1.0):
        self.figure, self.axes = plt.subplots(figsize=(width * scale, height * scale))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")
        self.boxes: dict[str, tuple[float, float, float, float]] = {}

    def box(self, name, x, y, text=None, *, width=0.9, height=0.5, shade=0, hatch="", round_=True, edge="-", size=10):
        """A box around (x, y). ``shade`` 0 to 3 is its grey, of which 3 has white text."""
        style = "round,pad=0,rounding_size=0.08" if round_ else "square,pad=0"
        corner = (x - width / 2, y - height / 2)
        patch = FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=GREYS[shade], edgecolor="black")
        patch.set(hatch=hatch, linestyle=edge, zorder=2)
        self.axes.add_patch(patch)
        label = name if text is None else text
        self.text(x, y, label, color="white" if shade == 3 else "black", size=size, background=bool(hatch))
        self.boxes[name] = (x, y, width, height)

    def text(self, x, y, text, *, color="black", size=10, background=False):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if background else None
        self.axes.text(x, y, text, ha="center", va="center", color=color, fontsize=size, zorder=4, bbox=box)

    def arrow(self, start, end, label="", *, line="-", bend=0.0, width=1.2, offset=(0.0, 0.12)):
        """From one box to another, each a name or a point (x, y). ``bend`` curves it; ``line`` is a line style."""
        a, b = self.edge_towards(start, end), self.edge_towards(end, start)
        arrow = {
            "arrowstyle": "-|>",
            "linestyle": line,
            "linewidth": width,
            "color": "black",
            "shrinkA": 0,
            "shrinkB": 0,
        }
        arrow["connectionstyle"] = f"arc3,rad={bend}"
        self.axes.annotate("", xy=b, xytext=a, arrowprops=arrow, zorder=3)
        if label:
            aside = 0.5 * bend * (b[1] - a[1]), 0.5 * bend * (a[0] - b[0])  # of the straight line, in the middle
            self.text((a[0] + b[0]) / 2 + aside[0] + offset[0], (a[1] + b[1]) / 2 + aside[1] + offset[1], label, size=9)

    def centre(self, place):
        return self.boxes[place][:2] if isinstance(place, str) else place

    def edge_towards(self, place, other):
        """Where the line from a box's centre to the other place leaves the box."""
        if not isinstance(place, str):
            return place
        (x, y, width, height), (to_x, to_y) = self.boxes[place], self.centre(other)
        dx, dy = to_x - x, to_y - y
        reach = min(width / 2 / abs(dx) if dx else np.inf, height / 2 / abs(dy) if dy else np.inf)
        return (x + dx * reach, y + dy * reach) if np.isfinite(reach) else (x, y)


def strip(words, *, above=None, cell="LSTM", lanes=("c", "h"), start="zeros", columns=1.5):
    """An LSTM unrolled over ``words``: one column for each, the word below, a box for the cell, and between the boxes
    one arrow for each lane. ``above`` is a text over each column. Returns the `Diagram`, whose boxes are called word0,
    cell0, above0, word1 and so on."""
    diagram = Diagram(columns * len(words) + 1.1, 3.2 if above is not None else 2.4)
    diagram.box("start", 0.55, 1.5, start, edge="--")
    for t, word in enumerate(words):
        x = 0.55 + columns * (t + 1)
        diagram.box(f"word{t}", x, 0.4, word, round_=False)
        diagram.box(f"cell{t}", x, 1.5, cell, height=0.8, shade=1)
        diagram.arrow(f"word{t}", f"cell{t}")
        if above is not None:
            diagram.box(f"above{t}", x, 2.7, above[t], edge=":")
            diagram.arrow(f"cell{t}", f"above{t}")
        before = "start" if t == 0 else f"cell{t - 1}"
        left, right = diagram.boxes[before], diagram.boxes[f"cell{t}"]
        for lane, name in enumerate(lanes):
            y = 1.5 + 0.32 * (0.5 * (len(lanes) - 1) - lane)
            ends = (left[0] + left[2] / 2, y), (right[0] - right[2] / 2, y)
            diagram.arrow(*ends, name, line="-" if lane == 0 else "--", offset=(0, 0.11))
    return diagram


def shade_between(axes, start, end, label=""):
    """A grey band over part of an axis, with its name at the top."""
    axes.axvspan(start, end, color="0.9", zorder=0)
    axes.text((start + end) / 2, 0.97, label, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)


def grid(axes, rows, columns, fill=None, *, size=1.0):
    """Squares in rows and columns on ``axes``, for memory, threads and matrices; ``fill(row, column)`` gives each a
    grey from 0 to 3."""
    for row in range(rows):
        for column in range(columns):
            shade = GREYS[fill(row, column)] if fill else "white"
            corner = (column * size, (rows - 1 - row) * size)
            axes.add_patch(Rectangle(corner, size, size, facecolor=shade, edgecolor="black", linewidth=0.8))
    axes.set(xlim=(-0.1, columns * size + 0.1), ylim=(-0.1, rows * size + 0.1), aspect="equal")
    axes.axis("off")
