"""The loop on a GPU beside a CUDA graph of it: what a step takes, and what a call asks of the CPU.

    python benchmarks/graphs.py --out graphs.json

Ends with 1 if a graph could not be made, or gives something else than the loop. See benchmarks/README.md.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpulstm as gl  # noqa: E402 - of this checkout, installed or not
from benchmarks import in_several_ways  # noqa: E402
from benchmarks.in_several_ways import normal  # noqa: E402
from benchmarks.options import ROUNDS  # noqa: E402
from gpulstm.cuda import folding, planner  # noqa: E402
from gpulstm.engines import cupy_graph  # noqa: E402

HIDDEN, BATCHES, STEPS = (256, 768, 1024, 2048), (1, 32, 128, 256), 256
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "bfloat16": {"dtype": "bfloat16"},
    "zoneout": {"zoneout": 0.1},
    "cell clip": {"cell_clip": 3.0},
    "layer norm": {"layer_norm": True},
    "layer norm, zoneout": {"layer_norm": True, "zoneout": 0.1},
    "projection, not folded": {"proj_size": 64},
}
SCHEDULES = ("loop", "graph")
PASSES = ("forward", "forward_backward")
TOLERANCES = {"tf32": 1e-3, "bfloat16": 1e-2}  # of the norm; another cuBLAS handle may choose another algorithm
TOLERANCE = 1e-5
LINE = (
    "{kind:22} H {hidden:4} N {batch:3} {schedule:5} forward {forward_us:7.2f} us a step, {forward_cpu_us:6.2f} of the "
    "CPU, {forward_ratio:5.2f} of the loop; with backward {forward_backward_us:7.2f}, {forward_backward_cpu_us:6.2f}, "
    "{forward_backward_ratio:5.2f}; off by {error:.1e}"
)


def main() -> int:
    return in_several_ways.run(
        __doc__.splitlines()[0],
        {"kind": [*KINDS], "hidden": HIDDEN, "batch": BATCHES},
        STEPS,
        lambda gpu: in_turn_on(gpu, ROUNDS),
        measured,
        LINE,
        wrong,
        "wrong: {kind} H {hidden} N {batch}, off by {error:.1e} {why_not}",
    )


def wrong(rows: list[dict]) -> list[dict]:
    """Those where no graph could be made, or one gave something else than the loop."""
    return [row for row in rows if row["why_not"] or not row["error"] <= TOLERANCES.get(row["kind"], TOLERANCE)]


def in_turn_on(gpu: Any, rounds: int) -> Callable:
    """Medians over rounds, in each of which every call has its turn: seconds until the GPU has come to the end, and
    until the call returned. The GPU is idle when a call begins: a loop is as slow as the CPU that launches it."""

    def in_turn(calls: list[Callable]) -> list[tuple[float, float]]:
        begin, end = gpu.cupy.cuda.Event(), gpu.cupy.cuda.Event()
        found: list[list[tuple[float, float]]] = [[] for _ in calls]
        for round_number in range(rounds + 1):
            for call, times in zip(calls, found, strict=True):
                begin.record(gpu.stream)
                before = time.perf_counter()
                call()
                asked = time.perf_counter() - before
                end.record(gpu.stream)
                end.synchronize()
                if round_number:  # the first one compiles, captures, and fills the memory pool
                    times.append((gpu.cupy.cuda.get_elapsed_time(begin, end) / 1e3, asked))
        return [(float(np.median([t for t, _ in times])), float(np.median([t for _, t in times]))) for times in found]

    return in_turn


def measured(cupy: Any, kind: str, batch: int, hidden: int, steps: int, in_turn: Callable) -> Iterator[dict]:
    """A row for each schedule; ``in_turn(calls)`` gives each call's seconds, the GPU's and the CPU's."""
    lstm = gl.LSTM(hidden, hidden, **KINDS[kind], xp=cupy, rng=0)
    dtype = lstm.params["weight_hh_l0"].dtype
    x = cupy.asarray(normal(steps, batch, hidden).astype(dtype))
    dy = cupy.asarray(normal(steps, batch, lstm.layout.output_size, seed=1).astype(dtype))
    results = {schedule: _in(schedule, _results, lstm, x, dy) for schedule in SCHEDULES}
    seconds = {}
    for each, call in zip(PASSES, (_forward, _forward_backward), strict=True):
        calls = [lambda schedule=schedule, call=call: _in(schedule, call, lstm, x, dy) for schedule in SCHEDULES]
        seconds[each] = dict(zip(SCHEDULES, in_turn(calls), strict=True))
    for schedule in SCHEDULES:
        row = {"kind": kind, "hidden": hidden, "batch": batch, "schedule": schedule}
        row["error"] = float(np.max([_off(*pair) for pair in zip(results[schedule], results["loop"], strict=True)]))
        row["why_not"] = cupy_graph.why_not()
        row["plan"] = str(_in(schedule, lstm.plan, x))
        for each in PASSES:
            on_gpu, on_cpu = seconds[each][schedule]
            row[f"{each}_us"], row[f"{each}_cpu_us"] = on_gpu / steps * 1e6, on_cpu / steps * 1e6
            row[f"{each}_ratio"] = on_gpu / seconds[each]["loop"][0]
        yield row


def _in(schedule: str, call: Callable, *arguments: Any) -> Any:
    with planner.only(schedule), folding.forced(False):
        return call(*arguments)


def _forward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    lstm.forward(x, rng=1)


def _forward_backward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    lstm.backward(lstm.forward(x, rng=1)[2], dy)


def _results(lstm: gl.LSTM, x: Any, dy: Any) -> list[np.ndarray]:
    y, _, cache = lstm.forward(x, rng=1)
    dx, grads, _ = lstm.backward(cache, dy)
    return [array.get().astype(np.float64) for array in (y, dx, *grads.values())]


def _off(found: np.ndarray, wanted: np.ndarray) -> float:
    norm = np.linalg.norm(wanted)
    return float(np.linalg.norm(found - wanted) / (norm if norm else 1))


if __name__ == "__main__":
    sys.exit(main())
