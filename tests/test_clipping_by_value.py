"""gpulstm.training.clip_by_value: PyTorch's results in every library, in place, and errors that say what is wrong."""

import numpy as np
import pytest
import torch

from gpulstm.training import clip_by_value
from tests.test_optimisers import LIBRARIES, flat, making, normal, tree_from, tree_of


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("limit", [0.5, 0, np.inf])
def test_clipping_by_value_equals_torch(library, limit):
    rng = np.random.default_rng(4)
    with making(library) as make:
        values = tree_of(np.array, normal(rng, "float32"))
        values["poison"] = np.array([np.nan, np.inf, -np.inf, 0.25, -0.25, -9], "float32")
        grads = tree_from(values, make)
        reference = [torch.zeros(a.shape) for a in flat(values)]
        for parameter, gradient in zip(reference, flat(values), strict=True):
            parameter.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_value_(reference, limit)
        assert clip_by_value(grads, limit) is None
        for got, parameter in zip(flat(grads), reference, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, parameter.grad)


def test_clipping_by_value_changes_numpy_arrays_in_place():
    gradient = np.array([3.0, -4.0])
    grads = {"weight": gradient}
    clip_by_value(grads, 1)
    assert grads["weight"] is gradient
    np.testing.assert_array_equal(gradient, [1, -1])


@pytest.mark.parametrize(
    ("grads", "limit", "error", "message"),
    [
        ({}, 1.0, ValueError, "grads must have at least one array"),
        ({"a": np.ones(2)}, -1.0, ValueError, "limit must not be negative, got -1.0"),
        ({"a": np.ones(2)}, float("nan"), ValueError, "limit must not be negative, got nan"),
        ({"a": np.ones(2)}, "1", TypeError, "limit must be a number, got str"),
        ({"a": np.ones(2), "b": torch.ones(2)}, 1.0, TypeError, r"grads\['b'\] must be a NumPy array"),
    ],
)
def test_clipping_by_value_refuses_what_it_cannot_clip(grads, limit, error, message):
    with pytest.raises(error, match=message):
        clip_by_value(grads, limit)
