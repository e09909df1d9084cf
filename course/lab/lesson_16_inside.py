"""Lesson 16: which lane of a warp holds what, inside of a block. The picture of the quarters, and a model in NumPy of
the tensor cores' product of two small tiles (`mma.sync.m16n8k16`), with its picture."""

import matplotlib.pyplot as plt
import numpy as np

from lab import figures

GATES = ("i", "f", "g", "o")
LANES = np.arange(32)
ROW, COLUMN = LANES // 4, LANES % 4  # g and t in the kernels: lane = 4 * g + t


def held_of_a(a):
    """What each lane holds of a (16, 16): (32 lanes, 4 words, 2 numbers), since two of 16 bits make a word."""
    words = np.asarray(a).reshape(16, 8, 2)
    return np.stack([words[ROW, COLUMN], words[ROW + 8, COLUMN], words[ROW, COLUMN + 4], words[ROW + 8, COLUMN + 4]], 1)


def held_of_b(b):
    """What each lane holds of b (16, 8): (32 lanes, 2 words, 2 numbers)."""
    words = np.asarray(b).T.reshape(8, 8, 2)
    return np.stack([words[ROW, COLUMN], words[ROW, COLUMN + 4]], 1)


def mma(held_a, held_b):
    """What each lane gets of the product a @ b (16, 8), made of nothing but what the lanes hold: (32 lanes, 4)."""
    a, b = np.empty((16, 8, 2)), np.empty((8, 8, 2))
    for word, (down, right) in enumerate([(0, 0), (8, 0), (0, 4), (8, 4)]):
        a[ROW + down, COLUMN + right] = held_a[:, word]
    for word in range(2):
        b[ROW, COLUMN + 4 * word] = held_b[:, word]
    d = a.reshape(16, 16) @ b.reshape(8, 16).T
    return np.stack([d[ROW, 2 * COLUMN], d[ROW, 2 * COLUMN + 1], d[ROW + 8, 2 * COLUMN], d[ROW + 8, 2 * COLUMN + 1]], 1)


def quarters():
    """The weights of one hidden unit, shared out among four lanes in two ways. A figure, its alt text, and the figure
    for a phone."""
    alt = """Twice the weights of one hidden unit, four rows, one for each of the gates i, f, g and o, and sixteen
    columns, one for each number of h. Each square has the number of the lane that holds it, 0 to 3. On the left lane 0
    has all of row i, lane 1 of row f, lane 2 of row g and lane 3 of row o: each needs all 16 numbers of h. On the right
    lane 0 has the first four columns of all four rows, lane 1 the next four, and so on: each needs 4 numbers of h."""
    return _quarters(1, 2, (8.6, 1.75)), alt, _quarters(2, 1, (4.3, 3.4))


def _quarters(rows, columns, size):
    figure, both = plt.subplots(rows, columns, figsize=size)
    for axes, title, lane_of in (
        (both[0], "a row for each lane", lambda gate, k: gate),
        (both[1], "a quarter of each row", lambda gate, k: k // 4),
    ):
        _numbered(axes, 4, 16, lane_of, lambda gate, k, lane_of=lane_of: lane_of(gate, k) % 2)
        for gate, name in enumerate(GATES):
            axes.text(-0.5, 3.5 - gate, name, ha="center", va="center", style="italic")
        axes.text(8, -0.6, "numbers of h", ha="center", va="center", fontsize=9)
        axes.set(title=title, xlim=(-1, 16.1), ylim=(-1, 4.1))
    return figure


def tiles(marked: int = 13):
    """Which lane gets which sum of the two products that make the gates of 8 units. A figure, its alt text, and the
    figure for a phone."""
    unit, sequence = divmod(marked, 4)
    alt = f"""Two products of 16 rows and 8 columns. The rows of the left one are the input gates of units 0 to 7, i0 to
    i7, and below them their forget gates, f0 to f7; those of the right one the candidates g0 to g7 and the output gates
    o0 to o7. The columns are sequences 0, 0, 1, 1, 2, 2, 3, 3. Each square has the number of the lane that gets this
    sum: a row of lanes 0, 0, 1, 1, 2, 2, 3, 3, the next row 4, 4, 5, 5, and so on, and the same again from row 8 on.
    Dark is lane {marked}: it gets i{unit}, f{unit}, g{unit} and o{unit} of sequence {sequence}, each twice."""
    return _tiles(marked, 1, 2, (6.8, 5.2)), alt, _tiles(marked, 2, 1, (3.2, 10.4))


def _tiles(marked, rows, columns, size):
    figure, both = plt.subplots(rows, columns, figsize=size)
    for axes, above, below in ((both[0], "i", "f"), (both[1], "g", "o")):
        _numbered(axes, 16, 8, _lane_of, lambda row, column: 2 if _lane_of(row, column) == marked else row // 8)
        for row in range(16):
            axes.text(-0.3, 15.5 - row, f"{(above, below)[row // 8]}{row % 8}", ha="right", va="center", fontsize=9)
        for column in range(8):
            axes.text(column + 0.5, 16.5, str(column // 2), ha="center", va="center", fontsize=9)
        axes.text(4, 17.4, "sequence", ha="center", va="center", fontsize=9)
        axes.set(xlim=(-1.3, 8.1), ylim=(-0.1, 18))
    return figure


def _lane_of(row, column):
    return row % 8 * 4 + column // 2


def _numbered(axes, rows, columns, number, shade):
    figures.grid(axes, rows, columns, shade)
    for row in range(rows):
        for column in range(columns):
            x, y = column + 0.5, rows - 0.5 - row
            axes.text(x, y, str(number(row, column)), ha="center", va="center", fontsize=8)
