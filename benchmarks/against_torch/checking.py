"""Whether a side's results are right, before anybody asks how fast they came."""

import math
from collections.abc import Callable
from typing import Any

import torch

from .grid import Cell
from .results import rounded
from .sides import TorchSide

# Norm of the difference over the norm of the reference.
TOLERANCES = {"float32": 1e-5, "tf32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}


def relative_errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """By name; infinite where a result is missing or of another shape."""
    return {name: _relative_error(found.get(name), value) for name, value in expected.items()}


def _relative_error(value: torch.Tensor | None, expected: torch.Tensor) -> float:
    if value is None or value.shape != expected.shape:
        return math.inf
    expected = expected.double()
    norm = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(value.double() - expected))
    return difference / norm if norm else difference


def wrong(errors: dict[str, float], dtype: str) -> list[str]:
    """The names of those that are further off than the dtype excuses; NaN is."""
    return [name for name, error in errors.items() if not error <= TOLERANCES[dtype]]


def check(cell: Cell, device: Any, ours: Callable[[], dict[str, torch.Tensor]], theirs: TorchSide) -> dict[str, Any]:
    """The errors of our results, and of PyTorch's own beside them, against PyTorch in float64 on the same device."""
    device.allow_tf32(False)  # a float32 reference, if it comes to that, is not in TF32
    try:
        reference, named = theirs.as_double().results(), "torch.nn.LSTM in float64"
    except device.out_of_memory:
        reference = None  # and try again where the error, and with it what it holds, is gone
    if reference is None:
        device.release()
        reference, named = theirs.results(), f"torch.nn.LSTM in {cell.storage}"
    device.allow_tf32(cell.dtype == "tf32")
    errors = relative_errors(ours(), reference)
    of_torch = relative_errors(theirs.results(), reference)
    too_far = wrong(errors, cell.dtype)
    del reference
    device.release()
    return {
        "status": "wrong" if too_far else "timed",
        "reference": named,
        "tolerance": TOLERANCES[cell.dtype],
        "errors": {name: rounded(error) for name, error in errors.items()},
        "errors_of_torch": {name: rounded(error) for name, error in of_torch.items()},
        **({"wrong": too_far} if too_far else {}),
    }
