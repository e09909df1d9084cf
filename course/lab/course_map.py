"""The map of the course: what is solved, begun and still open."""

import html

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.patches import FancyBboxPatch

from lab import figures, lessons, progress

ACROSS = 4
ACROSS_NARROW = 5  # on phones, where there is no room for the titles
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
    figures.show(draw(known, states), say(known, states), narrow=draw_narrow(known, states))
    display(HTML(links(known, checks, states)))


def draw(known, states):
    rows = -(-len(known) // ACROSS)
    figure, axes = plt.subplots(figsize=(10, 0.4 + 0.85 * rows))
    for place, lesson in enumerate(known):
        row, column = divmod(place, ACROSS)
        text = f"{lesson.number}  {folded(lesson.title)}"
        box(axes, (column * 2.5 + 0.08, -row * 0.85 + 0.08), (2.34, 0.66), states[lesson.number], text, size=9)
    axes.set(xlim=(0, 2.5 * ACROSS), ylim=(0.08 - 0.85 * (rows - 1) - 0.08, 0.82))
    axes.set_title("The course: dark is solved, hatched is begun, white is open")
    axes.axis("off")
    return figure


def draw_narrow(known, states):
    """The same, with the lessons' numbers alone."""
    rows = -(-len(known) // ACROSS_NARROW)
    figure, axes = plt.subplots(figsize=(3.2, 0.6 + 0.5 * rows))
    for place, lesson in enumerate(known):
        row, column = divmod(place, ACROSS_NARROW)
        box(axes, (column + 0.06, -row + 0.06), (0.88, 0.88), states[lesson.number], lesson.number, size=12)
    axes.set(xlim=(0, ACROSS_NARROW), ylim=(1 - rows, 1))
    axes.set_title("Dark is solved, hatched is\nbegun, white is open", fontsize=12)
    axes.axis("off")
    return figure


def box(axes, corner, size_of_box, state, text, *, size):
    grey, hatch, ink = LOOKS[state]
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": grey, "edgecolor": "black", "hatch": hatch}
    axes.add_patch(FancyBboxPatch(corner, *size_of_box, **look))
    paper = {"facecolor": grey if ink == "white" else "white", "edgecolor": "none", "pad": 1.5}
    middle = corner[0] + size_of_box[0] / 2, corner[1] + size_of_box[1] / 2
    axes.text(*middle, text, color=ink, ha="center", va="center", fontsize=size, bbox=paper)


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
