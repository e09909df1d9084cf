"""gpulstm.training: the same numbers as PyTorch, in place or by new arrays, on every array library."""

import array_api_strict
import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays
from gpulstm.training import Adam, clip_by_global_norm

LIBRARIES = {
    "numpy": np.array,
    "array_api_strict": lambda a: array_api_strict.asarray(np.array(a)),
    "torch": torch.tensor,
    "jax": jax.numpy.array,
}
SHAPES = {"lstm": {"weight": (4, 3), "bias": (4,)}, "head": {"weight": (1, 4), "scale": ()}}


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def random_tree(rng, make=np.array, shapes=SHAPES, scale=1.0):
    return {
        name: random_tree(rng, make, shape, scale)
        if isinstance(shape, dict)
        else make(np.array(scale * rng.normal(size=shape)))
        for name, shape in shapes.items()
    }


def flat(tree):
    """The tree's arrays as NumPy, in order."""
    for value in tree.values():
        yield from flat(value) if isinstance(value, dict) else [np.array(arrays.to_numpy(value))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.9), "epsilon": 1e-3}], ids=["defaults", "own constants"])
def test_adam_equals_torch_after_100_steps(library, options):
    rng = np.random.default_rng(1)
    params = random_tree(rng, LIBRARIES[library])
    ours = Adam(0.03, **options)
    reference = [torch.tensor(value, requires_grad=True) for value in flat(params)]
    theirs = torch.optim.Adam(
        reference, lr=0.03, betas=options.get("betas", (0.9, 0.999)), eps=options.get("epsilon", 1e-8)
    )
    for _ in range(100):
        grads = random_tree(rng, LIBRARIES[library], scale=10.0 ** rng.integers(-4, 5))
        ours.step(params, grads)
        for parameter, gradient in zip(reference, flat(grads), strict=True):
            parameter.grad = torch.tensor(gradient)
        theirs.step()
    for got, want in zip(flat(params), reference, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_adam_changes_numpy_arrays_in_place_and_keeps_gradients_and_dtype():
    params = {"weight": np.ones((2, 3), "float32")}
    weight, grads = params["weight"], {"weight": np.full((2, 3), 2, "float32")}
    Adam(np.float64(0.1)).step(params, grads)  # a NumPy scalar must not turn float32 into float64
    assert params["weight"] is weight and weight.dtype == np.float32
    np.testing.assert_allclose(weight, 0.9, rtol=1e-6)
    np.testing.assert_array_equal(grads["weight"], 2)


def test_adam_puts_new_arrays_where_the_library_has_immutable_ones():
    params = {"weight": jax.numpy.ones(3)}
    before = params["weight"]
    Adam(0.1).step(params, {"weight": jax.numpy.ones(3)})
    np.testing.assert_array_equal(before, 1)
    np.testing.assert_allclose(params["weight"], 0.9, rtol=1e-6)


def test_adams_learning_rate_may_change_between_steps():
    params, optimiser = {"weight": np.zeros(2)}, Adam(0.1)
    optimiser.step(params, {"weight": np.ones(2)})
    optimiser.learning_rate = 0.0
    after = params["weight"].copy()
    optimiser.step(params, {"weight": np.ones(2)})
    np.testing.assert_array_equal(params["weight"], after)


@pytest.mark.parametrize(
    "grads, error, message",
    [
        ({"a": {"w": np.ones(2)}}, ValueError, r"grads must have the keys of params: missing \['b'\]"),
        (
            {"a": {"w": np.ones(2), "x": np.ones(2)}, "b": np.ones(3)},
            ValueError,
            r"grads must have the keys of params: unexpected \['a'\]\['x'\]",
        ),
        (
            {"a": {"w": np.ones(2)}, "b": np.ones(1)},
            ValueError,
            r"grads\['b'\] must have its parameter's shape \(3,\), got \(1,\)",
        ),
        (
            {"a": {"w": np.ones(2)}, "b": np.ones(3, "float32")},
            TypeError,
            r"grads\['b'\] must have params\['b'\]'s dtype float64",
        ),
        ({"a": {"w": np.ones(2)}, "b": torch.ones(3)}, TypeError, r"grads\['b'\] must be a NumPy array"),
        ({"a": {"w": np.ones(2)}, "b": None}, TypeError, r"grads\['b'\] must be an array .* got NoneType"),
        (np.ones(2), TypeError, "grads must be a dict of arrays, or of dicts of arrays, got ndarray"),
    ],
)
def test_adam_refuses_gradients_that_do_not_match_and_changes_nothing(grads, error, message):
    params, optimiser = {"a": {"w": np.zeros(2)}, "b": np.zeros(3)}, Adam()
    with pytest.raises(error, match=message):
        optimiser.step(params, grads)
    assert optimiser.steps == 0 and not params["a"]["w"].any() and not params["b"].any()


@pytest.mark.parametrize(
    "options, error",
    [
        ({"learning_rate": -1e-3}, ValueError),
        ({"learning_rate": float("nan")}, ValueError),
        ({"learning_rate": "fast"}, TypeError),
        ({"betas": (0.9, 1.0)}, ValueError),
        ({"betas": (0.9,)}, ValueError),
        ({"epsilon": -1e-8}, ValueError),
    ],
    ids=str,
)
def test_adam_refuses_wrong_constants(options, error):
    with pytest.raises(error, match=f"{next(iter(options))} must be"):
        Adam(**options)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("max_norm", [0.5, 1e3, 0], ids=["clips", "leaves alone", "zero"])
def test_clipping_equals_torch(library, max_norm):
    grads = random_tree(np.random.default_rng(2), LIBRARIES[library])
    reference = [torch.zeros(value.shape, dtype=torch.float64) for value in flat(grads)]
    for parameter, gradient in zip(reference, flat(grads), strict=True):
        parameter.grad = torch.tensor(gradient)
    expected = torch.nn.utils.clip_grad_norm_(reference, max_norm)

    norm = clip_by_global_norm(grads, max_norm)
    np.testing.assert_allclose(float(norm), expected, rtol=1e-14)
    for got, parameter in zip(flat(grads), reference, strict=True):
        np.testing.assert_allclose(got, parameter.grad, rtol=1e-13)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_clipping_treats_nan_and_infinity_as_torch_does(poison):
    grads = {"a": np.array([1.0, poison]), "b": np.array([2.0])}
    reference = [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    for parameter, gradient in zip(reference, flat(grads), strict=True):
        parameter.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_(reference, 1.0)
    with np.errstate(invalid="ignore"):  # infinity times zero
        norm = clip_by_global_norm(grads, 1.0)
    assert not np.isfinite(norm) and np.isnan(grads["a"][1])
    for got, parameter in zip(flat(grads), reference, strict=True):
        np.testing.assert_array_equal(got, parameter.grad)


def test_clipping_changes_numpy_arrays_in_place_and_keeps_their_dtype():
    gradient = np.array([3.0, 4.0], "float32")
    grads = {"weight": gradient}
    assert clip_by_global_norm(grads, 1.0) == 5.0
    assert grads["weight"] is gradient and gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=1e-5)


@pytest.mark.parametrize(
    "grads, max_norm, error, message",
    [
        ({}, 1.0, ValueError, "grads must have at least one array"),
        ([np.ones(2)], 1.0, TypeError, "grads must be a dict of arrays, or of dicts of arrays, got list"),
        ({"a": np.ones(2)}, -1.0, ValueError, "max_norm must not be negative, got -1.0"),
        ({"a": np.ones(2)}, float("nan"), ValueError, "max_norm must not be negative, got nan"),
        ({"a": np.ones(2)}, "1", TypeError, "max_norm must be a number, got str"),
        (
            {"a": np.ones(2), "b": torch.ones(2)},
            1.0,
            TypeError,
            r"grads\['b'\] must be a NumPy array like grads\['a'\]",
        ),
        ({"a": np.ones(2), "b": np.ones(2, "float32")}, 1.0, TypeError, r"grads\['b'\] must have grads\['a'\]'s dtype"),
    ],
)
def test_clipping_refuses_what_it_cannot_clip(grads, max_norm, error, message):
    with pytest.raises(error, match=message):
        clip_by_global_norm(grads, max_norm)
