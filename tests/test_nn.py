"""gpulstm.nn: values and gradients by finite differences and against PyTorch, on every array library."""

import array_api_strict
import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn

LIBRARIES = {
    "numpy": np.asarray,
    "array_api_strict": array_api_strict.asarray,
    "torch": torch.asarray,
    "jax": jax.numpy.asarray,
}
LEADING = [(), (5,), (4, 3), (2, 1, 3), (0, 3)]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def linear_in(library, layer):
    """The same layer with its parameters in another library."""
    twin = nn.Linear(layer.input_size, layer.output_size, dtype="float64")
    twin.params = {name: LIBRARIES[library](np.array(value)) for name, value in layer.params.items()}
    return twin


def slope(function, array, direction, step=1e-6):
    """The derivative of a scalar function along a direction, by central differences."""
    return (function(array + step * direction) - function(array - step * direction)) / (2 * step)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_linear_equals_torch(library, leading, rng):
    layer = nn.Linear(3, 2, dtype="float64", rng=rng)
    x, dout = rng.normal(size=(*leading, 3)), rng.normal(size=(*leading, 2))
    reference = torch.nn.Linear(3, 2, dtype=torch.float64)
    reference.load_state_dict({name: torch.asarray(value) for name, value in layer.params.items()})
    torch_x = torch.tensor(x, requires_grad=True)
    expected = reference(torch_x)
    expected.backward(torch.asarray(dout))

    twin = linear_in(library, layer)
    given = LIBRARIES[library](x)
    out, cache = twin.forward(given)
    dx, grads = twin.backward(cache, LIBRARIES[library](dout))

    for got in (out, dx, *grads.values()):
        assert arrays.library(got) == arrays.library(given) and arrays.dtype_name(got) == "float64"
    np.testing.assert_allclose(arrays.to_numpy(out), expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(arrays.to_numpy(twin(given)), arrays.to_numpy(out), rtol=0)
    np.testing.assert_allclose(arrays.to_numpy(dx), torch_x.grad, rtol=1e-12)
    np.testing.assert_allclose(arrays.to_numpy(grads["weight"]), reference.weight.grad, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(arrays.to_numpy(grads["bias"]), reference.bias.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_gradients_are_finite_differences(bias, rng):
    layer = nn.Linear(3, 2, bias=bias, dtype="float64", rng=rng)
    x, dout = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 2))
    dx, grads = layer.backward(layer.forward(x)[1], dout)
    assert grads.keys() == layer.params.keys() == ({"weight", "bias"} if bias else {"weight"})

    direction = rng.normal(size=x.shape)
    np.testing.assert_allclose(
        np.sum(dx * direction), slope(lambda v: np.sum(layer(v) * dout), x, direction), rtol=1e-7
    )
    for name, value in layer.params.items():
        direction = rng.normal(size=value.shape)

        def loss(changed, name=name):
            twin = nn.Linear(3, 2, bias=bias, dtype="float64")
            twin.params = layer.params | {name: changed}
            return np.sum(twin(x) * dout)

        np.testing.assert_allclose(np.sum(grads[name] * direction), slope(loss, value, direction), rtol=1e-7)


def test_linear_starts_uniformly_within_its_bound(rng):
    layer = nn.Linear(100, 200, rng=rng)
    weight = layer.params["weight"]
    assert weight.dtype == np.float32 and weight.shape == (200, 100) and layer.params["bias"].shape == (200,)
    assert np.abs(weight).max() <= 0.1 and abs(weight.std() - 0.2 / np.sqrt(12)) < 1e-3
    same = nn.Linear(100, 200, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(weight, same.params["weight"])
    assert not np.array_equal(nn.Linear(3, 2).params["weight"], nn.Linear(3, 2).params["weight"])


@pytest.mark.parametrize("xp", [np, array_api_strict, torch, jax.numpy], ids=lambda xp: xp.__name__)
def test_linear_is_made_in_the_library_asked_for(xp):
    weight = nn.Linear(3, 2, xp=xp, dtype="float32").params["weight"]
    assert type(weight) is type(xp.asarray(np.float32([1]))) and arrays.dtype_name(weight) == "float32"


def test_linear_leaves_its_inputs_alone(rng):
    layer = nn.Linear(3, 2, dtype="float64", rng=rng)
    x, dout = rng.normal(size=(4, 6))[:, ::-2], rng.normal(size=(2, 4)).T  # negatively strided; Fortran order
    expected = layer.backward(layer.forward(x.copy())[1], dout.copy())
    x.flags.writeable = dout.flags.writeable = False
    for got, want in zip(layer.backward(layer.forward(x)[1], dout)[1].values(), expected[1].values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize(
    "x, error, message",
    [
        (
            np.ones((4, 2), "float32"),
            ValueError,
            r"x must have shape \(\.\.\., input_size\) = \(\.\.\., 3\), got \(4, 2\)",
        ),
        (np.ones((), "float32"), ValueError, r"x must have shape"),
        (np.ones((4, 3)), TypeError, "x must have weight's dtype float32, got float64"),
        (np.ones((4, 3), int), TypeError, "x must have dtype float32 or float64, got int64"),
        (torch.ones(4, 3), TypeError, "x must be a NumPy array like weight, got a torch array"),
        ([[1.0, 2.0, 3.0]], TypeError, "x must be an array .* got list"),
    ],
)
def test_linear_refuses_a_wrong_input(x, error, message):
    with pytest.raises(error, match=message):
        nn.Linear(3, 2)(x)


@pytest.mark.parametrize(
    "dout, error, message",
    [
        (
            np.ones((4, 3), "float32"),
            ValueError,
            r"dout must have the shape of forward's result, \(4, 2\), got \(4, 3\)",
        ),
        (np.ones((4, 2)), TypeError, "dout must have x's dtype float32, got float64"),
    ],
)
def test_linear_refuses_a_wrong_gradient(dout, error, message):
    layer = nn.Linear(3, 2)
    _, cache = layer.forward(np.ones((4, 3), "float32"))
    with pytest.raises(error, match=message):
        layer.backward(cache, dout)


@pytest.mark.parametrize("size, error", [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_linear_refuses_a_wrong_size(size, error):
    with pytest.raises(error, match="input_size must be"):
        nn.Linear(size, 2)
    with pytest.raises(error, match="output_size must be"):
        nn.Linear(2, size)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", [(), (5,), (4, 3, 2)], ids=str)
def test_mean_squared_error_equals_torch(library, shape, rng):
    prediction, target = rng.normal(size=shape), rng.normal(size=shape)
    torch_prediction = torch.tensor(prediction, requires_grad=True)
    expected = torch.nn.functional.mse_loss(torch_prediction, torch.asarray(target))
    expected.backward()

    given = LIBRARIES[library](np.asarray(prediction))
    loss, gradient = nn.mean_squared_error(given, LIBRARIES[library](np.asarray(target)))
    assert type(gradient) is type(given) or shape == ()  # NumPy makes scalars of arrays without axes
    assert loss.shape == () and arrays.dtype_name(loss) == "float64"
    np.testing.assert_allclose(float(loss), expected.detach(), rtol=1e-14)
    np.testing.assert_allclose(arrays.to_numpy(gradient), torch_prediction.grad, rtol=1e-14)


def test_mean_squared_error_lets_nan_through():
    loss, gradient = nn.mean_squared_error(np.array([1.0, np.nan]), np.zeros(2))
    assert np.isnan(loss) and gradient[0] == 1.0 and np.isnan(gradient[1])


@pytest.mark.parametrize(
    "prediction, target, error, message",
    [
        (np.ones((4, 1)), np.ones(4), ValueError, r"target must have prediction's shape \(4, 1\), got \(4,\)"),
        (np.ones((0, 2)), np.ones((0, 2)), ValueError, "prediction must have elements to average over"),
        (np.ones(4), np.ones(4, "float32"), TypeError, "target must have prediction's dtype float64"),
        (np.ones(4, int), np.ones(4, int), TypeError, "prediction must have dtype"),
        (np.ones(4), torch.ones(4), TypeError, "target must be a NumPy array like prediction"),
    ],
)
def test_mean_squared_error_refuses_what_does_not_match(prediction, target, error, message):
    with pytest.raises(error, match=message):
        nn.mean_squared_error(prediction, target)
