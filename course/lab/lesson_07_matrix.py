"""The drawing of lesson 07: the weighted sums of a cell as one block matrix on [h, x], and as two matrices."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from lab.figures import GREYS, HATCHES

NAMES = ("input gate", "forget gate", "candidate", "output gate")
SIDE = 0.42  # of one number


def blocks(axes, left, top, columns, hidden):
    """4*hidden rows, ``columns`` wide; each gate's rows have a grey and a hatch of their own."""
    for gate in range(4):
        for row in range(hidden):
            for column in range(columns):
                corner = (left + column * SIDE, top - (gate * hidden + row + 1) * SIDE)
                axes.add_patch(
                    Rectangle(
                        corner,
                        SIDE,
                        SIDE,
                        facecolor=GREYS[gate],
                        hatch=HATCHES[gate],
                        edgecolor="0.35" if gate < 3 else "0.2",
                        linewidth=0.5,
                    )
                )
        corner = (left, top - (gate + 1) * hidden * SIDE)
        size = (columns * SIDE, hidden * SIDE)
        axes.add_patch(Rectangle(corner, *size, facecolor="none", edgecolor="black", linewidth=1.6))


def vector(axes, left, middle, length, name, dashed=False):
    top = middle + length * SIDE / 2
    for row in range(length):
        corner = (left, top - (row + 1) * SIDE)
        axes.add_patch(
            Rectangle(corner, SIDE, SIDE, facecolor="white", edgecolor="black", linestyle=":" if dashed else "-")
        )
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(left + SIDE / 2, middle, name, ha="center", va="center", fontsize=11, fontweight="bold", bbox=box)


def whole_cell(inputs=3, hidden=2):
    """Both ways of writing the weighted sums. Returns a figure and its alt text."""
    figure, axes = plt.subplots(figsize=(9.6, 4.4))
    axes.set(xlim=(0.3, 10.9), ylim=(0.85, 5.7), aspect="equal")
    axes.axis("off")
    top = 4.7
    middle, below = top - 2 * hidden * SIDE, top - 4 * hidden * SIDE - 0.3

    def say(x, y, text, size=10, **more):
        axes.text(x, y, text, ha="center", va="center", fontsize=size, **more)

    for gate, name in enumerate(NAMES):
        axes.text(1.6, top - (gate + 0.5) * hidden * SIDE, name, ha="right", va="center")
    # one matrix
    left = 1.75
    blocks(axes, left, top, hidden + inputs, hidden)
    line = left + hidden * SIDE
    axes.plot([line, line], [top + 0.15, top - 4 * hidden * SIDE], color="black", linestyle="-", linewidth=1.6)
    say(left + (hidden + inputs) * SIDE / 2, below, f"W: {4 * hidden} × {hidden + inputs}")
    say(left + 1.35, 5.4, "one matrix on [h, x]", 11, fontweight="bold")
    x = left + (hidden + inputs) * SIDE + 0.3
    vector(axes, x, middle + inputs * SIDE / 2, hidden, "h")
    vector(axes, x, middle - hidden * SIDE / 2, inputs, "x", dashed=True)
    say(x + 0.7, middle, "=", 14)
    # two matrices
    x = left = x + 1.0
    blocks(axes, x, top, hidden, hidden)
    say(x + hidden * SIDE / 2, below, f"weight_hh: {4 * hidden} × {hidden}")
    x += hidden * SIDE + 0.2
    vector(axes, x, middle, hidden, "h")
    say(x + 0.75, middle, "+", 14)
    x += 1.1
    blocks(axes, x, top, inputs, hidden)
    say(x + inputs * SIDE / 2, below, f"weight_ih: {4 * hidden} × {inputs}")
    x += inputs * SIDE + 0.2
    vector(axes, x, middle, inputs, "x", dashed=True)
    say((left + x + SIDE) / 2, 5.4, "two matrices", 11, fontweight="bold")
    # the bias belongs to both
    say(x + 0.75, middle, "+", 14)
    x += 1.1
    blocks(axes, x, top, 1, hidden)
    say(x + SIDE / 2, below, f"bias: {4 * hidden}")
    say(x + SIDE / 2, 5.4, "and for both", 11, fontweight="bold")
    alt = f"""The weighted sums of a cell with {hidden} units and {inputs} features, drawn twice. On the left one matrix
    W of {4 * hidden} rows and {hidden + inputs} columns stands before one column, in which h lies on top of x. Its
    rows form four blocks with a pattern each, from top to bottom: input gate, forget gate, candidate, output gate. A
    line parts its first {hidden} columns from its last {inputs}. After an equals sign, these two parts stand apart:
    weight_hh with {hidden} columns before h, plus weight_ih with {inputs} columns before x, with the same four
    blocks. At the far right, for both ways, the bias: one column of {4 * hidden} numbers in four blocks."""
    return figure, alt
