"""start.py: what it installs and starts, and what it says where it cannot."""

import builtins
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start(monkeypatch, tmp_path):
    """start.py as a module that writes down its commands instead of running them."""
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands, module.ROOT = [], str(tmp_path)

    def note(command, **_):
        module.commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    return module


def outside_any_environment(monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)


def test_inside_a_virtual_environment_that_one_is_used(start, monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", "/somewhere/else")
    start.main(["test", "-k", "nothing"])
    assert start.commands == [
        [sys.executable, "-m", "pip", "install", "--no-compile", "--editable", ".[test,kernelcheck]"],
        [sys.executable, "-c", start.COMPILE],
        [sys.executable, "-m", "pytest", "-k", "nothing"],
    ]


def test_elsewhere_an_environment_is_made_first(start, monkeypatch, tmp_path):
    outside_any_environment(monkeypatch)
    start.main(["course"])
    made, installed, compiled, opened = start.commands
    assert made == [sys.executable, "-m", "venv", "--clear", str(tmp_path / ".venv")]
    assert Path(installed[0]).is_relative_to(tmp_path / ".venv") and installed[-1] == ".[course]"
    assert compiled == [installed[0], "-c", start.COMPILE]
    assert opened[1:3] == ["-m", "jupyterlab"]
    root, first = opened[3:]
    assert root == "--ServerApp.root_dir=." and first.startswith("--LabApp.default_url=/lab/tree/")
    assert (ROOT / first.partition("/lab/tree/")[2]).is_file()


def test_root_may_open_the_course_too(start, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    start.main(["course", "--no-browser"])
    assert start.commands[-1][-2:] == ["--allow-root", "--no-browser"]


def test_an_environment_that_works_is_kept(start, monkeypatch, tmp_path):
    outside_any_environment(monkeypatch)
    python = tmp_path / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    start.main(["course"])
    assert not any("venv" in command for command in start.commands)


def test_a_python_without_ensurepip_says_what_to_install(start, monkeypatch):
    outside_any_environment(monkeypatch)
    real_import = builtins.__import__

    def without_ensurepip(name, *rest, **more):
        if name == "ensurepip":
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_ensurepip)
    with pytest.raises(SystemExit, match="sudo apt install python3-venv"):
        start.main(["course"])
    assert start.commands == []


def test_an_old_python_is_named(start, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, and this is 3\.9 "):
        start.main(["course"])


@pytest.mark.parametrize("arguments", [[], ["lesson"], ["--help"]])
def test_anything_else_is_answered_with_the_two_jobs(start, arguments):
    with pytest.raises(SystemExit, match="start.py course(.|\n)*start.py test"):
        start.main(arguments)


def test_a_failed_step_ends_the_run_with_its_status(start, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit) as stopped:
        start.run(["anything"])
    assert stopped.value.code == 3


def test_what_was_installed_is_compiled_but_its_own_tests_are_not(tmp_path):
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in {"a/contest.py": "", "a/tests/b.py": "", "a/test/b.py": "", "a/wrong.py": "def ("}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = module.COMPILE.replace("sysconfig.get_path('purelib')", repr(str(tmp_path)))
    assert code != module.COMPILE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc")] == ["contest"]
