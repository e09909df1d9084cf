"""What a time step needs in each schedule: arithmetic, bytes and hand-overs, and how fast they could be at best.

    python benchmarks/model.py
    python benchmarks/model.py --hidden 512 1024 --batch 1 32 --dtype bfloat16

Arithmetic on paper, no GPU needed. The bound puts the measured floors of `results/h200/floors.json` behind the numbers:
the longer of arithmetic and of bytes, and the hand-overs on top. It is what cannot be beaten, not what to expect.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpulstm.cuda import half_layouts, planner  # noqa: E402 - of this checkout, installed or not

H200 = planner.Device(90, 132, 232448, True)
FLOORS = Path(__file__).parent / "results" / "h200" / "floors.json"
DTYPES = ("float32", "tf32", "float16", "bfloat16", "float64")

# Numbers of a hidden unit of a sequence that a step in training reads and writes, as in kernels/README.md: in the type
# of the arrays, and in that of the cell states.
GATES_AND_H = {planner.FORWARD: (4 + 4 + 1 + 1, 2), planner.BACKWARD: (4 + 4 + 1, 3)}
PEAKS = {
    "float32": "registers only, all SMs: fma_fp32",
    "tf32": "registers only, all SMs: mma_tf32",
    "float16": "registers only, all SMs: mma_fp16",
    "bfloat16": "registers only, all SMs: mma_bf16",
}


class Work(NamedTuple):
    """Of one time step of a layer in one direction, the product with the input left out."""

    flops: int
    memory_bytes: int  # of device memory: gates, states and outputs; weights where they stay nowhere
    crossing_bytes: int  # read of what other blocks made: through L2, or in a cluster through shared memory
    launches: int
    hand_overs: int  # times that blocks wait for each other; a kernel's end is one


def work(choice: planner.Choice, direction: str, batch: int, hidden: int, dtype: str) -> Work:
    """What a step of this choice needs in training."""
    size = {"float64": 8, "float16": 2, "bfloat16": 2}.get(dtype, 4)
    wide = 8 if dtype == "float64" else 4
    numbers, of_cells = GATES_AND_H[direction]
    units = batch * hidden
    memory = units * (numbers * size + of_cells * wide)
    flops = 2 * 4 * hidden * units
    if choice.schedule in ("loop", "graph"):
        # The product reads and writes the gates once more, or da and dh, and the weights come from L2 or beyond.
        again = units * (2 * 4 * size if direction == planner.FORWARD else 4 * size + wide)
        return Work(flops, memory + again + 4 * hidden * hidden * size, 0, 2, 2)
    if choice.schedule == "resident":
        return Work(flops, memory, 0, 0, 0)
    in_half = choice.kernel in half_layouts.TILES
    if direction == planner.FORWARD:
        words = choice.blocks * units  # each block reads all h of its sequences
    else:  # each block reads contributions to its own units from all of them, or in 16 bits all of da
        words = choice.blocks * units * (4 if in_half else 1)
    return Work(flops, memory, words * (size if in_half else 4), 0, 1 if choice.blocks > 1 else 0)


class Floors:
    """Measured rates by name."""

    def __init__(self, path: Path) -> None:
        lines = json.loads(path.read_text(encoding="utf-8"))["lines"]
        self.median = {line["name"]: line["median"] for line in lines}

    def bound(self, found: Work, choice: planner.Choice, dtype: str) -> float | None:
        """Microseconds that no step of this schedule can be faster than; None without a rate for the arithmetic."""
        if dtype not in PEAKS:
            return None
        peak = PEAKS[dtype]
        if choice.schedule == "persistent" and dtype == "float32":
            peak = "registers only, all SMs: mma_fp32_by_three_tf32"
        arithmetic = found.flops / self.median[peak] / 1e6
        moving = found.memory_bytes / self.median["HBM copy, bytes read and written"] / 1e6
        crossing = found.crossing_bytes / self.median["L2, all SMs read the same 4 MB"] / 1e6
        in_clusters = choice.schedule == "cluster"
        return max(arithmetic, moving, 0.0 if in_clusters else crossing) + found.hand_overs * self._hand_over(choice)

    def _hand_over(self, choice: planner.Choice) -> float:
        return self.median[
            {
                "loop": "kernel boundary, queued beforehand, 132 x 256 threads",
                "graph": "kernel boundary, graph, 132 x 256 threads",
                "cluster": "cluster ping-pong, one way, async: blocks 0 and 1 of 8",
            }.get(choice.schedule, "flag ping-pong, one way, over 10 pairs")
        ]


def rows(hidden: list[int], batch: list[int], dtype: str, floors: Floors) -> Iterator[dict]:
    """One for each size, direction and schedule that takes it."""
    for h in hidden:
        for n in batch:
            for direction in (planner.FORWARD, planner.BACKWARD):
                for schedule in planner.SCHEDULES:
                    try:
                        with planner.only(schedule):
                            choice = planner.choose(direction, n, h, dtype, H200)
                    except ValueError:
                        continue  # it does not take this layer
                    found = work(choice, direction, n, h, dtype)
                    sizes = {"hidden": h, "batch": n, "direction": direction, "schedule": schedule}
                    layout = f"{choice.groups} x {choice.blocks}" if choice.blocks else ""
                    yield {**sizes, "blocks": layout, **found._asdict(), "bound_us": floors.bound(found, choice, dtype)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    given = parser.parse_args()
    print(f"A time step in training on an H200, {given.dtype}, without the product with the input")
    print("   H    N direction schedule       blocks   MFLOP    KB memory  KB crossing  launches  hand-overs  bound us")
    for row in rows(given.hidden, given.batch, given.dtype, Floors(FLOORS)):
        bound = "" if row["bound_us"] is None else f"{row['bound_us']:.2f}"
        print(
            f"{row['hidden']:4} {row['batch']:4} {row['direction']:9} {row['schedule']:10} {row['blocks']:>10} "
            f"{row['flops'] / 1e6:7.2f} {row['memory_bytes'] / 1e3:12.1f} {row['crossing_bytes'] / 1e3:12.1f} "
            f"{row['launches']:9} {row['hand_overs']:11} {bound:>9}"
        )


if __name__ == "__main__":
    main()
