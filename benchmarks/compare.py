"""gpulstm against torch.nn.LSTM on this machine: results are checked first, then both are timed in turn."""

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout that this file is part of is what is measured
PASS_SECONDS = {"gpu": 0.2, "cpu": 0.5}


def main(arguments: list[str] | None = None) -> int:
    """Zero if every cell was right; one if any was wrong or failed."""
    from benchmarks.needs import need

    chosen = _parser().parse_args(arguments)
    need("torch") if chosen.device == "cpu" else need("torch", "cupy", gpu=True)
    contest = _contest(chosen)
    try:
        return _run(chosen, [*sys.argv[1:]] if arguments is None else arguments, contest)
    finally:
        contest.close()


def _parser() -> argparse.ArgumentParser:
    from benchmarks.against_torch.grid import DTYPES, SETTINGS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="a part of the grid, in at most three minutes")
    parser.add_argument(
        "--seconds", type=float, help="begin no cell that would end later (default: none; 165 if quick)"
    )
    parser.add_argument("--pass-seconds", type=float, help="for one pass of one cell (default: 0.2 on a GPU, 0.5 else)")
    for axis in ("hidden", "batch", "steps"):
        parser.add_argument(f"--{axis}", type=_positive, nargs="+", help="these values instead of the grid's")
    parser.add_argument("--dtype", type=_one_of(DTYPES), help=f"one or more of {','.join(DTYPES)}")
    parser.add_argument("--setting", type=_one_of(SETTINGS), help=f"one or more of {','.join(SETTINGS)}")
    parser.add_argument("--threads", type=_positive, default=2, help="of NumPy's BLAS and PyTorch on a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result files")
    parser.add_argument("--name", help="of the result files (default: compare-DEVICE, and -quick)")
    parser.add_argument(
        "--continue",
        dest="go_on",
        nargs="?",
        const=True,
        metavar="FILE",
        help="keep the cells that this file has, or the file that is written if none is named",
    )
    parser.add_argument("--flashrnn", action="store_true", help="on a GPU, also against FlashRNN, which compiles long")
    parser.add_argument("--floors", type=Path, help="floors.json of this GPU, for the bound (default: looked for)")
    parser.add_argument("--commit", help="what is measured, where the folder is no git checkout")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _one_of(names: tuple[str, ...]) -> Any:
    """Reads names with commas between them."""

    def read(text: str) -> list[str]:
        given = text.split(",")
        unknown = [name for name in given if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(names)}, got {', '.join(unknown)}")
        return given

    return read


def _contest(chosen: argparse.Namespace) -> Any:
    if chosen.device == "cpu":
        from benchmarks.against_torch.two_processes import TwoProcesses

        return TwoProcesses(chosen.threads)
    from benchmarks.against_torch import flashrnn, gpu, one_process

    device = gpu.Gpu()
    if not chosen.flashrnn:
        return one_process.OneProcess(device)
    try:
        return one_process.OneProcess(device, flashrnn.FlashRNN())
    except flashrnn.TakesNoPart as reason:
        print(reason, flush=True)
        return one_process.OneProcess(device, None, str(reason))


def _run(chosen: argparse.Namespace, arguments: list[str], contest: Any) -> int:
    from benchmarks.against_torch import acceptance, grid, racing, results
    from benchmarks.against_torch.budget import Budget
    from benchmarks.report import report

    quick = chosen.quick
    seconds = chosen.seconds or (165.0 if quick else float("inf"))
    budget = Budget(chosen.device, seconds, chosen.pass_seconds or PASS_SECONDS[chosen.device], contest.rounds)
    axes = {axis: getattr(chosen, axis) for axis in ("setting", "dtype", "hidden", "batch", "steps")}
    cells = grid.cells(chosen.device, quick=quick, chosen=axes)
    path = chosen.out / f"{chosen.name or f'compare-{chosen.device}' + ('-quick' if quick else '')}.json"
    document = _document(chosen, arguments, contest)
    of_cells = _bounds(chosen, document)
    before = path if chosen.go_on is True else Path(chosen.go_on) if chosen.go_on else None
    if before and before.exists():
        _take_over(document, results.read(before), of_cells)
    elif before and before != path:
        raise SystemExit(f"--continue: there is no file {before}")
    cells, spent = _missing(cells, document), document["seconds"]
    left = [*cells]
    _give_time(contest, budget)
    for number, cell in enumerate(cells):
        if not budget.allows(cell):
            continue  # a smaller one may still end in time
        start = time.perf_counter()
        record = racing.run(cell, contest, seconds=budget.pass_seconds) | of_cells.of(cell)
        record["seconds"] = round(time.perf_counter() - start, 2)
        budget.learn(cell, record["seconds"])
        left.remove(cell)
        document["cells"] = [of for of in document["cells"] if results.name(of) != str(cell)] + [record]
        document["seconds"] = round(spent + budget.spent(), 1)
        _write(path, document, left)
        print(f"[{number + 1}/{len(cells)}] {_line(cell, record)}", flush=True)
        if _device_is_lost(contest):
            print("The device gives no more results; the run ends here.", flush=True)
            break
    _write(path, document, left)
    found = acceptance.acceptance(document)
    print("\n".join([*acceptance.texts(found), *(f"slower: {text}" for text in acceptance.slower_texts(found))]))
    for written in (path, *report(path)):
        print(written)
    return any(record["status"] in ("wrong", "failed") for record in document["cells"])


def _bounds(chosen: argparse.Namespace, document: dict[str, Any]) -> Any:
    from benchmarks.against_torch import bounds

    gpu = (document["machine"].get("gpu") or {}).get("name")
    try:
        found = bounds.Bounds(gpu, bounds.places(chosen.out), chosen.floors)
    except bounds.NoBound as reason:
        raise SystemExit(f"--floors: {reason}") from None
    document["bound"] = found.about
    if "missing" in found.about and chosen.device == "gpu":
        print(f"No bound: {found.about['missing']}", flush=True)
    return found


def _give_time(contest: Any, budget: Any) -> None:
    """FlashRNN does not begin to compile what would not be ready in time."""
    flashrnn = getattr(contest, "flashrnn", None)
    if flashrnn is not None:
        flashrnn.seconds_left = budget.left


def _document(chosen: argparse.Namespace, arguments: list[str], contest: Any) -> dict[str, Any]:
    from benchmarks.against_torch import machine

    versions = machine.versions(chosen.device)
    versions["commit"] = chosen.commit or versions["commit"]
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/compare.py", *arguments]),
        "device": chosen.device,
        "machine": machine.machine(chosen.device),
        "versions": versions,
    }
    return document | contest.about() | {"seconds": 0.0, "cells_left": 0, "summary": {}, "acceptance": {},
                                        "not_measured": [], "cells": []}  # fmt: skip


def _take_over(document: dict[str, Any], before: dict[str, Any], of_cells: Any) -> None:
    """Cells of a run of the same code on the same hardware; figures of two machines do not go into one file."""

    from benchmarks.against_torch import grid

    def identity(of: dict[str, Any]) -> dict[str, Any]:
        machine = of["machine"]
        names = machine["cpu"], machine["cores"], (machine.get("gpu") or {}).get("name")
        found = {"machine": names, "versions": of["versions"]}
        return found | {key: of.get(key) for key in ("threads", "environment")}

    ours, theirs = identity(document), identity(before)
    differing = [key for key in ours if ours[key] != theirs[key]]
    if differing:
        key = differing[0]
        raise SystemExit(f"--continue: the file is of another {key}, {theirs[key]}, and this is {ours[key]}")
    document |= {key: before[key] for key in ("date", "seconds")}
    document["cells"] = before["cells"]
    for record in document["cells"]:
        if "bound" not in record:  # floors were measured since then
            record |= of_cells.of(grid.Cell(*(record[axis] for axis in grid.AXES)))


def _missing(cells: list, document: dict[str, Any]) -> list:
    from benchmarks.against_torch import results

    # A disturbed one is measured again, and stays until then.
    done = {results.name(record) for record in document["cells"] if not results.is_disturbed(record)}
    return [cell for cell in cells if str(cell) not in done]


def _write(path: Path, document: dict[str, Any], left: list) -> None:
    from benchmarks.against_torch import acceptance, machine, results

    there = {results.name(record) for record in document["cells"]}
    document["not_measured"] = [str(cell) for cell in left if str(cell) not in there]
    document["cells_left"] = len(document["not_measured"])
    document["summary"] = results.summary(document["cells"])
    document["acceptance"] = acceptance.acceptance(document)
    if document["device"] == "gpu":
        document["gpu_at_the_end"] = machine.gpu_state()
    results.write(path, document)


def _device_is_lost(contest: Any) -> bool:
    """An error inside of a kernel leaves a GPU that refuses everything until the process ends."""
    try:
        contest.release()
    except Exception as error:  # PyTorch's and CuPy's differ
        print(f"{type(error).__name__}: {error}", flush=True)
        return True
    return False


def _line(cell: Any, record: dict[str, Any]) -> str:
    from benchmarks.against_torch import results

    if record["status"] == "timed":
        parts = []
        if results.is_disturbed(record):
            parts.append(f"DISTURBED by {record['cores_of_others']} cores of others")
        for of_pass in results.PASSES:
            ours, theirs = (record[side][of_pass]["ms"] for side in ("ours", "torch"))
            parts.append(f"{of_pass} {ours:.3g} ms, PyTorch {theirs:.3g} ms: {results.speed_up(record, of_pass):.2f}x")
        return f"{cell}: {'; '.join(parts)}"
    if record["status"] == "wrong":
        return f"{cell}: WRONG {record['wrong']}"
    return f"{cell}: {record['status']}, {record['message']}"


if __name__ == "__main__":
    sys.exit(main())
