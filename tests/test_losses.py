"""gpulstm.nn.losses: values and gradients against PyTorch, by finite differences, and on every array library."""

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
LOSSES = {
    "squared": (nn.mean_squared_error, torch.nn.functional.mse_loss, {}),
    "huber": (nn.huber, torch.nn.functional.huber_loss, {}),
    "narrow huber": (nn.huber, torch.nn.functional.huber_loss, {"delta": 0.3}),
    "binary": (
        nn.binary_cross_entropy_with_logits,
        torch.nn.functional.binary_cross_entropy_with_logits,
        {},
    ),
    "weighted binary": (
        nn.binary_cross_entropy_with_logits,
        torch.nn.functional.binary_cross_entropy_with_logits,
        {"positive_weight": 3.5},
    ),
}
CASES = {
    "no axes": ((), None, False),
    "a vector": ((6,), None, False),
    "three axes": ((5, 4, 3), None, False),
    "lengths": ((5, 4, 3), (3, 0, 5, 1), False),
    "lengths without features": ((5, 4), (3, 0, 5, 1), False),
    "two axes of features": ((5, 4, 3, 2), (3, 0, 5, 1), False),
    "batch first": ((4, 5, 3), (3, 0, 5, 1), True),
    "nothing counts": ((5, 2, 3), (0, 0), False),
}


def problem(name, case, dtype="float64"):
    """prediction, target and options. Targets of yes-or-no losses are probabilities, zero and one among them."""
    shape, lengths, batch_first = CASES[case]
    rng = np.random.default_rng(0)
    prediction, target = 2 * rng.normal(size=shape), rng.normal(size=shape)
    if "binary" in name:
        target = np.clip(target + 0.5, 0, 1)
    made = LOSSES[name][2] | ({} if lengths is None else {"lengths": lengths, "batch_first": batch_first})
    return np.asarray(prediction, dtype), np.asarray(target, dtype), made


def by_torch(name, prediction, target, made):
    """loss and gradient: PyTorch's loss of those elements that count, picked out one by one."""
    made = dict(made)
    lengths, batch_first = made.pop("lengths", None), made.pop("batch_first", False)
    if "positive_weight" in made:
        made["pos_weight"] = torch.as_tensor(made.pop("positive_weight"), dtype=getattr(torch, prediction.dtype.name))
    leaf, goal = torch.tensor(prediction, requires_grad=True), torch.tensor(target)
    counts = torch.ones(prediction.shape, dtype=torch.bool)
    for sequence, length in enumerate(lengths or ()):
        counts[(sequence, slice(length, None)) if batch_first else (slice(length, None), sequence)] = False
    elements = LOSSES[name][1](leaf, goal, reduction="none", **made)
    loss = elements[counts].mean()
    loss.backward()
    return loss.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_torch(backend, name, case, dtype):
    prediction, target, made = problem(name, case, dtype)
    given = backend.array(prediction)
    loss, gradient = LOSSES[name][0](given, backend.array(target), **made)
    assert loss.shape == () and tuple(gradient.shape) == prediction.shape
    assert arrays.dtype_name(loss) == arrays.dtype_name(gradient) == dtype
    assert type(gradient) is type(given) or prediction.shape == ()  # NumPy makes scalars of arrays without axes
    wanted = by_torch(name, prediction, target, made)
    np.testing.assert_allclose(float(loss), wanted[0], rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(backend.numpy(gradient), wanted[1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)
    np.testing.assert_array_equal(backend.numpy(gradient)[wanted[1] == 0], 0)


@pytest.mark.parametrize(
    ("library", "case"),
    [*(("torch", case) for case in CASES), *(("jax", case) for case in ("no axes", "batch first", "nothing counts"))],
)
@pytest.mark.parametrize("name", LOSSES)
def test_other_libraries_equal_torch(library, name, case):
    prediction, target, made = problem(name, case)
    with jax.enable_x64(True):
        convert = torch.tensor if library == "torch" else jax.numpy.asarray
        loss, gradient = LOSSES[name][0](convert(prediction), convert(target), **made)
        assert arrays.library(loss) == arrays.library(gradient) == library
        wanted = by_torch(name, prediction, target, made)
        np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-12)
        np.testing.assert_allclose(arrays.to_numpy(gradient), wanted[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lengths", [(3, 0, 5, 1), (0, 0, 0, 0)])
@pytest.mark.parametrize("name", LOSSES)
def test_under_jit_lengths_may_be_traced(name, lengths):
    prediction, target, made = problem(name, "lengths", "float32")
    del made["lengths"], made["batch_first"]
    run = jax.jit(lambda p, t, n: LOSSES[name][0](p, t, lengths=n, **made))
    loss, gradient = run(prediction, target, jax.numpy.asarray(lengths))
    assert loss.dtype == gradient.dtype == np.float32
    wanted = by_torch(name, prediction, target, made | {"lengths": lengths})
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_pytorchs_own_gradient_is_ours(name):
    prediction, target, made = problem(name, "lengths")
    prediction[3:, 0] = np.nan  # past the first sequence's end
    leaf = torch.tensor(prediction, requires_grad=True)
    loss, gradient = LOSSES[name][0](leaf, torch.tensor(target), **made)
    np.testing.assert_allclose(torch.autograd.grad(loss, leaf)[0], gradient.detach(), atol=1e-15)
    assert not gradient.isnan().any()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_a_finite_difference(name):
    prediction, target, made = problem(name, "lengths")
    _, gradient = LOSSES[name][0](prediction, target, **made)
    direction, step = np.random.default_rng(1).normal(size=prediction.shape), 1e-6
    after, before = (LOSSES[name][0](prediction + s * direction, target, **made)[0] for s in (step, -step))
    np.testing.assert_allclose(np.sum(gradient * direction), (after - before) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_count_may_be_anything(backend, name, value):
    prediction, target, made = problem(name, "lengths")
    wanted = LOSSES[name][0](prediction, target, **made)
    for array in (prediction, target):
        array[3:, 0] = array[:, 1] = value
    loss, gradient = LOSSES[name][0](backend.array(prediction), backend.array(target), **made)
    np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-14)
    np.testing.assert_allclose(backend.numpy(gradient), wanted[1], rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_infinity_and_nan_as_in_torch(backend, name, value):
    """But for one: PyTorch's loss of a logit of minus infinity is inf - inf, ours is the limit."""
    prediction, target, made = problem(name, "a vector")
    prediction[2], target[2] = value, 0.5
    loss, gradient = LOSSES[name][0](backend.array(prediction), backend.array(target), **made)
    wanted_loss, wanted_gradient = by_torch(name, prediction, target, made)
    if "binary" in name and value == -np.inf:
        assert np.isnan(wanted_loss)
        wanted_loss = np.inf
    np.testing.assert_allclose(float(loss), wanted_loss, rtol=1e-14)
    np.testing.assert_allclose(backend.numpy(gradient), wanted_gradient, rtol=1e-14)


def test_the_binary_loss_neither_overflows_nor_loses_digits(backend):
    logits, target = np.array([800.0, -800, 800, -800, 40, -40]), np.array([0.0, 1, 1, 0, 1, 0])
    for k, wanted in enumerate([800, 800, 0, 0, np.exp(-40), np.exp(-40)]):
        given = backend.array(logits[k : k + 1]), backend.array(target[k : k + 1])
        loss, gradient = nn.binary_cross_entropy_with_logits(*given)
        sign = 1 - 2 * target[k]
        np.testing.assert_allclose(float(loss), wanted, rtol=1e-12)
        np.testing.assert_allclose(backend.numpy(gradient), sign * min(wanted, 1), rtol=1e-12)


def test_a_weight_for_each_feature(backend):
    prediction, target, made = problem("binary", "lengths")
    weight = np.array([0.5, 2.0, 3.0])
    arguments = (backend.array(prediction), backend.array(target))
    loss, gradient = nn.binary_cross_entropy_with_logits(*arguments, positive_weight=backend.array(weight), **made)
    wanted = by_torch("binary", prediction, target, made | {"positive_weight": weight})
    np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-13)
    np.testing.assert_allclose(backend.numpy(gradient), wanted[1], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_not_written_to(backend, name):
    prediction, target, made = problem(name, "lengths")
    given = backend.array(prediction), backend.array(target)
    LOSSES[name][0](*given, **made)
    np.testing.assert_array_equal(backend.numpy(given[0]), prediction)
    np.testing.assert_array_equal(backend.numpy(given[1]), target)


P = np.ones((4, 3, 2), "float32")
BINARY = nn.binary_cross_entropy_with_logits


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.huber(P, P[:, :, :1]), ValueError, r"target must have prediction's shape \(4, 3, 2\), got"),
        (lambda: BINARY(P, P[:, :, :1]), ValueError, r"target must have logits's shape \(4, 3, 2\), got"),
        (lambda: BINARY(P, P.astype(int)), TypeError, "target must have logits's dtype float32, got int64"),
        (lambda: nn.huber(P.astype(int), P.astype(int)), TypeError, "prediction must have dtype float32 or float64"),
        (lambda: nn.huber(P[:0], P[:0]), ValueError, "prediction must have elements to average over"),
        (lambda: nn.huber(P, P, delta=0), ValueError, "delta must be positive and finite, got 0.0"),
        (lambda: nn.huber(P, P, delta=float("nan")), ValueError, "delta must be positive and finite, got nan"),
        (lambda: nn.huber(P, P, delta="1"), TypeError, "delta must be a number, got '1'"),
        (lambda: nn.huber(P, P, delta=True), TypeError, "delta must be a number, got True"),
        (lambda: nn.huber(P, P, lengths=[1, 2]), ValueError, r"lengths must have shape \(batch,\) = \(3,\)"),
        (lambda: nn.mean_squared_error(P, P, lengths=[1, 2, 5]), ValueError, "number of time steps 4, got 5"),
        (
            lambda: nn.mean_squared_error(P, P, lengths=[1] * 4, batch_first=False),
            ValueError,
            r"lengths must have shape \(batch,\) = \(3,\), got \(4,\)",
        ),
        (
            lambda: nn.mean_squared_error(P[0, 0], P[0, 0], lengths=[1]),
            ValueError,
            r"prediction must have axes \(time, batch, \.\.\.\) with lengths, got shape \(2,\)",
        ),
        (lambda: BINARY(P, P, positive_weight=-1), ValueError, "positive_weight must be finite and not negative"),
        (lambda: BINARY(P, P, positive_weight="1"), TypeError, "positive_weight must be a number, an array or None"),
        (lambda: BINARY(P, P, positive_weight=P[0, 0].astype(float)), TypeError, "positive_weight must have logits"),
        (lambda: BINARY(P, P, positive_weight=P[0]), ValueError, r"shape \(features,\) = \(2,\), got \(3, 2\)"),
    ],
)
def test_refuses_what_does_not_match(call, error, message):
    with pytest.raises(error, match=message):
        call()
