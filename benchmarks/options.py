"""What each option of the LSTM costs beside the plain LSTM: one layer, one process.

    python benchmarks/options.py --out options.json
    python benchmarks/options.py --dtype bfloat16 --bidirectional --out options-bfloat16.json
    python benchmarks/options.py --device cpu --out options-cpu.json

Ends with 1 if recurrent dropout or zoneout takes more than 1.1 times the plain LSTM's time anywhere, or layer norm more
than 1.5 times. See benchmarks/README.md.
"""

import argparse
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpulstm as gl  # noqa: E402 - of this checkout, installed or not
from benchmarks import files  # noqa: E402
from benchmarks.in_several_ways import add_continue, normal, rows_or_why, take_over  # noqa: E402
from benchmarks.needs import need  # noqa: E402
from gpulstm.cuda import folding  # noqa: E402

GRID = {
    "gpu": ((32, 64, 128, 256, 512, 768, 1024), (1, 8, 32, 128), 512),
    "cpu": ((32, 64, 128, 256), (1, 8, 32), 128),
}  # hidden sizes, batches, time steps
ROUNDS = 7
SECONDS = 0.04  # of a CPU, for each option, pass and round
HOLD = 10_000_000  # cycles, some 5 ms: longer than a call takes on the CPU, but where a loop launches every step
PLAIN, NOT_FOLDED = "plain", "projection, not folded"
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "recurrent dropout": {"recurrent_dropout": 0.3},
    "recurrent dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"},
    "zoneout": {"zoneout": 0.1},
    "weight drop": {"weight_drop": 0.3},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "projection": {"proj_size": 16},
    NOT_FOLDED: {"proj_size": 16},  # two products and two kernels a step, to compare with
    "layer norm": {"layer_norm": True},
}
LIMITS = {"recurrent dropout": 1.1, "recurrent dropout of the candidate": 1.1, "zoneout": 1.1, "layer norm": 1.5}
PASSES = ("forward", "forward_backward")
DTYPES = ("float32", "tf32", "float16", "bfloat16")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    arguments.add_argument("--out", type=Path, help="a JSON file to write")
    arguments.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    arguments.add_argument("--bidirectional", action="store_true")
    arguments.add_argument("--hidden", type=int, nargs="+")
    arguments.add_argument("--batch", type=int, nargs="+")
    arguments.add_argument("--steps", type=int)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="begin no size after this time")
    arguments.add_argument("--without", nargs="+", choices=[name for name in OPTIONS if name != PLAIN], default=())
    add_continue(arguments)
    given = arguments.parse_args()
    if given.device == "cpu" and given.dtype != DTYPES[0]:
        arguments.error(f"--dtype {given.dtype} is for CuPy arrays, on a CPU there is {DTYPES[0]}")
    document: dict[str, Any] = {"dtype": given.dtype, "bidirectional": given.bidirectional}
    of_all = {**document, "dtype": "float32", "tf32": True} if given.dtype == "tf32" else {**document}
    need("torch") if given.device == "cpu" else need("cupy", gpu=True)
    if given.device == "cpu":
        xp, in_turn, machine = np, in_turn_on_cpu(given.rounds), _machine
    else:
        import cupy as xp

        from benchmarks.gpu import Gpu

        gpu = Gpu()
        in_turn, machine = in_turn_on(gpu, given.rounds), gpu.machine
        document["machine"] = machine()
    all_hidden, all_batch, all_steps = GRID[given.device]
    start, steps, rows, left = time.perf_counter(), given.steps or all_steps, [], []
    failed: list[dict] = []
    options = {name: made for name, made in OPTIONS.items() if name not in given.without}
    document |= {"steps": steps, "left": left, "failed": failed, "rows": rows}
    there = take_over(given.go_on, document, ("hidden", "batch"))
    for hidden, batch in product(given.hidden or all_hidden, given.batch or all_batch):
        if (hidden, batch) in there:
            continue
        if time.perf_counter() - start > given.seconds:
            left.append([hidden, batch])
            continue
        for row in rows_or_why(lambda at=(batch, hidden): measured(xp, *at, steps, in_turn, options, **of_all)):
            if "failed" in row:
                failed.append({"hidden": hidden, "batch": batch} | row)
                print(f"FAILED, H {hidden} N {batch} {row.get('option', '')}: {row['failed']}", flush=True)
                continue
            rows.append(row)
            print("H {hidden:4} N {batch:3} {option:34} {schedules:23} forward {forward_us:7.2f} us a step, "
                  "{forward_ratio:5.2f} of plain; with backward {forward_backward_us:7.2f}, "
                  "{forward_backward_ratio:5.2f}".format(**row), flush=True)  # fmt: skip
        files.write(given.out, document)
    dear = too_dear(rows)
    for row in dear:
        limit = LIMITS[row["option"]]
        print("more than {} times the plain LSTM: H {hidden} N {batch} {option}".format(limit, **row))
    files.write(given.out, document | {"machine": machine()})
    return 1 if dear or failed else 0


def measured(
    xp: Any,
    batch: int,
    hidden: int,
    steps: int,
    in_turn: Callable,
    options: dict[str, dict] = OPTIONS,
    **of_all: Any,
) -> Iterator[dict]:
    """A row for each option; ``in_turn(calls)`` times several calls in turn and gives a list of seconds. ``of_all``
    are arguments of all layers."""
    layers = {name: gl.LSTM(hidden, hidden, **made, **of_all, xp=xp, rng=0) for name, made in options.items()}
    dtype, width = layers[PLAIN].params["weight_hh_l0"].dtype, hidden * (2 if of_all.get("bidirectional") else 1)
    x, dy = (
        xp.asarray(normal(steps, batch, features, seed=seed)).astype(dtype)
        for seed, features in enumerate((hidden, width))
    )
    for name in [*layers]:  # what does not run at all is left out, and the others are timed
        once = partial(_folded_or_not, name, _forward_backward, layers[name], x, dy)
        for row in rows_or_why(lambda once=once: [once()][1:]):
            del layers[name]
            yield {"option": name} | row
    seconds = {}
    for each, call in zip(PASSES, (_forward, _forward_backward), strict=True):
        calls = [partial(_folded_or_not, name, call, lstm, x, dy) for name, lstm in layers.items()]
        seconds[each] = dict(zip(layers, in_turn(calls), strict=True))
    for name, lstm in layers.items():
        row = {"hidden": hidden, "batch": batch, "option": name}
        row["schedules"] = " and ".join(choice.schedule for choice in _folded_or_not(name, lstm.plan, x)[:2])
        for each in PASSES:
            row[f"{each}_us"] = seconds[each][name] / steps * 1e6
            row[f"{each}_ratio"] = seconds[each][name] / seconds[each][PLAIN]
        yield row


def too_dear(rows: list[dict]) -> list[dict]:
    """The rows in which an option costs more than it may."""
    limited = (row for row in rows if row["option"] in LIMITS)
    return [row for row in limited if any(row[f"{each}_ratio"] > LIMITS[row["option"]] for each in PASSES)]


def in_turn_on(gpu: Any, rounds: int) -> Callable:
    """Medians over rounds, in each of which every call has its turn: a clock that moves on the way meets all alike.

    A call is queued while the GPU is held, so that it is the GPU's time and not that of asking for it.
    """
    hold = gpu.kernel("hold")

    def in_turn(calls: list[Callable]) -> list[float]:
        begin, end = gpu.cupy.cuda.Event(), gpu.cupy.cuda.Event()
        found: list[list[float]] = [[] for _ in calls]
        for round_number in range(rounds + 1):
            for call, times in zip(calls, found, strict=True):
                hold(1, 1, (np.int32(HOLD),))
                begin.record(gpu.stream)
                call()
                end.record(gpu.stream)
                end.synchronize()
                if round_number:  # the first one compiles and fills the memory pool
                    times.append(gpu.cupy.cuda.get_elapsed_time(begin, end) / 1e3)
        return [float(np.median(times)) for times in found]

    return in_turn


def _folded_or_not(name: str, call: Callable, *arguments: Any) -> Any:
    """``call(*arguments)`` as the planner likes it, but for what is to go through the loop."""
    with folding.forced(False if name == NOT_FOLDED else None):
        return call(*arguments)


def in_turn_on_cpu(rounds: int) -> Callable:
    """The same, where a turn is several calls that follow each other, and begins when all threads sleep: NumPy's spin
    for a while after their work, on the cores that the next call wants."""
    from benchmarks.against_torch.cpu import Cpu, settle

    cpu = Cpu()

    def in_turn(calls: list[Callable]) -> list[float]:
        found: list[list[float]] = [[] for _ in calls]
        for round_number in range(rounds + 1):
            for call, times in zip(calls, found, strict=True):
                settle()
                sampled = cpu.sample(call, SECONDS)
                if round_number:
                    times += [sample.ms / 1e3 for sample in sampled]
        return [float(np.median(times)) for times in found]

    return in_turn


def _machine() -> dict[str, Any]:
    """After the measurement: it imports PyTorch, whose version it tells."""
    from benchmarks.against_torch import cpu, machine
    from gpulstm import config

    (on_cpu,) = (line for line in config.report() if line.startswith("NumPy arrays: "))
    return {
        **machine.machine("cpu"),
        "versions": {name: version for name, version in machine.versions("cpu").items() if name != "torch"},
        "engines": on_cpu,
        "environment": {name: value for name, value in cpu.environment().items() if name != "GPULSTM_CACHE_DIR"},
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _forward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    lstm.forward(x, rng=1)


def _forward_backward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    y, _, cache = lstm.forward(x, rng=1)
    lstm.backward(cache, dy if y.shape == dy.shape else y)


if __name__ == "__main__":
    sys.exit(main())
