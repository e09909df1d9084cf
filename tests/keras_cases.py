"""Small Keras models and what they compute, as NumPy arrays."""

import keras
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

QUIET = pytest.mark.filterwarnings(
    # Keras' own conversion from PyTorch's tensors, of which PyTorch's __array__ is the older of the two parties
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
"""Outputs are below 1 or about it, and come from sums of some ten products at some ten steps: ten times rounding."""


def shuffled(layer, seed: int = 0):
    """The layer with random weights in each variable, biases included, of a size that keeps relu from growing."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(scale=0.4, size=w.shape).astype(w.dtype) for w in layer.get_weights()])
    return layer


def numbers(values) -> list[np.ndarray]:
    """What a Keras layer returned."""
    values = values if isinstance(values, (list, tuple)) else [values]
    return [keras.ops.convert_to_numpy(v) for v in values]


def inputs(dtype: str = "float32", *, batch: int = 3, steps: int = 7, width: int = 4) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(batch, steps, width)).astype(dtype)
