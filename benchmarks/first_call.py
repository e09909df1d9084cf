"""Measures what a first call costs, and what the CPU spends on every call after it.

    python benchmarks/first_call.py --out first_call.json
    python benchmarks/first_call.py --only import compile    # needs no GPU
    python benchmarks/first_call.py --only worst             # nor does this, which takes minutes

benchmarks/README.md says what each line means. Whatever can be done first only once is done in a process of its own.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import compile_cost, files  # noqa: E402
from benchmarks.gpu import Report  # noqa: E402 - the repository need not be installed

PROCESSES = 3  # for each line that is measured in processes of its own
CALLS, ROUNDS = 20, 15  # so many calls are timed together, so often
LIMIT = 900  # seconds for a process; those of the worst case need most
HIDDEN, STEPS = 128, 128  # of the calls after the first one, with one sequence


class Problem(NamedTuple):
    """A layer whose first forward and backward pass is measured; the schedules are those that an H200 takes."""

    hidden: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"H {self.hidden}, N {self.batch}, {self.dtype}"


PROBLEMS = (Problem(64, 1, "float32"), Problem(512, 8, "float32"), Problem(512, 8, "float64"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=USUAL, help="groups of lines")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # what a process of its own is started with
    chosen = parser.parse_args(arguments)
    if chosen.out and not chosen.out.parent.is_dir():
        parser.error(f"--out {chosen.out}: there is no folder {chosen.out.parent}")
    if chosen.child:
        name, *of_child = json.loads(chosen.child)
        print("\n" + json.dumps(CHILDREN[name](*of_child)))
        return 0
    start = time.monotonic()
    results: dict[str, Any] = {"machine": in_process("machine"), "lines": [], "failed": []}
    ended: list[Report] = []

    def save(report: Report) -> None:  # after each line: whatever ends the run, those before it are there
        of_all = [*ended, report]
        results["lines"] = [line for of in of_all for line in of.lines]
        results["failed"] = [line for of in of_all for line in of.failed]
        files.write(chosen.out, results)

    for name in chosen.only:
        report = Report(name, save)
        try:
            GROUPS[name](report)
        except Exception as error:  # no CuPy, no GPU: a group that fails leaves the others alone
            report.fail(name, f"{type(error).__name__}: {error}")
        ended.append(report)
    results["seconds"] = round(time.monotonic() - start, 1)
    files.write(chosen.out, results)
    return 1 if results["failed"] else 0


def in_process(name: str, *arguments: Any, **environment: str) -> Any:
    """What a function of `CHILDREN` gives in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps([name, *arguments])]
    given = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=given)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


# Groups: what is asked for, in this process
def of_import(report: Report) -> None:
    for module, before in (("numpy", []), ("gpulstm", ["numpy"]), ("cupy", ["numpy"])):
        report.measure(
            f"import {module}" + (f" after {before[0]}" if before else ""),
            "ms",
            lambda module=module, before=before: [in_process("import", module, before) for _ in range(PROCESSES)],
        )


def of_compile(report: Report) -> None:
    for problem in PROBLEMS:
        found: list[dict] = []

        def total(problem=problem, found=found) -> list[float]:
            found += [in_process("compile", *problem) for _ in range(PROCESSES)]
            return [sum(each.values()) for each in found]

        report.measure(f"NVRTC, kernels of a first forward and backward pass, {problem}", "ms", total)
        for name in found[0] if found else ():
            report.measure(f"  {name}", "ms", lambda name=name, found=found: [each[name] for each in found])


def of_worst(report: Report) -> None:
    for dtype in compile_cost.DTYPES:
        kinds: list[list] = []
        report.measure(f"worst cases of {dtype}, a line for each kind", "", lambda d=dtype, k=kinds: _worst(d, k))
        for layer, kernels in kinds:
            name = f"NVRTC, CPU, worst case: {layer}"
            report.measure(name, "ms", lambda kernels=kernels: [sum(kernels.values())])
            for name, cost in kernels.items():
                report.measure(f"  {name}", "ms", lambda cost=cost: [cost])


def _worst(dtype: str, kinds: list[list]) -> list[float]:
    kinds += in_process("worst", dtype)
    return [float(len(kinds))]


def of_first_call(report: Report) -> None:
    """With an empty cache of compiled kernels, and with the one that the process before has left."""
    for problem in PROBLEMS:
        colds, warms = [], []
        try:
            for _ in range(PROCESSES):
                with tempfile.TemporaryDirectory() as folder:
                    colds.append(in_process("first call", *problem, CUPY_CACHE_DIR=folder))
                    warms.append(in_process("first call", *problem, CUPY_CACHE_DIR=folder))
        except Exception as error:  # a problem that fails leaves the others alone
            report.fail(f"first call, {problem}", f"{type(error).__name__}: {error}")
            continue
        for cache, found in (("empty cache", colds), ("full cache", warms)):
            for line in found[0]:
                values = [each[line] for each in found]
                report.measure(f"{line}, {cache}, {problem}", "ms", lambda values=values: values)


def of_calls(report: Report) -> None:
    for name, values in in_process("calls").items():
        report.measure(f"CPU, {name}", "us", lambda values=values: values)


# Children: what is measured, in a process of its own
def time_import(module: str, before: list[str]) -> float:
    for name in before:
        __import__(name)
    return milliseconds(lambda: __import__(module))


def time_compile(hidden: int, batch: int, dtype: str, architecture: int = 90) -> dict[str, float]:
    """Kernel -> milliseconds of reading its source and making machine code of it, as CuPy does. Needs no GPU."""
    from cupy_backends.cuda.libs import nvrtc

    nvrtc.getVersion()  # loads the library
    kernels = compile_cost.needed(compile_cost.Layer(hidden, batch, dtype))
    cost, clock = compile_cost.nvrtc_milliseconds, time.perf_counter
    return {compile_cost.name_of(each): cost(each, architecture, clock) for each in kernels}


def find_worst(dtype: str) -> list[tuple[str, dict[str, float]]]:
    """Of the layers of each kind in this type the one whose kernels take longest to compile; and what each takes."""
    kinds: dict[tuple, list[compile_cost.Layer]] = {}
    for layer in compile_cost.every_layer():
        if layer.dtype == dtype:
            kinds.setdefault((layer.beside, layer.directions, layer.layers), []).append(layer)
    found = [compile_cost.worst(layers) for layers in kinds.values()]
    return [(str(layer), kernels) for layer, kernels in found]


def time_first_call(hidden: int, batch: int, dtype: str) -> dict[str, float]:
    """Milliseconds of a first forward and backward pass and of a second one, and of all kernels that the first one
    compiled or loaded. The device, the pool and cuBLAS are there before."""
    import cupy

    import gpulstm as gl
    from gpulstm.cuda import modules

    lstm = gl.LSTM(hidden, hidden, dtype=dtype, xp=cupy, rng=0)
    x = cupy.zeros((STEPS, batch, hidden), dtype)
    square = x[:1, :1, :1].reshape(1, 1)
    cupy.matmul(square, square)
    spent, make = [], modules._compile

    def timed(*arguments):
        made = []
        spent.append(milliseconds(lambda: made.append(make(*arguments))))
        return made[0]

    def call() -> None:
        y, _, cache = lstm.forward(x)
        lstm.backward(cache, y)
        cupy.cuda.get_current_stream().synchronize()

    modules._compile = timed
    try:
        first, kernels = milliseconds(call), sum(spent)
        return {"first call": first, "its kernels": kernels, "second call": milliseconds(call)}
    finally:
        modules._compile = make


def time_calls() -> dict[str, list[float]]:
    """Microseconds of the CPU for each call, with the device far from full."""
    import cupy

    import gpulstm as gl

    lstm, cell = (kind(HIDDEN, HIDDEN, xp=cupy, rng=0) for kind in (gl.LSTM, gl.LSTMCell))
    x = cupy.zeros((STEPS, 1, HIDDEN), "float32")
    one, (_, state), of_cell = x[:1], lstm(x), cell(x[0])

    def train() -> None:
        y, final, cache = lstm.forward(x, state)
        lstm.backward(cache, y, final)

    calls: dict[str, Callable] = {
        f"lstm(x, state), H {HIDDEN}, N 1, T 1": lambda: lstm(one, state),
        f"cell(x, state), H {HIDDEN}, N 1": lambda: cell(one[0], of_cell),
        f"lstm(x, state), H {HIDDEN}, N 1, T {STEPS}": lambda: lstm(x, state),
        f"lstm.forward, H {HIDDEN}, N 1, T {STEPS}": lambda: lstm.forward(x, state),
        f"forward and backward, H {HIDDEN}, N 1, T {STEPS}": train,
    }
    return {name: microseconds(call, cupy.cuda.get_current_stream().synchronize) for name, call in calls.items()}


def machine() -> dict[str, object]:
    """What the figures depend on; of a GPU only if there is one."""
    import numpy

    import gpulstm

    found: dict[str, object] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
        "numpy": numpy.__version__,
        "gpulstm": gpulstm.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    try:
        import cupy

        found["CuPy"] = cupy.__version__
        found["NVRTC"] = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        found["gpu"] = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # no CuPy, or no GPU
        found["gpu"] = f"{type(error).__name__}: {error}"
    return found


def milliseconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1e3


def microseconds(call: Callable[[], object], wait: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(ROUNDS + 1):
        wait()
        found.append(milliseconds(lambda: [call() for _ in range(CALLS)]) / CALLS * 1e3)
    wait()
    return found[1:]


# What is quick and needs a GPU first.
GROUPS = {
    "calls": of_calls,
    "first call": of_first_call,
    "import": of_import,
    "compile": of_compile,
    "worst": of_worst,
}
USUAL = [name for name in GROUPS if name != "worst"]  # that takes minutes
CHILDREN: dict[str, Callable] = {
    "import": time_import,
    "compile": time_compile,
    "worst": find_worst,
    "first call": time_first_call,
    "calls": time_calls,
    "machine": machine,
}


if __name__ == "__main__":
    sys.exit(main())
