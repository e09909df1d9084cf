"""The lessons: each notebook is what its source says, was executed in order, and is fit to be read and compared.

That the cells still print what the notebooks show is checked by nbval, in the same run of pytest. The checks of the
exercises are tested in test_course_checks.py, text and links in test_course_text.py.
"""

import re

import nbformat
import pytest

from tests.course_files import BUILD, COURSE, FORMS, LESSONS, figure_tags, images, printed, read

FORM_IDS = [f"{source.stem}{'-solved' if solved else ''}" for source, solved in FORMS]
every_form = pytest.mark.parametrize(("source", "solved"), FORMS, ids=FORM_IDS)
every_lesson = pytest.mark.parametrize("source", LESSONS, ids=lambda path: path.stem)


def test_every_source_has_its_notebooks_and_every_notebook_its_source():
    assert LESSONS, "there are no lessons"
    wanted = sorted(BUILD.notebook_path(source, solved) for source, solved in FORMS)
    found = [*COURSE.glob("*.ipynb"), *COURSE.glob("[!.]*/*.ipynb")]  # JupyterLab keeps copies in .ipynb_checkpoints
    assert sorted(found) == [path.resolve() for path in wanted]


def test_each_lesson_has_a_number_of_its_own():
    numbers = [source.stem[:2] for source in LESSONS]
    assert len(set(numbers)) == len(numbers)


@every_form
def test_a_notebook_says_what_its_source_says(source, solved):
    expected, found = BUILD.unexecuted(source, solved), read(source, solved)

    def content(cell):
        return cell.cell_type, cell.id, cell.source, cell.metadata.get("tags", [])

    assert [content(cell) for cell in found.cells] == [content(cell) for cell in expected.cells], (
        f"the notebook and its source differ: run python course/build.py {source.stem}"
    )
    assert found.metadata == expected.metadata


@every_form
def test_a_notebook_was_executed_in_order_without_errors_or_warnings(source, solved):
    cells = [cell for cell in read(source, solved).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text


@every_form
def test_a_notebook_tells_nothing_of_the_machine_it_was_made_on(source, solved):
    text = re.sub(r"base64,[^\\\"]*", "", BUILD.notebook_path(source, solved).read_text(encoding="utf-8"))
    found = re.search(r"/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\|site-packages| object at 0x", text)
    assert not found, found


@every_form
def test_every_figure_has_a_description(source, solved):
    for cell in read(source, solved).cells:
        if cell.cell_type == "code":
            assert not images(cell), f"this cell shows a figure without figures.show(figure, alt=...):\n{cell.source}"
            for tag in figure_tags(cell):
                assert re.search(r'alt="[^"]{40,}"', tag), cell.source
        else:
            assert not re.search(r"!\[\s*\]", cell.source), "an image in Markdown has no alt text"


@every_form
def test_code_fits_a_laptops_screen(source, solved):
    code = [cell.source for cell in read(source, solved).cells if cell.cell_type == "code"]
    folded = [cell.source for cell in read(source).cells if "solution" in cell.metadata.get("tags", [])]
    lines = [line for text in code + folded for line in text.splitlines()]
    assert [line for line in lines if len(line) > 96] == []


@every_lesson
def test_a_lesson_has_all_its_parts_in_order(source):
    cells = nbformat.from_dict(read(source)).cells
    assert re.match(rf"# {source.stem[:2]} · \S", cells[0].source)
    assert re.search(r"\*\*Afterwards you can\*\*\n- ", cells[0].source), "the goals are missing from the first cell"
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^## (.+)$", outside, re.MULTILINE)
    parts = ["The picture", "Predict first", "Your turn", "Three questions", "In short", "What next"]
    places = [next((i for i, h in enumerate(headings) if re.match(rf"{part}\b", h)), None) for part in parts]
    assert None not in places, f"missing: {[part for part, place in zip(parts, places, strict=True) if place is None]}"
    assert places == sorted(places), headings
    first_code = next(cell for cell in cells if cell.cell_type == "code")
    assert "start" in first_code.metadata.tags
    assert sum("question" in cell.metadata.get("tags", []) for cell in cells) == 3
    short = outside.split("## In short")[1].split("## What next")[0]
    assert len(set(re.findall(r"\(glossary\.ipynb#([\w-]+)\)", short))) >= 2, "In short links the glossary twice"


@every_lesson
def test_an_exercise_is_followed_by_its_check_two_hints_and_a_solution(source):
    roles = [role(cell) for cell in read(source).cells]
    runs = [roles[i : i + 5] for i, one in enumerate(roles) if one == "exercise"]
    assert runs, "there is no exercise"
    assert all(run == ["exercise", "check", "hint", "hint", "solution"] for run in runs), runs
    assert [roles.count(one) for one in ("hint", "solution")] == [2 * len(runs), len(runs)]


def role(cell) -> str:
    tags = set(cell.metadata.get("tags", [])) & {"exercise", "hint", "solution"}
    if tags:
        return tags.pop()
    return "check" if cell.cell_type == "code" and re.search(r"^check\(", cell.source, re.MULTILINE) else cell.cell_type


@every_lesson
def test_the_exercises_are_unsolved_in_one_form_and_solved_in_the_other(source):
    for solved, end in [(False, "Not yet"), (True, "Solved.")]:
        checks = [cell for cell in read(source, solved).cells if role(cell) == "check"]
        assert checks, "there is no check"
        for cell in checks:
            calls = len(re.findall(r"^check\(", cell.source, re.MULTILINE))
            ends = re.findall(r"^(Not yet|Solved\.)", printed(cell), re.MULTILINE)
            assert ends == [end] * calls, f"{cell.source}\n{printed(cell)}"


def test_a_solution_needs_an_exercise_and_an_exercise_a_solution():
    def cell(tag):
        return nbformat.v4.new_code_cell(tag, metadata={"tags": [tag]})

    with pytest.raises(ValueError, match="no exercise"):
        BUILD.solved_cells([cell("solution")])
    with pytest.raises(ValueError, match="without a solution"):
        BUILD.solved_cells([cell("exercise")])


def test_links_of_a_solved_lesson_go_up_one_folder_except_to_other_lessons():
    text = "[a](04_x.ipynb) [b](glossary.ipynb#x) [c](../kernels/x.cu) [d](https://a.b/c) [e](#here)"
    assert BUILD.one_folder_up(text) == (
        "[a](04_x.ipynb) [b](../glossary.ipynb#x) [c](../../kernels/x.cu) [d](https://a.b/c) [e](#here)"
    )
