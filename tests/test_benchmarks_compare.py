"""benchmarks/compare.py: what is wrong is not timed, what is timed is written down, and the report says both."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

import gpulstm as gl
from benchmarks import compare
from benchmarks.against_torch import budget, chart, cpu, gpu, grid, machine, racing, results, turns
from benchmarks.against_torch.one_process import OneProcess
from benchmarks.report import report

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--threads", "1", "--hidden", "6", "--batch", "3", "--steps", "5", "--pass-seconds", "0.01"]
TINY = ["--device", "cpu", *SMALL]
CELL = grid.Cell("lengths", "float32", 6, 3, 5)


@pytest.fixture
def contest():
    """Both sides in this process, as on a GPU, where a test can change either; tests/test_benchmarks_processes.py
    has the two processes of a CPU."""
    contest = OneProcess(cpu.Cpu())
    contest.about = lambda: {"threads": {"asked for": 1, "torch": 1, "libraries": []}, "environment": {}}
    return contest


def read_strictly(path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one run of the real command has left its files, run by the command for all benchmarks."""
    folder = tmp_path_factory.mktemp("results")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "benchmarks" / "all.py"), "--device", "cpu", "--only", "compare-cpu"]
    command += ["--minutes", "3", "--out", str(folder), "--compare", " ".join(["--setting one-layer,lengths", *SMALL])]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class TestTheCommand:
    def test_the_summary_says_how_it_went(self, folder):
        document = read_strictly(folder / "summary.json")
        assert [(step["name"], step["status"], step["left"]) for step in document["steps"]] == [
            ("compare-cpu", "done", 0)
        ]
        text = (folder / "summary.md").read_text(encoding="utf-8")
        assert "| compare-cpu | done |" in text and "- compare-cpu: 2 cells: 2 timed, 0 not measured" in text
        found = read_strictly(folder / "compare-cpu.json")["acceptance"]
        assert found["complete"] and found["by setting"]["lengths"]["forward"]["compared"] == 1

    def test_the_file_says_what_was_measured_on_what(self, folder):
        document = read_strictly(folder / "compare-cpu.json")
        assert document["device"] == "cpu"
        assert document["versions"]["gpulstm"] == gl.__version__
        assert document["versions"]["numpy"] == np.__version__
        assert document["command"].startswith("python benchmarks/compare.py --device cpu")
        assert document["machine"]["cpu"] and document["date"]
        assert document["threads"]["torch"] == 1
        blas = [pool for pool in document["threads"]["libraries"] if pool["user_api"] == "blas"]
        assert blas and all(pool["num_threads"] == 1 for pool in blas)
        assert {pool["process"] for pool in document["threads"]["libraries"]} == {"gpulstm", "torch"}
        assert isinstance(document["environment"], dict)
        assert document["cells_left"] == 0

    def test_every_cell_is_checked_and_timed_on_both_sides(self, folder):
        cells = read_strictly(folder / "compare-cpu.json")["cells"]
        assert [cell["setting"] for cell in cells] == ["one-layer", "lengths"]
        for cell in cells:
            assert cell["status"] == "timed" and cell["same_bits"] is True
            named = {"y of inference", "y", "h", "c", "dx", "dh", "dc"}
            named |= {"dweight_ih_l0", "dweight_hh_l0", "dbias_l0"}
            assert set(cell["errors"]) == named == set(cell["errors_of_torch"])
            assert all(0 <= error <= 1e-5 for error in cell["errors"].values())
            for side in ("ours", "torch"):
                for of_pass in results.PASSES:
                    times = cell[side][of_pass]
                    low, high = times["quartiles_ms"]
                    assert 0 < low <= times["ms"] <= high
                    assert times["calls"] >= times["rounds"] >= cpu.Cpu.rounds[0]

    def test_the_report_is_there(self, folder):
        page = (folder / "compare-cpu.md").read_text(encoding="utf-8")
        assert "### float32, one-layer" in page and "| 6 | 3 | 5 |" in page
        assert "![Speed-up by hidden size and batch](compare-cpu-float32.svg)" in page
        ElementTree.parse(folder / "compare-cpu-float32.svg")

    @pytest.mark.parametrize("style", [{}, {"font.size": 13, "axes.spines.top": False}], ids=["plain", "styled"])
    def test_another_report_has_the_same_bytes(self, folder, tmp_path, style):
        (tmp_path / "compare-cpu.json").write_bytes((folder / "compare-cpu.json").read_bytes())
        with matplotlib.rc_context(style):
            for path in report(tmp_path / "compare-cpu.json"):
                assert path.read_bytes() == (folder / path.name).read_bytes()


def run_here(contest, folder, *more):
    arguments = [*TINY, "--out", str(folder), *more]
    return compare._run(compare._parser().parse_args(arguments), arguments, contest)


def test_a_run_that_is_cut_keeps_what_it_has_and_can_be_continued(contest, tmp_path):
    both = ["--setting", "one-layer,lengths"]
    assert run_here(contest, tmp_path, *both, "--seconds", "1e-9") == 0
    document = read_strictly(tmp_path / "compare-cpu.json")
    assert document["cells"] == [] and document["cells_left"] == 2
    assert run_here(contest, tmp_path, "--setting", "lengths") == 0
    first = read_strictly(tmp_path / "compare-cpu.json")
    assert run_here(contest, tmp_path, *both, "--continue") == 0
    second = read_strictly(tmp_path / "compare-cpu.json")
    assert [cell["setting"] for cell in second["cells"]] == ["lengths", "one-layer"]
    assert second["cells"][0] == first["cells"][0] and second["date"] == first["date"]
    assert second["seconds"] > first["seconds"]


def test_figures_of_two_versions_do_not_go_into_one_file(contest, tmp_path):
    run_here(contest, tmp_path, "--setting", "lengths")
    with pytest.raises(SystemExit, match="another versions"):
        run_here(contest, tmp_path, "--setting", "one-layer", "--continue", "--commit", "another")


def test_figures_of_two_environments_do_not_go_into_one_file(contest, tmp_path):
    run_here(contest, tmp_path, "--setting", "lengths")
    contest.about = lambda: {"threads": {"asked for": 1, "torch": 1, "libraries": []}, "environment": {"OMP": "other"}}
    with pytest.raises(SystemExit, match="another environment"):
        run_here(contest, tmp_path, "--setting", "one-layer", "--continue")


@pytest.fixture
def no_report(monkeypatch):
    """Charts take longer than cells do here."""
    monkeypatch.setattr("benchmarks.report.report", lambda path: [])


def test_a_run_can_go_on_with_a_file_of_another_folder(contest, no_report, tmp_path):
    run_here(contest, tmp_path / "first", "--setting", "lengths")
    both = ["--setting", "one-layer,lengths"]
    file = str(tmp_path / "first" / "compare-cpu.json")
    assert run_here(contest, tmp_path / "second", *both, "--continue", file) == 0
    first, second = (read_strictly(tmp_path / name / "compare-cpu.json") for name in ("first", "second"))
    assert [cell["setting"] for cell in second["cells"]] == ["lengths", "one-layer"]
    assert second["cells"][0] == first["cells"][0] and len(first["cells"]) == 1
    with pytest.raises(SystemExit, match="there is no file"):
        run_here(contest, tmp_path / "second", *both, "--continue", str(tmp_path / "nothing.json"))


def test_the_file_is_whole_after_each_cell_and_says_what_is_left(contest, no_report, monkeypatch, tmp_path):
    seen, right = [], racing.run

    def run(cell, *others, **more):
        path = tmp_path / "compare-cpu.json"
        seen.append(read_strictly(path) if path.exists() else None)
        return right(cell, *others, **more)

    monkeypatch.setattr(racing, "run", run)
    run_here(contest, tmp_path, "--setting", "one-layer,both-directions,lengths")
    assert seen[0] is None
    assert [(len(of["cells"]), of["cells_left"]) for of in seen[1:]] == [(1, 2), (2, 1)]
    assert seen[1]["not_measured"] == [f"{name}, float32, H=6, N=3, T=5" for name in ("both-directions", "lengths")]
    assert seen[2]["acceptance"]["counts"] == {"timed": 2, "not measured": 1}


def test_a_cell_that_would_not_end_in_time_is_not_begun_and_a_smaller_one_is(
    contest, no_report, monkeypatch, tmp_path, capsys
):
    seconds = {"one-layer": 2.0, "two-layers": 500.0, "both-directions": 3.0, "lengths": 200.0}
    monkeypatch.setattr(budget.Budget, "estimate", lambda self, cell: seconds[cell.setting])
    run_here(contest, tmp_path, "--setting", ",".join(seconds), "--seconds", "60")
    document = read_strictly(tmp_path / "compare-cpu.json")
    assert [cell["setting"] for cell in document["cells"]] == ["one-layer", "both-directions"]
    left = ["two-layers, float32, H=6, N=3, T=5", "lengths, float32, H=6, N=3, T=5"]
    assert document["not_measured"] == left and document["cells_left"] == 2
    assert "4 cells: 2 timed, 2 not measured" in capsys.readouterr().out


def test_a_disturbed_cell_is_marked_and_measured_again(contest, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(contest, "conditions", lambda: {"cores_of_others": 0.7})
    run_here(contest, tmp_path, "--setting", "lengths")
    page = (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")
    assert "**disturbed**: 0.7 cores were taken by others" in page and "Cells: 1 timed, 1 disturbed." in page
    assert "DISTURBED by 0.7 cores" in capsys.readouterr().out
    assert run_here(contest, tmp_path, "--setting", "lengths", "--continue", "--seconds", "1e-9") == 0
    document = read_strictly(tmp_path / "compare-cpu.json")  # there was no time to measure it again
    assert [cell["cores_of_others"] for cell in document["cells"]] == [0.7] and document["not_measured"] == []
    monkeypatch.setattr(contest, "conditions", lambda: {"cores_of_others": 0.1})
    run_here(contest, tmp_path, "--setting", "lengths", "--continue")
    (cell,) = read_strictly(tmp_path / "compare-cpu.json")["cells"]
    assert cell["cores_of_others"] == 0.1
    assert "**disturbed" not in (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")


def test_the_commit_is_that_of_the_code_and_not_of_the_results(monkeypatch, tmp_path):
    def git(*arguments):
        named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *named, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    results_file = tmp_path / "benchmarks" / "results" / "compare.json"
    results_file.parent.mkdir(parents=True)
    for path in (results_file, tmp_path / "code.py"):
        path.write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert machine.commit() == commit
    results_file.write_text("2")
    assert machine.commit() == commit
    (tmp_path / "code.py").write_text("2")
    assert machine.commit() == f"{commit}-dirty"


def test_an_interrupted_write_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "results.json"
    results.write(path, {"cells": [{"a": 1}]})

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        results.write(path, {"cells": [{"a": 1}, {"a": 2}]})
    assert results.read(path) == {"cells": [{"a": 1}]}


def spoil(which):
    """A backward whose result of that name is off by one in a thousand."""
    right = gl.LSTM.backward

    def backward(self, cache, dy=None, dstate=None):
        dx, grads, (dh, dc) = right(self, cache, dy, dstate)
        if which == "dx":
            dx = dx * np.float32(1.001)
        elif which == "dh":
            dh = dh * np.float32(1.001)
        else:
            grads = grads | {which[1:]: grads[which[1:]] * np.float32(1.001)}
        return dx, grads, gl.State(dh, dc)

    return backward


@pytest.mark.parametrize("which", ["dx", "dh", "dweight_hh_l0", "dbias_l0"])
def test_a_wrong_gradient_is_reported_as_wrong_and_not_timed(contest, monkeypatch, tmp_path, which):
    monkeypatch.setattr(gl.LSTM, "backward", spoil(which))
    assert run_here(contest, tmp_path, "--setting", "lengths") == 1
    document = read_strictly(tmp_path / "compare-cpu.json")
    (cell,) = document["cells"]
    assert cell["status"] == "wrong" and cell["wrong"] == [which]
    assert cell["errors"][which] == pytest.approx(1e-3, rel=0.01)
    assert "ours" not in cell and "torch" not in cell
    assert document["summary"]["counts"]["wrong"] == 1 and document["summary"]["all"]["geometric_mean"] is None
    page = (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")
    assert f"**wrong**: relative error of {which} 0.001" in page
    assert "wrong" in (tmp_path / "compare-cpu-float32.svg").read_text(encoding="utf-8")


def test_other_bits_in_a_second_run_are_said(contest, monkeypatch, tmp_path):
    right, calls = gl.LSTM.backward, []

    def backward(self, cache, dy=None, dstate=None):
        dx, grads, state = right(self, cache, dy, dstate)
        calls.append(1)
        return dx * np.float32(1 + 1e-6 * (len(calls) == 2)), grads, state

    monkeypatch.setattr(gl.LSTM, "backward", backward)
    run_here(contest, tmp_path, "--setting", "lengths")
    document = read_strictly(tmp_path / "compare-cpu.json")
    assert document["cells"][0]["status"] == "timed" and document["cells"][0]["same_bits"] is False
    page = (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")
    assert "- cells with other bits in a second run: 1, wanted 0, DOES NOT HOLD" in page


def test_nan_in_inference_is_wrong(contest, monkeypatch):
    right = gl.LSTM.__call__
    monkeypatch.setattr(
        gl.LSTM, "__call__", lambda self, x, **more: (right(self, x, **more)[0] * np.float32("nan"), None)
    )
    record = racing.run(CELL, contest, seconds=0)
    assert record["status"] == "wrong" and record["wrong"] == ["y of inference"]
    assert record["errors"]["y of inference"] == "nan"


def test_a_dtype_that_we_lack_has_pytorchs_time_alone(contest, tmp_path):
    run_here(contest, tmp_path, "--setting", "one-layer", "--dtype", "bfloat16,tf32")
    for cell in read_strictly(tmp_path / "compare-cpu.json")["cells"]:
        assert cell["status"] == "not supported"
        assert "ours" not in cell and cell["torch"]["forward_backward"]["ms"] > 0
    assert "not supported by gpulstm yet" in (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("error", "status"), [(MemoryError("full"), "out of memory"), (ValueError("no"), "failed")])
def test_a_cell_that_raises_is_a_result_too(contest, monkeypatch, tmp_path, error, status):
    def forward(self, *arguments, **options):
        raise error

    monkeypatch.setattr(gl.LSTM, "forward", forward)
    assert run_here(contest, tmp_path, "--setting", "lengths") == (status == "failed")
    (cell,) = read_strictly(tmp_path / "compare-cpu.json")["cells"]
    assert cell["status"] == status and str(error) in cell["message"]
    assert status in (tmp_path / "compare-cpu.md").read_text(encoding="utf-8")


def test_the_layers_plan_is_recorded(contest, monkeypatch):
    monkeypatch.setattr(gl.LSTM, "plan", lambda self, x: f"loop for {x.shape}", raising=False)
    assert racing.run(CELL, contest, seconds=0)["plan"] == "loop for (5, 3, 6)"


class Side:
    """Writes down who is called with which inputs."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def prepare(self, *, training):
        self.calls.append((self.name, training))

    def infer(self, which):
        self.calls.append((self.name, "infer", which))

    def train(self, which):
        self.calls.append((self.name, "train", which))


def test_both_sides_take_turns_and_every_call_has_other_inputs():
    calls = []
    sides = {name: turns.Turns(Side(name, calls), cpu.Cpu(), is_ours=name == "ours") for name in ("ours", "torch")}
    racing._race(sides, (3, 5), seconds=0)
    assert calls[:4] == [("ours", False), ("ours", "infer", 0), ("torch", False), ("torch", "infer", 0)]
    inferred = [call for call in calls if call[1:2] == ("infer",)]
    names = [name for name, *_ in inferred]
    assert names[:2] == ["ours", "torch"]  # to warm up; then a short call's second one in a row counts
    assert names[2:10] == ["ours", "ours", "torch", "torch", "torch", "torch", "ours", "ours"]
    assert [which for name, _, which in inferred if name == "ours"] == [0, 1, 2] * 2 + [0]
    assert calls.index(("ours", True)) > calls.index(inferred[-1])


def timed(theirs, ours, **at):
    sides = {side: {name: {"ms": ms} for name, ms in zip(results.PASSES, times, strict=True)}
             for side, times in (("torch", theirs), ("ours", ours))}  # fmt: skip
    return (
        {"setting": "lengths", "dtype": "float32", "hidden": 8, "batch": 1, "steps": 2, "status": "timed"} | at | sides
    )


def test_the_summary_by_hand():
    cells = [timed((8, 2), (2, 4)), timed((1, 3), (1, 1), batch=9), {"status": "failed"}]
    found = results.summary(cells)
    assert found["counts"] == {"timed": 2, "wrong": 0, "not supported": 0, "out of memory": 0, "failed": 1}
    assert found["forward"] == {
        "geometric_mean": 2.0,
        "compared": 2,
        "slower": 0,
        "slowest": {"speed_up": 1.0, "cell": "lengths, float32, H=8, N=9, T=2, forward"},
    }
    assert found["all"]["geometric_mean"] == pytest.approx((4 * 0.5 * 1 * 3) ** 0.25, abs=1e-4)
    assert found["all"]["slower"] == 1
    assert found["all"]["slowest"]["cell"] == "lengths, float32, H=8, N=1, T=2, forward + backward"


def test_a_slower_cell_never_reads_as_equal():
    assert [chart._short(ratio) for ratio in (0.9999, 1.0, 1.26, 23.4)] == ["0.99", "1.0", "1.3", "23"]


def test_peak_memory_is_what_is_in_use_at_the_same_time():
    class Cuda:
        MemoryHook = object

    class CuPy:
        cuda = Cuda

    hook = gpu._peak_hook(CuPy)
    for size in (512, 1024):
        hook.malloc_postprocess(device_id=0, size=size - 5, mem_size=size, mem_ptr=1, pmem_id=1)
    hook.free_postprocess(device_id=0, mem_size=512, mem_ptr=1, pmem_id=1)
    hook.malloc_postprocess(device_id=0, size=200, mem_size=256, mem_ptr=1, pmem_id=1)
    assert (hook.used, hook.peak) == (1280, 1536)
