"""The picture of lesson 09: the cell, and the way back through it."""

import numpy as np

from lab.figures import Diagram

AROUND = 0.11  # between the way there and the way back


def cell_and_way_back():
    """The figure and its alt text."""
    diagram = Diagram(10, 5.4)
    for name, x, y, text in [
        ("c", 0.7, 4.6, "c"),
        ("c_next", 9.2, 4.6, "c′"),
        ("h_next", 9.2, 3.2, "h′"),
        ("xh", 0.7, 0.8, "x, h"),
    ]:
        diagram.box(name, x, y, text, shade=1, size=12)
    for name, x, y, text in [
        ("keep", 2.3, 4.6, "×"),
        ("add", 4.4, 4.6, "+"),
        ("write", 4.4, 3.4, "×"),
        ("tanh", 6.4, 3.2, "tanh"),
        ("show", 7.8, 3.2, "×"),
    ]:
        diagram.box(name, x, y, text, width=0.66 if text == "tanh" else 0.44, height=0.44, size=12)
    diagram.box("fork", 6.4, 4.6, "", width=0.1, height=0.1, shade=3)
    for name, x in [("f", 2.3), ("i", 3.6), ("g", 5.2), ("o", 7.8)]:
        diagram.box(name, x, 2.1, f"{'tanh' if name == 'g' else 'σ'}   {name}", width=0.95, shade=2, size=11)
        both_ways(diagram, (x, 1.08), (x, 1.85), f"$da_{name}$")
    diagram.box("a", 5.2, 0.8, "a  =  weight_ih · x  +  weight_hh · h  +  bias", width=6.8, height=0.56, size=11)
    for start, end, label, offset in [
        ("c", "keep", "$dc$", (0, 0.3)),
        ("keep", "add", "", (0, 0)),
        ("add", "fork", "$dc′$", (0, 0.3)),
        ("fork", "c_next", "from the step after", (0.1, 0.3)),
        ("write", "add", "", (0, 0)),
        ("fork", "tanh", "", (0, 0)),
        ("tanh", "show", "", (0, 0)),
        ("show", "h_next", "$dh′$", (0, 0.3)),
        ((1.15, 0.8), (1.8, 0.8), "$dx, dh$", (0, 0.42)),
        ("f", "keep", "$df$", (0.36, 0)),
        ("i", "write", "$di$", (-0.36, 0.05)),
        ("g", "write", "$dg$", (0.36, 0.05)),
        ("o", "show", "$do$", (0.36, 0)),
    ]:
        both_ways(diagram, start, end, label, offset)
    diagram.arrow((0.3, 5.25), (1.2, 5.25), width=0.8)
    diagram.text(2.15, 5.25, "the way there", size=9)
    diagram.arrow((4.5, 5.25), (3.6, 5.25), line="--", width=2)
    diagram.text(6.1, 5.25, "the way back: the gradients", size=9)
    alt = """The cell as boxes and arrows. Above, the lane of the cell state runs from c through a
    times, where it meets the forget gate, and a plus to c′. Below the plus a times joins the
    input gate and the candidate. Behind the plus the lane forks: one branch goes down through
    tanh and a times, where it meets the output gate, to h′. The three gates and the candidate
    stand on a broad box, their weighted sums a, which is fed by x and h. Beside every thin arrow a
    thick dashed one runs the other way. Two of the dashed come in on the right, dh′ and the
    gradient of c′ from the step after; they meet at the fork and make dc′. From there the way back
    goes to dc along the lane, and through the gates, marked df, di, dg and do, down to the weighted
    sums and to dx and dh."""
    return diagram.figure, alt


def both_ways(diagram, start, end, label="", offset=(0.42, 0.0)):
    """A thin arrow there, and beside it a thick dashed one back, with the gradient's name."""
    a, b = (np.array(p) for p in (diagram.edge_towards(start, end), diagram.edge_towards(end, start)))
    along = (b - a) / np.hypot(*(b - a))
    aside = AROUND * np.array([-along[1], along[0]])
    diagram.arrow(tuple(a - aside), tuple(b - aside), width=0.8)
    diagram.arrow(tuple(b + aside), tuple(a + aside), line="--", width=1.8)
    if label:
        diagram.text(*((a + b) / 2 + np.array(offset)), label, size=9 if " " in label else 12)
