"""Turns the course's notebooks into what Sphinx reads: one folder of pages, whose links lead only to each other.

- A link to a notebook leads to its page; a link to any other file of the repository leads to a page that shows it.
- The Colab badge, an image from elsewhere, becomes words.
- The lines that fetch the course on Colab go: nothing runs here.
- Formulas in a folded question, which to Markdown is HTML, become MathML.
"""

import html
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from mathml import mathml

COURSE = Path(__file__).resolve().parent.parent
ROOT = COURSE.parent
LEXERS = {".py": "python", ".cu": "cuda", ".cuh": "cuda", ".md": "markdown", ".toml": "toml"}
PARTS = [  # number of the first lesson, name
    (0, "The cell"),
    (9, "Learning"),
    (12, "On the GPU"),
    (17, "More than one layer"),
    (20, "In use"),
    (25, "Taken apart, and carried on"),
]
BADGE = re.compile(r"\[!\[Open this lesson in Colab\]\([^)]*\)\]\(([^)]*)\)")
SOLVED = """\
# The lessons, solved

Each lesson with its solutions in their places, and with what the checks say to them. The search leaves these pages out:
the lessons themselves have the same words.

"""
FILES = """\
# Kernels and other files

The files of gpulstm that the lessons speak of, as they were when this site was built.

"""
FETCH = re.compile(r"\A.*?(?=^from lab import)", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


class Pages:
    """Writes the pages into ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lessons = sorted(COURSE.glob("[0-9][0-9]_*.ipynb"))
        self.solved = sorted((COURSE / "solved").glob("[0-9][0-9]_*.ipynb"))
        self.files: set[Path] = set()  # of the repository, to which a page has linked so far
        self.told: dict[Path, str] = {}  # lesson: its entry in the list of the start page

    def write(self) -> None:
        for path in [*self.lessons, *self.solved, COURSE / "glossary.ipynb"]:
            self.put(path.relative_to(COURSE), nbformat.writes(self.page(path)))
            copy = self.folder / taken(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        for path in self.files:
            self.put(file_page(path), shown(path))
        self.put_lists()

    def put(self, page: Path, text: str) -> None:
        place = self.folder / page
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    # ---- a notebook ----

    def page(self, path: Path) -> nbformat.NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        first = notebook.cells[0]
        if path in self.lessons:
            self.told[path] = entry(path, first.source)
        elif path in self.solved:
            notebook.metadata["nosearch"] = True  # else every word would be found twice
        first.source = with_ways(first.source, path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.markdown(cell.source, path)
                continue
            tags = cell.metadata.setdefault("tags", [])
            if "start" in tags:
                cell.source = FETCH.sub("", cell.source)
            tags += [name for name in ("check", "slider") if cell.source.startswith(f"{name}(")]  # for site.css
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output.data["text/html"] = self.links_in_html(output.data["text/html"], path)
        return notebook

    def markdown(self, text: str, path: Path) -> str:
        """With its links led to pages, and with formulas in summaries; code stays as it is."""

        def led(match) -> str:
            return f"]({self.address(match[1], path)})"

        parts = CODE.split(text)
        for place in range(0, len(parts), 2):  # between them lies code
            parts[place] = self.links_in_html(re.sub(r"\]\(([^)\s]+)\)", led, parts[place]), path)
        return re.sub(r"<summary>.*?</summary>", formulas, "".join(parts), flags=re.DOTALL)

    def links_in_html(self, text: str, path: Path) -> str:
        """HTML passes through Sphinx as it is, so its links name the pages as they will be called in the end."""

        def led(match) -> str:
            target = self.address(html.unescape(match[1]), path)
            if not urlsplit(target).scheme:
                target = re.sub(r"\.(ipynb|md)(?=#|$)", ".html", target)
            return f'href="{html.escape(target)}"'

        return re.sub(r'\bhref="([^"]+)"', led, text)

    def address(self, target: str, path: Path) -> str:
        """Where a link of the notebook ``path`` leads on the site, as seen from that notebook's page."""
        parts = urlsplit(target)
        if parts.scheme or not parts.path:
            return target
        wanted = (path.parent / unquote(parts.path)).resolve()
        if not (wanted.is_file() and wanted.is_relative_to(ROOT)):
            raise ValueError(f"{path.relative_to(ROOT).as_posix()} links to {target}, and there is no such file")
        if wanted.suffix == ".ipynb":
            page = wanted.relative_to(COURSE)
        else:
            self.files.add(wanted)
            page = file_page(wanted)
        here = path.relative_to(COURSE).parent
        return Path(os.path.relpath(page, here)).as_posix() + (f"#{parts.fragment}" if parts.fragment else "")

    # ---- the lists ----

    def put_lists(self) -> None:
        start = (COURSE / "site" / "index.md").read_text(encoding="utf-8")
        start = start.replace("%FIRST%", self.lessons[0].name).replace("%LESSONS%", self.lessons_by_part())
        self.put(Path("index.md"), start)
        self.put(Path("solved/index.md"), SOLVED + toctree(path.stem for path in self.solved))
        files = sorted(file_page(path).relative_to("files").as_posix() for path in self.files)
        self.put(Path("files/index.md"), FILES + toctree(files))

    def lessons_by_part(self) -> str:
        """For each part a list that says what one learns, and a table of contents for the side bar."""
        text = []
        for (first, name), (end, _) in zip(PARTS, [*PARTS[1:], (100, "")], strict=True):
            part = [path for path in self.lessons if first <= int(path.name[:2]) < end]
            if part:
                told = "\n".join(self.told[path] for path in part)
                text.append(f"### {name}\n\n{told}\n\n{toctree((path.stem for path in part), caption=name)}")
        return "\n\n".join(text)


def with_ways(text: str, path: Path) -> str:
    """In the place of the badge: how to get from reading to doing."""

    def ways(match) -> str:
        ways = [
            f"[run this lesson in Colab]({match[1]})",
            f"{{download}}`take the notebook along </{taken(path).as_posix()}>`",
        ]
        if path.parent == COURSE:
            ways.append(f"[see it solved](solved/{path.name})")
        return f"*Read it here, or do it:* {' · '.join(ways)}"

    return BADGE.sub(ways, text)


def entry(path: Path, first: str) -> str:
    """An item of a list: the lesson's title, and the first thing that one can do afterwards."""
    title = re.match(r"# (.+)", first)[1]
    goal = re.search(r"^\*\*Afterwards you can\*\*\s+[-*] (.+?)(?=\n[-*] |\n\n|\Z)", first, re.MULTILINE | re.DOTALL)
    return f"- [{title}]({path.name})" + (f": {' '.join(goal[1].split()).rstrip(';.')}." if goal else "")


def formulas(match) -> str:
    return re.sub(r"\$([^$]+)\$", lambda formula: mathml(html.unescape(formula[1])), match[0])


def taken(path: Path) -> Path:
    """The copy of a notebook that a reader can take along."""
    return Path("taken") / path.relative_to(COURSE)


def file_page(path: Path) -> Path:
    return Path("files") / f"{path.relative_to(ROOT).as_posix()}.md"


def shown(path: Path) -> str:
    """The page of a file: its text, with line numbers."""
    text = path.read_text(encoding="utf-8")
    fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
    name = path.relative_to(ROOT).as_posix()
    return f"# `{name}`\n\n{fence}{{code-block}} {LEXERS.get(path.suffix, 'text')}\n:linenos:\n\n{text}\n{fence}\n"


def toctree(pages, caption: str = "") -> str:
    """A table of contents; with a caption it is for the side bar alone."""
    options = f":caption: {caption}\n:hidden:\n" if caption else ""
    return "```{toctree}\n" + options + "\n" + "\n".join(pages) + "\n```\n"
