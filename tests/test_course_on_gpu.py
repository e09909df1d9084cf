"""What a lesson does where there is a GPU, with the stand-in in CuPy's place: every cell runs, what is not about time
prints what the notebook shows, and the cells that are for a GPU alone print what they should."""

import os
import re

import pytest

pytest.importorskip("IPython")
pytest.importorskip("matplotlib")
pytest.importorskip("statsmodels")  # which the lessons would install
from gpulstm.cuda import planner  # noqa: E402
from tests import course_on_gpu  # noqa: E402
from tests.course_files import LESSONS, read  # noqa: E402
from tests.cuda_on_cpu import install, nvrtc  # noqa: E402
from tests.test_nvrtc_gate import nvrtc_or_skip  # noqa: E402

from lab.lesson_12_launching import library_kernel  # isort: skip  # noqa: E402

NUMBER = r"\d+(\.\d+)?"

# Of lessons whose kernels run on the GPU, the cells that measure there: part of the cell -> what it prints when the
# exercises are solved, and when they are not.
MEASURED = {
    "12": {},
    "13": {"gigabytes_a_second": 2 * (f"interleaved:  {NUMBER} GB a second\nside by side: {NUMBER} GB a second\n",)},
    "14": {"race_of_atomics": 2 * ("[12] different sums in 20 launches\n",)},
    "15": {
        "elements, side": 2 * (f"{NUMBER} GB a second, {NUMBER} billion operations a second\nIn balance .*\n",),
        "import benchmark": (
            f"run_four: {NUMBER} µs on the GPU\nrun_one: {NUMBER} µs on the GPU\n",
            "There is nothing to time yet: your kernel is not ready.\n",
        ),
    },
    "16": {
        "microseconds_a_step": (
            f"a launch for each step: {NUMBER} µs a step\none launch:             {NUMBER} µs a step\n",
            "Your kernel does not go through the sentence yet, or has no barrier.\n",
        )
    },
    "27": {
        "kernel_passes(GATES": (
            f"your kernel {NUMBER} GB a second, a copy {NUMBER}: {NUMBER}%\n",
            "Your kernel does not pass its check yet: what is not right needs no badge.\n",
        )
    },
}


def stored(number: str, solved: bool) -> dict[str, str]:
    """Source of each cell whose output the notebook vouches for -> what it printed."""
    (lesson,) = [path for path in LESSONS if path.stem[:2] == number]
    cells = [cell for cell in read(lesson, solved).cells if cell.cell_type == "code"]
    vouched = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    return {cell.source: "".join(out.get("text", "") for out in cell.outputs) for cell in vouched}


def without_figures(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not re.match(r"Figure: |<IPython\.", line))


@pytest.mark.parametrize("solved", [True, False], ids=["solved", "unsolved"])
@pytest.mark.parametrize("number", MEASURED)
def test_a_lesson_on_kernels_prints_on_a_gpu_what_the_notebook_shows(number, solved, tmp_path, monkeypatch):
    if number == "16" and os.environ.get(install.INSTEAD_OF_FIBERS) == "ptx":
        pytest.skip("the PTX of CUDA's cooperative_groups.h is not read: tests/cuda_on_cpu/README.md")
    ran = course_on_gpu.run(number, tmp_path, monkeypatch, solved=solved)
    expected = stored(number, solved)
    assert {source: without_figures(text) for source, text in ran.printed if source in expected} == expected
    for cell, wanted in MEASURED[number].items():
        assert re.fullmatch(wanted[not solved], ran.by(cell)), ran.by(cell)
    assert "on the GPU: stand-in 0" in ran.by("start(")
    assert ran.launches, "no kernel went to the GPU"


def sources() -> dict[str, str]:
    """The kernels of the solved lessons, and those of the library that lessons launch on the GPU, by name."""
    found = {}
    for lesson in [path for path in LESSONS if path.stem[:2] in MEASURED]:
        code = "\n".join(cell.source for cell in read(lesson, True).cells if cell.cell_type == "code")
        for name, source in re.findall(r'^(\w+) = """(.*?)"""', code, re.MULTILINE | re.DOTALL):
            if "__global__" in source:
                found[f"{lesson.stem[:2]} {name}"] = source
    del found["16 relay_source"]  # reading cooperative_groups.h takes a second, and all_steps_source has it, too
    found |= {file: library_kernel(file) for file in ("elementwise.cu", "cell_update.cu")}
    return found


def test_nvidias_compiler_takes_the_lessons_kernels():
    nvrtc_or_skip()
    kernels = sources()
    assert {"12 who_source", "16 all_steps_source", "27 kernel_source"} <= set(kernels) and len(kernels) >= 13
    for name, source in kernels.items():
        assert ".entry" in nvrtc.ptx(source, ("-DHIDDEN=32",), "80"), name


def test_the_directions_of_lesson_18_run_side_by_side(tmp_path, monkeypatch):
    ran = course_on_gpu.run("18", tmp_path, monkeypatch, solved=True, schedules=planner.AUTOMATIC)
    told = ran.by("wide.plan")
    assert re.fullmatch(r"forward +resident: 2 directions x .*\nbackward +resident: 2 directions x .*\n", told), told


# Lessons that train a network, cut down to a few steps: part of a cell -> a part of what it then prints, and a kernel.
TRAINED = {
    "00": ("began = time.perf_counter()", "trained 1169 numbers in 1 rounds", "lstm_backward_step"),
    "11": ("the same outputs as in one pass", "the same outputs as in one pass: True", "adam_step"),
    "17": ("rivals = {", "zoneout 0.3 ", "lstm_variant_cell_backward"),
    "22": ("gl.generate(model, prompt, 300", "The ", "lstm_one_step_forward"),
    "24": ("said = [word for word in WORDS", "of 20 words without a mistake", "ctc_forward_backward"),
}


@pytest.mark.parametrize("number", TRAINED)
def test_a_lesson_that_trains_does_so_on_a_gpu(number, tmp_path, monkeypatch):
    part, wanted, kernel = TRAINED[number]
    schedules = planner.AUTOMATIC if number == "22" else ("loop",)  # the loop is what runs fastest here
    ran = course_on_gpu.run(number, tmp_path, monkeypatch, solved=True, schedules=schedules)
    assert wanted in ran.by(part)
    assert ran.launches[kernel] > 0
