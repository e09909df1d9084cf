"""A lesson as a learner with a GPU runs it, from its first cell to its last, with the stand-in in CuPy's place."""

import contextlib
import io
from pathlib import Path

import matplotlib

from tests.course_files import BUILD, COURSE, LESSONS
from tests.cuda_on_cpu import cupy_on_cpu

# Of lessons that give a GPU much to do: text of its cells -> what the CPU gets through soon. Each must be there.
SMALLER: dict[str, dict[str, str]] = {
    "00": {"ROUNDS = 16, 0.01, 100": "ROUNDS = 16, 0.01, 1", "range(1, 5)": "range(1, 2)"},
    "11": {
        "passes=30": "passes=1",
        "range(1, 31)": "range(1, 2)",
        "for rate in (0.0003, 0.01, 1.0)": "for rate in (0.01,)",
        "[(1, 4), (5, 15), (22, 30)]": "[(22, 1)]",
        "for seed in (0, 1)": "for seed in (0,)",
        "epochs=40": "epochs=1",
    },
    "13": {"rows=16384, hidden=1024)": "rows=8, hidden=32)"},
    "14": {
        "range(20)": "range(2)",
        "random(1_000_000": "random(10_000",
        "race_of_atomics(3907,": "race_of_atomics(40,",
    },
    "15": {"(64_000_000, 4096)": "(1000, 32)", "rows, units = 16384, 1024": "rows, units = 4, 32"},
    "16": {"steps = 1000": "steps = 20"},
    "17": {"epochs=150": "epochs=1", '"epochs": 30': '"epochs": 2', "seed in (0, 1)": "seed in (0,)"},
    "22": {
        "else 512": "else 16",
        "steps = len(pieces(train)[0]) // 16 // 12 * 12": "steps = 12",
        "validation=pieces(held_out[:10_000])": "validation=pieces(held_out[:101])",
        "exam = held_out[10_000:]": "exam = held_out[-200:]",
        "prompt, 300,": "prompt, 30,",
        "prompt, 240,": "prompt, 9,",
        "held_out[:4000]": "held_out[:60]",
        'judge = topics["while"] + "\\n\\n" + topics["with"]': 'judge = topics["while"][:200]',
        '.split("\\n")[:13]': '[:99].split("\\n")',
    },
    "24": {"steps=500": "steps=1", "for _ in range(5)]": "for _ in range(1)]", "else 128": "else 32"},
    "27": {"rows, hidden = 16384, 1024": "rows, hidden = 8, 32"},
}


class Ran:
    """What was printed by each code cell, and the lesson's names and the launches at the end."""

    def __init__(self) -> None:
        self.printed: list[tuple[str, str]] = []  # (source, text)
        self.names: dict = {"__name__": "__main__"}
        self.launches: dict[str, int] = {}

    def by(self, part: str) -> str:
        """What the cell printed whose source has ``part`` in it."""
        (text,) = [text for source, text in self.printed if part in source]
        return text


def run(number: str, tmp_path: Path, monkeypatch, *, solved: bool, schedules: tuple[str, ...] = ("loop",)) -> Ran:
    """Runs all code cells of the lesson. Raises what a cell raises. ``schedules`` are those that layers may run in."""
    (source,) = [path for path in LESSONS if path.stem[:2] == number]
    smaller, found = SMALLER.get(number, {}), set()
    monkeypatch.setenv("GPULSTM_COURSE_STATIC", "1")
    monkeypatch.setenv("GPULSTM_COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(
        "lab.figures.png", lambda figure: b""
    )  # other tests look at figures; this takes half of the time
    monkeypatch.chdir(COURSE)
    ran = Ran()
    with matplotlib.rc_context({"backend": "agg"}), cupy_on_cpu(schedules=schedules) as cupy:
        for cell in BUILD.unexecuted(source, solved).cells:
            if cell.cell_type != "code":
                continue
            code = cell.source.partition(BUILD.FETCH_SOLVED if solved else BUILD.FETCH)[2] or cell.source
            for text in [text for text in smaller if text in code]:
                found.add(text)
                code = code.replace(text, smaller[text])
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, f"{source.stem} {cell.id}", "exec"), ran.names)
            ran.printed.append((cell.source, out.getvalue()))
        ran.launches = dict(cupy.on_cpu.launches)
    assert found == set(smaller), f"{source.name} has these no more: {set(smaller) - found}"
    return ran
