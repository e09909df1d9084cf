"""Measures what this GPU cannot be faster than, in the parts that a recurrent step is made of.

    python benchmarks/floors.py [--out results.json] [--only barrier flags]

benchmarks/README.md says what each line means. Each group runs in a process of its own, with a time limit: an error
that ruins one leaves the others alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import cpu_cost, files, handover, throughput  # noqa: E402 - the repository need not be installed
from benchmarks.gpu import Gpu, Report  # noqa: E402

GROUPS = {
    "boundary": handover.boundary,
    "barrier": handover.barrier,
    "flags": handover.flags,
    "cluster": handover.cluster,
    "l2": throughput.l2,
    "hbm": throughput.hbm,
    "gemm": throughput.gemm,
    "mma": throughput.mma,
    "cpu": cpu_cost.cpu,
}
LIMIT = 60  # seconds for a group; none should take more than some


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of lines")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)  # what a process of a group is started with
    chosen = parser.parse_args(arguments)
    if chosen.out and not chosen.out.parent.is_dir():
        parser.error(f"--out {chosen.out}: there is no folder {chosen.out.parent}")
    if chosen.group:
        run_group(chosen.group, chosen.out)
        return 0
    start = time.monotonic()
    results = gather(chosen.only, chosen.out)
    results["seconds"] = round(time.monotonic() - start, 1)
    files.write(chosen.out, results)
    print_end(results)
    return 1 if results["failed"] else 0


def run_group(name: str, out: Path | None) -> None:
    """Measures one group in this process. The file is written after each line: what was measured survives a crash."""

    def save(report: Report) -> None:
        if out:
            part = out.with_name(out.name + ".part")
            part.write_text(json.dumps(report.as_dict()))
            part.replace(out)  # at once: this process may be ended at any time

    report = Report(name, save)
    try:
        gpu = Gpu()
        report.machine = gpu.machine()
        GROUPS[name](gpu, report)
    except Exception as error:  # no GPU, no CuPy, or a mistake outside of a line
        report.fail(name, f"{type(error).__name__}: {error}")


def gather(groups: list[str], out: Path | None = None) -> dict:
    """All lines of the groups; in the file, those until now."""
    results: dict = {"machine": {}, "lines": [], "failed": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in groups:
            file = Path(folder) / f"{name}.json"
            why = run_process(name, file)
            found = json.loads(file.read_text()) if file.exists() else {"machine": {}, "lines": [], "failed": []}
            if why:
                print(f"{name:<68} FAILED: {why}", flush=True)
                found["failed"].append({"group": name, "name": name, "why": why})
            results["machine"] = results["machine"] or found["machine"]
            results["lines"] += found["lines"]
            results["failed"] += found["failed"]
            files.write(out, results)
    return results


def run_process(name: str, file: Path) -> str:
    """Why the process of a group ended before its time, or an empty text."""
    command = [sys.executable, str(Path(__file__).resolve()), "--group", name, "--out", str(file)]
    try:
        code = subprocess.run(command, timeout=LIMIT).returncode
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    return f"the process ended with {code}" if code else ""


def print_end(results: dict) -> None:
    print("\n" + "\n".join(f"{name}: {value}" for name, value in results["machine"].items()))
    print(f"{len(results['lines'])} lines in {results['seconds']} s, {len(results['failed'])} failed")
    for failure in results["failed"]:
        print(f"  {failure['group']}: {failure['name']}: {failure['why']}")


if __name__ == "__main__":
    sys.exit(main())
