"""Blocks that wait in vain: the launch ends, the next one says what happened, and from then on others compute.

They give up after twenty seconds or more on a GPU, and here after so few loads that the stand-in sees no deadlock yet.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, occupancy, planner, sources
from gpulstm.engines import cupy_alarm, cupy_one_launch
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import infer, solve
from tests.schedule_cases import assert_given_up, check, scheduled, small_problem
from tests.test_kernel_sanitizers import without

FILES = ("lstm_persistent_forward.cu", "lstm_persistent_backward.cu")
GIVEN = small_problem(5, hidden=36, steps=3, batch=2, state=False)  # five blocks
FASTEST_LOAD = 250 / 1.9e9  # seconds: cycles to L2 and back on an H200, none of which another one shortens
IN_VAIN = (
    r"waited for each other in vain, so what it computed is wrong.*From now on this process makes no such launches"
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No alarm of another test's, and kernels that give up soon."""
    monkeypatch.setattr(cupy_one_launch, "_alarms", {})
    for file in FILES:
        without(monkeypatch, file, "#define SPINS 160000000", 1, "#define SPINS 60")


def backend_of(cupy) -> Backend:
    return Backend("cupy-on-cpu", cupy)


def alarm():
    (only_one,) = cupy_one_launch._alarms.values()
    return only_one


def works(backend: Backend) -> None:
    check(solve(backend, GIVEN), GIVEN)
    assert not alarm().seen[0] and not int(alarm().word[0])


def goes_on(backend: Backend, run: Callable = solve) -> None:
    """Without such launches, on this device; the plan says why."""
    lstm, x = gl.LSTM(3, 36, xp=backend.xp, rng=0), backend.array(GIVEN.x)
    with planner.only("loop", "persistent"):
        backend.xp.on_cpu.reset_counts()
        check(run(backend, GIVEN), GIVEN, run)
        assert not alarm().seen[0]
        assert "lstm_persistent_forward" not in backend.xp.on_cpu.launches
        for choice in lstm.plan(x)[:2]:
            assert choice.schedule == "loop"
            assert f"persistent is given up on this device, since {cupy_alarm.SINCE}" in choice.reason
    assert_given_up(lambda: infer(backend, GIVEN))


def one_block_is_silent(monkeypatch, direction: str) -> None:
    if direction == planner.FORWARD:
        without(monkeypatch, FILES[0], "if (gate == 0) {", 1, "if (gate == 0 && blockIdx.x != 1) {")
    else:
        right = "if (output < blocks * UNITS && to < end_sequence) {"
        without(monkeypatch, FILES[1], right, 1, right[:-1].replace("(output", "(blockIdx.x != 1 && output") + "{")


def test_a_block_waits_as_long_as_one_of_a_cluster_does():
    """What keeps a block from beginning may be another stream's kernel that waits for another machine."""
    text = (sources.kernel_folder() / "handover.cuh").read_text()
    (spins,) = re.findall(r"#define SPINS (\d+)", text)
    assert 20 < int(spins) * FASTEST_LOAD < 120


def test_nothing_happens_as_long_as_all_goes_well():
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        for _ in range(3):
            works(backend_of(cupy))


@pytest.mark.parametrize("late_block", [None, 1])
def test_a_block_that_publishes_nothing_in_the_forward_pass(monkeypatch, late_block):
    with cupy_on_cpu(late_block=late_block) as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.FORWARD)
            infer(backend, GIVEN)  # ends; nobody has waited for the device to find out
        assert alarm().seen[0] == 1
        with pytest.raises(RuntimeError, match=IN_VAIN):
            infer(backend, GIVEN)
        goes_on(backend)
        works(backend)


def test_a_block_that_publishes_nothing_in_the_backward_pass(monkeypatch):
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.BACKWARD)
            solve(backend, GIVEN)
        assert alarm().seen[0] == 1
        with pytest.raises(RuntimeError, match=IN_VAIN):
            infer(backend, GIVEN)
        assert_given_up(lambda: infer(backend, GIVEN))
        works(backend)


def test_a_backward_pass_reports_its_own_forward_pass(monkeypatch):
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.FORWARD)
            with pytest.raises(RuntimeError, match=IN_VAIN):
                solve(backend, GIVEN)
        goes_on(backend, infer)
        works(backend)


# Two blocks for each of four sequences. On two multiprocessors the forward kernel's shared memory lets two blocks run;
# the backward kernel's threads let four blocks run on each.
@pytest.mark.parametrize(
    ("direction", "multiprocessors", "shared", "left"),
    [
        (planner.FORWARD, 1, 48, "8 to 1"),
        (planner.FORWARD, 2, 48, "8 to 2"),
        (planner.FORWARD, 3, 48, "8 to 3"),
        (planner.BACKWARD, 1, 227, "8 to 4"),
    ],
)
def test_a_device_that_does_not_run_all_blocks_at_the_same_time(monkeypatch, direction, multiprocessors, shared, left):
    """Where CuPy has no binding of the driver's launch, it leaves out blocks that do not fit, with a warning: parts of
    a group, or whole groups, for which nobody waits."""
    given = small_problem(5, hidden=12, steps=3, batch=4, state=False)
    with cupy_on_cpu() as usual:
        backend = backend_of(usual)
        x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
        with scheduled(backend, "persistent"):
            cache = gl.lstm_forward(x, params)[2]
            settings = {"multiprocessors": multiprocessors, "shared_memory_optin": shared * 1024}
            monkeypatch.setattr(modules, "_kernels", {})
            with cupy_on_cpu(**settings, schedules=("persistent",)) as small, monkeypatch.context() as patch:
                patch.delattr(small.cuda.driver, "launchCooperativeKernel")
                patch.setattr(occupancy, "obstacle", lambda *_, **__: "")  # as if the driver had said there is room
                with pytest.warns(UserWarning, match=f"grid size will be reduced from {left},"):
                    if direction == planner.FORWARD:
                        gl.lstm_forward(x, params)
                    else:
                        gl.lstm_backward(cache, dy)
            assert alarm().seen[0] == 1
            with pytest.raises(RuntimeError, match=IN_VAIN):
                infer(backend, given)
            assert_given_up(lambda: infer(backend, given))
            works(backend)


def test_the_loop_goes_on_meanwhile(monkeypatch):
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.FORWARD)
            infer(backend, GIVEN)
        for schedule, given in (("loop", GIVEN), ("resident", GIVEN)):
            with planner.only(schedule):
                check(solve(backend, given), given)
        with pytest.raises(RuntimeError, match=IN_VAIN):
            infer(backend, GIVEN)


def test_each_device_has_an_alarm_of_its_own(monkeypatch):
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.FORWARD)
            infer(backend, GIVEN)
        with cupy.cuda.Device(1):
            check(solve(backend, GIVEN), GIVEN)
        with pytest.raises(RuntimeError, match=IN_VAIN):
            infer(backend, GIVEN)
        with cupy.cuda.Device(1):
            check(infer(backend, GIVEN), GIVEN, infer)  # not given up there
        assert_given_up(lambda: infer(backend, GIVEN))
        assert len(cupy_one_launch._alarms) == 2


def test_launches_on_other_streams_find_it_silent(monkeypatch):
    """Zeros are written on the stream of the first launch; another one does not wait for that by itself."""
    with cupy_on_cpu() as cupy:
        waited = []
        monkeypatch.setattr(cupy.cuda.Stream, "synchronize", lambda stream: waited.append(stream))
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            cupy_one_launch.Alarm(cupy)
        assert waited == [stream]


def test_it_begins_silent_and_says_it_once():
    """The word on the device begins as 0, and so does the host's copy, whatever was in its memory."""
    with cupy_on_cpu() as cupy:
        fresh = cupy_one_launch.Alarm(cupy)
        assert not fresh.is_heard()
        assert fresh.seen[0] == 0 and int(fresh.word[0]) == 0
        fresh.word[0] = np.uint32(1)
        assert not fresh.is_heard()  # nobody has looked yet
        fresh.look()
        assert fresh.is_heard()
        assert not fresh.is_heard()
        fresh.look()
        assert not fresh.is_heard()


class TestAtTheEnd:
    """What the last launch did, somebody says when the interpreter ends."""

    def alarm_after(self, cupy, *words: int) -> cupy_one_launch.Alarm:
        found = cupy_one_launch.Alarm(cupy)
        for word in words:
            found.word[0] = np.uint32(word)
            found.look()
        return found

    def said(self, capsys, *alarms) -> str:
        cupy_alarm.report(alarms)
        return capsys.readouterr().err

    def test_it_is_said_once_of_each_device(self, capsys):
        with cupy_on_cpu() as cupy:
            silent, loud, other = (self.alarm_after(cupy, *words) for words in ((0,), (0, 1), (1,)))
            assert self.said(capsys, silent, loud, other) == f"gpulstm: {cupy_alarm.AT_EXIT}.\n" * 2
            assert not self.said(capsys, silent, loud, other)

    def test_not_what_an_error_has_said(self, capsys):
        with cupy_on_cpu() as cupy:
            heard = self.alarm_after(cupy, 1)
            assert heard.is_heard()
            heard.seen[0] = 1  # by the copy behind a later launch, which was on its way
            assert not self.said(capsys, heard)
            heard.word[0] = np.uint32(1)
            heard.look()  # behind another thread's launch
            assert "in vain" in self.said(capsys, heard)

    def test_no_device_is_asked_where_nothing_was_launched_or_in_a_forked_process(self, capsys, monkeypatch):
        with cupy_on_cpu() as cupy:
            unused, loud = self.alarm_after(cupy), self.alarm_after(cupy, 1)
            for each in (unused, loud):
                monkeypatch.setattr(each, "_last", None)
            monkeypatch.setattr(os, "getpid", lambda: -1)
            assert not self.said(capsys, unused, loud)

    @pytest.mark.parametrize("word", [0, 1])
    def test_it_waits_for_the_copy_but_not_for_ever(self, capsys, monkeypatch, word):
        with cupy_on_cpu() as cupy:
            late = self.alarm_after(cupy, 0)
            asked, naps = iter((False, False, True)), []

            def nap(seconds: float) -> None:
                naps.append(seconds)
                late.seen[0] = word

            monkeypatch.setattr(cupy.cuda.Event, "done", property(lambda _: next(asked)))
            monkeypatch.setattr(cupy_alarm.time, "sleep", nap)
            assert ("in vain" in self.said(capsys, late)) == bool(word)
            assert len(naps) == 2
            monkeypatch.setattr(cupy.cuda.Event, "done", property(lambda _: False))
            never = self.alarm_after(cupy, 0)
            assert never.last_word(patience=0.0) == cupy_alarm.UNKNOWN

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_context_that_has_gone_and_an_impatient_user(self, capsys, monkeypatch, error):
        with cupy_on_cpu() as cupy:
            alarms = [self.alarm_after(cupy, word) for word in (0, 1)]

            def gone(_):
                raise error("cudaErrorLaunchFailure")

            monkeypatch.setattr(cupy.cuda.Event, "done", property(gone))
            assert self.said(capsys, *alarms) == f"gpulstm: {cupy_alarm.AT_EXIT}.\n"

    def test_an_interpreter_that_ends(self):
        """Whoever registers first comes last: CuPy's own end of the device."""
        script = """
            import atexit, numpy
            from tests.cuda_on_cpu import cupy_on_cpu
            context = cupy_on_cpu()
            cupy = context.__enter__()
            atexit.register(context.__exit__, None, None, None)
            from gpulstm.engines import cupy_one_launch
            for device in (0, 1):
                with cupy.cuda.Device(device):
                    alarm = cupy_one_launch._alarm()
                    alarm.word[0] = numpy.uint32(device)
                    alarm.look()
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"gpulstm: {cupy_alarm.AT_EXIT}.\n")
