"""Times every layout of the kernels with one launch on a GPU: what the planner's predictions are fitted to.

    python benchmarks/layouts.py --out layouts.json
    python benchmarks/layouts.py --dtype bfloat16 --out layouts-bfloat16.json
    python benchmarks/layouts.py --schedules cluster --hidden 64 128 256 384
    python benchmarks/layouts.py --schedules wide --hidden 1280 1536 2048 --batch 1 4 8 32

Microseconds per time step, of kernels alone, without the products before and after. A layout that fails is written down
and the others go on. `benchmarks/choices.py` compares the file with what the planner takes. See benchmarks/README.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import files  # noqa: E402
from benchmarks.in_several_ways import add_continue, normal, rows_or_why, take_over  # noqa: E402
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
COMPILERS = min(8, (os.cpu_count() or 1) // 2)
HOLD = 2_000_000  # cycles, some 1 ms: a launch of a small layer takes less than what Python needs to ask for it


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, help="a JSON file to write")
    arguments.add_argument("--hidden", type=int, nargs="+", default=HIDDEN)
    arguments.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--dtype", choices=("float32", "tf32", "float16", "bfloat16"), default="float32")
    arguments.add_argument("--schedules", nargs="+", choices=LAYOUTS, default=["persistent"])
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="begin no size after this time")
    arguments.add_argument("--compilers", type=int, default=COMPILERS, help="processes that compile beforehand")
    arguments.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)  # what such a process is started with
    add_continue(arguments)
    given = arguments.parse_args()
    need("cupy", gpu=True)
    import cupy

    from benchmarks.gpu import Gpu

    gpu, device = Gpu(), cupy_one_launch.current_device()
    rows: list[dict] = []
    failed: list[dict] = []
    described = {name: value for name, value in device._asdict().items() if name != "given_up"}  # that is this run's
    document = {"machine": gpu.machine(), "device": described, "steps": given.steps, "dtype": given.dtype}
    document |= {"left": [], "failed": failed, "rows": rows}
    start, schedules, seconds = time.perf_counter(), tuple(given.schedules), on_device(gpu)
    where = where_first(product(given.hidden, given.batch), given.dtype, device, schedules)
    if given.part:
        for (hidden, batch), kernels in _by_size(where, *given.part).items():
            of_size = batch, hidden, 1, once, given.dtype, schedules, kernels
            print(*rows_or_why(lambda of=of_size: measured(cupy, *of)))
        return 0
    _compile_beforehand(min(given.compilers, len(where) // 4), min(120.0, given.seconds / 2))
    there = take_over(given.go_on, document, ("hidden", "batch"))
    for hidden, batch in product(given.hidden, given.batch):
        if (hidden, batch) in there:
            continue
        if time.perf_counter() - start > given.seconds:
            document["left"].append([hidden, batch])
            continue
        of_size = batch, hidden, given.steps, seconds, given.dtype, schedules
        for row in rows_or_why(lambda of=of_size: measured(cupy, *of)):
            (failed if "failed" in row else rows).append(row)
            print(_line(row, hidden, batch), flush=True)
        files.write(given.out, document)
    for schedule in given.schedules:
        print(f"{schedule}, measured over predicted: {fit([row for row in rows if row['schedule'] == schedule])}")
    files.write(given.out, document)
    return 1 if failed else 0


def where_first(sizes: Iterable[tuple[int, int]], dtype: str, device: planner.Device, schedules: tuple) -> dict:
    """Kernel and tiles -> the first of the sizes, (hidden, batch), that has a layout with them."""
    found: dict[tuple, tuple[int, int]] = {}
    for hidden, batch in sizes:
        for direction in (planner.FORWARD, planner.BACKWARD):
            for choice in layouts(direction, batch, hidden, dtype, device, schedules):
                found.setdefault((choice.kernel, choice.tiles), (hidden, batch))
    return found


def _by_size(where: dict, number: int, count: int) -> dict[tuple[int, int], set[tuple]]:
    """Every ``count``-th kernel from ``number`` on, by the size at which it is run."""
    found: dict[tuple[int, int], set[tuple]] = {}
    for kernel in [*where][number::count]:
        found.setdefault(where[kernel], set()).add(kernel)
    return found


def _compile_beforehand(count: int, seconds: float) -> None:
    """In as many processes at the same time, into CuPy's cache on the disk; what fails there fails here again."""
    if count < 2:
        return
    command, end = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]], time.monotonic() + seconds
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*command, "--part", str(number), str(count)], **quiet) for number in range(count)]
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def once(function: Callable, before: Callable) -> float:
    before()
    function()
    return 0.0


def _line(row: dict, hidden: int, batch: int) -> str:
    if "failed" in row:
        return f"FAILED, H {hidden} N {batch} {row.get('direction', '')} {row.get('tiles', '')}: {row['failed']}"
    line = "{schedule:10} {direction:8} H {hidden:4} N {batch:3}: {microseconds:7.2f} us a step, "
    line += "{predicted:7.2f} predicted, tiles {tiles}, {groups} x {blocks} blocks"
    return line.format(**row)


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
    kernels: Container[tuple] | None = None,
) -> Iterator[dict]:
    """A row for each layout, with its time or why there is none. ``seconds(function, before)`` times a call, and calls
    ``before`` each time before it. ``kernels`` are those with tiles that are wanted, or None for all."""
    device = cupy_one_launch.current_device()
    stored = {"bfloat16": arrays.bfloat16, "float16": lambda: np.float16}.get(dtype, lambda: np.float32)()

    def on_gpu(numbers: Any) -> Any:
        return cupy.asarray(numbers.astype(stored))

    absent = [None] * (len(Weights._fields) - 3)
    recurrent = on_gpu(normal(4 * hidden, hidden) * np.float32(hidden**-0.5))
    weights = Weights(on_gpu(normal(1, 1)), recurrent, on_gpu(normal(4 * hidden)), *absent)
    lane = Lane(0, hidden, False, 0)
    numbers = normal(steps, batch, 4 * hidden)
    inputs, dy = on_gpu(numbers), on_gpu(normal(steps, batch, hidden))
    gates = on_gpu(abs(numbers) / (1 + abs(numbers)))  # as large as activated gates are
    y, h = on_gpu(np.zeros(dy.shape)), on_gpu(np.zeros((batch, hidden)))
    zeros, dh, dc = (cupy.zeros((batch, hidden), np.float32) for _ in range(3))
    cells = cupy.zeros((steps + 1, batch, hidden), np.float32)
    fresh, hiddens = cupy.empty(inputs.shape, inputs.dtype), []  # what a call overwrites

    def of_forward(choice: planner.Choice) -> tuple[Callable, Callable]:
        def before() -> None:
            hiddens[:] = [cupy_one_launch.history(choice, cells.shape, dy)]
            copy(hiddens[0][0], h)
            copy(fresh, inputs)

        def run() -> None:
            cupy_one_launch.forward_steps(choice, fresh, weights, hiddens[0], cells, y, lane, None, 0, keep=True)

        return run, before

    def of_backward(choice: planner.Choice) -> tuple[Callable, Callable]:
        def before() -> None:
            for target, source in ((fresh, gates), (dh, zeros), (dc, zeros)):
                copy(target, source)

        def run() -> None:
            cupy_one_launch.backward_steps(choice, fresh, cells, weights, dy, dh, dc, lane, None)

        return run, before

    for direction, of_choice in ((planner.FORWARD, of_forward), (planner.BACKWARD, of_backward)):
        for choice in layouts(direction, batch, hidden, dtype, device, schedules):
            if kernels is not None and (choice.kernel, choice.tiles) not in kernels:
                continue
            row = _row(direction, batch, hidden, choice)
            calls = of_choice(choice)
            for found in rows_or_why(lambda of=calls: [{"microseconds": seconds(*of) / steps * 1e6}]):
                yield row | found


def on_device(gpu: Any) -> Callable:
    """The median of the GPU's time for a call, which is queued while the GPU is held."""
    hold = gpu.kernel("hold")
    begin, end = gpu.cupy.cuda.Event(), gpu.cupy.cuda.Event()

    def seconds(function: Callable, before: Callable) -> float:
        times = []
        for number in range(REPEATS + 1):
            before()
            hold(1, 1, (np.int32(HOLD),))
            begin.record(gpu.stream)
            function()
            end.record(gpu.stream)
            end.synchronize()
            if number:  # the first one compiles
                times.append(gpu.cupy.cuda.get_elapsed_time(begin, end) / 1000)
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


def _row(direction: str, batch: int, hidden: int, choice: planner.Choice) -> dict:
    layout = {"tiles": list(choice.tiles), "blocks": choice.blocks, "groups": choice.groups, "share": choice.share}
    schedule = "wide" if choice.kernel in wide_layouts.TILES else choice.schedule
    sizes = {"schedule": schedule, "direction": direction, "hidden": hidden, "batch": batch}
    return {**sizes, "kernel": choice.kernel, **layout, "predicted": choice.microseconds}


if __name__ == "__main__":
    sys.exit(main())
