"""benchmarks/gpu_tests.py: which tests it takes, and what it writes down of them."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import gpu_tests


def item(name, backend=None):
    of = {"callspec": SimpleNamespace(params={"backend": backend})} if backend else {}
    return SimpleNamespace(nodeid=name, **of)


def report(name, outcome="passed", when="call", longrepr=None):
    return SimpleNamespace(
        nodeid=name, outcome=outcome, when=when, longrepr=longrepr, duration=0.5, failed=outcome == "failed"
    )


@pytest.fixture
def record(monkeypatch, tmp_path):
    (tmp_path / "before.json").write_text(json.dumps({"passed": ["t.py::old[gpu]"]}))
    monkeypatch.setenv(gpu_tests.BEFORE, str(tmp_path / "before.json"))
    monkeypatch.setattr(gpu_tests, "_record", gpu_tests.Record(tmp_path / "tests.json", gpu_tests._before()))
    return tmp_path / "tests.json"


def test_the_schedules_come_first_and_what_has_no_backend_not_at_all():
    found = gpu_tests.modules()
    assert "schedule" in found[0] and found.index("tests/test_variants.py") < found.index("tests/test_losses.py")
    assert "tests/test_course_text.py" not in found and len(found) == len(set(found)) > 50


def test_what_runs_on_a_gpu_and_has_not_passed_is_kept(record):
    items = [item("t.py::plain"), item("t.py::a[numpy]", "numpy"), item("t.py::a[gpu]", "gpu")]
    items.append(item("t.py::old[gpu]", "gpu"))
    dropped = []
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    gpu_tests.pytest_collection_modifyitems(SimpleNamespace(hook=hook), items)
    assert [of.nodeid for of in items] == ["t.py::a[gpu]"] and len(dropped) == 3
    assert [*gpu_tests._record.left] == ["t.py::a[gpu]"]


def test_the_file_has_all_until_now(record, monkeypatch):
    monkeypatch.setattr(gpu_tests, "SAVE", -1)
    gpu_tests.pytest_xdist_node_collection_finished(["t.py::a", "t.py::b", "t.py::c", "t.py::d"])
    gpu_tests.pytest_runtest_logreport(report("t.py::a", when="setup"))
    gpu_tests.pytest_runtest_logreport(report("t.py::a"))
    gpu_tests.pytest_runtest_logreport(report("t.py::b", "failed", longrepr="E  assert 1 == 2\nt.py:3: AssertionError"))
    gpu_tests.pytest_runtest_logreport(report("t.py::c", "skipped", "setup", ("t.py", 3, "Skipped: no clusters")))
    gpu_tests.pytest_collectreport(report("u.py", "failed", longrepr="u.py:1: in <module>\nE   No module named 'x'"))
    gpu_tests.pytest_warning_recorded(SimpleNamespace(category=UserWarning, message="old"), "t.py::a")
    gpu_tests.pytest_sessionfinish()
    found = json.loads(record.read_text())
    assert found["passed"] == ["t.py::old[gpu]", "t.py::a"] and found["left"] == ["t.py::d"]
    assert found["failed"] == {"t.py::b": "t.py:3: AssertionError"} and "no clusters" in found["skipped"]["t.py::c"]
    assert found["modules"] == {"u.py": "E   No module named 'x'"} and found["warnings"] == {
        "UserWarning: old": "t.py::a"
    }
    assert found["seconds"] == {"t.py": 1.5}


def test_the_command(monkeypatch, tmp_path, capsys):
    """In which a pytest is made up."""
    out, asked = tmp_path / "tests.json", {}

    def pytest_run(command, environment, seconds):
        asked.update(command=command, environment=environment, seconds=seconds)
        rows = {"passed": ["a"], "failed": {}, "skipped": {}, "modules": {"u.py": "why"}, "left": ["b"]}
        out.write_text(json.dumps(rows))
        return 2

    monkeypatch.setattr(gpu_tests, "_run", pytest_run)
    given = ["--out", str(out), "--seconds", "9", "--continue", str(out), "--", "-x", "tests/test_gemm.py"]
    assert gpu_tests.main(given) == 1
    assert asked["command"][-2:] == ["-x", "tests/test_gemm.py"] and asked["seconds"] == 9
    assert asked["environment"][gpu_tests.RECORD] == asked["environment"][gpu_tests.BEFORE] == str(out)
    assert capsys.readouterr().out == "1 passed, 0 failed, 0 skipped, 1 modules, 1 left\n"
    out.unlink()
    monkeypatch.setattr(gpu_tests, "_run", lambda *arguments: 4)  # pytest had nothing to say but what is wrong
    assert gpu_tests.main(["--out", str(out)]) == 4
