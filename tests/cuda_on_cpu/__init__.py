"""Runs the project's CUDA kernels on a CPU, driven through a stand-in for CuPy. See README.md."""

from .compilation import CompileError, CompilerMissing, build, compiler
from .install import cupy_on_cpu
from .launcher import LaunchError, SanitizerError
from .memory import InvalidMemory

__all__ = [
    "CompileError",
    "CompilerMissing",
    "InvalidMemory",
    "LaunchError",
    "SanitizerError",
    "build",
    "compiler",
    "cupy_on_cpu",
]
