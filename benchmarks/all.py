"""Tests the kernels on this machine's GPU and runs every benchmark, each in a process of its own, within some minutes.

    python benchmarks/all.py --minutes 30 --out results
    python benchmarks/all.py --minutes 9 --out more --continue results    # goes on where that one stopped
    python benchmarks/all.py --device cpu --minutes 10 --out results

What is worth most comes first. Each writes its results file into the folder, and what it prints into a .log beside it;
summary.json and summary.md say how each ended. One that fails or takes too long does not stop the others, and the exit
status is then 1.
"""

import argparse
import datetime
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import files  # noqa: E402 - the repository need not be installed

LEAST = 5.0  # seconds; with less, nothing is begun
GRACE = 5.0  # seconds for a process to end when it is asked to
OF_ANOTHER = "--continue: the file is of another"  # what compare.py says


class Step(NamedTuple):
    """One benchmark: how it is called, and how much of the time it gets."""

    name: str  # of its results file, too
    script: str
    options: tuple[str, ...]
    weight: float  # its part of the time that is left, among the steps that are left
    least: float = 0.0  # seconds, even if its part is less: what it does not need is the others' again
    most: float = float("inf")  # seconds
    has_seconds: bool = False  # takes --seconds, and ends by itself
    needs: str = "cupy"  # a module without which it is left out
    goes_on: bool = False  # takes --continue and a file of its own
    counts: bool = False  # its last line is worth a place in the summary


SMALL = ("--hidden", "32", "64", "96", "128", "--batch", "1", "8", "32", "128", "132", "256", "264", "--steps", "1024")
LARGE = ("--hidden", "1280", "1536", "2048", "--batch", "1", "4", "8", "32")
LAYOUTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("float32", "persistent", ()),
    ("bfloat16", "resident", SMALL),
    ("float32", "resident", SMALL),
    ("bfloat16", "persistent", ()),
    ("float32", "cluster", ()),
    ("bfloat16", "cluster", ()),
    ("float32", "wide", LARGE),
    ("tf32", "persistent", ()),
    ("float16", "persistent", ()),
)
# What is wrong need not be fast: tests first. Floors come before the comparison, which takes its bound from them. The
# comparison is what the others explain.
STEPS = {
    "gpu": (
        Step("tests", "gpu_tests.py", (), 3, least=150, most=420, has_seconds=True, goes_on=True, counts=True),
        *(
            Step(tool, "sanitize.py", ("--tool", tool), 0.5, 45, 180, has_seconds=True, goes_on=True, counts=True)
            for tool in ("memcheck", "racecheck", "synccheck")
        ),
        Step("floors", "floors.py", (), 1, least=60, most=120),
        Step("compare-gpu", "compare.py", ("--device", "gpu"), 8, has_seconds=True, goes_on=True),
        Step("first_call", "first_call.py", (), 1, least=60, most=300),
        Step("options", "options.py", (), 1, has_seconds=True, goes_on=True),
        Step("options-bfloat16", "options.py", ("--dtype", "bfloat16"), 0.5, has_seconds=True, goes_on=True),
        Step("options-tf32", "options.py", ("--dtype", "tf32"), 0.5, has_seconds=True, goes_on=True),
        Step("directions", "directions.py", (), 0.5, has_seconds=True, goes_on=True),
        Step("graphs", "graphs.py", (), 0.5, has_seconds=True, goes_on=True),
        Step("layers", "layers.py", ("--kind", "float32", "tf32"), 0.5, has_seconds=True, goes_on=True),
        Step("layers-16-bits", "layers.py", ("--kind", "float16", "bfloat16"), 0.5, has_seconds=True, goes_on=True),
        *(
            Step(
                f"layouts-{dtype}-{schedule}",
                "layouts.py",
                ("--dtype", dtype, "--schedules", schedule, *sizes),
                0.5,
                has_seconds=True,
                goes_on=True,
            )
            for dtype, schedule, sizes in LAYOUTS
        ),  # fmt: skip
    ),
    "cpu": (
        Step("first_call", "first_call.py", ("--only", "import", "compile"), 1, most=120),
        Step("compare-cpu", "compare.py", ("--device", "cpu"), 8, has_seconds=True, needs="torch", goes_on=True),
        Step("options-cpu", "options.py", ("--device", "cpu"), 1, has_seconds=True, needs="torch", goes_on=True),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Zero if every step that was begun came to its end without an error."""
    chosen = _parser().parse_args(arguments)
    steps = [step for step in STEPS[chosen.device] if not chosen.only or step.name in chosen.only]
    unknown = sorted(set(chosen.only or ()) - {step.name for step in STEPS[chosen.device]})
    if unknown:
        names = ", ".join(step.name for step in STEPS[chosen.device])
        raise SystemExit(f"--only must be of {names}; got {', '.join(unknown)}")
    chosen.out = chosen.out.absolute()  # steps run in the checkout, wherever this was called
    chosen.out.mkdir(parents=True, exist_ok=True)
    before = _before(chosen)
    ended = _records(before)  # read now: this run writes its own into the same place
    start, records = time.monotonic(), []
    for number, step in enumerate(steps):
        weights = sum(later.weight for later in steps[number:])
        left = 60 * chosen.minutes - (time.monotonic() - start)
        part = min(left, step.most, max(step.least, left * step.weight / weights))
        record = _take_over(step, chosen, before, ended) or _run(step, chosen, part)
        records.append(record)
        print(_line(record), flush=True)
        _write_summary(chosen, records, time.monotonic() - start)
        _pack(chosen)
    print("\n".join([*_findings(chosen.out), *_missing(records, steps)]))
    return int(any(record["status"] in ("failed", "cut") for record in records))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="for everything; what is cut keeps its results")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, made if it is not there")
    parser.add_argument("--device", choices=tuple(STEPS), default="gpu")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these steps alone")
    parser.add_argument(
        "--continue", dest="go_on", nargs="?", const=True, metavar="FOLDER",
        help="keep what is complete in this folder, or in --out if none is named, and go on with what is not",
    )  # fmt: skip
    parser.add_argument(
        "--pack", type=Path, metavar="FILE.tar.gz", help="all results in one file, anew after each step"
    )
    parser.add_argument("--compare", type=shlex.split, default=[], help="more options of compare.py, in one word")
    return parser


def _before(chosen: argparse.Namespace) -> Path | None:
    folder = chosen.out if chosen.go_on is True else Path(chosen.go_on).absolute() if chosen.go_on else None
    if folder is not None and folder != chosen.out and not folder.is_dir():
        raise SystemExit(f"--continue: there is no folder {folder}")
    return folder


def _records(before: Path | None) -> dict[str, dict[str, Any]]:
    """Those of the run before, by name."""
    if before is None or not (before / "summary.json").exists():
        return {}
    steps = json.loads((before / "summary.json").read_text(encoding="utf-8"))["steps"]
    return {record["name"]: record for record in steps}


def _take_over(
    step: Step, chosen: argparse.Namespace, before: Path | None, ended: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """The record of a step that a run before has ended; None if it is to run. Its files are there in either case: what
    runs and is cut off before it has anything, or is left out, leaves them as they are."""
    if before is not None and before != chosen.out:
        for path in (*before.glob(f"{step.name}.*"), *before.glob(f"{step.name}-*.svg")):
            shutil.copy2(path, chosen.out / path.name)
    record = ended.get(step.name)
    return None if record is None or record["status"] != "done" or record["left"] else record


def _run(step: Step, chosen: argparse.Namespace, seconds: float) -> dict[str, Any]:
    file = chosen.out / f"{step.name}.json"
    command = [str(Path("benchmarks") / step.script), *step.options]
    record: dict[str, Any] = {"name": step.name, "status": "", "why": "", "seconds": 0.0, "left": 0, "file": file.name}
    if importlib.util.find_spec(step.needs) is None:
        return record | {"status": "left out", "why": f"{step.needs} is not installed"}
    if seconds < LEAST:
        return record | {"status": "left out", "why": f"{max(seconds, 0):.0f} s were left for it"}
    if step.has_seconds:  # it ends before it is ended, with time to write its report
        command += ["--seconds", f"{seconds - min(45.0, 0.2 * seconds):.0f}"]
    if step.script == "compare.py":
        command += ["--out", str(chosen.out), "--name", step.name, *chosen.compare]
    else:
        command += ["--out", str(file)]
    start, log, going_on = time.monotonic(), chosen.out / f"{step.name}.log", _continue(step, chosen)
    why = _in_process([sys.executable, *command, *going_on], log, seconds)
    if OF_ANOTHER in why:  # machine, version or commit: what was measured there stays there
        if Path(going_on[-1]).resolve() == file.resolve():
            os.replace(file, file.with_name(f"{step.name}.before"))
        why, going_on = _in_process([sys.executable, *command], log, seconds), []
    command += going_on
    status = "done" if not why else "cut" if why.startswith("not done") else "failed"
    record |= {"status": status, "why": why, "seconds": round(time.monotonic() - start, 1), "left": _left(file)}
    said = _last_line(log) if step.counts and status == "done" else ""
    return record | {"said": said, "command": shlex.join(["python", *command])}


def _continue(step: Step, chosen: argparse.Namespace) -> list[str]:
    before = _before(chosen) if step.goes_on else None
    file = before / f"{step.name}.json" if before else None
    return ["--continue", str(file)] if file and file.exists() else []


def _in_process(command: list[str], log: Path, seconds: float) -> str:
    """Why it ended without success, or an empty text. It has a process group, which is ended with it."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"not done after {seconds:.0f} s"
        except BaseException:  # Ctrl-C: nothing is left running
            _end(process)
            raise
    return f"exit {code}: {_last_line(log) or 'it printed nothing'}" if code else ""


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _end(process: subprocess.Popen) -> None:
    """And the processes that it has started."""
    for ask in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        try:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, ask)
            else:
                process.kill()
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def _left(file: Path) -> int:
    """How many cells or sizes a results file says were not reached."""
    if not file.exists():
        return 0
    document = json.loads(file.read_text(encoding="utf-8"))
    return document.get("cells_left", 0) or len(document.get("left", []))


def _line(record: dict[str, Any]) -> str:
    left = f", {record['left']} left" if record["left"] else ""
    why = record["why"] or record.get("said", "")
    why = f": {why}" if why else ""
    return f"{record['name']:<30} {record['status']:<9} {record['seconds']:>7.1f} s{left}{why}"


def _write_summary(chosen: argparse.Namespace, records: list[dict[str, Any]], seconds: float) -> None:
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {"date": date, "device": chosen.device, "minutes": chosen.minutes, "seconds": round(seconds, 1)}
    files.write(chosen.out / "summary.json", document | {"steps": records})
    lines = [f"# Benchmarks, {chosen.device}, {date}", "", "| step | how it ended | seconds | left | what it said |"]
    lines += ["|---|---|---|---|---|"]
    for record in records:
        cells = (
            record["name"],
            record["status"],
            record["seconds"],
            record["left"] or "",
            record["why"] or record.get("said", ""),
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    found = _findings(chosen.out)
    lines += ["", *(f"- {line}" for line in found)] if found else []
    (chosen.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _missing(records: list[dict[str, Any]], steps: list[Step]) -> list[str]:
    """What there is to do, by how it ended."""
    ends = {"failed": [], "cut": [], "left out": [], "in part": []}  # type: dict[str, list[str]]
    for record in records:
        how = "in part" if record["status"] == "done" and record["left"] else record["status"]
        ends.get(how, []).append(record["name"])
    whole = len(records) - sum(map(len, ends.values()))
    said = [f"{how}: {', '.join(names)}" for how, names in ends.items() if names]
    return [f"{whole} of {len(steps)} are complete", *said]


def _pack(chosen: argparse.Namespace) -> None:
    if chosen.pack is None:
        return
    beside = chosen.pack.with_name(chosen.pack.name + ".part")
    with tarfile.open(beside, "w:gz") as archive:
        archive.add(chosen.out, chosen.out.name)
    os.replace(beside, chosen.pack)


def _findings(out: Path) -> list[str]:
    """The figures of the comparison in words, and where the planner does not take what is fastest."""
    from benchmarks import choices
    from benchmarks.against_torch import acceptance

    found = []
    for path in sorted(out.glob("compare-*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        found += [f"{path.stem}: {text}" for text in acceptance.texts(acceptance.acceptance(document))]
    layouts = [*sorted(out.glob("layouts-*.json")), *out.glob("graphs.json")]
    return found + (choices.texts(layouts) if layouts else [])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the process of a step ends as well
    sys.exit(main())
