"""Makes the lessons: each source in course/src becomes the learner's notebook and the solved one, with their outputs.

    python course/build.py                 everything, two at a time
    python course/build.py 03 glossary     these alone

The sources are what people edit and review; the notebooks are what people open. The format of a source is in
course/README.md.
"""

import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

COURSE = Path(__file__).resolve().parent
REPOSITORY = "gpulstm/gpulstm"  # the one place where the project's address on GitHub stands
LESSONS = "[0-9][0-9]_*.py"

# The first code cell of a lesson begins with this. `lab` lies beside the learner's notebooks; where it does not, the
# notebook was opened alone, as Colab does it.
FETCH = f"""\
import os, sys
if not os.path.isdir("lab"):  # opened alone, as on Colab: fetch the course first
    !git clone --quiet --depth 1 https://github.com/{REPOSITORY}
    %cd -q {REPOSITORY.rpartition("/")[2]}/course
    sys.path.insert(0, os.getcwd())
"""
FETCH_SOLVED = FETCH.replace(
    "if not",
    """\
if os.path.isdir("../lab"):
    os.chdir("..")  # this notebook lies in course/solved
elif not""",
)


def sources() -> list[Path]:
    """Of all lessons in order, and then of the glossary."""
    return [*sorted((COURSE / "src").glob(LESSONS)), COURSE / "src" / "glossary.py"]


def forms(source: Path) -> list[bool]:
    """Whether solved: a lesson has both forms, the glossary has nothing to solve."""
    return [False, True] if re.match(r"\d\d_", source.name) else [False]


def notebook_path(source: Path, solved: bool = False) -> Path:
    return COURSE / ("solved" if solved else ".") / f"{source.stem}.ipynb"


def unexecuted(source: Path, solved: bool = False) -> nbformat.NotebookNode:
    """The notebook that a source says, without outputs. The same source always gives the same notebook."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"  # jupytext draws them at random, and every build would differ
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    if source.stem != "glossary":
        first = notebook.cells[0]
        first.source = with_badge(one_folder_up(first.source) if solved else first.source, source, solved)
        notebook.cells = solved_cells(notebook.cells) if solved else learners_cells(notebook.cells)
    return notebook


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def with_badge(text: str, source: Path, solved: bool) -> str:
    """The first cell: the title, and under it the way to Colab; a solved lesson says that it is one."""
    title, _, rest = text.partition("\n")
    path = notebook_path(source, solved).relative_to(COURSE.parent).as_posix()
    badge = (
        "[![Open this lesson in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/{path})"
    )
    if solved:
        title += ": solved"
        badge += f"\n\n*This is the solved form of [the lesson](../{source.stem}.ipynb). Try that one first.*"
    return f"{title}\n\n{badge}\n{rest}"


def learners_cells(cells: list) -> list:
    """With the exercises as they stand, hints, solutions and answers folded away."""
    hints = questions = 0
    for cell in cells:
        if tagged(cell, "start"):
            begin(cell, FETCH)
        elif tagged(cell, "exercise"):
            hints = 0
        elif tagged(cell, "hint"):
            hints += 1
            cell.source = folded({1: "A first hint", 2: "A second hint"}.get(hints, "One more hint"), cell.source)
        elif tagged(cell, "solution"):
            cell.cell_type = "markdown"
            del cell["outputs"], cell["execution_count"]
            cell.source = folded("A solution", f"```python\n{cell.source}\n```")
        elif tagged(cell, "question"):
            questions += 1
            fold_question(cell, questions)
    return cells


def solved_cells(cells: list) -> list:
    """With each exercise's solution in the place of the exercise, and without hints."""
    kept, waiting, questions = [], None, 0
    for cell in cells:
        if tagged(cell, "start"):
            begin(cell, FETCH_SOLVED)
        elif tagged(cell, "exercise"):
            waiting = cell
        elif tagged(cell, "question"):
            questions += 1
            fold_question(cell, questions)
        elif tagged(cell, "solution"):
            if waiting is None:
                raise ValueError(f"{cell.id} is a solution, and no exercise without one stands before it")
            waiting.source, waiting.metadata["tags"], waiting = cell.source, ["solution"], None
        if not (tagged(cell, "hint") or (tagged(cell, "solution") and cell not in kept)):
            kept.append(cell)
    if waiting is not None:
        raise ValueError(f"{waiting.id} is an exercise without a solution")
    for cell in kept:
        if cell.cell_type == "markdown" and cell is not kept[0]:
            cell.source = one_folder_up(cell.source)
    return kept


def begin(cell, fetch: str) -> None:
    cell.source = fetch + cell.source
    cell.metadata["tags"] = ["start", "nbval-ignore-output"]  # it names the reader's GPU


def folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text.strip()}\n\n</details>"


def fold_question(cell, number: int) -> None:
    """The first paragraph is the question, the rest its answer. A summary is HTML, so its Markdown is put into tags."""
    question, _, answer = cell.source.partition("\n\n")
    question = " ".join(question.split())
    question = question.replace("&", "&amp;").replace("<", "&lt;")
    question = re.sub(r"`([^`]+)`", r"<code>\1</code>", question)
    question = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", question)
    question = re.sub(r"\*([^*]+)\*", r"<i>\1</i>", question)
    cell.source = folded(f"{number}. {question}", answer)


def one_folder_up(text: str) -> str:
    """A solved lesson lies in a folder of its own, beside the other solved lessons; everything else is one up."""
    return re.sub(r"\]\((?![a-z]+:|#|\d\d_\w+\.ipynb)([^)]+)\)", r"](../\1)", text)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Runs a notebook from nothing: with a progress file of its own, and figures instead of sliders."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "GPULSTM_COURSE_PROGRESS": str(Path(scratch) / "progress.json"),
            "GPULSTM_COURSE_STATIC": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else a warning lands in the first output
            **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),  # as in the tests
        }
        client = NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(folder)}}, record_timing=False
        )
        client.coalesce_streams = True  # a busy machine sends what a cell prints in several pieces
        client.extra_arguments = ["--IPKernelApp.log_level=ERROR"]  # it warns of its own connection, each time
        client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}  # without the version of whoever ran it
    notebook.metadata.pop("widgets", None)
    nbformat.validate(notebook)
    return notebook


def build(source: Path) -> None:
    for solved in forms(source):
        path = notebook_path(source, solved)
        start = time.perf_counter()
        path.parent.mkdir(exist_ok=True)
        notebook = execute(unexecuted(source, solved), path.parent)
        nbformat.write(notebook, path)
        print(f"{path.relative_to(COURSE)}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    chosen = [path for path in sources() if not wanted or path.stem in wanted or path.stem[:2] in wanted]
    if not chosen:
        sys.exit(f"no source in course/src is called {' or '.join(wanted)}")
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(build, chosen))
