"""How parameters begin."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array


def generator(rng: Any) -> np.random.Generator:
    """A NumPy generator from a seed, a generator, or None for fresh entropy."""
    if rng is not None and not isinstance(rng, (int, np.integer, np.random.Generator, np.random.SeedSequence)):
        raise TypeError(f"rng must be None, an integer seed or a numpy.random.Generator, got {type(rng).__name__}")
    if isinstance(rng, (int, np.integer)) and rng < 0:
        raise ValueError(f"rng must not be negative, got {rng}")
    return np.random.default_rng(rng)


def uniform(
    shapes: Mapping[str, tuple[int, ...]], bound: float, dtype: Any, xp: ModuleType, rng: Any
) -> dict[str, Array]:
    """Parameters drawn from (-bound, bound), PyTorch's way.

    They are drawn by NumPy in float64 and then converted, so one seed gives the same parameters in every library,
    up to the rounding of ``dtype``.
    """
    draw, xp = generator(rng), arrays.standard_namespace(xp)
    name = floating_name(dtype, arrays.dtypes_of(xp))
    host = np.float64 if name == "bfloat16" else np.dtype(name)
    found = {key: draw.uniform(-bound, bound, shape).astype(host) for key, shape in shapes.items()}
    if xp is np:
        return found
    return {key: xp.asarray(value, dtype=getattr(xp, name)) for key, value in found.items()}


def floating_name(dtype: Any, allowed: tuple[str, ...]) -> str:
    """The plain name of a dtype given as a string, a NumPy dtype or any library's own dtype object."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype).rpartition(".")[2]
    if name not in allowed:
        raise TypeError(f"dtype must be {' or '.join(allowed)}, got {dtype!r}")
    return name


def require_size(name: str, value: Any) -> int:
    """A size as an int. Raises TypeError or ValueError unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)
