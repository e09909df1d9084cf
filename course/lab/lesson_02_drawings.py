"""The picture of lesson 02: one step as two lanes."""

from lab.figures import Diagram


def belt_diagram() -> Diagram:
    """The conveyor belt of c above, the lane of h below, and who reads from which."""
    top, middle, low = 3.7, 2.2, 0.8
    diagram = Diagram(9.8, 4.4)
    diagram.box("cell", 5.0, 2.25, "", width=6.6, height=4.0, edge=":")
    ends = {"c": (0.6, top, "c"), "c'": (9.1, top, "new c"), "h": (0.6, low, "h"), "h'": (9.1, low, "new h")}
    for name, (x, y, text) in ends.items():
        diagram.box(name, x, y, text)
    diagram.box("above", 9.1, middle, "layer\nabove", height=0.8, edge="--")

    for name, x, y, text in [("keep", 3.3, top, "×"), ("write", 4.9, top, "+"), ("show", 7.2, low, "×")]:
        diagram.box(name, x, y, text, width=0.45, height=0.45, size=13)
    diagram.box("together", 2.3, low, "h and\nword x", height=0.7)
    diagram.box("f", 3.3, middle, "f", width=0.6, shade=1)
    diagram.box("ig", 4.9, middle, "i · g", width=0.8, shade=1)
    diagram.box("o", 6.0, low, "o", width=0.6, shade=1)
    diagram.box("tanh", 7.2, middle, "tanh")

    for start, end in [("c", "keep"), ("keep", "write"), ("write", "c'")]:
        diagram.arrow(start, end, width=3)
    for start, end in [("f", "keep"), ("ig", "write"), ((7.2, top), "tanh"), ("tanh", "show"), ("o", "show")]:
        diagram.arrow(start, end)
    for start, end in [("h", "together"), ("together", "o"), ("show", "h'"), ("h'", "above")]:
        diagram.arrow(start, end, line="--", width=1.6)
    for name, x in [("f", 3.3), ("ig", 4.9)]:
        diagram.arrow((x, low), name, line="--", width=1.6)
    diagram.text(5.0, 4.05, "cell state: the belt")
    diagram.text(4.2, 0.5, "hidden state: the lane that is seen")
    return diagram
