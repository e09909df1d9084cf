"""What a bidirectional layer takes on a GPU with its directions side by side, beside one after the other.

    python benchmarks/directions.py --out directions.json

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
from benchmarks.in_several_ways import normal  # noqa: E402
from benchmarks.options import ROUNDS, in_turn_on  # noqa: E402
from gpulstm.cuda import both_directions  # noqa: E402

HIDDEN, BATCHES, STEPS = (32, 64, 128, 256, 512, 1024), (1, 8, 32, 64, 128), 512
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
}
WAYS = ("apart", "alike", "any")
PASSES = ("forward", "forward_backward")
TOLERANCE = 1.02
LINE = (
    "{kind:8} H {hidden:4} N {batch:3} {way:5} forward {forward_us:7.2f} us a step, {forward_ratio:5.2f} of apart; "
    "with backward {forward_backward_us:7.2f}, {forward_backward_ratio:5.2f}; side by side: {together}"
)


def main() -> int:
    return in_several_ways.run(
        __doc__.splitlines()[0],
        {"kind": [*KINDS], "hidden": HIDDEN, "batch": BATCHES},
        STEPS,
        lambda gpu: in_turn_on(gpu, ROUNDS),
        measured,
        LINE,
        slower_than_apart,
        "slower than one after the other: {kind} H {hidden} N {batch}",
    )


def measured(cupy: Any, kind: str, batch: int, hidden: int, steps: int, in_turn: Callable) -> Iterator[dict]:
    """A row for each way; ``in_turn(calls)`` times several calls in turn and gives a list of seconds."""
    lstm = gl.LSTM(hidden, hidden, bidirectional=True, **KINDS[kind], xp=cupy, rng=0)
    dtype = lstm.params["weight_hh_l0"].dtype
    x = cupy.asarray(normal(steps, batch, hidden).astype(dtype))
    dy = cupy.asarray(normal(steps, batch, 2 * hidden, seed=1).astype(dtype))
    seconds = {}
    for each, call in zip(PASSES, (_forward, _forward_backward), strict=True):
        calls = [lambda way=way, call=call: _in(way, call, lstm, x, dy) for way in WAYS]
        seconds[each] = dict(zip(WAYS, in_turn(calls), strict=True))
    for way in WAYS:
        row = {"kind": kind, "hidden": hidden, "batch": batch, "way": way}
        with both_directions.ways(way):
            plan = lstm.plan(x)
        passes = {"forward": plan.forward, "backward": plan.backward}
        row["together"] = " and ".join(name for name, choice in passes.items() if choice.directions == 2) or "nothing"
        row["plan"] = str(plan)
        for each in PASSES:
            row[f"{each}_us"] = seconds[each][way] / steps * 1e6
            row[f"{each}_ratio"] = seconds[each][way] / seconds[each]["apart"]
        yield row


def slower_than_apart(rows: list[dict]) -> list[dict]:
    """The rows of what the planner does by itself that one after the other is faster than."""
    alike = (row for row in rows if row["way"] == "alike" and row["together"] != "nothing")
    return [row for row in alike if any(row[f"{each}_ratio"] > TOLERANCE for each in PASSES)]


def _in(way: str, call: Callable, *arguments: Any) -> None:
    with both_directions.ways(way):
        call(*arguments)


def _forward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    lstm.forward(x)


def _forward_backward(lstm: gl.LSTM, x: Any, dy: Any) -> None:
    lstm.backward(lstm.forward(x)[2], dy)


if __name__ == "__main__":
    sys.exit(main())
