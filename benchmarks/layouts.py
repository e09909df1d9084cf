"""Times every layout of the kernels with one launch on a GPU: what the planner's predictions are fitted to.

    python benchmarks/layouts.py --out layouts.json
    python benchmarks/layouts.py --dtype bfloat16 --out layouts-bfloat16.json
    python benchmarks/layouts.py --schedules cluster --hidden 64 128 256 384
    python benchmarks/layouts.py --schedules wide --hidden 1280 1536 2048 --batch 1 4 8 32

Microseconds per time step, of kernels alone, without the products before and after. See benchmarks/README.md.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import files  # noqa: E402
from benchmarks.needs import need  # noqa: E402
from gpulstm import arrays  # noqa: E402
from gpulstm.cuda import planner, wide_layouts  # noqa: E402 - of this checkout, installed or not
from gpulstm.cuda.copies import copy  # noqa: E402
from gpulstm.engines import Lane, cupy_one_launch  # noqa: E402
from gpulstm.parameters import Weights  # noqa: E402

LAYOUTS = {
    "resident": planner._resident,
    "persistent": planner._persistent,
    "wide": planner._wide,  # the persistent schedule of layers that do not fit on the chip
    "cluster": planner._cluster,
}
HIDDEN, BATCHES, STEPS, REPEATS = (64, 128, 256, 512, 768, 1024), (1, 8, 32, 128), 128, 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, help="a JSON file to write")
    arguments.add_argument("--hidden", type=int, nargs="+", default=HIDDEN)
    arguments.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--dtype", choices=("float32", "tf32", "float16", "bfloat16"), default="float32")
    arguments.add_argument("--schedules", nargs="+", choices=LAYOUTS, default=["persistent"])
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="begin no size after this time")
    given = arguments.parse_args()
    need("cupy", gpu=True)
    import cupy

    from benchmarks.gpu import machine

    rows: list[dict] = []
    document = {"machine": machine(cupy), "steps": given.steps, "dtype": given.dtype, "left": [], "rows": rows}
    start, schedules = time.perf_counter(), tuple(given.schedules)
    for hidden, batch in ((hidden, batch) for hidden in given.hidden for batch in given.batch):
        if time.perf_counter() - start > given.seconds:
            document["left"].append([hidden, batch])
            continue
        for row in measured(cupy, batch, hidden, given.steps, on_device(cupy), given.dtype, schedules):
            rows.append(row)
            line = "{schedule:10} {direction:8} H {hidden:4} N {batch:3}: {microseconds:7.2f} us a step, "
            line += "{predicted:7.2f} predicted, tiles {tiles}, {groups} x {blocks} blocks"
            print(line.format(**row), flush=True)
        files.write(given.out, document)
    for schedule in given.schedules:
        print(f"{schedule}, measured over predicted: {fit([row for row in rows if row['schedule'] == schedule])}")
    files.write(given.out, document)


def layouts(direction: str, batch: int, hidden: int, dtype: str, device: planner.Device, schedules: tuple) -> list:
    """All of those of ``schedules`` that there is no obstacle to."""
    fitting = [name for name in schedules if not planner._obstacle(name, direction, batch, hidden, dtype, device)]
    return [choice for name in fitting for choice in LAYOUTS[name](direction, batch, hidden, dtype, device)]


def measured(
    cupy: Any,
    batch: int,
    hidden: int,
    steps: int,
    seconds: Callable,
    dtype: str = "float32",
    schedules: tuple[str, ...] = ("persistent",),
) -> Iterator[dict]:
    """A row for each layout; ``seconds(function)`` times a call."""
    device = cupy_one_launch.current_device()
    random = np.random.default_rng(0)
    stored = {"bfloat16": arrays.bfloat16, "float16": lambda: np.float16}.get(dtype, lambda: np.float32)()

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return np.float32(scale) * random.standard_normal(shape, dtype=np.float32)

    def on_gpu(numbers: Any) -> Any:
        return cupy.asarray(numbers.astype(stored))

    absent = [None] * (len(Weights._fields) - 3)
    recurrent, bias = on_gpu(normal(4 * hidden, hidden, scale=hidden**-0.5)), on_gpu(normal(4 * hidden))
    weights = Weights(on_gpu(normal(1, 1)), recurrent, bias, *absent)
    lane = Lane(0, hidden, False, 0)
    numbers = normal(steps, batch, 4 * hidden)
    inputs, dy = on_gpu(numbers), on_gpu(normal(steps, batch, hidden))
    gates = on_gpu(abs(numbers) / (1 + abs(numbers)))  # as large as activated gates are
    y, h = on_gpu(np.zeros(dy.shape)), on_gpu(np.zeros((batch, hidden)))
    state = cupy.zeros((batch, hidden), np.float32)
    cells = cupy.zeros((steps + 1, batch, hidden), np.float32)

    def again(array: Any) -> Any:
        fresh = cupy.empty(array.shape, array.dtype)
        copy(fresh, array)
        return fresh

    for choice in layouts(planner.FORWARD, batch, hidden, dtype, device, schedules):

        def run(choice=choice):
            hiddens = cupy_one_launch.history(choice, cells.shape, dy)
            copy(hiddens[0], h)
            cupy_one_launch.forward_steps(choice, again(inputs), weights, hiddens, cells, y, lane, None, 0, keep=True)

        yield _row(planner.FORWARD, batch, hidden, choice, seconds(run) / steps)
    for choice in layouts(planner.BACKWARD, batch, hidden, dtype, device, schedules):

        def run(choice=choice):
            dh, dc = state.copy(), state.copy()
            cupy_one_launch.backward_steps(choice, again(gates), cells, weights, dy, dh, dc, lane, None)

        yield _row(planner.BACKWARD, batch, hidden, choice, seconds(run) / steps)


def on_device(cupy: Any) -> Callable:
    def seconds(function: Callable) -> float:
        function()
        times = []
        for _ in range(REPEATS):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            function()
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(begin, end) / 1000)
        return float(np.median(times))

    return seconds


def fit(rows: list[dict]) -> dict[str, str]:
    """Median, and the quarter and three quarters marks, of measured over predicted."""
    found = {}
    for direction in (planner.FORWARD, planner.BACKWARD):
        ratios = [row["microseconds"] / row["predicted"] for row in rows if row["direction"] == direction]
        if ratios:
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            found[direction] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return found


def _row(direction: str, batch: int, hidden: int, choice: planner.Choice, seconds: float) -> dict:
    layout = {"tiles": list(choice.tiles), "blocks": choice.blocks, "groups": choice.groups, "share": choice.share}
    schedule = "wide" if choice.kernel in wide_layouts.TILES else choice.schedule
    sizes = {"schedule": schedule, "direction": direction, "hidden": hidden, "batch": batch}
    return {**sizes, **layout, "microseconds": seconds * 1e6, "predicted": choice.microseconds}


if __name__ == "__main__":
    main()
