"""Runs CUDA C kernels without a GPU, one thread after another, and says what they did and what is wrong with them."""

from .draw import draw
from .errors import Finding, KernelError
from .launch import LIMIT, Outcome, Simulator, check_geometry
from .memory import check_arguments
from .report import report
from .source import prepare
from .translate import translate

__all__ = [
    "LIMIT",
    "Finding",
    "KernelError",
    "Outcome",
    "Simulator",
    "check_arguments",
    "check_geometry",
    "draw",
    "prepare",
    "report",
    "translate",
]
