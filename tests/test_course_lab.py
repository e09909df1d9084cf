"""What the lessons share: progress, the map, figures, sliders, the first cell, and how the notebooks are made."""

import json
import os
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace

import nbformat
import numpy as np
import pytest

from tests.course_files import BUILD, COURSE

pytest.importorskip("matplotlib").use("agg")
import matplotlib.pyplot as plt  # noqa: E402

from lab import backend, course_map, figures, lessons, progress, sliding, starting  # isort: skip  # noqa: E402

ALT = "A line that rises from the lower left to the upper right."


@pytest.fixture(autouse=True)
def progress_file(monkeypatch, tmp_path):
    monkeypatch.setenv("GPULSTM_COURSE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed."""
    outputs = []
    for module in (figures, sliding, course_map):
        monkeypatch.setattr(module, "display", outputs.append)
    yield outputs
    plt.close("all")


def line():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1])
    return figure


# ---- progress ----


def test_solved_once_is_solved(progress_file):
    assert progress.read() == {}
    assert progress.record("03.a", False) == "" and progress.read() == {"03.a": "tried"}
    assert progress.record("03.a", True) == "" and progress.read() == {"03.a": "solved"}
    assert progress.record("03.a", False) == "" and progress.read() == {"03.a": "solved"}
    assert json.loads(progress_file.read_text()) == {"checks": {"03.a": "solved"}}


def test_only_the_progress_file_is_left_behind(progress_file):
    progress.record("03.a", True)
    assert list(progress_file.parent.iterdir()) == [progress_file]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"checks": 3}',
        '{"checks": []}',
        '{"checks": {"a": 1, "b": "x"}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_file_is_read_as_far_as_it_goes_and_mended(progress_file, text):
    progress_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert progress.read() == {}
    assert progress.record("03.a", True) == "" and progress.read() == {"03.a": "solved"}


def test_what_is_whole_in_a_damaged_file_is_kept(progress_file):
    progress_file.write_text('{"checks": {"01.a": "solved", "01.b": 7}, "more": null}')
    progress.record("03.a", False)
    assert progress.read() == {"01.a": "solved", "03.a": "tried"}


def test_notebooks_that_write_at_the_same_time_lose_nothing():
    def solve(lesson):
        for check in range(10):
            assert progress.record(f"{lesson:02}.{check}", True) == ""

    threads = [threading.Thread(target=solve, args=(lesson,)) for lesson in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress.read()) == 40


def test_a_lock_left_behind_by_a_killed_kernel_is_taken_over(progress_file, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    progress_file.with_name(progress_file.name + ".lock").touch()
    assert progress.record("03.a", True) == "" and progress.read() == {"03.a": "solved"}


def test_a_file_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("GPULSTM_COURSE_PROGRESS", str(tmp_path / "gone" / "progress.json"))
    assert "could not be written down" in progress.record("03.a", True)


def test_without_the_variable_it_lies_in_the_course(monkeypatch):
    monkeypatch.delenv("GPULSTM_COURSE_PROGRESS")
    assert progress.path() == COURSE / ".progress.json"


# ---- the list of lessons and the map ----


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Three lessons."""
    folder = tmp_path / "src"
    folder.mkdir()
    for number, checks in [("00", ["00.a"]), ("01", ["01.a", "01.b"]), ("02", ["02.a"])]:
        lines = [f'check("{checks[0]}", x)', *(f'check(\n    "{name}",\n)' for name in checks)]
        text = f"# %% [markdown]\n# # {number} · Lesson & {number}\n\n# %%\n" + "\n".join(lines)
        (folder / f"{number}_word.py").write_text(text, encoding="utf-8")
    known = lessons.all_lessons(folder)
    monkeypatch.setattr(lessons, "all_lessons", lambda: known)
    return known


def test_lessons_are_read_off_their_sources(written, tmp_path):
    assert written[1] == lessons.Lesson("01", "01_word.ipynb", "Lesson & 01", ("01.a", "01.b"))
    (tmp_path / "src" / "03_word.py").write_text("# # Three\n", encoding="utf-8")
    with pytest.raises(ValueError, match="03_word.py has no first heading"):
        lessons.read(tmp_path / "src" / "03_word.py")


def test_the_map_tells_solved_begun_and_open_apart(written, shown):
    progress.record("00.a", True)
    progress.record("01.a", True)
    assert [course_map.state(one, progress.read()) for one in written] == ["solved", "begun", "open"]
    course_map.show()
    picture, list_of_links = shown
    assert "Solved: 00. Begun: 01. Still open: 1." in picture.alt
    assert '<a href="01_word.ipynb">01 · Lesson &amp; 01</a>: begun, 1 of 2 checks solved' in list_of_links.data


def test_the_map_draws_a_box_for_each_lesson_in_the_look_of_its_state(written):
    states = {"00": "solved", "01": "begun", "02": "open"}
    axes = course_map.draw(written, states).axes[0]
    looks = [(patch.get_facecolor()[0], patch.get_hatch() or "") for patch in axes.patches]
    assert [(round(grey, 1), hatch) for grey, hatch in looks] == [(0.3, ""), (1.0, "////"), (1.0, "")]
    assert [text.get_text()[:2] for text in axes.texts] == ["00", "01", "02"]
    plt.close("all")


# ---- figures ----


def test_a_figure_carries_its_description(shown):
    figures.show(line(), alt=f'{ALT}\n    It is "straight".')
    (picture,) = shown
    assert 'alt="A line that rises from the lower left to the upper right. It is &quot;straight&quot;."' in picture.html
    assert picture.html.startswith("<img ") and 'src="data:image/png;base64,' in picture.html
    assert repr(picture) == f'Figure: {ALT} It is "straight".'
    assert plt.get_fignums() == [], "a figure that is left open is shown a second time"


@pytest.mark.parametrize("alt", ["", "A plot.", " " * 50])
def test_a_figure_without_a_description_is_refused(alt, shown):
    with pytest.raises(ValueError, match="whole sentences"):
        figures.show(line(), alt=alt)


def test_jupyter_shows_the_description_after_nbconvert():
    nbconvert = pytest.importorskip("nbconvert")
    data = {"text/html": figures.Picture(line(), ALT).html, "text/plain": "Figure"}
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", data)])
    page, _ = nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert f'<img alt="{ALT}"' in page
    plt.close("all")


def test_lines_differ_without_colour():
    figures.style()
    dashes = [entry["linestyle"] for entry in plt.rcParams["axes.prop_cycle"]]
    assert len(set(dashes)) == len(dashes) == 4
    assert plt.rcParams["image.cmap"] == "Greys"


def test_a_gate_map_shows_and_says_its_numbers():
    values = np.array([[0.0, 1.0], [0.25, 0.5]])
    axes = figures.gate_map(values, ["John", "likes"], ["forget", "input"])
    assert [text.get_text() for text in axes.texts] == ["0.00", "1.00", "0.25", "0.50"]
    assert [text.get_color() for text in axes.texts] == ["black", "white", "black", "black"]
    assert figures.say_map(values, ["John", "likes"], ["forget", "input"]) == (
        "forget: John 0.00, likes 1.00; input: John 0.25, likes 0.50."
    )
    plt.close("all")


def test_arrows_leave_and_reach_boxes_at_their_edges():
    diagram = figures.Diagram(4, 2)
    diagram.box("a", 1, 1, width=1.0, height=0.5)
    diagram.box("b", 3, 1, width=1.0, height=0.5)
    diagram.arrow("a", "b", "c")
    assert diagram.edge_towards("a", "b") == (1.5, 1.0) and diagram.edge_towards("b", "a") == (2.5, 1.0)
    assert diagram.edge_towards("a", (1, 2)) == (1.0, 1.25)
    assert diagram.edge_towards((0, 0), "a") == (0, 0)
    diagram.arrow("a", "b", "above", bend=-0.5)
    straight, bent = [text for text in diagram.axes.texts if text.get_text() in ("c", "above")]
    assert bent.get_position()[1] == pytest.approx(straight.get_position()[1] + 0.25)
    plt.close("all")


def test_a_strip_has_a_column_for_each_word():
    diagram = figures.strip(["John", "likes"], above=["h1", "h2"])
    assert set(diagram.boxes) == {"start", "word0", "cell0", "above0", "word1", "cell1", "above1"}
    assert [diagram.boxes[f"word{t}"][0] for t in range(2)] == [2.05, 3.55]
    figures.grid(diagram.axes, 2, 3, lambda row, column: row)
    plt.close("all")


# ---- sliders ----


def draw(keep, steps):
    return line(), f"{ALT} Kept: {keep:.2f} over {steps} steps."


RANGES = {"keep": (0.0, 1.0, 0.1, 0.5), "steps": (1, 9, 2, 3)}


def test_a_slider_is_a_figure_where_nobody_can_move_it(shown, monkeypatch):
    monkeypatch.setenv("GPULSTM_COURSE_STATIC", "1")
    sliding.slider(draw, **RANGES)
    assert [one.alt for one in shown] == [f"{ALT} Kept: 0.50 over 3 steps."]


def test_a_slider_is_a_figure_without_ipywidgets(shown, monkeypatch):
    monkeypatch.delenv("GPULSTM_COURSE_STATIC", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    sliding.slider(draw, **RANGES)
    assert isinstance(shown[0], figures.Picture)


def test_moving_a_slider_draws_the_figure_again(shown, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.delenv("GPULSTM_COURSE_STATIC", raising=False)
    sliding.slider(draw, **RANGES)
    keep, steps, picture = shown[0].children
    assert "Kept: 0.50 over 3 steps." in picture.value and steps.step == 2
    keep.value = 0.9
    assert "Kept: 0.90 over 3 steps." in picture.value
    assert plt.get_fignums() == []


# ---- the first cell ----


def test_start_says_what_it_found_and_returns_the_array_library(capsys):
    xp = starting.start("json")
    assert capsys.readouterr().out.startswith("Everything is here: gpulstm, matplotlib, json.\nRuns on ")
    assert xp.__name__ in ("numpy", "cupy")


@pytest.mark.parametrize("works", [True, False])
def test_start_installs_what_is_missing(capsys, monkeypatch, works):
    asked = []
    monkeypatch.setattr(starting, "install", lambda packages: asked.append(packages) or works)
    starting.start("not_a_module", "json")
    out = capsys.readouterr().out
    assert asked == [["not_a_module"]] and "Installing not_a_module ..." in out
    assert ("In a terminal, try: pip install not_a_module" in out) != works


def test_a_folder_of_the_same_name_is_no_installed_package(capsys, monkeypatch, tmp_path):
    (tmp_path / "a_clone").mkdir()  # as on Colab, where the clone lies on the path
    monkeypatch.syspath_prepend(tmp_path)
    asked = []
    monkeypatch.setattr(starting, "install", lambda packages: asked.append(packages) or True)
    starting.start("a_clone")
    assert asked == [["a_clone"]]


def test_lab_touches_no_numpy_before_start_has_run():
    code = "import sys, lab; from lab import start; print(sorted({'numpy', 'matplotlib'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(COURSE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_lab_does_not_have_is_answered_with_what_it_has():
    with pytest.raises(ImportError):
        from lab import nothing  # noqa: F401
    with pytest.raises(AttributeError, match="lab has no 'nothing'; it has check, start, slider"):
        __import__("lab").nothing  # noqa: B018


def test_the_lessons_compute_on_numpy_where_there_is_no_gpu(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    assert backend.choose().__name__ == "numpy"
    assert "CuPy is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("driver", [False, True])
def test_the_lessons_import_cupy_only_where_there_is_a_driver(driver, tmp_path):
    """It takes half a second. This one finds no GPU."""
    (tmp_path / "cupy.py").write_text(
        "from types import SimpleNamespace as Of\n"
        "class Missing(Exception): pass\n"
        "def properties(device): raise Missing\n"
        "cuda = Of(runtime=Of(getDeviceProperties=properties, CUDARuntimeError=Missing))\n"
    )
    code = f"import sys; from lab import backend; backend._has_driver = lambda: {driver}; "
    code += "assert backend.choose().__name__ == 'numpy'; print('cupy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(COURSE)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    said, imported = done.stdout.splitlines()
    assert said.startswith("Runs on NumPy, on the processor: CuPy is installed, but finds no GPU.")
    assert imported == str(driver)


def test_a_cupy_that_cannot_compile_is_left_aside_and_the_lesson_says_what_brings_the_compiler(capsys, monkeypatch):
    class Missing(Exception):
        pass

    def ones(*shape, **dtype):
        raise RuntimeError("libnvrtc.so.12:\ncannot open shared object file")

    runtime = SimpleNamespace(getDeviceProperties=lambda device: {}, CUDARuntimeError=Missing)
    fake = ModuleType("cupy")
    fake.cuda, fake.ones = SimpleNamespace(runtime=runtime), ones
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert backend.choose().__name__ == "numpy"
    said = capsys.readouterr().out
    assert "CuPy finds a GPU, but cannot compute there (RuntimeError, libnvrtc.so.12: cannot open shared" in said
    assert 'pip install "cupy-cuda12x[ctk]"' in said and said.endswith("Every lesson works like this.\n")


# ---- how notebooks are made ----


@pytest.mark.parametrize("solved", [False, True])
def test_the_first_cell_finds_the_course_from_where_the_notebook_lies(solved, tmp_path, monkeypatch):
    """Its lines without IPython's own, in folders like the course's and like nobody's."""
    text = BUILD.FETCH_SOLVED if solved else BUILD.FETCH
    lines = [line if line.strip()[0] not in "!%" else "    fetched.append(1)" for line in text.splitlines()]
    (tmp_path / "course" / "lab").mkdir(parents=True)
    (tmp_path / "course" / "solved").mkdir()
    for folder, wanted in [("course/solved" if solved else "course", []), (".", [1, 1])]:
        monkeypatch.chdir(tmp_path / folder)
        fetched = []
        for _ in range(2 if not wanted else 1):  # and once more
            exec("\n".join(lines), {"fetched": fetched})
        assert fetched == wanted
        assert not solved or wanted or os.path.samefile(os.getcwd(), tmp_path / "course")
    assert max(map(len, text.splitlines())) <= 96


def test_hints_and_solutions_are_folded_and_questions_numbered(tmp_path):
    source = tmp_path / "77_x.py"
    cells = ["# %% [markdown]\n# # 77 · X\n#\n# Goals", '# %% tags=["exercise"]\nx = ...', "# %%\nprint(x)"]
    cells += [f'# %% [markdown] tags=["hint"]\n# hint {i}' for i in (1, 2)] + ['# %% tags=["solution"]\nx = 1']
    cells += ['# %% [markdown] tags=["question"]\n# Is `a < b` *so*?\n#\n# Yes.']
    source.write_text("\n\n".join(cells) + "\n", encoding="utf-8")
    first, exercise, check, hint, second, solution, question = BUILD.unexecuted(source).cells
    assert first.source.startswith("# 77 · X\n\n[![Open this lesson in Colab](") and first.source.endswith("\n\nGoals")
    assert f"github/{BUILD.REPOSITORY}/blob/main/course/77_x.ipynb)" in first.source
    assert exercise.source == "x = ..." and check.source == "print(x)"
    assert hint.source == "<details><summary>A first hint</summary>\n\nhint 1\n\n</details>"
    assert second.source.startswith("<details><summary>A second hint</summary>")
    assert solution.source == "<details><summary>A solution</summary>\n\n```python\nx = 1\n```\n\n</details>"
    assert solution.cell_type == "markdown"
    assert question.source.startswith("<details><summary>1. Is <code>a &lt; b</code> <i>so</i>?</summary>\n\nYes.")
    cells = BUILD.unexecuted(source, solved=True).cells
    assert [cell.source for cell in cells[1:3]] == ["x = 1", "print(x)"] and len(cells) == 4
    assert cells[0].source.startswith("# 77 · X: solved\n\n[![") and "(../77_x.ipynb)" in cells[0].source
