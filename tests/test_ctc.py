"""gpulstm.nn.ctc: against all paths written out, PyTorch and finite differences, on every array library."""

import itertools
from collections import defaultdict

import array_api_strict
import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu

OTHERS = {"torch": torch.asarray, "jax": jax.numpy.asarray}


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def case(seed, *, steps=8, batch=4, classes=4, longest=3, dtype="float64"):
    """Random arguments: labels that often repeat, all lengths that there are, zero among them."""
    rng = np.random.default_rng(seed)
    blank = int(rng.integers(classes))
    labels = [k for k in range(classes) if k != blank]
    return {
        "logits": (2 * rng.normal(size=(steps, batch, classes))).astype(dtype),
        "target": rng.choice(labels, size=(batch, longest)),
        "lengths": rng.integers(0, steps + 1, batch),
        "target_lengths": rng.integers(0, longest + 1, batch),
        "blank": blank,
    }


def by_torch(logits, target, lengths, target_lengths, **options):
    x = torch.tensor(logits, requires_grad=True)
    lengths, target_lengths = torch.asarray(np.asarray(lengths)), torch.asarray(np.asarray(target_lengths))
    loss = torch.nn.functional.ctc_loss(x.log_softmax(-1), torch.asarray(target), lengths, target_lengths, **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def solve(convert, back, logits, target, lengths=None, target_lengths=None, **options):
    given = convert(logits), convert(target)
    loss, gradient = nn.ctc(*given, lengths=lengths, target_lengths=target_lengths, **options)
    assert loss.shape == ((logits.shape[1],) if options.get("reduction") == "none" else ())
    assert arrays.library(gradient) == arrays.library(given[0]) and gradient.shape == logits.shape
    assert arrays.dtype_name(gradient) == arrays.dtype_name(loss) == str(logits.dtype)
    return back(loss), back(gradient)


def in_numpy(**given):
    return solve(np.asarray, np.asarray, **given)


def assert_equal(found, wanted, rtol=1e-10, atol=1e-12):
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


# seed -> sizes: one thread short of a warp of positions, more positions than a block has threads, one class, no labels
CASES = {
    **{seed: {} for seed in range(12)},
    12: {"steps": 40, "batch": 2, "classes": 3, "longest": 15},
    13: {"steps": 140, "batch": 2, "classes": 37, "longest": 131},
    14: {"steps": 3, "batch": 2, "classes": 2, "longest": 1},
    15: {"longest": 0},
    16: {"steps": 1},
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("seed", CASES)
def test_it_equals_torch(backend, seed, reduction, zero_infinity):
    given = case(seed, **CASES[seed])
    options = {"reduction": reduction, "zero_infinity": zero_infinity}
    assert_equal(solve(backend.array, backend.numpy, **given, **options), by_torch(**given, **options))


@pytest.mark.parametrize(
    ("library", "seed"),
    [*(("torch", seed) for seed in (*range(6), 12, 15)), *(("jax", seed) for seed in (0, 1, 15))],
)
def test_other_libraries_equal_torch(library, seed):
    given = case(seed, **CASES[seed])
    found = solve(OTHERS[library], arrays.to_numpy, **given, reduction="none")
    assert_equal(found, by_torch(**given, reduction="none"))


def test_the_cases_have_impossible_and_possible_labellings_and_repeats():
    kinds = defaultdict(int)
    for seed, sizes in CASES.items():
        given = case(seed, **sizes)
        losses = by_torch(**given, reduction="none")[0]
        kinds["impossible"] += np.isinf(losses).sum()
        kinds["possible"] += np.isfinite(losses).sum()
        kinds["repeats"] += sum(
            (given["target"][n, 1:k] == given["target"][n, : k - 1]).any() and np.isfinite(losses[n])
            for n, k in enumerate(given["target_lengths"])
            if k > 1
        )
    assert min(kinds["impossible"], kinds["possible"], kinds["repeats"]) >= 8, kinds


def collapsed(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_the_sum_over_all_paths(backend, blank):
    logits = np.random.default_rng(blank).normal(size=(5, 1, 3))
    y = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(-1, keepdims=True)
    probability = defaultdict(float)
    for path in itertools.product(range(3), repeat=5):
        probability[collapsed(path, blank)] += np.prod(y[np.arange(5), path])
    assert len(probability) > 20 and abs(sum(probability.values()) - 1) < 1e-12
    for labels, wanted in probability.items():
        target = np.array([labels], int).reshape(1, -1)
        loss, _ = nn.ctc(backend.array(logits), backend.array(target), blank=blank, reduction="sum")
        np.testing.assert_allclose(backend.numpy(loss), -np.log(wanted), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_is_a_finite_difference(reduction):
    given = case(3, steps=7, batch=3) | {"lengths": [7, 5, 6], "target_lengths": [3, 0, 2], "reduction": reduction}
    _, gradient = in_numpy(**given)
    direction, step = np.random.default_rng(0).normal(size=gradient.shape), 1e-6
    ends = [in_numpy(**given | {"logits": given["logits"] + sign * step * direction})[0] for sign in (1, -1)]
    np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_log_probabilities_give_the_same_as_their_logits(backend):
    given = case(5)
    x = given["logits"]
    log_y = x - np.log(np.exp(x).sum(-1, keepdims=True))
    wanted = solve(backend.array, backend.numpy, **given, reduction="none")
    assert_equal(solve(backend.array, backend.numpy, **given | {"logits": log_y}, reduction="none"), wanted)
    leaf = torch.tensor(log_y, requires_grad=True)
    lengths = torch.asarray(given["lengths"]), torch.asarray(given["target_lengths"])
    target, options = torch.asarray(given["target"]), {"blank": given["blank"], "reduction": "sum"}
    torch.nn.functional.ctc_loss(leaf, target, *lengths, **options).backward()
    np.testing.assert_allclose(wanted[1], leaf.grad, rtol=1e-10, atol=1e-12)


def test_lengths_may_be_left_out_and_may_be_on_the_device(backend):
    given = case(1, steps=9)
    full = given | {"lengths": [9] * 4, "target_lengths": [3] * 4}
    left_out = given | {"lengths": None, "target_lengths": None}
    assert_equal(solve(backend.array, backend.numpy, **left_out), by_torch(**full))
    on_device = given | {name: backend.array(given[name]) for name in ("lengths", "target_lengths")}
    assert_equal(solve(backend.array, backend.numpy, **on_device), solve(backend.array, backend.numpy, **given), 0, 0)


def test_what_lies_past_an_end_is_not_looked_at(backend):
    given = case(2) | {"lengths": [8, 4, 0, 7], "target_lengths": [2, 1, 0, 3], "reduction": "none"}
    wanted = solve(backend.array, backend.numpy, **given)
    logits, target = given["logits"].copy(), given["target"].copy()
    for n in range(4):
        logits[given["lengths"][n] :, n] = np.nan
        target[n, given["target_lengths"][n] :] = (-1, 10**6, given["blank"], 7)[n]
    assert_equal(solve(backend.array, backend.numpy, **given | {"logits": logits, "target": target}), wanted, 0, 0)
    assert np.isfinite(wanted[0]).all() and not wanted[1][4:, 1].any()


def test_a_class_of_probability_zero(backend):
    """Where PyTorch's gradient is NaN: a class that is masked with minus infinity, among the labels or not."""
    given = case(4, classes=5) | {"blank": 0, "target": np.array([[1, 2, 1]] * 4), "lengths": [8] * 4}
    given |= {"target_lengths": [3, 3, 1, 3], "reduction": "none"}
    logits = given["logits"]
    logits[:, :, 4] = -np.inf  # nobody's label
    logits[1, 0, 2] = -np.inf  # a label at one step
    logits[:, 1, 2] = -np.inf  # a label at all steps: impossible
    losses, gradient = solve(backend.array, backend.numpy, **given)
    assert np.isfinite(losses[[0, 2, 3]]).all() and np.isposinf(losses[1])
    assert np.isnan(gradient[:, 1]).all() and not gradient[:, [0, 2, 3], 4].any() and gradient[1, 0, 2] == 0
    finite = solve(backend.array, backend.numpy, **given | {"logits": np.maximum(logits, -1e4)})
    np.testing.assert_allclose(losses[[0, 2, 3]], finite[0][[0, 2, 3]], rtol=1e-12)
    np.testing.assert_allclose(gradient[:, [0, 2, 3]], finite[1][:, [0, 2, 3]], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_not_a_number_goes_through(backend, value, zero_infinity):
    given = case(6) | {"lengths": [8, 3, 8, 8], "target_lengths": [2, 1, 1, 2], "reduction": "none"}
    wanted = solve(backend.array, backend.numpy, **given)
    given["logits"][2, 1, 3] = value
    losses, gradient = solve(backend.array, backend.numpy, **given, zero_infinity=zero_infinity)
    assert np.isnan(losses[1]) and np.isnan(gradient[:3, 1]).all() and not gradient[3:, 1].any()
    rest = [0, 2, 3]
    assert_equal((losses[rest], gradient[:, rest]), (wanted[0][rest], wanted[1][:, rest]), 1e-14, 1e-15)


WRONG_LABELS = {"negative": ("target", (1, 0), -1), "too_large": ("target", (1, 0), 4), "blank": ("target", (1, 0), 0)}
WRONG_LABELS |= {"too_few": ("target_lengths", (1,), -1), "too_many": ("target_lengths", (1,), 2**31 - 1)}


@pytest.mark.parametrize("kind", WRONG_LABELS)
@pytest.mark.parametrize("mode", ["fibers", "asan", "strict"])
def test_a_wrong_label_on_a_device_makes_its_own_sequence_nan(kind, mode):
    given = case(7) | {"blank": 0, "target": np.array([[1, 2, 3], [2, 2, 1], [3, 1, 1], [2, 1, 3]], np.int32)}
    given |= {"lengths": [8] * 4, "target_lengths": np.array([3, 2, 1, 3], np.int32), "reduction": "none"}
    wanted = in_numpy(**given)
    name, place, value = WRONG_LABELS[kind]
    given[name][place] = value
    if mode == "strict":
        given["target_lengths"] = array_api_strict.asarray(given["target_lengths"])
        losses, gradient = solve(array_api_strict.asarray, np.asarray, **given)
    else:
        with cupy_on_cpu(mode) as cupy:
            given["target_lengths"] = cupy.asarray(given["target_lengths"])
            losses, gradient = solve(cupy.asarray, lambda a: a.get(), **given)
    assert np.isnan(losses[1]) and np.isnan(gradient[:, 1]).all()
    rest = [0, 2, 3]
    assert_equal((losses[rest], gradient[:, rest]), (wanted[0][rest], wanted[1][:, rest]))


@pytest.mark.parametrize("shape, longest", [((0, 3, 4), 2), ((0, 3, 4), 0), ((5, 0, 4), 2), ((0, 0, 4), 0)], ids=str)
def test_nothing_to_align(backend, shape, longest):
    target = np.ones((shape[1], longest), int)
    losses, gradient = solve(backend.array, backend.numpy, np.zeros(shape), target, reduction="none")
    np.testing.assert_array_equal(losses, np.full(shape[1], np.inf if longest else 0.0))
    assert gradient.shape == shape and not gradient.any()
    if shape[1] == 0:
        with pytest.raises(ValueError, match=r"logits must have sequences to average over, got shape \("):
            solve(backend.array, backend.numpy, np.zeros(shape), target)


def test_float32(backend):
    given = case(13, **CASES[13]) | {"lengths": [140, 139], "target_lengths": [100, 3], "reduction": "none"}
    wanted = in_numpy(**given)
    found = solve(backend.array, backend.numpy, **given | {"logits": given["logits"].astype(np.float32)})
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-4)  # exp of differences between log-probabilities near 500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    given = case(8) | {"lengths": [8] * 4}
    x, target = torch.asarray(given["logits"]).to(dtype), torch.asarray(given["target"])
    options = {"target_lengths": given["target_lengths"], "blank": given["blank"]}
    loss, gradient = nn.ctc(x, target, **options)
    wide, wide_gradient = nn.ctc(x.to(torch.float32), target, **options)
    assert loss.dtype == gradient.dtype == dtype
    assert torch.equal(loss, wide.to(dtype)) and torch.equal(gradient, wide_gradient.to(dtype))


@pytest.mark.parametrize("seed", range(4))
def test_automatic_differentiation_finds_the_same_gradient(seed):
    """Through positions that no path reaches, whose log-probability is minus infinity."""
    given = case(seed)
    logits = given.pop("logits")
    logits[2, 1, given["blank"]] = -np.inf
    logits, given["target"] = torch.tensor(logits, requires_grad=True), torch.tensor(given["target"])
    loss, gradient = nn.ctc(logits, **given, zero_infinity=True)
    loss.backward()
    assert gradient.any()
    torch.testing.assert_close(logits.grad, gradient.detach(), rtol=0, atol=1e-12)


def test_it_goes_through_jit():
    given = case(9)
    arguments = [jax.numpy.asarray(given[name]) for name in ("logits", "target", "lengths", "target_lengths")]

    def loss(logits, target, lengths, target_lengths):
        options = {"blank": given["blank"], "reduction": "none", "zero_infinity": True}
        return nn.ctc(logits, target, lengths=lengths, target_lengths=target_lengths, **options)

    found = [np.asarray(a) for a in jax.jit(loss)(*arguments)]
    assert_equal(found, by_torch(**given, reduction="none", zero_infinity=True))


def test_inputs_are_left_alone_and_may_have_any_strides(backend):
    given = case(10)
    logits, target = given.pop("logits"), given.pop("target")
    options = given | {"reduction": "none"}
    wanted = solve(backend.array, backend.numpy, logits, target, **options)
    turned = backend.array(logits.transpose(2, 0, 1)), backend.array(target.T)
    before = [backend.numpy(a).copy() for a in turned]
    xp = arrays.namespace(turned[0])
    if backend.name == backends.EQUATIONS:
        views = xp.permute_dims(turned[0], (1, 2, 0)), xp.permute_dims(turned[1], (1, 0))
    else:
        views = turned[0].transpose(1, 2, 0), turned[1].T
    loss, gradient = nn.ctc(*views, **options)
    assert_equal((backend.numpy(loss), backend.numpy(gradient)), wanted, 1e-14, 1e-15)
    for now, then in zip(turned, before, strict=True):
        np.testing.assert_array_equal(backend.numpy(now), then)


GOOD = {"logits": np.zeros((5, 2, 4), "float32"), "target": np.array([[1, 2], [3, 0]]), "target_lengths": [2, 1]}


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"logits": np.zeros((5, 4), "float32")},
            ValueError,
            r"logits must have shape \(time, batch, classes\) .* \(5",
        ),
        ({"logits": np.zeros((5, 2, 0), "float32")}, ValueError, r"at least one class, got \(5, 2, 0\)"),
        ({"logits": np.zeros((5, 2, 4), int)}, TypeError, "logits must have dtype float32 or float64, got int64"),
        ({"target": [[1, 2], [3, 0]]}, TypeError, "target must be an array"),
        ({"target": np.ones((2, 2))}, TypeError, "target must be integers, got a NumPy array .* float64"),
        ({"target": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "target must be a NumPy array like logits"),
        (
            {"target": np.ones((5, 2), int)},
            ValueError,
            r"target must have shape \(batch, longest\) = \(2, any\), got \(",
        ),
        ({"target": np.array([[1, 4], [3, 0]])}, ValueError, "between 0 and 3 .* got 4 as label 1 of sequence 0"),
        ({"target": np.array([[1, 2], [-1, 0]])}, ValueError, "got -1 as label 0 of sequence 1"),
        ({"target_lengths": [2, 2]}, ValueError, "other than the blank 0, got 0 as label 1 of sequence 1"),
        ({"target_lengths": [2, 3]}, ValueError, "between 0 and target's 2 columns, got 3 for sequence 1"),
        ({"target_lengths": [-1, 1]}, ValueError, "between 0 and target's 2 columns, got -1 for sequence 0"),
        ({"target_lengths": [2]}, ValueError, r"target_lengths must have shape \(batch,\) = \(2,\), got \(1,\)"),
        ({"target_lengths": [2.0, 1.0]}, TypeError, "target_lengths must be integers, got a NumPy array"),
        (
            {"target_lengths": torch.ones(2, dtype=torch.int64)},
            TypeError,
            "target_lengths must be .* NumPy array beside",
        ),
        ({"lengths": [5, 6]}, ValueError, "lengths must be between 0 and the number of time steps 5, got 6"),
        ({"blank": 4}, ValueError, "blank must be between 0 and classes - 1 = 3, got 4"),
        ({"blank": -1}, ValueError, "blank must be between 0 and classes - 1 = 3, got -1"),
        ({"blank": 1.0}, TypeError, "blank must be an integer, got 1.0"),
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'average'"),
    ],
)
def test_it_refuses_what_does_not_match(change, error, message):
    nn.ctc(**GOOD)
    with pytest.raises(error, match=message):
        nn.ctc(**GOOD | change)
