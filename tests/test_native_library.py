"""Compiling, finding and choosing the LSTM for the CPU, and what is said about it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import config
from gpulstm.engines import native_calls
from gpulstm.native import __main__ as command
from gpulstm.native import library
from tests import native_library


@pytest.fixture
def nothing_yet(tmp_path, monkeypatch):
    """An empty cache, and no choice."""
    monkeypatch.setenv("GPULSTM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(library.SWITCH)
    native_library._forget()
    yield tmp_path
    monkeypatch.undo()
    native_library._forget()


def plan(dtype: str = "float32", **options) -> str:
    lstm = gl.LSTM(4, 8, dtype=dtype, rng=0, **options)
    return str(lstm.plan(np.zeros((9, 2, 4), dtype)).forward)


def test_without_it_numpy_does_the_work_and_says_how_to_get_it(nothing_yet):
    assert plan().startswith("numpy: ") and "`python -m gpulstm.native` has not compiled it yet" in plan()
    assert "has not compiled it yet" in plan("float64") and "has not compiled it yet" in plan(peephole=True)
    assert "NumPy engine; no compiled one: `python -m gpulstm.native`" in "\n".join(config.report())


@pytest.fixture
def quick_compiler(tmp_path_factory, monkeypatch):
    """The one that would be taken, made to optimise less: nearly all of the command's time. tests/test_native.py has
    what it makes of the library's own options."""
    found = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), "cc")
    script = tmp_path_factory.mktemp("compiler") / "cc"
    script.write_text(f'#!/bin/sh\nexec {found} "$@" -Og\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))


def test_the_command_compiles_it_and_it_is_used(nothing_yet, quick_compiler):
    ran = subprocess.run([sys.executable, "-m", "gpulstm.native"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert f"compiled {library.place()}" in ran.stdout and "with 1 threads" in ran.stdout
    native_library._forget()
    assert plan().startswith("native: ")
    assert plan("float64").startswith("native: ") and plan(peephole=True, zoneout=0.1).startswith("native: ")
    assert plan(layer_norm=True, activations=("softsign", "tanh", "relu")).startswith("native: ")
    assert plan(proj_size=2).startswith("numpy: ") and "does not hold proj_size" in plan(proj_size=2)
    assert "NumPy arrays: compiled for this processor, " in "\n".join(config.report())
    assert [path.name for path in nothing_yet.iterdir()] == [library.place().name], "something was left behind"


@pytest.mark.parametrize("argument, status", [("--help", 0), ("--hlep", 2)])
def test_the_command_explains_itself_and_compiles_nothing_then(nothing_yet, monkeypatch, capsys, argument, status):
    monkeypatch.setattr(sys, "argv", ["gpulstm.native", argument])
    assert command.main() == status
    assert "takes no arguments" in capsys.readouterr().out and list(nothing_yet.iterdir()) == []


def test_numpy_can_be_asked_for(nothing_yet, monkeypatch):
    library.place().write_bytes(b"")
    monkeypatch.setenv(library.SWITCH, "numpy")
    assert library.load() is None and library.why_not() == "GPULSTM_CPU is 'numpy'"


def test_asking_for_what_is_not_there(nothing_yet, monkeypatch):
    monkeypatch.setenv(library.SWITCH, "native")
    with pytest.raises(
        RuntimeError, match=r"GPULSTM_CPU is 'native', but the compiled LSTM cannot be used: `python -m"
    ):
        plan()


def test_asking_for_nonsense(nothing_yet, monkeypatch):
    monkeypatch.setenv(library.SWITCH, "fast")
    with pytest.raises(RuntimeError, match="GPULSTM_CPU must be 'numpy', 'native' or nothing, got 'fast'"):
        plan()


def test_a_damaged_library_is_not_used(nothing_yet):
    library.place().write_bytes(b"not a library")
    assert library.load() is None and f"{library.place()} cannot be loaded" in library.why_not()
    assert plan().startswith("numpy: ")


def test_without_a_home_numpy_does_the_work(nothing_yet, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GPULSTM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(library.Path, "home", homeless)
    assert library.load() is None and "no cache folder" in library.why_not() and "home directory" in library.why_not()
    assert plan().startswith("numpy: ")


def test_no_compiler(nothing_yet, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RuntimeError, match="a C compiler is needed, and cc, gcc and clang cannot be found"):
        library.build()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RuntimeError, match="a C compiler is needed, and no-such-compiler cannot be found"):
        library.build()


def test_what_the_compiler_says(nothing_yet, monkeypatch):
    monkeypatch.setattr(library, "OPTIONS", (*library.OPTIONS, "-no-such-option"))
    with pytest.raises(RuntimeError, match="no-such-option") as refused:
        library.build()
    assert "failed:" in str(refused.value) and not library.place().exists()


def test_another_processor_or_version_has_another_library(nothing_yet, monkeypatch):
    first = library.place()
    native_library._forget()
    monkeypatch.setattr(library, "OPTIONS", (*library.OPTIONS, "-g"))
    assert library.place() != first and library.place().parent == nothing_yet


def test_addresses_of_arrays(monkeypatch):
    array = np.arange(24.0).reshape(2, 3, 4)
    for each in (array, array[1, 1:, 2:], array.T, np.zeros(3, np.float32), np.broadcast_to(1.0, (3, 3))):
        with monkeypatch.context() as patch:
            assert native_calls.address(each) == each.ctypes.data
            patch.setattr(native_calls, "_HEADER", None)  # as elsewhere than on CPython
            assert native_calls.address(each) == each.ctypes.data
    assert native_calls.address(None) is None
