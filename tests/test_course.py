"""The lessons: each notebook is what its source says, was executed in order, and is fit to be read and compared.

That the cells still print what the notebooks show is checked by nbval, in the same run of pytest.
"""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

COURSE = Path(__file__).resolve().parent.parent / "course"
SOURCES = sorted((COURSE / "src").glob("*.py"))
NOTEBOOKS = sorted(COURSE.glob("*.ipynb"))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build():
    return load("course_build", COURSE / "build.py")


def test_every_source_has_its_notebook_and_every_notebook_its_source():
    assert SOURCES, "there are no lessons"
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_says_what_its_source_says(source, build):
    expected = build.unexecuted(source)
    found = nbformat.read(COURSE / f"{source.stem}.ipynb", as_version=4)

    def content(cell):
        return cell.cell_type, cell.id, cell.source, cell.metadata.get("tags", [])

    assert [content(cell) for cell in found.cells] == [content(cell) for cell in expected.cells], (
        f"the notebook and its source differ: run python course/build.py {source.stem}"
    )
    assert found.metadata == expected.metadata


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_in_order_without_errors_or_warnings(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tells_nothing_of_the_machine_it_was_made_on(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\|site-packages", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_is_also_said_in_words(path):
    cells = nbformat.read(path, as_version=4).cells
    for cell, after in zip(cells, cells[1:], strict=False):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert after.cell_type == "markdown" and after.source.startswith("*In words:*"), cell.source


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_solution_offered_solves_the_exercise(source, build):
    notebook = build.unexecuted(source)
    (exercise,) = [cell for cell in notebook.cells if cell.cell_type == "code" and "← mend this line" in cell.source]
    folded = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    solution = re.search(r"<summary>A solution</summary>\n\n```python\n(.*?)\n```", folded, re.DOTALL)[1]
    lines = exercise.source.splitlines()
    exercise.source = "\n".join(solution if "← mend this line" in line else line for line in lines)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(COURSE)}}).execute()
    (printed,) = exercise.outputs
    assert printed.text.startswith("Mended"), printed.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_a_laptops_screen(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 96] == []


def test_the_lessons_compute_on_numpy_where_there_is_no_gpu(capsys, monkeypatch):
    backend = load("lab_backend", COURSE / "lab" / "backend.py")
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)  # as if it were not installed
    assert backend.choose().__name__ == "numpy"
    assert "CuPy is not installed" in capsys.readouterr().out
