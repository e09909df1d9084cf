"""Runs CUDA C kernels without a GPU, one thread after another, and says what they did and what is wrong with them."""

from .errors import Finding, KernelError
from .launch import LIMIT, Simulator, check_geometry
from .memory import check_arguments
from .source import prepare
from .translate import translate

__all__ = ["LIMIT", "Finding", "KernelError", "Simulator", "check_arguments", "check_geometry", "prepare", "translate"]
