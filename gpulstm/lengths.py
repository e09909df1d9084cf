"""Checks ``lengths`` and brings them to where the sequences are."""

import sys
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array


def checked(lengths: Any, x: Array, *, batched: bool) -> Array | None:
    """``lengths`` as (batch,) int32 beside ``x`` (time, batch, inputs), or None.

    Takes a list, a tuple, a NumPy array or an array of x's own library. Looking at values that are on a GPU waits for
    the GPU; values on the host do not.

    Raises TypeError for anything but integers, ValueError for a wrong shape or a value outside 0..time.
    """
    if lengths is None:
        return None
    values = values_of(lengths, x, x.shape[0], x.shape[1], batched=batched)
    return arrays.beside(values.astype(np.int32), x) if arrays.is_numpy(values) else values


def values_of(lengths: Any, x: Array, steps: int, batch: int, *, batched: bool) -> Array:
    """`checked` lengths as (batch,) integers in NumPy, wherever x is; under jax.jit as they came."""
    if arrays.is_array(lengths) and not arrays.is_numpy(lengths) and arrays.library(lengths) != arrays.library(x):
        raise TypeError(
            f"lengths must be integers on the host or a {arrays.library(x)} array like x, "
            f"got {arrays.describe(lengths)}; convert them, for example with numpy.asarray"
        )
    if isinstance(lengths, np.ma.MaskedArray):
        raise TypeError("lengths must be a plain array, got a masked array; what it hides would count as a length")
    if _is_traced(lengths):
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"lengths must be integers, got {arrays.describe(lengths)}")
        return _checked_shape(lengths, batch, batched)
    values = _on_host(lengths)
    if values.size == 0 and values.dtype == np.float64 and isinstance(lengths, (list, tuple)):
        values = values.astype(np.int32)  # NumPy gives an empty list this dtype
    if values.dtype.kind not in "iu":
        raise TypeError(
            f"lengths must be integers, got {_kind(lengths, values)}; "
            f"they count time steps, one number for each sequence of the batch"
        )
    values = _checked_shape(values, batch, batched)
    wrong = np.flatnonzero((values < 0) | (values > steps))
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"lengths must be between 0 and the number of time steps {steps}, got {int(values[first])} "
            f"for sequence {first}; is the batch axis where batch_first says?"
        )
    return values


def _on_host(lengths: Any) -> np.ndarray:
    if arrays.is_array(lengths):
        return arrays.to_numpy(lengths)
    try:
        return np.asarray(lengths)
    except ValueError as error:  # a ragged list
        raise TypeError(f"lengths must be integers, one for each sequence, got {lengths!r}") from error


def _checked_shape(values: Array, batch: int, batched: bool) -> Array:
    expected = (batch,) if batched else ()
    if tuple(values.shape) != expected:
        what = f"(batch,) = {expected}" if batched else "() because x has no batch axis"
        raise ValueError(f"lengths must have shape {what}, got {tuple(values.shape)}")
    return values.reshape((batch,))


def _is_traced(lengths: Any) -> bool:
    """Under jax.jit there are no values to look at."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(lengths, jax.core.Tracer)


def _kind(lengths: Any, values: np.ndarray) -> str:
    return arrays.describe(lengths) if arrays.is_array(lengths) else f"{type(lengths).__name__} of {values.dtype}"
