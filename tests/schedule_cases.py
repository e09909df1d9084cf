"""LSTM problems for the schedules that run all time steps in one launch, and what float32 may be off by there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpulstm.cuda import planner
from gpulstm.engines import cupy_one_launch
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import LaunchError
from tests.problems import Problem, problem, solve

NUMPY = Backend(backends.NUMPY, np)
SCHEDULES = ("resident", "persistent", "cluster")

TOLERANCE = 1e-5
"""Of the norm of the difference from float64, by the array's norm. Rounding in float32 is 6e-8 of each of up to 20
steps' sums of up to 100 terms; what three products in TF32 leave out is less than 2^-21, 5e-7, of each term; and both
go through the steps that follow."""


@dataclass
class Case:
    """A problem, and for how many multiprocessors it is laid out."""

    schedule: str
    multiprocessors: int
    given: Problem

    def choices(self) -> planner.Plan:
        with planner.only(self.schedule):
            batch, hidden = self.given.x.shape[1], self.given.params["weight_hh_l0"].shape[1]
            return planner.plan(batch, hidden, "float32", device(self.multiprocessors))

    def __str__(self) -> str:
        return f"{self.schedule}, {self.given.x.shape}, {self.choices().forward}"


def device(multiprocessors: int = 16) -> planner.Device:
    return planner.Device(90, multiprocessors, 232448, True)


def small_problem(seed: int, *, hidden: int, inputs: int = 3, **sizes) -> Problem:
    """In float32, with weights so small that rounding does not grow from step to step."""
    given = problem(seed, hidden=hidden, inputs=inputs, dtype="float32", **sizes)
    params = {name: w / np.float32(np.sqrt(w.shape[-1]) if w.ndim > 1 else 1) for name, w in given.params.items()}
    return given.but(params=params)


def exact_inputs(given: Problem) -> Problem:
    """The same, with x and W_ih of so few bits that W_ih x is exact: the order of its additions does not matter."""
    params = {n: np.round(w * 8) / 8 if n.startswith("weight_ih") else w for n, w in given.params.items()}
    return given.but(x=np.round(given.x * 8) / 8, params={n: w.astype("float32") for n, w in params.items()})


def lengths_for(rng: np.random.Generator, steps: int, batch: int) -> np.ndarray:
    """One empty and one full sequence among them, if there are two."""
    lengths = rng.integers(0, steps + 1, batch)
    lengths[rng.permutation(batch)[:2]] = (0, steps)[-min(2, batch) :]
    return lengths


def random_case(schedule: str, number: int) -> Case:
    rng = np.random.default_rng([SCHEDULES.index(schedule), number])
    persistent = schedule == "persistent"
    hidden = 4 * int(rng.integers(1, 11)) if persistent else int(rng.integers(1, 65))
    hidden += 64 * (schedule == "cluster" and number % 4 == 3)  # of clusters of four blocks instead of two
    batch, directions = int(rng.integers(1, 12)), int(rng.integers(1, 3))
    layers = int(rng.integers(1, 3)) if number % 4 == 0 else 1
    # A block has 512 threads here, each of which takes its time.
    steps = int(rng.integers(1, 21)) if not persistent else int(rng.integers(1, (20, 9, 5)[hidden // 15] + 1))
    fewest = -(-hidden // 16) if persistent else 4 if schedule == "cluster" else 1
    lengths = lengths_for(rng, steps, batch) if rng.random() < 0.5 else None
    sizes = {"steps": steps, "batch": batch, "layers": layers, "directions": directions, "lengths": lengths}
    given = small_problem(
        number,
        hidden=hidden,
        inputs=int(rng.integers(1, 6)),
        bias=rng.random() < 0.7,
        state=rng.random() < 0.7,
        **sizes,
    )
    return Case(schedule, int(rng.integers(fewest, fewest + 7)), given)


@contextmanager
def scheduled(backend: Backend, schedule: str, multiprocessors: int = 16) -> Iterator[None]:
    """Within it the planner takes this schedule alone, for a device that is larger in nothing than it says here."""
    if backend.name == backends.GPU and schedule in ("persistent", "cluster"):
        real = cupy_one_launch.current_device()
        old = real.capability < (80 if schedule == "persistent" else 90)
        if old or not real.cooperative or real.multiprocessors < multiprocessors:
            pytest.skip(f"the {schedule} schedule does not run on {real}")
    with pytest.MonkeyPatch.context() as patch, planner.only(schedule):
        patch.setattr(cupy_one_launch, "_devices", {})
        patch.setattr(cupy_one_launch, "_described", lambda _: device(multiprocessors))
        yield


@contextmanager
def laid_out_by_hand(**choices: planner.Choice) -> Iterator[None]:
    """Within it, passes named in ``choices`` ("forward", "backward") run so, and the others in the loop."""
    real = planner.choose

    def choose(direction, *arguments, **more):
        if direction in choices:
            return choices[direction]
        with planner.only("loop"):
            return real(direction, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "choose", choose)
        yield


@contextmanager
def schedule_of_each(**schedules: str) -> Iterator[None]:
    """Within it the planner takes for "forward" and for "backward" the schedule that ``schedules`` names."""
    real = planner.choose

    def choose(direction, *arguments, **more):
        with planner.only(schedules[direction]):
            return real(direction, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "choose", choose)
        yield


def assert_given_up(
    run: Callable[[], object], why: str = "the blocks of a launch waited for each other in vain"
) -> None:
    """The persistent schedule alone takes nothing any more; afterwards the device is as new."""
    with pytest.raises(ValueError, match=f"persistent is given up on this device, since {why}"):
        run()
    cupy_one_launch._devices.clear()


def goes_wrong(run: Callable[[], object]) -> bool:
    """Whether a launch never ends, or gives something wrong."""
    try:
        run()
    except LaunchError as error:
        assert "deadlock" in str(error)
        return True
    except AssertionError:
        return True
    return False


def in_float64(given: Problem) -> Problem:
    def wide(value):
        if isinstance(value, dict):
            return {name: item.astype("float64") for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(None if item is None else item.astype("float64") for item in value)
        return None if value is None else value.astype("float64")

    parts = {name: wide(getattr(given, name)) for name in ("x", "params", "state", "dy", "dstate")}
    return replace(given, **parts)


def errors(found: dict, given: Problem, how=solve) -> dict[str, float]:
    """How far each result is from the NumPy engine's in float64, relative to its norm."""
    expected = how(NUMPY, in_float64(given))
    assert found.keys() == expected.keys()
    result = {}
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape and found[name].dtype == np.float32, name
        norm = np.linalg.norm(wanted)
        result[name] = float(np.linalg.norm(found[name] - wanted) / (norm if norm else 1))
    return result


def check(found: dict, given: Problem, how=solve) -> None:
    for name, error in errors(found, given, how).items():
        assert error <= TOLERANCE, f"{name} is off by {error:.2g}"
