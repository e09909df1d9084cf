"""Makes the lessons: executes each source in course/src and writes it, with its outputs, as a notebook.

    python course/build.py                  all lessons
    python course/build.py 00_first_forecast

The sources are what people edit and review; the notebooks are what people open.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

COURSE = Path(__file__).resolve().parent


def unexecuted(source: Path) -> nbformat.NotebookNode:
    """The notebook that a source says, without outputs. The same source always gives the same notebook."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"  # jupytext draws them at random, and every build would differ
    return notebook


def build(source: Path) -> None:
    notebook = unexecuted(source)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": COURSE}}, record_timing=False).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of whoever ran it
    nbformat.validate(notebook)
    nbformat.write(notebook, COURSE / f"{source.stem}.ipynb")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else a warning lands in the first output
    for path in sorted((COURSE / "src").glob("*.py")):
        if not wanted or path.stem in wanted:
            print("building", path.stem, flush=True)
            build(path)
