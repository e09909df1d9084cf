"""benchmarks/all.py: every step in a process of its own, within its time, and none stops the others.

tests/test_benchmarks_compare.py has the real comparison on a CPU, run by it.
"""

import json
import os
import re
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks.all import Step

GOOD = """
import json, pathlib, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
out.write_text(json.dumps({"arguments": arguments, "left": LEFT}))
print("done")
"""
BAD = "print('begun')\nraise RuntimeError('no CUDA driver')"
HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).write_text('{"rows": [1]}')
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Puts steps with given programs in the place of the real ones."""

    def put(**programs):
        found = []
        for name, (program, more) in programs.items():
            script = tmp_path / f"{name}.py"
            script.write_text(program)
            found.append(Step(name, str(script), (), **({"weight": 1, "needs": "json"} | more)))
        monkeypatch.setitem(everything.STEPS, "gpu", tuple(found))
        return tmp_path / "out"

    return put


def run(out, *more, minutes="1"):
    return everything.main(["--minutes", minutes, "--out", str(out), *more])


def summary(out):
    return {record["name"]: record for record in json.loads((out / "summary.json").read_text())["steps"]}


def whole(left="[]"):
    return GOOD.replace("LEFT", left)


def test_one_that_fails_does_not_stop_the_others_and_the_exit_status_says_it(steps, capsys):
    out = steps(good=(whole(), {"has_seconds": True}), bad=(BAD, {}), last=(whole(), {}))
    assert run(out) == 1
    found = summary(out)
    assert [(name, record["status"]) for name, record in found.items()] == [
        ("good", "done"), ("bad", "failed"), ("last", "done")
    ]  # fmt: skip
    assert found["bad"]["why"] == "exit 1: RuntimeError: no CUDA driver"
    assert (out / "bad.log").read_text().startswith("begun") and (out / "good.log").read_text() == "done\n"
    arguments = json.loads((out / "good.json").read_text())["arguments"]
    assert arguments[-2:] == ["--out", str(out / "good.json")]
    assert 60 / 3 * 0.8 - 1 <= float(arguments[arguments.index("--seconds") + 1]) <= 60 / 3 * 0.8 + 1
    assert "--seconds" not in json.loads((out / "last.json").read_text())["arguments"]
    assert "| bad | failed |" in (out / "summary.md").read_text()
    assert "RuntimeError: no CUDA driver" in capsys.readouterr().out


def test_all_that_went_well_is_zero(steps):
    assert run(steps(good=(whole(), {}))) == 0


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_one_that_hangs_is_ended_with_its_children_and_keeps_its_file(steps, monkeypatch):
    monkeypatch.setattr(everything, "LEAST", 0.5)
    out = steps(hangs=(HANGS, {"most": 1.5}), last=(whole(), {}))
    start = time.monotonic()
    assert run(out) == 1
    assert time.monotonic() - start < 20
    found = summary(out)
    assert found["hangs"]["status"] == "cut" and found["hangs"]["why"].startswith("not done after")
    assert found["last"]["status"] == "done" and json.loads((out / "hangs.json").read_text()) == {"rows": [1]}
    child = int((out / "hangs.log").read_text())
    for _ in range(100):
        if not is_running(child):
            return
        time.sleep(0.05)
    pytest.fail(f"process {child} is still there")


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return not Path("/proc").exists()
    return stat.read_text().rpartition(")")[2].split()[0] != "Z"  # ended, and whoever inherited it has not looked yet


def test_what_there_is_no_time_or_no_library_for_is_left_out_and_said(steps):
    out = steps(late=(BAD, {"most": 2.0}), lacking=(BAD, {"needs": "nowhere_to_be_found"}))
    assert run(out) == 0
    found = summary(out)
    assert found["late"]["status"] == found["lacking"]["status"] == "left out"
    assert found["late"]["why"] == "2 s were left for it"
    assert found["lacking"]["why"] == "nowhere_to_be_found is not installed"


def test_time_is_given_by_weight_and_what_is_not_used_goes_to_the_next(steps):
    more = {"has_seconds": True}
    out = steps(one=(whole(), more | {"weight": 1}), two=(whole(), more | {"weight": 3}))
    run(out, minutes="2")
    seconds = []
    for name in ("one", "two"):
        arguments = json.loads((out / f"{name}.json").read_text())["arguments"]
        seconds.append(float(arguments[arguments.index("--seconds") + 1]))
    assert seconds[0] == pytest.approx(0.8 * 30, abs=1)
    assert 120 - 45 - 8 < seconds[1] <= 120 - 0.2 * 120


def test_a_step_has_its_least_as_long_as_it_is_there(steps):
    more = {"has_seconds": True}
    out = steps(one=(whole(), more | {"least": 50}), two=(whole(), more | {"least": 500}))
    run(out)
    seconds = []
    for name in ("one", "two"):
        arguments = json.loads((out / f"{name}.json").read_text())["arguments"]
        seconds.append(float(arguments[arguments.index("--seconds") + 1]))
    assert seconds[0] == pytest.approx(0.8 * 50, abs=1) and 40 <= seconds[1] <= 0.8 * 60


def test_what_is_complete_is_not_run_again(steps, tmp_path):
    out = steps(part=(whole("[[64, 1]]"), {"goes_on": True}), whole=(whole(), {}), bad=(BAD, {}))
    run(out)
    assert everything._continue(everything.STEPS["gpu"][0], arguments_of(out, "--continue")) == [
        "--continue", str(out / "part.json")
    ]  # fmt: skip
    assert everything._continue(everything.STEPS["gpu"][0], arguments_of(out)) == []
    assert everything._continue(everything.STEPS["gpu"][1], arguments_of(out, "--continue")) == []  # begins anew
    before = {name: (out / f"{name}.json").stat().st_mtime_ns for name in ("whole", "part")}
    assert summary(out)["part"]["left"] == 1
    assert run(out, "--continue") == 1
    assert json.loads((out / "part.json").read_text())["arguments"][-2:] == ["--continue", str(out / "part.json")]
    assert (out / "whole.json").stat().st_mtime_ns == before["whole"]
    assert (out / "part.json").stat().st_mtime_ns > before["part"]
    other = tmp_path / "other"
    run(other, "--continue", str(out), "--only", "whole")
    assert (other / "whole.json").read_text() == (out / "whole.json").read_text()
    assert list(summary(other)) == ["whole"]
    run(other, "--continue", str(out), "--only", "part", minutes="0.01")  # too little: what there was of it is kept
    assert summary(other)["part"]["status"] == "left out" and (other / "part.json").exists()
    with pytest.raises(SystemExit, match="there is no folder"):
        run(other, "--continue", str(tmp_path / "nothing"))


OF_ANOTHER = f"import sys\nif '--continue' in sys.argv: sys.exit({everything.OF_ANOTHER!r} + ' machine')\n"


def test_what_another_machine_has_measured_is_left_where_it_is(steps, tmp_path):
    out = steps(part=(OF_ANOTHER + whole("[[64, 1]]"), {"goes_on": True}))
    run(out)
    other = tmp_path / "other"
    assert run(other, "--continue", str(out)) == 0
    assert summary(other)["part"]["status"] == "done" and "--continue" not in summary(other)["part"]["command"]
    before = (out / "part.json").read_text()
    assert run(out, "--continue") == 0 and (out / "part.before").read_text() == before


def test_what_is_missing_is_said_and_all_of_it_is_one_file(steps, tmp_path, capsys):
    out = steps(
        tests=(whole().replace("print('done')", "").replace('"done"', '"9 passed"'), {"counts": True}),
        part=(whole("[1]"), {}),
        bad=(BAD, {}),
        never=(BAD, {"needs": "nowhere_to_be_found"}),
    )
    assert run(out, "--pack", str(tmp_path / "all.tar.gz")) == 1
    said = capsys.readouterr().out
    assert said.endswith("1 of 4 are complete\nfailed: bad\nleft out: never\nin part: part\n")
    assert summary(out)["tests"]["said"] == "9 passed" and "| 9 passed |" in (out / "summary.md").read_text()
    with tarfile.open(tmp_path / "all.tar.gz") as packed:
        assert {"out/summary.md", "out/tests.json", "out/bad.log"} <= set(packed.getnames())


def arguments_of(out, *more):
    return everything._parser().parse_args(["--minutes", "1", "--out", str(out), *more])


def test_an_unknown_step_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--only must be of tests, memcheck, .*layouts-bfloat16-persistent, .*; got x"):
        run(tmp_path / "out", "--only", "x")


def test_the_real_scripts_take_the_options_that_they_are_given():
    for of_device in everything.STEPS.values():
        for step in of_device:
            folder = everything.ROOT / "benchmarks"
            text = (folder / step.script).read_text(encoding="utf-8")
            several = (folder / "in_several_ways.py").read_text(encoding="utf-8")
            text += several if "add_continue(" in text else ""
            if "in_several_ways.run(" in text:
                sizes = text.partition("in_several_ways.run(")[2].partition("}")[0]  # name -> what it is if not given
                text = several
                text += "".join(f'"--{name}"' for name in re.findall(r'"(\w+)": ', sizes))
            assert '"--out"' in text and ('"--seconds"' in text or not step.has_seconds)
            assert all(f'"{option}"' in text for option in step.options if option.startswith("--"))
            assert '"--continue"' in text or not step.goes_on
