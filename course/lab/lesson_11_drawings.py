"""The picture of lesson 11: windows, the state that is carried, and the gradient that is cut."""

from lab.figures import Diagram


def windows(count=3, steps=3):
    """The figure and its alt text."""
    width = count * (steps * 0.8 + 0.7) + 0.9
    diagram = Diagram(width, 3.3)
    for w in range(count):
        left = 0.9 + w * (steps * 0.8 + 0.7)
        centre = left + (steps - 1) * 0.4
        diagram.box(f"frame{w}", centre, 1.65, "", width=steps * 0.8 + 0.1, height=2.0, edge=":")
        diagram.text(centre, 2.95, f"window {w + 1}", size=11)
        for t in range(steps):
            name = f"{w}.{t}"
            diagram.box(name, left + 0.8 * t, 1.65, "", width=0.42, height=0.5, shade=1)
            x, y = left + 0.8 * t, 1.65
            diagram.arrow((x, 0.9), (x, 1.4), width=0.8)
            diagram.arrow((x, 1.9), (x, 2.4), width=0.8)
            if t:
                there_and_back(diagram, x - 0.8, x, y)
        if w:
            start, end = left - 1.29, left - 0.21
            diagram.arrow((start, 1.76), (end, 1.76), width=1.4)
            diagram.text(left - 0.75, 2.08, "state\ncarried", size=8)
            diagram.axes.plot([left - 0.75] * 2, [0.75, 1.66], color="black", linestyle="-", linewidth=2)
            diagram.arrow((left - 0.21, 1.5), (left - 0.68, 1.5), line="--", width=1.8)
            diagram.text(left - 0.75, 0.55, "gradient\ncut", size=8)
    diagram.text(width / 2, 0.2, "time →", size=10)
    alt = f"""{count} windows of {steps} steps each, side by side along time. Within a window a thin arrow
    leads from each step to the next, and below it a thick dashed one back: the gradient. From the
    last step of a window to the first of the next one there is only the thin arrow, marked state
    carried. The dashed arrow there runs against a thick bar marked gradient cut."""
    return diagram.figure, alt


def there_and_back(diagram, a, b, y):
    diagram.arrow((a + 0.21, y + 0.11), (b - 0.21, y + 0.11), width=1.4)
    diagram.arrow((b - 0.21, y - 0.15), (a + 0.21, y - 0.15), line="--", width=1.8)
