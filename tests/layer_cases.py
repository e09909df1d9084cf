"""What the tests of layers share: array libraries, gradients along a direction, and bits."""

from types import ModuleType
from typing import Any

import array_api_strict
import jax
import numpy as np
import torch

from gpulstm import arrays

LIBRARIES: dict[str, ModuleType] = {
    "numpy": np,
    "array_api_strict": array_api_strict,
    "torch": torch,
    "jax": jax.numpy,
}


def array_of(library: str, value: Any) -> Any:
    """That library's copy of a NumPy array."""
    return LIBRARIES[library].asarray(np.array(value))


def slope(function: Any, array: np.ndarray, direction: np.ndarray, step: float = 1e-6) -> float:
    """The derivative of a scalar function along a direction, by central differences."""
    return (function(array + step * direction) - function(array - step * direction)) / (2 * step)


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(arrays.to_numpy(array)).tobytes()
