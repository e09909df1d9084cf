"""The LSTM compiled for the CPU, for the length of a test."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpulstm.native import library
from tests.cuda_on_cpu.compilation import CACHE

FOLDER = CACHE.with_name("native")
"""Where tests keep what they compile: it takes seconds, and the name of each tells what it was compiled from."""

MACHINES = {"-march=native": (), "-march=haswell": ("AVX2", "FMA3"), "-march=x86-64": ("SSE2",)}
"""Compiler option -> what the processor needs for it: a vector has 16, 8 or 4 lanes on a processor with AVX-512."""


def can_run(machine: str) -> bool:
    from numpy._core._multiarray_umath import __cpu_features__ as features

    return all(features.get(name) for name in MACHINES[machine])


@contextmanager
def compiled(machine: str = "-march=native", folder: Path = FOLDER) -> Iterator[library.Library]:
    """Compiled in ``folder`` unless it is there, and used for NumPy arrays within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPULSTM_CACHE_DIR", str(folder))
        patch.setenv(library.SWITCH, "native")
        if machine != "-march=native":
            # How wide vectors are is all that is asked there, and optimising takes most of the compiler's time.
            instead = {"-march=native": machine, "-O2": "-Og"}
            patch.setattr(library, "OPTIONS", tuple(instead.get(option, option) for option in library.OPTIONS))
            assert set(instead.values()) <= set(library.OPTIONS)
        _forget()
        if not library.place().exists():
            library.build()
        loaded = library.load()
        assert loaded is not None
        yield loaded
    _forget()


def _forget() -> None:
    library._loaded.cache_clear()
    library._key.cache_clear()


@contextmanager
def without() -> Iterator[None]:
    """Within it, NumPy arrays go through NumPy: for what to compare with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load", lambda: None)
        yield


@contextmanager
def counted(native: library.Library, calls: dict[str, int]) -> Iterator[None]:
    """Counts the calls of both passes, of either dtype."""

    def count(name: str, function: Callable) -> Callable:
        def counting(argument: ctypes.Structure) -> None:
            calls[name] = calls.get(name, 0) + 1
            function(argument)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for functions in native.of.values():
            for name in ("forward", "backward"):
                patch.setattr(functions, name, count(name, getattr(functions, name)))
        yield
