"""Launches that the driver does not take: what refuses them, and how a pass begins again without.

A pass is one of the functions that `gpulstm.engines` lists. Until its first launch with all time steps has been taken,
it has written to nothing but memory of its own and buffers that are there to be overwritten. So if that launch is
refused, the schedule is given up on the device, and the pass begins again from what it was called with; the planner
then chooses something else.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from ..cuda import planner

REFUSALS = (
    "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "CUDA_ERROR_INVALID_CLUSTER_SIZE",
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_NOT_SUPPORTED",
    "CUDA_ERROR_NOT_PERMITTED",
)
"""Errors after which nothing has been launched and the context is as it was. `CUDA_ERROR_INVALID_VALUE` is the one for
more shared memory than a block can have."""

Pass = TypeVar("Pass", bound=Callable[..., Any])


class Refused(RuntimeError):
    """A schedule's launch was not taken; nothing has been computed, and the schedule is given up on the device."""


def reason(error: Exception) -> str:
    """What the driver says where ``error`` is its refusal of a launch; empty for any other error."""
    name = str(error).partition(":")[0]
    return str(error) if type(error).__name__ == "CUDADriverError" and name in REFUSALS else ""


def begun_again(run: Pass) -> Pass:
    """``run`` is called again where a launch of it was `Refused`."""

    @wraps(run)
    def until_taken(*args: Any, **more: Any) -> Any:
        for _ in planner.LAYOUTS:  # each of them can be given up once
            try:
                return run(*args, **more)
            except Refused:
                continue
        return run(*args, **more)

    return cast(Pass, until_taken)
