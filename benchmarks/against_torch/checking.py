"""Whether a side's results are right, before anybody asks how fast they came."""

import math

import torch

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
