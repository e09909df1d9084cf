"""The drawings of lesson 18: two layers, and two directions, unrolled over the words."""

from lab import figures


def layers(words):
    """One LSTM above the other, one column for each word."""
    sheet = figures.Diagram(1.9 * len(words) + 1.1, 3.9)
    for y, text in [(1.5, "layer 0"), (2.5, "layer 1"), (3.5, "output y")]:
        sheet.text(0.7, y, text)
    for t, word in enumerate(words):
        x = 2.4 + 1.9 * t
        sheet.box(f"word{t}", x, 0.5, word, round_=False)
        sheet.box(f"lower{t}", x, 1.5, "LSTM", shade=1)
        sheet.box(f"upper{t}", x, 2.5, "LSTM", shade=2)
        sheet.box(f"y{t}", x, 3.5, f"y[{t}]", edge=":")
        sheet.arrow(f"word{t}", f"lower{t}")
        sheet.arrow(f"lower{t}", f"upper{t}", "h", offset=(0.16, 0))
        sheet.arrow(f"upper{t}", f"y{t}", "h", offset=(0.16, 0))
        if t:
            sheet.arrow(f"lower{t - 1}", f"lower{t}", "c, h")
            sheet.arrow(f"upper{t - 1}", f"upper{t}", "c, h")
    return sheet.figure


def directions(words):
    """One LSTM from the front and one from the end, one column for each word."""
    sheet = figures.Diagram(2.3 * len(words) + 1.8, 3.9)
    for y, text in [(1.5, "forward →"), (2.5, "backward ←"), (3.5, "output y")]:
        sheet.text(0.8, y, text)
    for t, word in enumerate(words):
        x = 2.8 + 2.3 * t
        sheet.box(f"word{t}", x, 0.5, word, round_=False)
        sheet.box(f"forward{t}", x - 0.5, 1.5, "LSTM", width=0.8, shade=1)
        sheet.box(f"backward{t}", x + 0.5, 2.5, "LSTM", width=0.8, shade=2)
        sheet.box(f"y{t}", x, 3.5, f"y[{t}]: both", width=1.2, edge=":")
        sheet.arrow(f"word{t}", f"forward{t}")
        sheet.arrow(f"word{t}", f"backward{t}")
        sheet.arrow(f"forward{t}", f"y{t}")
        sheet.arrow(f"backward{t}", f"y{t}")
        if t:
            sheet.arrow(f"forward{t - 1}", f"forward{t}")
            sheet.arrow(f"backward{t}", f"backward{t - 1}", line="--")
    return sheet.figure
