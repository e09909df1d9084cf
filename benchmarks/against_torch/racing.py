"""One cell of the grid: check both sides, then time them in turn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from . import checking
from .devices import Cpu, Gpu
from .grid import Cell
from .sides import NotSupported, OurSide, TorchSide, random_inputs

INPUT_SETS = 3  # calls rotate among them, so that none finds its input in a cache
ROUNDS = (5, 25)  # at least, at most
PASSES = {"forward": False, "forward_backward": True}  # whether each is training


def run(cell: Cell, device: Cpu | Gpu, *, seconds: float) -> dict[str, Any]:
    """What the results file says about a cell. ``seconds`` is how long each pass may be timed.

    ``status`` is "timed", "wrong", "not supported", "out of memory" or "failed"; only the first has our times, and
    "not supported" has PyTorch's alone. Before the next cell, `release` the device.
    """
    record: dict[str, Any] = asdict(cell) | {"input": cell.hidden, "in_cudnn_window": cell.in_cudnn_window}
    device.allow_tf32(cell.dtype == "tf32")
    try:
        record |= _run(cell, device, seconds)
    except device.out_of_memory as error:
        record |= {"status": "out of memory", "message": _first_line(error)}
    except Exception as error:  # one cell's failure is a result, and the others are still worth having
        record |= {"status": "failed", "message": f"{type(error).__name__}: {_first_line(error)}"}
    return record


def _run(cell: Cell, device: Cpu | Gpu, seconds: float) -> dict[str, Any]:
    inputs = [random_inputs(cell, device.where, seed) for seed in range(INPUT_SETS)]
    theirs = TorchSide.of(cell, inputs, device.where)
    try:
        ours = OurSide(cell, theirs, device.xp, device.to_array)
    except NotSupported as refusal:
        return {"status": "not supported", "message": str(refusal), **_measure(device, {"torch": theirs}, seconds)}
    checked = _check(cell, device, ours, theirs)
    if checked["status"] == "wrong":
        return checked
    plan, ours = ours.plan(), OurSide(cell, theirs, device.xp, device.to_array)  # a new one has no buffers yet
    return {**checked, "plan": plan, **_measure(device, {"ours": ours, "torch": theirs}, seconds)}


def _check(cell: Cell, device: Cpu | Gpu, ours: OurSide, theirs: TorchSide) -> dict[str, Any]:
    """The errors of our results, and of PyTorch's own beside them, against PyTorch in float64 on the same device."""
    device.allow_tf32(False)  # a float32 reference, if it comes to that, is not in TF32
    try:
        reference, named = theirs.as_double().results(), "torch.nn.LSTM in float64"
    except device.out_of_memory:
        reference = None  # and try again where the error, and with it what it holds, is gone
    if reference is None:
        device.release()
        reference, named = theirs.results(), f"torch.nn.LSTM in {cell.storage}"
    device.allow_tf32(cell.dtype == "tf32")
    errors = checking.relative_errors(ours.results(), reference)
    of_torch = checking.relative_errors(theirs.results(), reference)
    too_far = checking.wrong(errors, cell.dtype)
    del reference
    device.release()
    return {
        "status": "wrong" if too_far else "timed",
        "reference": named,
        "tolerance": checking.TOLERANCES[cell.dtype],
        "errors": {name: _number(error) for name, error in errors.items()},
        "errors_of_torch": {name: _number(error) for name, error in of_torch.items()},
        **({"wrong": too_far} if too_far else {}),
    }


def _measure(device: Cpu | Gpu, sides: dict[str, Any], seconds: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Times and peak memory by side and pass. Memory comes first: later calls may find buffers of earlier ones."""
    memory = _memory(device, sides)
    found = _race(device, sides, seconds)
    for side, of_side in found.items():
        for of_pass, times in of_side.items():
            times["peak_bytes"] = memory[side][of_pass]
    return found


def _memory(device: Cpu | Gpu, sides: dict[str, Any]) -> dict[str, dict[str, int | None]]:
    """Peak bytes of a pass, the results included, the inputs and the parameters not."""
    found: dict[str, dict[str, int | None]] = {}
    for name, side in sides.items():
        measure = device.peak_of_ours if name == "ours" else device.peak_of_torch
        found[name] = {}
        for of_pass, training in PASSES.items():
            side.prepare(training=training)
            found[name][of_pass] = measure(_twice(side.train if training else side.infer))
    return found


def _twice(call: Callable[[int], Any]) -> Callable[[], None]:
    def both() -> None:  # the first result is gone before the second call begins
        call(0)
        call(1)

    return both


def _race(device: Cpu | Gpu, sides: dict[str, Any], seconds: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Times by side and pass. Each round measures each side once; who was first in one is last in the next."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in sides}
    for of_pass, training in PASSES.items():
        calls = {}
        for name, side in sides.items():
            side.prepare(training=training)
            calls[name] = _Rotation(side.train if training else side.infer)
        _warm_up(device, calls, seconds)
        samples: dict[str, list] = {name: [] for name in sides}
        start = time.perf_counter()
        for number in range(ROUNDS[1]):
            order = list(calls) if number % 2 == 0 else list(calls)[::-1]
            for name in order:
                samples[name].append(device.sample(calls[name]))
            if number + 1 >= ROUNDS[0] and time.perf_counter() - start > seconds:
                break
        for name, of_side in samples.items():
            found[name][of_pass] = _summary(of_side)
    return found


def _warm_up(device: Cpu | Gpu, calls: dict[str, Any], seconds: float) -> None:
    """Each at least once, on every input set if that does not take as long as the race."""
    start = time.perf_counter()
    for _ in range(INPUT_SETS):
        for call in calls.values():
            call()
        device.synchronize()
        if time.perf_counter() - start > seconds:
            break


class _Rotation:
    """A call without arguments that takes the next input set each time, and drops the result."""

    def __init__(self, call: Callable[[int], Any]) -> None:
        self.call = call
        self.count = 0

    def __call__(self) -> None:
        self.call(self.count % INPUT_SETS)
        self.count += 1


def _summary(samples: list) -> dict[str, Any]:
    def median(values: list) -> float | str | None:
        return None if None in values else _number(statistics.median(values))

    times = sorted(sample.ms for sample in samples)
    return {
        "ms": median(times),
        "quartiles_ms": [_number(times[len(times) // 4]), _number(times[(3 * len(times)) // 4])],
        "from_idle_ms": median([sample.from_idle_ms for sample in samples]),
        "enqueue_ms": median([sample.enqueue_ms for sample in samples]),
        "rounds": len(samples),
    }


def _number(value: float) -> float | str:
    """Four digits; JSON has no NaN and no infinity, so those are words."""
    return float(f"{value:.4g}") if abs(value) < float("inf") else str(value)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
