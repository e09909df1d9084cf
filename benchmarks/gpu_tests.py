"""The tests that run on a GPU, those of the schedules first, with what has passed written down as it comes.

    python benchmarks/gpu_tests.py --out tests.json
    python benchmarks/gpu_tests.py --continue tests.json --out more.json -- -x     # behind --, pytest's own options

It is `pytest --gpu` without the tests that need no GPU, and a warning is no error: packages differ from machine to
machine. Modules that cannot be imported here are named, and the others run. See benchmarks/README.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import files  # noqa: E402 - the repository need not be installed

FIRST = ("schedule", "half", "cluster", "resident", "stacked", "both_directions", "tf32", "lstm", "variant")
SAVE = 2.0  # seconds between two writings of the file
WORKERS = 10  # processes: each has a context on the device, and collects all tests
GRACE = 10.0  # seconds to say what has failed until then
RECORD, BEFORE = "GPULSTM_GPU_TESTS_RECORD", "GPULSTM_GPU_TESTS_BEFORE"  # what the processes are told: paths
# Not those of pyproject.toml: notebooks and their plugin stay out of it, and modules are shared out test by test.
OPTIONS = ("--gpu", "-q", "-o", "addopts=", "-o", "filterwarnings=default", "--continue-on-collection-errors")
OPTIONS += ("-p", "benchmarks.gpu_tests", "-p", "no:cacheprovider", "--dist", "load")


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing failed; a module that cannot be imported has failed."""
    given = sys.argv[1:] if arguments is None else arguments
    end = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, help="for everything")
    parser.add_argument("--workers", type=int, default=min(WORKERS, os.cpu_count() or 1), help="0: in one process")
    parser.add_argument("--continue", dest="go_on", type=Path, metavar="FILE", help="leave out what has passed there")
    chosen = parser.parse_args(given[:end])
    more = given[end + 1 :]
    here = [path for path in more if path.partition("::")[0].endswith(".py")] or modules()
    options = [option for option in more if option not in here]
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-n", str(chosen.workers), *options, *here]
    environment = {**os.environ, RECORD: str(chosen.out.resolve())}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if chosen.go_on:
        environment[BEFORE] = str(chosen.go_on.resolve())
    code = _run(command, environment, chosen.seconds)
    if not chosen.out.exists():
        return code or 1
    document = json.loads(chosen.out.read_text(encoding="utf-8"))
    print(", ".join(f"{len(document[name])} {name}" for name in ("passed", "failed", "skipped", "modules", "left")))
    return int(bool(document["failed"] or document["modules"]))


def modules() -> list[str]:
    """Those of the tests that have something to do with a GPU, what is worth most first."""

    def rank(name: str) -> int:
        return next((place for place, word in enumerate(FIRST) if word in name), len(FIRST))

    found = [path for path in (ROOT / "tests").glob("test_*.py") if "backend" in path.read_text(encoding="utf-8")]
    return [f"tests/{path.name}" for path in sorted(found, key=lambda path: (rank(path.name), path.name))]


def _run(command: list[str], environment: dict[str, str], seconds: float | None) -> int:
    """Pytest's exit status. At the end of its time it is told to stop, and soon afterwards stopped."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    time.sleep(1)  # the others have something to say about that, and what is said here is to come last
    return code


# What follows runs inside of pytest.
_record: "Record | None" = None


class Record:
    """What became of each test, in the file from time to time."""

    def __init__(self, path: Path, before: list[str]) -> None:
        self.path, self.saved = path, 0.0
        self.left: dict[str, None] = {}
        self.document: dict[str, Any] = {"machine": {}, "passed": before, "failed": {}, "skipped": {}, "modules": {}}
        self.document |= {"warnings": {}, "seconds": {}}

    def add(self, name: str, outcome: str, why: str, seconds: float) -> None:
        self.left.pop(name, None)
        if outcome == "passed":
            self.document["passed"].append(name)
        else:
            self.document[outcome][name] = why
        of_module, module = self.document["seconds"], name.partition("::")[0]
        of_module[module] = round(of_module.get(module, 0.0) + seconds, 2)
        if time.monotonic() - self.saved > SAVE:
            self.save()

    def save(self) -> None:
        self.saved = time.monotonic()
        files.write(self.path, self.document | {"left": [*self.left]})


def _before() -> list[str]:
    path = os.environ.get(BEFORE)
    return json.loads(Path(path).read_text(encoding="utf-8"))["passed"] if path and Path(path).exists() else []


def pytest_configure(config: Any) -> None:
    global _record
    if hasattr(config, "workerinput") or RECORD not in os.environ:
        return
    _record = Record(Path(os.environ[RECORD]), _before())


def pytest_sessionstart() -> None:
    if _record is not None:
        import cupy

        from benchmarks.gpu import machine

        _record.document["machine"] = machine(cupy)
        _record.save()


def pytest_collection_modifyitems(config: Any, items: list) -> None:
    """Keeps what runs on a GPU and has not passed before."""
    passed = set(_before())
    kept = [item for item in items if _backend(item) == "gpu" and item.nodeid not in passed]
    keep = {item.nodeid for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in keep])
    items[:] = kept
    if _record is not None:
        _record.left = dict.fromkeys(item.nodeid for item in kept)


def _backend(item: Any) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    if _record is not None and not _record.left:
        _record.left = dict.fromkeys(ids)


def pytest_runtest_logreport(report: Any) -> None:
    if _record is None or (report.when != "call" and report.outcome == "passed"):
        return
    text = str(report.longrepr) if report.longrepr else ""
    lines = [line for line in text.splitlines() if line.strip()]
    _record.add(report.nodeid, report.outcome, lines[-1][:300] if lines else "", report.duration)


def pytest_collectreport(report: Any) -> None:
    if _record is not None and report.failed:
        lines = [line for line in str(report.longrepr).splitlines() if line.strip()]
        _record.document["modules"][report.nodeid] = lines[-1][:300] if lines else ""


def pytest_warning_recorded(warning_message: Any, nodeid: str) -> None:
    if _record is not None:
        words = f"{warning_message.category.__name__}: {str(warning_message.message)[:200]}"
        _record.document["warnings"].setdefault(words, nodeid)


def pytest_sessionfinish() -> None:
    if _record is not None:
        _record.save()


if __name__ == "__main__":
    sys.exit(main())
