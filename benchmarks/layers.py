"""What layers on top of each other take on a GPU side by side in one launch, beside one after the other.

    python benchmarks/layers.py --out layers.json
    python benchmarks/layers.py --kind float16 bfloat16 --out layers-16-bits.json

Ends with 1 if what the planner does by itself ("alike") is slower than one after the other anywhere, by more than 2 %.
See benchmarks/README.md.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpulstm as gl  # noqa: E402 - of this checkout, installed or not
from benchmarks import in_several_ways  # noqa: E402
from benchmarks.directions import PASSES, _forward, _forward_backward, slower_than_apart  # noqa: E402
from benchmarks.in_several_ways import normal  # noqa: E402
from benchmarks.options import ROUNDS, in_turn_on  # noqa: E402
from gpulstm.cuda import stacked_layers  # noqa: E402

HIDDEN, BATCHES, COUNTS, STEPS = (128, 256, 512), (1, 8, 32), (2, 4), 512
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
}
WAYS = ("apart", "alike", "any")
LINE = (
    "{kind:8} {layers} layers H {hidden:4} N {batch:3} {way:5} forward {forward_us:7.2f} us a step, "
    "{forward_ratio:5.2f} of apart; with backward {forward_backward_us:7.2f}, {forward_backward_ratio:5.2f}; "
    "side by side: {together}"
)


def main() -> int:
    return in_several_ways.run(
        __doc__.splitlines()[0],
        {"kind": [*KINDS], "layers": COUNTS, "hidden": HIDDEN, "batch": BATCHES},
        STEPS,
        lambda gpu: in_turn_on(gpu, ROUNDS),
        measured,
        LINE,
        slower_than_apart,
        "slower than one after the other: {kind} {layers} layers H {hidden} N {batch}",
    )


def measured(
    cupy: Any, kind: str, layers: int, hidden: int, batch: int, steps: int, in_turn: Callable
) -> Iterator[dict]:
    """A row for each way; ``in_turn(calls)`` times several calls in turn and gives a list of seconds."""
    lstm = gl.LSTM(hidden, hidden, layers, **KINDS[kind], xp=cupy, rng=0)
    dtype = lstm.params["weight_hh_l0"].dtype
    x, dy = (cupy.asarray(normal(steps, batch, hidden, seed=seed).astype(dtype)) for seed in (0, 1))
    seconds = {}
    for each, call in zip(PASSES, (_forward, _forward_backward), strict=True):
        calls = [lambda way=way, call=call: _in(way, call, lstm, x, dy) for way in WAYS]
        seconds[each] = dict(zip(WAYS, in_turn(calls), strict=True))
    for way in WAYS:
        row = {"kind": kind, "layers": layers, "hidden": hidden, "batch": batch, "way": way}
        with stacked_layers.ways(way):
            plan = lstm.plan(x)
        passes = {"forward": plan.forward, "backward": plan.backward}
        row["together"] = " and ".join(name for name, choice in passes.items() if choice.layers > 1) or "nothing"
        row["plan"] = str(plan)
        for each in PASSES:
            row[f"{each}_us"] = seconds[each][way] / steps * 1e6
            row[f"{each}_ratio"] = seconds[each][way] / seconds[each]["apart"]
        yield row


def _in(way: str, call: Callable, *arguments: Any) -> None:
    with stacked_layers.ways(way):
        call(*arguments)


if __name__ == "__main__":
    sys.exit(main())
