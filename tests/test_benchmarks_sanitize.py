"""benchmarks/sanitize.py: which layers it runs, that wrong results are said, and processes that end."""

import json
import sys
import time

import numpy as np
import pytest

from benchmarks import sanitize
from gpulstm.cuda import catalogue
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=132) as cupy:
        yield cupy


def test_every_kernel_with_one_launch_has_a_family(cupy):
    found = {family.name: family for family in sanitize.families(cupy)}
    kernels = {kernel for family in found.values() for kernel in family.kernels}
    one_launch = ("lstm_resident_", "lstm_persistent_", "lstm_cluster_", "lstm_wide_")
    wanted = {name for name in catalogue.KERNELS if name.startswith(one_launch)}
    assert wanted - kernels == set()
    assert {family.schedule for family in found.values()} == set(sanitize.planner.SCHEDULES)
    assert "step, float32, plain, H 24 N 3" in found


def test_a_family_is_compared_with_numpy(cupy, monkeypatch):
    for arithmetic, what, shape in (("float32", "options", ""), ("bfloat16", "plain", "both directions")):
        family = sanitize.Family("resident", arithmetic, what, shape, 8, 2)
        assert sanitize.by_value(cupy, family) == {"status": "right", "why": ""}
        assert cupy.on_cpu.launches["lstm_resident_forward"] + cupy.on_cpu.launches["lstm_resident_tensor_forward"] > 1
    real = sanitize._results

    def off(xp, *arguments):
        found = real(xp, *arguments)
        return found if xp is np else found | {"dx": found["dx"] * np.float32(1.001)}

    monkeypatch.setattr(sanitize, "_results", off)
    family = sanitize.Family("resident", "float32", "plain", "", 8, 2)
    assert sanitize.by_value(cupy, family) == {"status": "wrong", "why": "dx is off by 0.001"}
    monkeypatch.setattr(sanitize, "_results", lambda *arguments: 1 / 0)
    assert sanitize.by_value(cupy, family)["why"] == "ZeroDivisionError: division by zero"


# In the place of the tool and of what it runs: a and e are right, b is reported, c ends the process, d fails.
TOOL = """
import json, os, sys
names = json.loads(open(sys.argv[-1]).read())
print("========= COMPUTE-SANITIZER")
for name in names:
    print("\\nfamily " + name, flush=True)
    if name == "b":
        print("========= Invalid __global__ write of size 4 bytes")
    if name == "c":
        os.abort()
    status = "failed" if name == "d" else "right"
    print("ended " + json.dumps({"status": status, "why": "unspecified launch failure" * (name == "d")}), flush=True)
    if name == "d":
        sys.exit(3)
    if name == "slow":
        import time
        time.sleep(60)
print("========= ERROR SUMMARY: 0 errors")
"""


def run(tmp_path, names, seconds=30.0):
    tool, out = tmp_path / "tool.py", tmp_path / "memcheck.json"
    tool.write_text(TOOL)
    document = {"left": [], "rows": []}
    sanitize.run(names, [sys.executable, str(tool)], document, out, time.monotonic() + seconds)
    assert json.loads(out.read_text()) == document
    return document


def test_whatever_ends_the_process_leaves_the_others_alone(tmp_path, capsys):
    document = run(tmp_path, ["a", "b", "c", "d", "e"])
    assert [(row["name"], row["status"]) for row in document["rows"]] == [
        ("a", "right"), ("b", "reported"), ("c", "died"), ("d", "failed"), ("e", "right")
    ]  # fmt: skip
    why = [row["why"] for row in document["rows"]]
    assert why[1].startswith("Invalid __global__ write") and why[2].startswith("exit -6") and "launch failure" in why[3]
    assert document["left"] == [] and "Invalid __global__ write" in capsys.readouterr().out


def test_what_no_time_was_left_for_is_said_and_left_for_the_next_run(tmp_path):
    start = time.monotonic()
    document = run(tmp_path, ["a", "slow", "e"], seconds=0.4)
    assert time.monotonic() - start < 10
    assert [row["name"] for row in document["rows"]][:1] == ["a"] and document["left"][-1:] == ["e"]
    assert set(sanitize._right_before(tmp_path / "memcheck.json")) <= {"a", "slow"}
    assert sanitize._right_before(tmp_path / "nothing.json") == {}
