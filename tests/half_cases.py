"""LSTM problems in 16 bits, and how far their results may be from float64's."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from tests import backends
from tests.backends import Backend
from tests.problems import Problem, solve
from tests.schedule_cases import in_float64, small_problem

NUMPY = Backend(backends.NUMPY, np)
DTYPES = ("float16", "bfloat16")
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest relative error of one rounding to the nearest."""

TOLERANCE = 2.5
"""Roundings: of the norm of the difference from float64, by the array's norm. The gates' pre-activations, activations
and gradients, h and y are rounded once or twice each, and their errors are of both signs; 2.5 * 2^-8 is 0.01."""


def numpy_dtype(dtype: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def in_dtype(given: Problem, dtype: str) -> Problem:
    """The same problem, rounded."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: item.astype(numpy_dtype(dtype)) for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(None if item is None else item.astype(numpy_dtype(dtype)) for item in value)
        return None if value is None else value.astype(numpy_dtype(dtype))

    return replace(given, **{n: rounded(getattr(given, n)) for n in ("x", "params", "state", "dy", "dstate")})


def half_problem(dtype: str, seed: int = 7, **sizes: Any) -> Problem:
    return in_dtype(small_problem(seed, **{"steps": 6, "batch": 5, "hidden": 9, **sizes}), dtype)


def errors(found: dict, given: Problem, how: Any = solve) -> dict[str, float]:
    """How far each result is from the NumPy engine's in float64, relative to its norm."""
    expected = how(NUMPY, in_float64(given))
    assert found.keys() == expected.keys()
    result = {}
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape and found[name].dtype == given.x.dtype, name
        norm = np.linalg.norm(wanted)
        result[name] = float(np.linalg.norm(found[name].astype("float64") - wanted) / (norm if norm else 1))
    return result


def check(found: dict, given: Problem, how: Any = solve) -> None:
    bound = TOLERANCE * ROUNDING[given.x.dtype.name]
    for name, error in errors(found, given, how).items():
        assert error <= bound, f"{name} is off by {error:.2g}, more than {bound:.2g}"
