"""benchmarks/compare.py on a CPU: each side has a process, results cross unchanged, and only one is awake at a time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.against_torch import cpu, grid, others, racing, worker
from benchmarks.against_torch.two_processes import Process, TwoProcesses

ROOT = Path(__file__).resolve().parent.parent
CELL = grid.Cell("lengths", "float32", 6, 3, 5)


@pytest.fixture(scope="module")
def contest():
    contest = TwoProcesses(threads=1)
    yield contest
    contest.close()


def run(contest, cell=CELL):
    return racing.run(cell, contest, seconds=0.01)


class TestOthers:
    @pytest.fixture
    def proc(self, monkeypatch, tmp_path):
        """Writes what Linux would say, in hundredths of a second, at a time."""
        monkeypatch.setattr(others, "PROC", tmp_path)
        monkeypatch.setattr(others.os, "sysconf", lambda name: 100, raising=False)
        (tmp_path / "7").mkdir()

        def write(now, *, user, system, steal, ours):
            monkeypatch.setattr(others.time, "perf_counter", lambda: now)
            idle = round(200 * now) - user - system - steal
            (tmp_path / "stat").write_text(f"cpu  {user} 0 {system} {idle} 40 0 0 {steal} 9 9\ncpu0 1 2\n")
            (tmp_path / "7" / "stat").write_text(f"7 (a ) name) R 1 1 1 0 -1 4 5 0 1 0 {ours} 30 0 0 20 0\n")

        return write

    def test_what_is_neither_idle_nor_ours(self, proc):
        proc(10, user=500, system=100, steal=20, ours=300)
        found = others.Others([7])
        proc(12, user=900, system=130, steal=40, ours=600)
        assert found.cores() == pytest.approx((400 + 30 + 20 - 300) / 100 / 2)

    def test_ticks_that_are_counted_unevenly_are_not_below_zero(self, proc):
        proc(10, user=500, system=0, steal=0, ours=300)
        found = others.Others([7])
        proc(11, user=600, system=0, steal=0, ours=402)
        assert found.cores() == 0

    def test_where_nothing_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(others, "PROC", tmp_path)
        assert others.Others([7]).cores() is None

    def test_on_this_machine(self):
        """A busy process that is not among ours takes what it takes."""
        if not Path("/proc/stat").exists():
            pytest.skip("only Linux says so")
        code = "import time\nwhile time.process_time() < 0.4: pass"
        found = others.Others([os.getpid()])
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        assert found.cores() * (time.perf_counter() - start) > 0.3


class TestTwoProcesses:
    @pytest.mark.parametrize("setting", ["both-directions", "lengths"])
    def test_a_cell_is_checked_and_timed(self, contest, setting):
        record = run(contest, grid.Cell(setting, "float32", 6, 3, 5))
        assert record["status"] == "timed", record
        assert max(record["errors"].values()) < 1e-5 and len(record["errors"]) >= 10
        assert record["plan"].startswith("forward  numpy")
        assert record["cores_of_others"] is None or record["cores_of_others"] >= 0
        for side in ("ours", "torch"):
            for of_pass in ("forward", "forward_backward"):
                times = record[side][of_pass]
                assert times["ms"] > 0 and times["calls"] >= times["rounds"] >= 3
                assert times["peak_bytes"] is times["from_idle_ms"] is None

    @pytest.mark.parametrize("which", ["dx", "y of inference", "dbias_l0"])
    def test_a_wrong_result_of_the_other_process_is_found(self, contest, monkeypatch, which):
        right = contest.ours.ask

        def ask(question, *arguments):
            answer = right(question, *arguments)
            if question == "results":
                with np.load(arguments[0]) as file:
                    found = dict(file)
                np.savez(arguments[0], **found | {which: found[which] * np.float32(1.001)})
            return answer

        monkeypatch.setattr(contest.ours, "ask", ask)
        record = run(contest)
        assert record["status"] == "wrong" and record["wrong"] == [which] and "ours" not in record

    def test_what_ours_lacks_has_pytorchs_times_alone(self, contest):
        record = run(contest, grid.Cell("one-layer", "bfloat16", 6, 3, 5))
        assert record["status"] == "not supported" and record["message"]
        assert "ours" not in record and record["torch"]["forward"]["ms"] > 0

    def test_an_error_in_a_process_is_the_cells_result_and_the_next_cell_is_timed(self, contest, monkeypatch):
        with monkeypatch.context() as changed:
            changed.setattr(contest, "problem", Path(contest.folder.name) / "no such folder" / "problem.npz")
            record = run(contest)
        assert record["status"] == "failed" and "FileNotFoundError" in record["message"]
        assert run(contest)["status"] == "timed"

    def test_a_process_that_dies_is_started_again(self, contest, monkeypatch):
        right = contest.plan

        def plan():
            contest.ours.process.kill()
            return right()

        with monkeypatch.context() as changed:
            changed.setattr(contest, "plan", plan)
            record = run(contest)
        assert record["status"] == "failed" and "the process of ours ended with exit code" in record["message"]
        assert run(contest)["status"] == "timed"

    def test_both_have_the_threads_that_were_asked_for(self, contest):
        found = contest.about()["threads"]
        assert found["asked for"] == found["torch"] == 1
        assert {pool["process"] for pool in found["libraries"]} == {"gpulstm", "torch"}
        assert all(pool["num_threads"] == 1 for pool in found["libraries"])

    def test_the_environment_reaches_a_process_and_the_record(self, monkeypatch):
        monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
        monkeypatch.setenv("GPULSTM_SOMETHING", "on")
        monkeypatch.setenv("SECRET", "hidden")
        found = cpu.environment()
        assert found["OPENBLAS_CORETYPE"] == "Nehalem" and found["GPULSTM_SOMETHING"] == "on"
        assert "SECRET" not in found
        process = Process("ours", 1)
        try:
            pools = process.ask("thread_pools")
        finally:
            process.close()
        kernels = [pool["architecture"] for pool in pools if pool["internal_api"] == "openblas"]
        if not kernels:
            pytest.skip("this NumPy is not on OpenBLAS")
        assert kernels == ["Nehalem"]

    def test_closing_ends_the_processes(self):
        process = Process("ours", 1)
        process.ask("thread_pools")
        running = process.process
        process.close()
        assert running.exitcode == 0 and process.process is None
        process.close()


def test_our_process_has_no_pytorch():
    code = "import sys, benchmarks.against_torch.answers_of_ours; print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "False\n"


def test_threads_cannot_be_fixed_after_numpy():
    with pytest.raises(RuntimeError, match="NumPy has been imported already"):
        worker.fix_threads(1)


def test_an_error_that_cannot_be_sent_comes_as_words():
    class Strange(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    sent = worker._portable(Strange(1, 2))
    assert type(sent) is RuntimeError and str(sent) == "Strange: 1 and 2"
    assert isinstance(worker._portable(MemoryError("full")), MemoryError)


class Clock:
    """Stands in for the module time, in a process that is busy in given windows of the wait."""

    def __init__(self, busy):
        self.now = self.used = 0.0
        self.busy = busy

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.used

    def sleep(self, seconds):
        window = round(self.now / seconds)
        self.now += seconds
        self.used += seconds * (self.busy(window) + 0.01)  # whoever looks at the clock uses some of it


class TestSettling:
    @pytest.mark.parametrize(
        ("busy", "windows"),
        [
            ([], 2),
            (range(10), 12),  # as OpenBLAS' threads are
            ([1, 2, 3, 5], 8),  # a thread that spins may be off its core for a window
        ],
    )
    def test_it_waits_until_nothing_spins(self, monkeypatch, busy, windows):
        clock = Clock(lambda window: window in busy)
        monkeypatch.setattr(cpu, "time", clock)
        cpu.settle()
        assert clock.now == pytest.approx(windows * cpu.WINDOW)

    def test_half_a_core_is_not_asleep(self, monkeypatch):
        clock = Clock(lambda window: 0.5 * (window < 7))
        monkeypatch.setattr(cpu, "time", clock)
        cpu.settle()
        assert clock.now == pytest.approx(9 * cpu.WINDOW)

    def test_it_gives_up_on_threads_that_never_sleep(self, monkeypatch):
        monkeypatch.setattr(cpu, "time", Clock(lambda window: True))
        monkeypatch.setenv("OMP_WAIT_POLICY", "active")
        with pytest.raises(RuntimeError, match="still busy 5 s after its work.*'OMP_WAIT_POLICY': 'active'"):
            cpu.settle()

    def test_the_clock_counts_all_threads(self):
        def work():
            while time.thread_time() < 0.05:
                pass

        before = time.process_time()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert time.process_time() - before >= 0.05


@pytest.mark.parametrize(
    ("takes", "seconds", "counted"),
    [
        ([0.03, 0.01, 0.02, 0.01, 9], 0.065, [0.01, 0.02, 0.01]),
        ([0.03, 0.02, 9], 0, [0.02]),
        ([0.2, 0.1, 9], 0.25, [0.2, 0.1]),
        ([0.2, 9], 0.1, [0.2]),
    ],
)
def test_the_first_call_of_a_turn_counts_only_if_it_is_long(monkeypatch, takes, seconds, counted):
    clock, left = [0.0], iter(takes)

    def call():
        clock[0] += next(left)

    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    samples = cpu.Cpu().sample(call, seconds)
    assert [sample.ms for sample in samples] == pytest.approx([1e3 * took for took in counted])
