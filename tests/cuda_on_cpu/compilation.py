"""Compiles CUDA source with the host compiler, once per content, for one of four modes.

- ``fibers``: a shared library; every launch on one OS thread, deterministic
- ``ptx``: the same, of the PTX that NVRTC makes of the source for a compute capability
- ``asan``: a program; the same, under AddressSanitizer and UndefinedBehaviorSanitizer
- ``tsan``: a program; an OS thread for each CUDA thread, under ThreadSanitizer
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import unittest
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import nvrtc, ptx_source, ptx_text
from .source import Kernel, host_source, kernels

MODES = ("fibers", "asan", "tsan", "ptx")
CPP = Path(__file__).resolve().parent / "cpp"
CACHE = Path(__file__).resolve().parents[2] / ".build" / "cuda_on_cpu"

# The compiler takes longer than what is compiled: -g1 is enough for the lines in a sanitizer's report, nobody else asks
# for any, and so little optimisation is enough for tests. Without any, AddressSanitizer sees every access that is
# written down.
_COMMON = ["-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
_ASAN = ["-O0", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow"]
_ASAN += ["-fno-sanitize-recover=all"]
_FLAGS = {
    "fibers": ["-O1", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"],
    "asan": _ASAN,
    "tsan": ["-O1", "-g1", "-fsanitize=thread", "-DHOST_CUDA_THREADS", "-Wno-tsan"],
}
_FLAGS["ptx"] = ["-O0", *_FLAGS["fibers"][1:], "-DHOST_CUDA_PTX"]  # of thousands of statements: a quarter of the time
_BLOCKS = ("block.cpp", "cluster.cpp", "matrix_product.cpp")
_FIBERS = (*_BLOCKS, "fibers.cpp", "in_turn.cpp", "together.cpp")
_RUNTIME = {
    "fibers": (*_FIBERS, "library.cpp"),
    "ptx": (*_FIBERS, "library.cpp", "ptx.cpp"),
    "asan": (*_FIBERS, "program.cpp"),
    "tsan": (*_BLOCKS, "threads.cpp", "program.cpp"),
}
_LINK = {"fibers": ["-shared"], "ptx": ["-shared"], "asan": _ASAN, "tsan": ["-fsanitize=thread", "-pthread"]}


class CompilerMissing(RuntimeError):
    """There is no C++ compiler, or it lacks a sanitizer."""


class CompileError(Exception):
    """The host compiler refused the kernel source; the message is the compiler's."""


@dataclass(frozen=True, eq=False)  # one object for each content, so it is compared and cached by identity
class Built:
    """A compiled source: the library or program, and what is in it."""

    path: Path
    kernels: dict[str, Kernel]
    declared: "Built | None" = None  # of PTX, which does not say what a pointer leads to: the same source in "fibers"


@cache
def compiler() -> str:
    """The path of the C++ compiler: $CXX, or g++. Raises CompilerMissing, and off Linux a skip with its reason."""
    if not sys.platform.startswith("linux"):
        raise unittest.SkipTest("the kernels run on the CPU on Linux only: fibers and sanitizers are its own")
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise CompilerMissing(
            f"the C++ compiler {name!r} was not found, and the CUDA kernels are tested by compiling them as C++: "
            "install it (Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++ libasan libubsan libtsan) "
            "or name another one in $CXX"
        )
    return path


def build(source: str, options: tuple[str, ...] = (), mode: str = "fibers", architecture: str = "90") -> Built:
    """Compiles ``source``; ``options`` as NVRTC takes them: -DNAME=VALUE, -std=... Raises CompileError.

    ``architecture`` is the compute capability whose PTX is made in the mode "ptx".
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "ptx":
        return _build_ptx(source, tuple(options), architecture)
    return _build(source, tuple(options), mode)


@cache
def _build_ptx(source: str, options: tuple[str, ...], architecture: str) -> Built:
    declared = _build(source, options, "fibers")
    key = _digest(source, [*options, architecture, nvrtc.version()], "ptx")
    target = _cached(f"ptx-{key}", lambda to: _compile_ptx(source, options, architecture, to))
    return Built(target, declared.kernels, declared)


def _compile_ptx(source: str, options: tuple[str, ...], architecture: str, target: Path) -> None:
    try:
        unit = ptx_source.host_source(ptx_text.parse(nvrtc.ptx(source, options, architecture)))
    except ValueError as error:
        raise CompileError(str(error)) from None
    _link(unit, ["-std=c++14", "-w", f"-I{CPP}"], "ptx", target)


@cache
def _build(source: str, options: tuple[str, ...], mode: str) -> Built:
    flags = _host_options(options)
    text = _run(["-E", "-x", "c++", *flags, f"-I{CPP}", "-"], source)
    target = _cached(mode + "-" + _digest(text, flags, mode), lambda to: _compile(text, flags, mode, to))
    return Built(target, {kernel.name: kernel for kernel in kernels(text)})


def _compile(text: str, flags: list[str], mode: str, target: Path) -> None:
    flags = [flag for flag in flags if not flag.startswith("-D")]  # which the text has been through
    _link(host_source(text), flags, mode, target)


def _link(unit: str, flags: list[str], mode: str, target: Path) -> None:
    # Only two files of the runtime know of PTX; the others are those of "fibers".
    of = {name: mode if mode != "ptx" or name in ("library.cpp", "ptx.cpp") else "fibers" for name in _RUNTIME[mode]}
    objects = [str(_runtime_object(name, of[name])) for name in of]
    header = ["-include", str(_precompiled_header(tuple(flags), mode))]
    kernel_object = target.with_suffix(".o")
    try:
        _run(["-c", "-x", "c++", *flags, *_COMMON, *_FLAGS[mode], *header, "-", "-o", str(kernel_object)], unit)
        _run([*_LINK[mode], *_quick_linker(), str(kernel_object), *objects, "-o", str(target)])
    finally:
        kernel_object.unlink(missing_ok=True)


@cache
def _quick_linker() -> list[str]:
    """Where binutils brings gold, it links a kernel in a third of the time: most of it goes into reading libstdc++."""
    return ["-fuse-ld=gold"] if shutil.which("ld.gold") else []


@cache
def _precompiled_header(flags: tuple[str, ...], mode: str) -> Path:
    """A header to include, beside which the compiler finds its precompiled form: a third of what a kernel takes."""
    name = f"header-{mode}-{_digest('', list(flags), mode)}.hpp"
    header = _cached(name, lambda to: to.write_text(f'#include "{CPP / "host_cuda.hpp"}"\n', encoding="utf-8"))
    arguments = ["-x", "c++-header", *flags, *_COMMON, *_FLAGS[mode], str(header)]
    _cached(name + ".gch", lambda to: _run([*arguments, "-o", str(to)]))
    return header


def _runtime_object(name: str, mode: str) -> Path:
    # Compiled once for all kernels, and a third of what their launches take.
    flags = ["-O2" if flag in ("-O0", "-O1") and mode in ("fibers", "ptx") else flag for flag in _FLAGS[mode]]
    if mode == "tsan":
        flags.remove("-fsanitize=thread")  # threads.cpp says why
    arguments = ["-c", "-std=c++17", *_COMMON, "-Wextra", *flags, str(CPP / name)]
    key = f"runtime-{mode}-{Path(name).stem}-{_digest('', flags, mode)}.o"
    return _cached(key, lambda to: _run([*arguments, "-o", str(to)]))


def _cached(name: str, make) -> Path:
    """The file of that name in the cache; made under a name of its own first, so that processes may race."""
    target = CACHE / name
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = CACHE / f"draft-{os.getpid()}-{name}"
        try:
            make(draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    return target


@cache
def _toolchain() -> str:
    """Everything that a build depends on beside the kernel source: the compiler and this folder's own files."""
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    own = [path.read_text(encoding="utf-8") for path in sorted(CPP.iterdir())]
    own += [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*source.py"))]
    own += [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("ptx_*.py"))]
    own.append(Path(__file__).read_text(encoding="utf-8"))
    return version + "\0".join(own)


def _digest(text: str, flags: list[str], mode: str) -> str:
    return hashlib.sha256("\0".join([_toolchain(), mode, *flags, text]).encode()).hexdigest()[:24]


def _host_options(options: tuple[str, ...]) -> list[str]:
    flags = []
    for option in options:
        standard = re.fullmatch(r"-{1,2}std=(c\+\+\d\d)", option)
        if standard:
            flags.append(f"-std={standard[1]}")
        elif re.fullmatch(r"-D\w+(=.*)?", option):
            flags.append(option)
        else:
            raise ValueError(f"option {option!r} is not known to cuda_on_cpu; it takes -DNAME=VALUE and --std=c++NN")
    return flags


def _run(arguments: list[str], text: str | None = None) -> str:
    done = subprocess.run([compiler(), *arguments], input=text, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    if "cannot find" in done.stderr and re.search(r"lib(asan|ubsan|tsan)", done.stderr):
        raise CompilerMissing(
            f"{compiler()} has no sanitizer libraries (Fedora: dnf install libasan libubsan libtsan; Debian's g++ "
            f"brings them):\n{done.stderr}"
        )
    raise CompileError(done.stderr)
