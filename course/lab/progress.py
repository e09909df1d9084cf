"""What has been solved: a small file on the learner's own disk, which nobody else reads.

    {"checks": {"03.sigmoid": "solved", "03.slope": "tried"}}

It lies in course/.progress.json, or where the environment variable GPULSTM_COURSE_PROGRESS says. To start
over, delete it.
"""

import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

STATES = ("tried", "solved")
PATIENCE = 2.0  # seconds to wait for another notebook that is just writing


def path() -> Path:
    chosen = os.environ.get("GPULSTM_COURSE_PROGRESS")
    return Path(chosen) if chosen else Path(__file__).resolve().parent.parent / ".progress.json"


def read() -> dict[str, str]:
    """The state of each check that was ever run, "tried" or "solved". What is damaged is left out."""
    try:
        checks = json.loads(path().read_text(encoding="utf-8"))["checks"]
        return {name: state for name, state in checks.items() if state in STATES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def record(name: str, solved: bool) -> str:
    """Writes that a check was tried, or solved; solved once is solved. Returns what went wrong, or nothing."""
    try:
        with alone():
            checks = read()
            if checks.get(name) == "solved" or checks.get(name) == ("solved" if solved else "tried"):
                return ""
            checks[name] = "solved" if solved else "tried"
            replace(json.dumps({"checks": dict(sorted(checks.items()))}, indent=1) + "\n")
    except OSError as error:
        return f"Your progress could not be written down: {error}"
    return ""


def replace(text: str) -> None:
    """In one step, so that whoever reads at the same moment finds the old file or the new one, and never half of it."""
    handle, scratch = tempfile.mkstemp(dir=path().parent, prefix=".progress-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        patiently(lambda: os.replace(scratch, path()))
    except BaseException:
        os.unlink(scratch)
        raise


def patiently(act):
    """On Windows a file that somebody is just reading cannot be replaced: try again for a while."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return act()
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.01)


@contextmanager
def alone():
    """One notebook at a time reads, changes and writes: else the slower one would take back what the other wrote."""
    lock = path().with_name(path().name + ".lock")
    end = time.monotonic() + PATIENCE
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except (FileExistsError, PermissionError) as error:
            # A permission error on Windows is a lock that is just being deleted; elsewhere it is what it says.
            if isinstance(error, PermissionError) and os.name != "nt":
                raise
            if time.monotonic() > end:  # left behind by a kernel that was killed: nobody holds it for so long
                lock.unlink(missing_ok=True)
                end = time.monotonic() + PATIENCE
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
