"""Runs CUDA C kernels without a GPU, one thread after another, and says what they did and what is wrong with them.

The way of a kernel: `source` makes plain C of it, `translate` Python, `schedule` runs the threads, each until it waits,
`recorder` reads at every barrier what they did, for `counts` to count and for `races` to compare. `launch` begins it.

Where it differs from a GPU:
- every operation is rounded by itself; a GPU's compiler makes one of a * b + c, which is rounded once
- expf and its like are as exact as float32 allows; __expf is no less exact than expf
- there is no cache: each request's sectors are counted, also those that a GPU would find in its cache
- lanes whose branches differ are one request if each is at the place for as-many-th time since the last barrier
- a block's threads are ordered by barriers alone: a lock or a flag between them does not count, between blocks it does
- floating-point operations are counted by statement, as if every side of ?:, && and || were computed
"""

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
