"""Which BLAS multiplies NumPy's matrices here, and whether it has picked kernels that suit the processor."""

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

# OpenBLAS' names of its kernels for x86 (`corename` in its driver/others/dynamic.c), by what they use.
AVX512 = {"SkylakeX", "Cooperlake", "SapphireRapids"}
AVX2 = {"Haswell", "Zen", "Excavator"}
OLDER = {
    *("Katmai", "Coppermine", "Northwood", "Prescott", "Banias", "Atom", "Core2", "Penryn", "Dunnington", "Nehalem"),
    *("Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Nano", "Sandybridge", "Bobcat"),
    *("Bulldozer", "Piledriver", "Steamroller"),
}
# Builds rename their functions, so that two copies in one process do not meet: NumPy's wheels have "scipy_" and "64_".
PREFIXES, SUFFIXES = ("", "scipy_"), ("", "64_", "_64")


def lines() -> list[str]:
    """What `show_config` says: the library, OpenBLAS' kernels, and how to get faster ones if there are."""
    build = _build()
    name = build.get("name", "unknown")
    said = f"BLAS {name} {build.get('version', '')}".rstrip()
    if not _may_be_openblas(name):
        return [said]
    for library in _libraries():
        kernels = _ask(library, "get_corename")
        if kernels:
            advice = _advice(kernels, _ask(library, "get_config") or "", _features())
            return [f"{said}, {kernels} kernels", *advice]
    return [said]


def _build() -> Mapping[str, Any]:
    try:
        return np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (KeyError, TypeError):  # a build that says nothing about it
        return {}


def _may_be_openblas(name: str) -> bool:
    """MKL, Accelerate and others pick for themselves; "blas" and "cblas" are whichever the system has."""
    return "openblas" in name.lower() or name.lower() in ("blas", "cblas", "unknown")


def _advice(kernels: str, config: str, features: Mapping[str, bool]) -> list[str]:
    """A line where the processor has wider vectors than the kernels use. A build without a choice cannot be helped."""
    if "DYNAMIC_ARCH" not in config:
        return []
    for wanted, needed, slower in (
        ("SkylakeX", ("AVX512F", "AVX512CD", "AVX512BW", "AVX512DQ", "AVX512VL"), AVX2 | OLDER),
        ("Haswell", ("AVX2", "FMA3"), OLDER),
    ):
        if kernels in slower and all(features.get(feature) for feature in needed):
            what = "AVX-512" if wanted in AVX512 else "AVX2"
            return [
                f"this processor has {what}, which {kernels} kernels do not use: with the environment variable "
                f"OPENBLAS_CORETYPE={wanted}, set before Python starts, OpenBLAS takes those that do"
            ]
    return []


def _features() -> Mapping[str, bool]:
    """What NumPy found out about the processor; private to it, so it may be gone one day."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__
    except ImportError:
        return {}
    return __cpu_features__


def _libraries() -> list[ctypes.CDLL]:
    """The loaded libraries that may be NumPy's OpenBLAS, NumPy's own copy first."""
    found = []
    for path in _paths():
        try:  # never load what is not loaded yet
            found.append(ctypes.CDLL(str(path), mode=getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_NOW", 0)))
        except OSError:
            continue
    return found


def _paths() -> list[Path]:
    package = Path(np.__file__).parent
    beside = [package.with_name("numpy.libs"), package / ".dylibs"]  # of wheels for Linux and Windows, and for macOS
    own = sorted(path for folder in beside if folder.is_dir() for path in folder.iterdir() if _is_blas(path))
    return [*own, *(path for path in _loaded() if path not in own)]


def _loaded() -> Iterable[Path]:
    """Linux lists the files in the process's memory. Copies inside of other packages, as SciPy's, are not NumPy's."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        listed = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {Path(line.split(maxsplit=5)[5]) for line in listed if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if _is_blas(path) and not path.parent.name.endswith(".libs"))


def _is_blas(path: Path) -> bool:
    return "blas" in path.name.lower()


def _ask(library: ctypes.CDLL, question: str) -> str | None:
    """What one of OpenBLAS' functions without arguments answers; None where the library has none of that name."""
    for prefix, suffix in product(PREFIXES, SUFFIXES):
        function = getattr(library, f"{prefix}openblas_{question}{suffix}", None)
        if function is not None:
            function.restype = ctypes.c_char_p
            answer = function()
            return answer.decode(errors="replace") if answer else None
    return None
