"""Compiles, finds and loads the LSTM for a CPU.

A library is kept for each source, processor and set of options, so that none is ever used on a processor that it was
not made for, and a new version of this package does not meet an old one.
"""

import ctypes
import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

COMPILED = ("float32.c", "float64.c")
SOURCES = (
    *COMPILED,
    "lstm.c",
    "forward.h",
    "backward.h",
    "norm.h",
    "norm_backward.h",
    "options.h",
    "activations.h",
    "layer.h",
    "draws.h",
    "dropout.h",
    "product.h",
    "team.h",
    "lanes.h",
)
OPTIONS = (
    "-O2",  # what is to be unrolled says so; -O3 takes twice as long, for nothing that can be measured
    "-march=native",
    "-std=gnu11",  # vectors as a type are GNU C, which Clang speaks too
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
)
LIBRARIES = ("-lm",)
DTYPES = ("float32", "float64")
SWITCH = "GPULSTM_CPU"
"""Environment variable: "numpy" leaves the compiled LSTM alone, "native" wants it or an error."""

_POINTER, _LONG, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_UINT32, _UINT64 = ctypes.c_uint32, ctypes.c_uint64


class Norm(ctypes.Structure):
    """`Norm` of layer.h."""

    _fields_ = [(name, _POINTER) for name in "gain_input gain_recurrent gain_cell bias_cell p r moments sums".split()]


class Options(ctypes.Structure):
    """`Options` of layer.h."""

    _fields_ = [
        ("norm", ctypes.POINTER(Norm)),
        *((name, _POINTER) for name in "peephole hidden_factor state record d_peephole".split()),
        ("seed", _UINT64),
        *((name, _UINT32) for name in "stream first_time zone_h zone_c candidate".split()),
        *((name, _INT) for name in "coupled others".split()),
        ("kinds", _INT * 3),
        *((name, _DOUBLE * 3) for name in "alphas betas".split()),
        *((name, _DOUBLE) for name in "zone_h_share zone_c_share candidate_scale clip".split()),
    ]


class Forward(ctypes.Structure):
    """`Forward` of layer.h."""

    _fields_ = [
        *((name, _POINTER) for name in "x input recurrent bias gates cells hiddens y lengths scratch".split()),
        ("options", ctypes.POINTER(Options)),
        *((name, _LONG) for name in "steps batch inputs hidden y_width first_time".split()),
        *((name, _INT) for name in "keep reverse threads".split()),
    ]


class Backward(ctypes.Structure):
    """`Backward` of layer.h."""

    _fields_ = [
        *((name, _POINTER) for name in "gates cells hiddens x input recurrent dy dh dc dx".split()),
        *((name, _POINTER) for name in "d_input d_recurrent d_bias lengths scratch".split()),
        ("options", ctypes.POINTER(Options)),
        *((name, _LONG) for name in "steps batch inputs hidden dy_width window".split()),
        *((name, _INT) for name in "reverse add_to_dx add_to_weights threads".split()),
    ]


class Product(ctypes.Structure):
    """`Product` of lstm.c."""

    _fields_ = [
        *((name, _POINTER) for name in "a b out scratch".split()),
        *((name, _LONG) for name in "rows columns depth a_by_row a_by_column b_by_row b_by_column out_by_row".split()),
        *((name, _INT) for name in "add threads".split()),
    ]


class Dropout(ctypes.Structure):
    """`Dropout` of dropout.h."""

    _fields_ = [
        *((name, _POINTER) for name in ("out", "in", "record")),
        *((name, _LONG) for name in "rows columns batch".split()),
        ("seed", _UINT64),
        *((name, _UINT32) for name in "stream first_time threshold".split()),
        *((name, _INT) for name in "recorded threads".split()),
        ("scale", _DOUBLE),
    ]


class Functions:
    """The functions of lstm.c for one dtype."""

    def __init__(self, found: ctypes.CDLL, dtype: str) -> None:
        def function(name: str, result: type | None, *arguments: type) -> Any:
            there = getattr(found, f"lstm_{name}_{dtype}")
            there.argtypes, there.restype = arguments, result
            return there

        self.forward = function("forward", None, ctypes.POINTER(Forward))
        self.backward = function("backward", None, ctypes.POINTER(Backward))
        self.drop = function("drop", None, ctypes.POINTER(Dropout))
        self.product = function("product", None, ctypes.POINTER(Product))
        self.gates = function("gates", _LONG, _LONG, _LONG, _LONG)
        self.forward_scratch = function("forward_scratch", _LONG, _LONG, _LONG, _LONG)
        self.backward_scratch = function("backward_scratch", _LONG, _LONG, _LONG, _LONG, _INT)
        self.norm_scratch = function("norm_scratch", _LONG, _LONG, _LONG, _INT)
        self.product_scratch = function("product_scratch", _LONG, _LONG, _INT)


class Library:
    """The functions for each dtype, and how many threads they may use."""

    def __init__(self, path: Path) -> None:
        found = ctypes.CDLL(str(path))  # while its functions run, other Python threads do too
        self.of = {np.dtype(name): Functions(found, name) for name in DTYPES}
        self.threads: int = found.lstm_threads()
        if hasattr(os, "register_at_fork"):  # OpenMP's threads do not come along, and waiting for them would not end
            os.register_at_fork(after_in_child=self._stay_alone)

    def _stay_alone(self) -> None:
        self.threads = 1


def load() -> Library | None:
    """The compiled LSTM, or None where there is none; `why_not` says why. Raises RuntimeError if it was asked for."""
    found, reason = _loaded()
    if found is None and os.environ.get(SWITCH) == "native":
        raise RuntimeError(f"{SWITCH} is 'native', but the compiled LSTM cannot be used: {reason}")
    return found


def why_not() -> str:
    """Why `load` gives None."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[Library | None, str]:
    wanted = os.environ.get(SWITCH, "")
    if wanted not in ("", "numpy", "native"):
        raise RuntimeError(f"{SWITCH} must be 'numpy', 'native' or nothing, got {wanted!r}")
    if wanted == "numpy":
        return None, f"{SWITCH} is 'numpy'"
    try:
        path = place()
        there = path.exists()
    except (OSError, RuntimeError) as error:  # no home, or a folder that nobody may look into
        return None, f"there is no cache folder to look for it in: {error}"
    if not there:
        return None, "`python -m gpulstm.native` has not compiled it yet for this processor and this version"
    try:
        return Library(path), ""
    except OSError as error:
        return None, f"{path} cannot be loaded: {error}"


def place() -> Path:
    """Where the library for this source and this processor is or would be."""
    return _cache() / f"lstm-{_key()}.so"


def build() -> Path:
    """Compiles the library, and gives its path. Raises RuntimeError with what is missing or what the compiler said."""
    import shutil
    import subprocess
    import tempfile

    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None or shutil.which(compiler) is None:
        raise RuntimeError(
            f"a C compiler is needed, and {compiler or 'cc, gcc and clang'} cannot be found; on Debian and Ubuntu "
            "`apt install gcc` brings one. Without it, NumPy arrays go through NumPy"
        )
    target = place()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Compiled beside its place and moved there whole: another process may be doing the same, or load it meanwhile.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        half = Path(folder, "lstm.so")
        sources = [str(Path(__file__).with_name(name)) for name in COMPILED]
        command = [compiler, *OPTIONS, "-o", str(half), *sources, *LIBRARIES]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}\nfailed:\n{ran.stderr.strip()}")
        os.replace(half, target)
    _loaded.cache_clear()
    return target


def _cache() -> Path:
    given = os.environ.get("GPULSTM_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gpulstm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpulstm"


@cache
def _key() -> str:
    """Of the sources, the options and the processor's instructions."""
    from numpy._core._multiarray_umath import __cpu_features__ as features

    has = sorted(name for name, there in features.items() if there)
    digest = hashlib.sha256("\0".join((platform.system(), platform.machine(), *OPTIONS, *LIBRARIES, *has)).encode())
    for name in SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
