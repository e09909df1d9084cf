"""Small layers through each family of kernels, under NVIDIA's compute-sanitizer, and by value against NumPy.

    python benchmarks/sanitize.py --tool memcheck --out memcheck.json
    python benchmarks/sanitize.py --tool racecheck --only resident --seconds 120
    python benchmarks/sanitize.py --tool none            # the values alone

A family is what the planner takes for a small layer when it may take one schedule alone, and is new in its kernels. All
families share a process as long as none of them ends it. See benchmarks/README.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpulstm as gl  # noqa: E402 - of this checkout, installed or not
from benchmarks import files  # noqa: E402
from benchmarks.needs import need  # noqa: E402
from gpulstm import arrays  # noqa: E402
from gpulstm.cuda import both_directions, planner, stacked_layers  # noqa: E402
from gpulstm.engines import cupy_one_launch  # noqa: E402

TOOLS = {
    "memcheck": ("--tool", "memcheck"),
    "racecheck": ("--tool", "racecheck"),
    "synccheck": ("--tool", "synccheck"),
    "initcheck": ("--tool", "initcheck"),
    "none": (),
}
AGAIN = 3  # exit status of a process of families that wants another one for the rest
STEPS = 3
MULTIPROCESSORS = 12  # that layers are laid out for: a tool makes each block tens of times slower
SIZES = ((24, 3), (72, 3), (24, 40), (136, 3), (136, 40))  # hidden, batch
WIDE = (1028, 1)  # too large for the chip, in float32; on the whole device
TOLERANCES = {"float64": 1e-10, "float32": 3e-5, "tf32": 5e-3, "float16": 2e-2, "bfloat16": 8e-2}
WHAT: dict[str, dict[str, Any]] = {
    "plain": {},
    "options": {"recurrent_dropout": 0.3, "zoneout": 0.1, "peephole": True},
    "layer norm": {"layer_norm": True},
    "layer norm, options": {"layer_norm": True, "zoneout": 0.1},
}
SHAPES: dict[str, dict[str, Any]] = {"": {}, "both directions": {"bidirectional": True}, "layers": {"num_layers": 2}}


class Family(NamedTuple):
    """A layer, and the schedule that it is run in."""

    schedule: str
    arithmetic: str
    what: str  # of WHAT
    shape: str  # of SHAPES
    hidden: int
    batch: int
    kernels: tuple[str, ...] = ()  # of the passes, where they are launched for all steps at once

    @property
    def name(self) -> str:
        words = (self.schedule, self.arithmetic, self.what, self.shape, f"H {self.hidden} N {self.batch}")
        return ", ".join(word for word in words if word)

    @property
    def steps(self) -> int:
        return 1 if self.schedule == "step" else STEPS

    def layer(self, xp: Any, **more: Any) -> gl.LSTM:
        """With the same parameters in every library, so small that errors do not grow."""
        dtype = "float32" if self.arithmetic == "tf32" else self.arithmetic
        kind = {"dtype": dtype, "tf32": self.arithmetic == "tf32", **WHAT[self.what], **SHAPES[self.shape], **more}
        return gl.LSTM(5, self.hidden, xp=xp, rng=1, **kind)


def main(arguments: list[str] | None = None) -> int:
    """Zero if no family was wrong, reported by the tool, or ended the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tool", choices=TOOLS, required=True)
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--only", default="", help="families that have this text in their name")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for everything")
    parser.add_argument("--continue", dest="go_on", type=Path, metavar="FILE", help="leave out what is right there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # what a process of families is started with
    chosen = parser.parse_args(arguments)
    need("cupy", gpu=True)
    import cupy

    if chosen.child:
        return _child(cupy, chosen.child)
    command = _tool(chosen.tool)
    done = _right_before(chosen.go_on)
    names = [family.name for family in families(cupy) if chosen.only in family.name and family.name not in done]
    from benchmarks.gpu import machine

    document = {"machine": machine(cupy), "tool": chosen.tool, "left": names, "rows": [*done.values()]}
    run(names, command, document, chosen.out, time.monotonic() + chosen.seconds)
    wrong = [row for row in document["rows"] if row["status"] != "right"]
    for row in wrong:
        print(f"{row['status']}: {row['name']}: {row['why']}")
    print(f"{chosen.tool}: {len(document['rows'])} families, {len(wrong)} not right, {len(document['left'])} left")
    return 1 if wrong else 0


def _tool(name: str) -> list[str]:
    """What stands in front of the command."""
    if not TOOLS[name]:
        return []
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if found is None:
        sys.exit("This needs compute-sanitizer, of NVIDIA's CUDA toolkit, on the PATH")
    return [found, *TOOLS[name], "--print-limit", "20"]


def _right_before(path: Path | None) -> dict[str, dict]:
    if path is None or not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row for row in rows if row["status"] == "right"}


def families(cupy: Any) -> list[Family]:
    """One for each set of kernels that the planner takes, on a part of this device."""
    found: dict[tuple, Family] = {}
    sizes = [(*size, *kind) for kind in _kinds() for size in SIZES]
    sizes += [(*WIDE, "float32", "plain", "")]
    for hidden, batch, arithmetic, what, shape in sizes:
        try:
            layer = Family("loop", arithmetic, what, shape, hidden, batch).layer(cupy)
        except (TypeError, ValueError):  # there is no such layer
            continue
        x = cupy.zeros((STEPS, batch, 5), layer.params["weight_hh_l0"].dtype)
        for schedule in planner.SCHEDULES:
            family = Family(schedule, arithmetic, what, shape, hidden, batch)
            if schedule != "persistent" and (hidden, batch) == WIDE:
                continue
            try:
                with _planned(family):
                    plan = layer.plan(x[: family.steps])
            except ValueError:  # no schedule that is allowed takes it
                continue
            taken = plan.inference if schedule == "step" else plan.forward
            if taken.schedule != schedule:
                continue
            kernels = [(choice.kernel, choice.directions, choice.layers) for choice in (plan.forward, plan.backward)]
            family = family._replace(kernels=tuple(kernel for kernel, *_ in kernels if kernel))
            found.setdefault((schedule, arithmetic, what, *kernels), family)
    return sorted(found.values(), key=lambda family: family.schedule in ("loop", "graph"))  # whose blocks never wait


def _kinds() -> Iterator[tuple[str, str, str]]:
    for arithmetic in TOLERANCES:
        for what in WHAT:
            for shape in SHAPES:
                if what == "plain" or not shape or (shape, what) == ("both directions", "options"):
                    yield arithmetic, what, shape


@contextmanager
def _planned(family: Family) -> Iterator[None]:
    """Within it the planner takes this schedule, for a small device; and side by side whatever can be."""
    device = cupy_one_launch.current_device()
    if (family.hidden, family.batch) != WIDE:
        device = device._replace(multiprocessors=min(MULTIPROCESSORS, device.multiprocessors))
    with ExitStack() as stack:
        others = ("loop",) if family.schedule == "step" else ()  # it takes inference alone
        stack.enter_context(planner.only(family.schedule, *others))
        stack.enter_context(both_directions.ways("any"))
        stack.enter_context(stacked_layers.ways("any"))
        stack.enter_context(patch.object(stacked_layers, "FEWEST_STEPS", 1))
        stack.enter_context(patch.object(cupy_one_launch, "current_device", lambda: device))
        yield


def run(names: list[str], command: list[str], document: dict, out: Path | None, end: float) -> None:
    """Runs the families in a process, and those that are left when one ends it in another."""
    left = document["left"] = [*names]
    while left and time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            task, log = Path(folder) / "task.json", Path(folder) / "log.txt"
            task.write_text(json.dumps(left), encoding="utf-8")
            child = [*command, sys.executable, str(Path(__file__).resolve()), "--tool", "none", "--child", str(task)]
            look = partial(_take, log, document, out)
            why, begun = _in_process(child, log, end, look), look()
            if time.monotonic() >= end:
                break
            ended = begun if begun in left else left[0] if why and left else ""  # whoever ended the process
            if ended:
                left.remove(ended)
                document["rows"].append({"name": ended, "status": "died", "why": why})
            files.write(out, document)


def _in_process(command: list[str], log: Path, end: float, look: Callable[[], object]) -> str:
    """Why it ended without success, or an empty text. What the tool says is printed, too."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                look()
        finally:
            code = process.poll()
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text, end="", flush=True)
    if code in (0, AGAIN):
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"exit {code}: {lines[-1][:200] if lines else 'it printed nothing'}" if code else "no time was left"


def _take(log: Path, document: dict, out: Path | None) -> str:
    """Moves families that have ended from what is left to the rows; the one that has begun and not ended."""
    said, begun = log.read_text(encoding="utf-8", errors="replace"), ""
    for part in said.split("\nfamily ")[1:]:
        head, _, rest = part.partition("\n")
        begun, end = head, [line for line in rest.splitlines() if line.startswith("ended ")]
        if not end:
            continue
        reports = [line for line in rest.splitlines() if line.startswith("=========") and _is_report(line)]
        row = {"name": head} | json.loads(end[0].removeprefix("ended "))
        if reports and row["status"] == "right":
            row |= {"status": "reported", "why": " ".join(line.strip("= ") for line in reports[:3])}
        begun = ""
        known = next((old for old in document["rows"] if old["name"] == head), None)
        if known is None:
            document["rows"].append(row)
            document["left"].remove(head)
            files.write(out, document)
        else:
            known |= row  # what the tool has said since then
    return begun


def _is_report(line: str) -> bool:
    text = line.strip("= ")
    return bool(text) and not any(said in text for said in ("COMPUTE-SANITIZER", " 0 errors", " 0 hazards"))


def _child(cupy: Any, task: Path) -> int:
    """Runs families one after the other, and says of each how it ended."""
    if hasattr(cupy.cuda, "set_allocator"):
        cupy.cuda.set_allocator(None)  # an allocation of its own for each array, or what is beside it looks allocated
    wanted = json.loads(task.read_text(encoding="utf-8"))
    of_name = {family.name: family for family in families(cupy)}
    for name in wanted:
        print(f"\nfamily {name}", flush=True)
        found = by_value(cupy, of_name[name])
        print("ended " + json.dumps(found), flush=True)
        if found["status"] == "failed":  # the device may refuse everything from now on
            return AGAIN
    return 0


def by_value(cupy: Any, family: Family) -> dict:
    """Whether a layer's results in inference and training, and its gradients, are NumPy's in float64."""
    try:
        with _planned(family):
            found = _results(cupy, family, family.layer(cupy), lambda array: array.get())
    except Exception as error:  # the tool may have ended the launch; CUDA says so in its own words
        return {"status": "failed", "why": f"{type(error).__name__}: {str(error)[:300]}"}
    reference = family.layer(np, dtype="float64", tf32=False)
    rounded = family.layer(cupy).params
    reference.params = {name: value.get().astype(np.float64) for name, value in rounded.items()}
    off = {}
    for name, wanted in _results(np, family, reference, lambda array: array).items():
        norm = float(np.linalg.norm(wanted))
        off[name] = float(np.linalg.norm(found[name].astype(np.float64) - wanted)) / (norm or 1.0)
    worst = max(off, key=lambda name: off[name] if off[name] == off[name] else np.inf)
    right = off[worst] <= TOLERANCES[family.arithmetic]
    return {"status": "right" if right else "wrong", "why": "" if right else f"{worst} is off by {off[worst]:.2g}"}


def _results(xp: Any, family: Family, layer: gl.LSTM, to_numpy: Callable[[Any], np.ndarray]) -> dict[str, np.ndarray]:
    """Everything that the layer gives for random inputs of its dtype."""
    random, of_layer = np.random.default_rng(2), layer.params["weight_hh_l0"].dtype
    directions = 2 if layer.layout.bidirectional else 1
    state = (layer.layout.num_layers * directions, family.batch, family.hidden)
    outputs = (family.steps, family.batch, directions * family.hidden)
    shapes = [(family.steps, family.batch, 5), state, state, outputs, state, state]
    x, h, c, dy, dh, dc = (xp.asarray(_rounded(random, shape, family).astype(of_layer)) for shape in shapes)
    inferred, final = layer(x, (h, c))
    found = {"y of inference": inferred, "h of inference": final.h, "c of inference": final.c}
    if family.schedule != "step":
        lengths = np.arange(family.batch) % (family.steps + 1)
        y, final, cache = layer.forward(x, (h, c), lengths=lengths, rng=3)
        dx, gradients, dstate = layer.backward(cache, dy, (dh, dc))
        found |= {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dstate.h, "dc": dstate.c, **gradients}
    return {name: to_numpy(array) for name, array in found.items()}


def _rounded(random: np.random.Generator, shape: tuple[int, ...], family: Family) -> np.ndarray:
    """What arrays of the family can hold."""
    drawn = random.standard_normal(shape)
    stored = {"tf32": "float32"}.get(family.arithmetic, family.arithmetic)
    return drawn.astype(arrays.bfloat16() if stored == "bfloat16" else stored)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the process of the families ends as well
    sys.exit(main())
