"""What a time step and a whole call need: arithmetic, bytes and hand-overs, and how fast they could be at best.

    python benchmarks/model.py
    python benchmarks/model.py --hidden 512 1024 --batch 1 32 --dtype bfloat16
    python benchmarks/model.py --layer-norm
    python benchmarks/model.py --layers 2

Arithmetic on paper, no GPU needed. The bound puts the measured floors of `results/h200/floors.json` behind the numbers.
Of a step of one schedule it is the longer of arithmetic and of bytes, and the hand-overs on top. Of a call
(`Floors.bound_of_call`) it is the sum of all three, in the schedule in which that is least.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpulstm.cuda import (  # noqa: E402 - of this checkout, installed or not
    cluster_half_layouts,
    half_layouts,
    layer_norm_layouts,
    planner,
    stacked_layers,
    wide_layouts,
)

H200 = planner.Device(90, 132, 232448, True)
FLOORS = Path(__file__).parent / "results" / "h200" / "floors.json"
DTYPES = ("float32", "tf32", "float16", "bfloat16", "float64")

INFERENCE = "inference"  # a forward pass that keeps nothing
# Numbers of a hidden unit of a sequence that a step reads and writes, as in kernels/README.md: in the type of the
# arrays, and in that of the cell states.
GATES_AND_H = {planner.FORWARD: (4 + 4 + 1 + 1, 2), planner.BACKWARD: (4 + 4 + 1, 3), INFERENCE: (4 + 1, 0)}
# The same with layer norm, in float32, where all steps are one launch: resident, persistent, and with one hand-over.
WITH_LAYER_NORM = {planner.FORWARD: (15, 17, 18), planner.BACKWARD: (19, 35, 35), INFERENCE: (5, 9, 9)}
PEAKS = {
    "float32": "registers only, all SMs: fma_fp32",
    "tf32": "registers only, all SMs: mma_tf32",
    "float16": "registers only, all SMs: mma_fp16",
    "bfloat16": "registers only, all SMs: mma_bf16",
}
# How lines of floors.json begin whose fastest is the peak of products in this type, however they are made.
PRODUCTS = {
    "float32": ("cuBLAS, float32,", "registers only, all SMs: mma_fp32_by_three_tf32", PEAKS["float32"]),
    "tf32": ("cuBLAS, TF32,", PEAKS["tf32"]),
    "float16": ("cuBLAS, float16,", PEAKS["float16"]),
    "bfloat16": ("cuBLAS, bfloat16,", PEAKS["bfloat16"]),
}
MEMORY = "HBM copy, bytes read and written"
# Bytes of shared memory that a block can have, by compute capability (CUDA C++ Programming Guide, technical
# specifications): floors.json need not say it.
SHARED_BYTES = {80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376}


class Work(NamedTuple):
    """Of one time step of a layer in one direction, the product with the input left out; or of layers side by side, of
    all of them, with the products between them."""

    flops: int
    memory_bytes: int  # of device memory: gates, states and outputs; weights where they stay nowhere
    crossing_bytes: int  # read through L2 of what other blocks made and of weights; in a cluster through shared memory
    launches: int
    hand_overs: int  # times that blocks wait for each other; a kernel's end is one


class Call(NamedTuple):
    """One call of an LSTM, whose input has as many features as its hidden state."""

    hidden: int
    batch: int
    steps: int
    dtype: str
    layers: int = 1
    directions: int = 1
    filled: float = 1.0  # the part of all time steps of all sequences that is no padding


class Bound(NamedTuple):
    """Milliseconds that a call needs for each of its parts."""

    products: float
    memory: float
    hand_overs: float
    schedules: str  # in which the sum is least; of forward and backward

    @property
    def ms(self) -> float:
        return self.products + self.memory + self.hand_overs


def work(choice: planner.Choice, direction: str, batch: float, hidden: int, dtype: str) -> Work:
    """What a step of this choice needs: in training, or in `INFERENCE`. ``batch`` may be the mean over the steps."""
    if choice.layers > 1:
        return _work_of_layers(choice, direction, batch, hidden, dtype)
    size, wide = _bytes(dtype)
    numbers, of_cells = GATES_AND_H[direction]
    units = batch * hidden
    if "layer_norm" in choice.kernel:
        return _work_with_layer_norm(choice, direction, batch, hidden)
    memory = units * (numbers * size + of_cells * wide)
    flops = 2 * 4 * hidden * units
    if choice.schedule in ("loop", "graph"):
        # The product reads and writes the gates once more, or da and dh, and the weights come from L2 or beyond.
        again = units * (4 * size + wide if direction == planner.BACKWARD else 2 * 4 * size)
        return Work(flops, memory + again + 4 * hidden * hidden * size, 0, 2, 2)
    if choice.schedule == "resident":
        return Work(flops, memory, 0, 0, 0)
    in_half = choice.kernel in half_layouts.TILES
    if choice.kernel in cluster_half_layouts.TILES:  # h in 16 bits, and contributions in float32, as in other clusters
        in_half = direction != planner.BACKWARD
    if direction != planner.BACKWARD:
        words = choice.blocks * units  # each block reads all h of its sequences
    else:  # each block reads contributions to its own units from all of them, or in 16 bits all of da
        words = choice.blocks * units * (4 if in_half else 1)
    crossing = words * (size if in_half else 4) + wide_layouts.streamed_bytes(choice)
    return Work(flops, memory, crossing, 0, 1 if choice.blocks > 1 else 0)


def _work_with_layer_norm(choice: planner.Choice, direction: str, batch: float, hidden: int) -> Work:
    resident, handed, once = WITH_LAYER_NORM[direction]
    units, blocks = batch * hidden, choice.blocks
    flops = 2 * 4 * hidden * units
    if choice.schedule == "resident":
        return Work(flops, 4 * units * resident, 0, 0, 0)
    is_once = choice.kernel == layer_norm_layouts.ONCE
    if is_once:
        words = blocks * units * (4 + 4)  # each block reads all r and inputs of its sequences
    elif direction == planner.BACKWARD:
        words = blocks * (units + 4 * blocks * batch)  # contributions, and four sums of each block
    else:
        words = blocks * units * (1 + 3 / layer_norm_layouts.UNITS_OF_A_WARP)  # h, and sums
    crossing = round(4 * words)
    return Work(
        flops, 4 * units * (once if is_once else handed), crossing, 0, layer_norm_layouts.hand_overs(choice.kernel)
    )


def _work_of_layers(choice: planner.Choice, direction: str, batch: float, hidden: int, dtype: str) -> Work:
    """Every layer but one has a second product. Forward its h comes from below, and the gates' part of W_ih x is not
    read; back its da comes from above, written once more for that but in 16 bits, and dy is not read."""
    layers, units = choice.layers, batch * hidden
    one = work(choice._replace(layers=1), direction, batch, hidden, dtype)
    back = direction == planner.BACKWARD
    size, _ = _bytes(dtype)
    once_more = 0 if choice.kernel in half_layouts.TILES else 4
    memory = layers * one.memory_bytes + (layers - 1) * units * ((once_more - 1) if back else -4) * size
    crossing = layers * one.crossing_bytes + (layers - 1) * choice.blocks * units * (4 if back else 1) * size
    return Work((2 * layers - 1) * one.flops, memory, crossing, 0, 1)  # one block hands over to that of the next layer


def around(direction: str, call: Call) -> tuple[float, float]:
    """Operations and bytes of what a layer's products with its input and its weights' gradients need, for all steps.

    Each array is read once and written once, whoever needs it.
    """
    size, _ = _bytes(call.dtype)
    hidden, units = call.hidden, call.batch * call.steps * call.filled * call.hidden
    forward = units * (1 + 4 * call.directions) * size  # x in, the gates' part out
    weights = 2 * 4 * hidden * hidden * size * call.directions  # W_ih and W_hh
    flops = 2 * 4 * hidden * units * call.directions
    if direction != planner.BACKWARD:
        return flops, forward + weights
    # da, x and h in, dx out; two more products: the gradients of both weights beside that of x.
    return 3 * flops, units * ((4 + 1) * call.directions + 2) * size + 2 * weights


def _bytes(dtype: str) -> tuple[int, int]:
    """Of a number in the arrays, and of a cell state."""
    return {"float64": 8, "float16": 2, "bfloat16": 2}.get(dtype, 4), 8 if dtype == "float64" else 4


class Floors:
    """Measured rates by name, and the device that they were measured on."""

    def __init__(self, path: Path) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        self.path, self.machine = path, document["machine"]
        self.median = {line["name"]: line["median"] for line in document["lines"]}

    @property
    def device(self) -> planner.Device:
        capability = round(10 * float(self.machine["compute capability"]))
        shared = SHARED_BYTES.get(capability, min(SHARED_BYTES.values()))
        return planner.Device(capability, self.machine["multiprocessors"], shared, True)

    def bound(self, found: Work, choice: planner.Choice, dtype: str) -> float | None:
        """Microseconds that no step of this schedule can be faster than; None without a rate for the arithmetic."""
        if dtype not in PEAKS:
            return None
        peak = PEAKS[dtype]
        if choice.kernel in wide_layouts.TILES:
            peak = PEAKS["float32"]
        elif choice.schedule == "persistent" and dtype == "float32":
            peak = "registers only, all SMs: mma_fp32_by_three_tf32"
        arithmetic = found.flops / self.median[peak] / 1e6
        moving = found.memory_bytes / self.median[MEMORY] / 1e6
        crossing = found.crossing_bytes / self.median["L2, all SMs read the same 4 MB"] / 1e6
        in_clusters = choice.schedule == "cluster"
        return max(arithmetic, moving, 0.0 if in_clusters else crossing) + found.hand_overs * self._hand_over(choice)

    def bound_of_call(self, call: Call, *, training: bool) -> Bound:
        """GEMM time at the measured peak, bytes at the measured bandwidth, and steps times the measured hand-over.

        Both directions may run at the same time, and each layer one step behind the one below it: hand-overs are
        counted for ``steps + layers - 1`` steps. Of all schedules that take the layer, timed or not, it is the one with
        the least sum; but for those of a block alone, since what its threads wait for each other has not been
        measured. What blocks read of each other through L2 depends on the layout and is left out. Raises KeyError
        where a rate is missing.
        """
        passes = (planner.FORWARD, planner.BACKWARD) if training else (INFERENCE,)
        bounds = [self._bound_of_pass(call, direction) for direction in passes]
        numbers = [sum(values) for values in zip(*(bound[:3] for bound in bounds), strict=True)]
        return Bound(*numbers, " and ".join(bound.schedules for bound in bounds))

    def _bound_of_pass(self, call: Call, direction: str) -> Bound:
        flops, moved = around(direction, call)
        batch, lanes = call.batch * call.filled, call.directions
        found = []
        for choice in _choices(direction, call.batch, call.hidden, call.dtype, self.device):
            step = work(choice, direction, batch, call.hidden, call.dtype)
            try:
                hand_over = self._hand_over(choice)
            except KeyError:
                continue  # a device without clusters, or a line that failed
            if not step.hand_overs:
                continue
            operations = call.layers * (flops + call.steps * lanes * step.flops)
            moving = call.layers * (moved + call.steps * lanes * step.memory_bytes)
            waits = (call.steps + call.layers - 1) * step.hand_overs * hand_over
            memory = moving / self.median[MEMORY] / 1e9
            found.append(Bound(operations / self.peak(call.dtype) / 1e9, memory, waits / 1e3, choice.schedule))
        if not found:
            raise KeyError("any line of a hand-over")
        return min(found, key=lambda bound: bound.ms)

    def peak(self, dtype: str) -> float:
        """Operations of products, in millions of millions in a second: the fastest that was measured."""
        rates = [rate for name, rate in self.median.items() if name.startswith(PRODUCTS[dtype])]
        if not rates:
            raise KeyError(f"any of {PRODUCTS[dtype]}")
        return max(rates)

    def _hand_over(self, choice: planner.Choice) -> float:
        everywhere = f"{self.machine['multiprocessors']} x 256 threads"
        name = {
            "loop": f"kernel boundary, queued beforehand, {everywhere}",
            "graph": f"kernel boundary, graph, {everywhere}",
            "cluster": "cluster ping-pong, one way, async: blocks 0 and 1 of 8",
        }.get(choice.schedule)
        return self.median[name] if name else self._first("flag ping-pong, one way, over ")

    def _first(self, beginning: str) -> float:
        for name, median in self.median.items():
            if name.startswith(beginning):
                return median
        raise KeyError(beginning)


def _choices(
    direction: str, batch: int, hidden: int, dtype: str, device: planner.Device, *, layer_norm: bool = False
) -> Iterator[planner.Choice]:
    """One for each schedule that takes the layer; with layer norm, of those with one launch for all steps."""
    for schedule in ("resident", "persistent") if layer_norm else planner.SCHEDULES:
        asked = planner.BACKWARD if direction == planner.BACKWARD else planner.FORWARD
        try:
            with planner.only(schedule):
                not_plain = planner.LAYER_NORM if layer_norm else ""
                choice = planner.choose(asked, batch, hidden, dtype, device, "", not_plain)
        except ValueError:
            continue  # it does not take this layer
        yield choice


def rows(
    hidden: list[int], batch: list[int], dtype: str, floors: Floors, layers: int = 1, *, layer_norm: bool = False
) -> Iterator[dict]:
    """One for each size, direction and schedule that takes it, and one more where that has ``layers`` side by side."""
    for h in hidden:
        for n in batch:
            for direction in (planner.FORWARD, planner.BACKWARD):
                choices = list(_choices(direction, n, h, dtype, H200, layer_norm=layer_norm))
                stacks: list[planner.Choice | None] = []
                if layers > 1 and not layer_norm:
                    with stacked_layers.ways("any"):
                        sizes_of_stack = layers, stacked_layers.FEWEST_STEPS, n, h, H200
                        stacks = [stacked_layers.side_by_side(direction, one, *sizes_of_stack)[0] for one in choices]
                for choice in [*choices, *(stack for stack in stacks if stack)]:
                    found = work(choice, direction, n, h, dtype)
                    sizes = {"hidden": h, "batch": n, "direction": direction, "schedule": choice.schedule}
                    layout = f"{choice.groups} x {choice.blocks}" if choice.blocks else ""
                    layout = layout if choice.layers == 1 else f"{choice.layers} x {layout}"
                    yield {**sizes, "blocks": layout, **found._asdict(), "bound_us": floors.bound(found, choice, dtype)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--layer-norm", action="store_true", help="in float32, where all steps are one launch")
    parser.add_argument("--layers", type=int, default=1, help="also a line for so many layers side by side")
    given = parser.parse_args()
    if given.layer_norm and given.dtype != "float32":
        parser.error(f"--layer-norm is for float32, got --dtype {given.dtype}")
    layer = f"{given.dtype}{' with layer norm' if given.layer_norm else ''}"
    print(f"A time step in training on an H200, {layer}, without the product with the input")
    print("   H    N direction schedule       blocks   MFLOP    KB memory  KB crossing  launches  hand-overs  bound us")
    found = rows(given.hidden, given.batch, given.dtype, Floors(FLOORS), given.layers, layer_norm=given.layer_norm)
    for row in found:
        bound = "" if row["bound_us"] is None else f"{row['bound_us']:.2f}"
        print(
            f"{row['hidden']:4} {row['batch']:4} {row['direction']:9} {row['schedule']:10} {row['blocks']:>10} "
            f"{row['flops'] / 1e6:7.2f} {row['memory_bytes'] / 1e3:12.1f} {row['crossing_bytes'] / 1e3:12.1f} "
            f"{row['launches']:9} {row['hand_overs']:11} {bound:>9}"
        )


if __name__ == "__main__":
    main()
