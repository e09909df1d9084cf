"""The drawing of lesson 08: sentences of different lengths in one array."""

from lab.figures import Diagram


def batch(sentences):
    """One row for each sentence, one column for each step, padding hatched. Returns a figure and its alt text."""
    steps, rows = max(map(len, sentences)), len(sentences)
    diagram = Diagram(1.9 + 1.15 * steps, 0.75 + 0.7 * rows, scale=1.15)
    for t in range(steps):
        diagram.text(1.75 + 1.15 * t, 0.4 + 0.7 * rows, f"t = {t}")
    for n, words in enumerate(sentences):
        y = 0.4 + 0.7 * (rows - 1 - n)
        diagram.text(0.6, y, f"sentence {n},\nlength {len(words)}", size=9)
        for t in range(steps):
            x = 1.75 + 1.15 * t
            if t < len(words):
                diagram.box(f"{n}-{t}", x, y, words[t], width=1.1, round_=False)
            else:
                diagram.box(f"{n}-{t}", x, y, "zeros", width=1.1, round_=False, hatch="////", edge="--", size=9)
    said = "; ".join(
        f"sentence {n}: {' '.join(words)}{', then zeros' * (len(words) < steps)}" for n, words in enumerate(sentences)
    )
    alt = f"""A table of boxes with one row for each of {rows} sentences and one column for each step, t = 0 to
    {steps - 1}. {said}. The boxes with zeros are hatched and dashed: they are padding, not words."""
    return diagram.figure, alt
