"""The map of the course: what is solved, begun and still open."""

import html

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.patches import FancyBboxPatch

from lab import figures, lessons, progress

ACROSS = 4
LOOKS = {  # state: grey of the box, hatch, colour of the text
    "solved": ("0.3", "", "white"),
    "begun": ("white", "////", "black"),
    "open": ("white", "", "black"),
}


def state(lesson: lessons.Lesson, checks: dict[str, str]) -> str:
    """A lesson is solved when all its checks are, and begun when one of them was tried."""
    states = [checks.get(name) for name in lesson.checks]
    if states and all(one == "solved" for one in states):
        return "solved"
    return "begun" if any(states) else "open"


def show() -> None:
    """Draws the map from the progress file, and under it the way to each lesson."""
    known, checks = lessons.all_lessons(), progress.read()
    states = {lesson.number: state(lesson, checks) for lesson in known}
    figures.show(draw(known, states), say(known, states))
    display(HTML(links(known, checks, states)))


def draw(known, states):
    rows = -(-len(known) // ACROSS)
    figure, axes = plt.subplots(figsize=(10, 0.4 + 0.85 * rows))
    for place, lesson in enumerate(known):
        row, column = divmod(place, ACROSS)
        grey, hatch, ink = LOOKS[states[lesson.number]]
        corner = (column * 2.5 + 0.08, -row * 0.85 + 0.08)
        box = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": grey, "edgecolor": "black", "hatch": hatch}
        axes.add_patch(FancyBboxPatch(corner, 2.34, 0.66, **box))
        paper = {"facecolor": grey if ink == "white" else "white", "edgecolor": "none", "pad": 1.5}
        text = f"{lesson.number}  {folded(lesson.title)}"
        axes.text(corner[0] + 1.17, corner[1] + 0.33, text, color=ink, ha="center", va="center", fontsize=9, bbox=paper)
    axes.set(xlim=(0, 2.5 * ACROSS), ylim=(0.08 - 0.85 * (rows - 1) - 0.08, 0.82))
    axes.set_title("The course: dark is solved, hatched is begun, white is open")
    axes.axis("off")
    return figure


def folded(title: str, longest: int = 24) -> str:
    """In at most two lines."""
    lines = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + len(word) >= longest and len(lines) < 2:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def say(known, states) -> str:
    counts = {name: [lesson for lesson in known if states[lesson.number] == name] for name in LOOKS}
    text = f"Map of the course, one box for each lesson, {len(known)} in all. "
    for name in ("solved", "begun"):
        numbers = ", ".join(lesson.number for lesson in counts[name]) or "none"
        text += f"{name.capitalize()}: {numbers}. "
    return text + f"Still open: {len(counts['open'])}. Their titles are in the list below."


def links(known, checks, states) -> str:
    items = []
    for lesson in known:
        done = sum(checks.get(name) == "solved" for name in lesson.checks)
        status = f"{states[lesson.number]}, {done} of {len(lesson.checks)} checks solved"
        title = html.escape(lesson.title)
        items.append(f'<li><a href="{lesson.file}">{lesson.number} · {title}</a>: {status}</li>')
    return "<ul>" + "".join(items) + "</ul>"
