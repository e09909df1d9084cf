"""Which lessons there are, read off the sources in course/src; and, in lesson_NN.py, the checks of each."""

import re
from dataclasses import dataclass
from pathlib import Path

COURSE = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Lesson:
    number: str  # two digits
    file: str  # the notebook's name
    title: str
    checks: tuple[str, ...]  # the names of its exercises, in order


def all_lessons(folder: Path | None = None) -> list[Lesson]:
    """Those that are written, in order."""
    return [read(path) for path in sorted((folder or COURSE / "src").glob("[0-9][0-9]_*.py"))]


def read(source: Path) -> Lesson:
    text = source.read_text(encoding="utf-8")
    heading = re.search(r"^# # \d\d · (.+)$", text, re.MULTILINE)
    if not heading:
        raise ValueError(f"{source.name} has no first heading of the form '# {source.name[:2]} · Title'")
    checks = dict.fromkeys(re.findall(r'^check\(\s*"(\d\d\.[\w-]+)"', text, re.MULTILINE))  # in order, each once
    return Lesson(source.name[:2], f"{source.stem}.ipynb", heading[1].strip(), tuple(checks))
