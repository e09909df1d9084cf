"""Blocks that wait in vain: the launch ends, the next one says what happened, and then all is as before.

They give up after twenty seconds or more on a GPU, and here after so few loads that the stand-in sees no deadlock yet.
"""

import re

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, packed, planner, sources
from gpulstm.engines import cupy_one_launch
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import infer, solve
from tests.schedule_cases import check, scheduled, small_problem
from tests.test_kernel_sanitizers import without

FILES = ("lstm_persistent_forward.cu", "lstm_persistent_backward.cu")
GIVEN = small_problem(5, hidden=36, steps=3, batch=2, state=False)  # five blocks
FASTEST_LOAD = 250 / 1.9e9  # seconds: cycles to L2 and back on an H200, none of which another one shortens
IN_VAIN = r"waited for each other in vain, so what it computed is wrong.*planner\.only\('loop'\) avoids such launches"


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
        works(backend)


def test_a_backward_pass_reports_its_own_forward_pass(monkeypatch):
    with cupy_on_cpu() as cupy, scheduled(backend_of(cupy), "persistent"):
        backend = backend_of(cupy)
        with monkeypatch.context() as patch:
            one_block_is_silent(patch, planner.FORWARD)
            with pytest.raises(RuntimeError, match=IN_VAIN):
                solve(backend, GIVEN)
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
                with pytest.warns(UserWarning, match=f"grid size will be reduced from {left},"):
                    if direction == planner.FORWARD:
                        gl.lstm_forward(x, params)
                    else:
                        gl.lstm_backward(cache, dy)
            assert alarm().seen[0] == 1
            with pytest.raises(RuntimeError, match=IN_VAIN):
                infer(backend, given)
            works(backend)


@pytest.mark.parametrize("is_first", [True, False])
def test_the_driver_refuses_what_does_not_fit(monkeypatch, is_first):
    """Then nothing runs at all."""
    given = small_problem(5, hidden=12, steps=3, batch=4, state=False)
    with cupy_on_cpu() as usual, scheduled(backend_of(usual), "persistent"):
        backend = backend_of(usual)
        x, params = backend.array(given.x), backend.array(given.params)
        gl.lstm_forward(x, params)
        if is_first:
            monkeypatch.setattr(packed, "_thread", packed._Thread())
        with cupy_on_cpu(multiprocessors=1, shared_memory_optin=48 * 1024, schedules=("persistent",)) as small:
            with pytest.raises(small.cuda.driver.CUDADriverError, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
                gl.lstm_forward(x, params)
        assert alarm().seen[0] == 0
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
        fresh.check()
        assert fresh.seen[0] == 0 and int(fresh.word[0]) == 0
        fresh.word[0] = np.uint32(1)
        fresh.check()  # nobody has looked yet
        fresh.look()
        with pytest.raises(RuntimeError, match="in vain"):
            fresh.check()
        fresh.check()
        fresh.look()
        fresh.check()
