"""One cell of the grid: check both sides, then time them in turn."""

import statistics
from dataclasses import asdict
from typing import Any

from .grid import Cell
from .results import rounded
from .turns import PASSES


def run(cell: Cell, contest: Any, *, seconds: float) -> dict[str, Any]:
    """What the results file says about a cell. ``seconds`` is how long each pass may be timed.

    ``contest`` is `OneProcess` or `TwoProcesses`; `release` it before the next cell. ``status`` is "timed", "wrong",
    "not supported", "out of memory" or "failed"; only the first has our times, and "not supported" has PyTorch's alone.
    """
    record: dict[str, Any] = asdict(cell) | {"input": cell.hidden, "in_cudnn_window": cell.in_cudnn_window}
    try:
        record |= _run(cell, contest, seconds)
    except contest.out_of_memory as error:
        record |= {"status": "out of memory", "message": _first_line(error)}
    except Exception as error:  # one cell's failure is a result, and the others are still worth having
        record |= {"status": "failed", "message": f"{type(error).__name__}: {_first_line(error)}"}
    contest.end()
    return record


def _run(cell: Cell, contest: Any, seconds: float) -> dict[str, Any]:
    refusal = contest.begin(cell)
    if refusal is not None:
        return {"status": "not supported", "message": refusal, **_measure(contest, seconds)}
    checked = contest.check()
    if checked["status"] == "wrong":
        return checked
    plan = contest.plan()
    contest.renew()
    times = _measure(contest, seconds)
    for side, of_side in times.items():
        checked[side] = checked.get(side, {}) | of_side
    return {**checked, "plan": plan, **contest.conditions()}


def _measure(contest: Any, seconds: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Times and peak memory by side and pass. Memory comes first: later calls may find buffers of earlier ones."""
    memory = _memory(contest.sides)
    found = _race(contest.sides, contest.rounds, seconds)
    for side, of_side in found.items():
        for of_pass, times in of_side.items():
            times["peak_bytes"] = memory[side][of_pass]
    return found


def _memory(sides: dict[str, Any]) -> dict[str, dict[str, int | None]]:
    """Peak bytes of each pass."""
    found: dict[str, dict[str, int | None]] = {}
    for name, side in sides.items():
        found[name] = {}
        for of_pass in PASSES:
            side.prepare(of_pass)
            found[name][of_pass] = side.peak_bytes()
    return found


def _race(sides: dict[str, Any], rounds: tuple[int, int], seconds: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Times by side and pass. Each round measures each side once; who was first in one is last in the next."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in sides}
    at_least, at_most = rounds
    for of_pass in PASSES:
        for side in sides.values():
            side.prepare(of_pass)
            side.warm_up(seconds / len(sides))
        samples: dict[str, list] = {name: [] for name in sides}
        spent = 0.0
        for number in range(at_most):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for name in order:
                taken = sides[name].sample(seconds / len(sides) / at_most)
                samples[name].append(taken)
                spent += sum(sample.ms + (sample.from_idle_ms or 0) for sample in taken) / 1e3
            if number + 1 >= at_least and spent > seconds:
                break
        for name, of_side in samples.items():
            found[name][of_pass] = _summary(of_side)
    return found


def _summary(rounds: list[list]) -> dict[str, Any]:
    samples = [sample for of_round in rounds for sample in of_round]

    def median(values: list) -> float | str | None:
        return None if None in values else rounded(statistics.median(values))

    times = sorted(sample.ms for sample in samples)
    return {
        "ms": median(times),
        "quartiles_ms": [rounded(times[len(times) // 4]), rounded(times[(3 * len(times)) // 4])],
        "from_idle_ms": median([sample.from_idle_ms for sample in samples]),
        "enqueue_ms": median([sample.enqueue_ms for sample in samples]),
        "rounds": len(rounds),
        "calls": len(samples),
    }


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
