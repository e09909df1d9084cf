"""Optimisers: PyTorch's numbers on every array library, checkpoints to the bit, and errors before any change."""

import copy
import tracemalloc
from contextlib import contextmanager
from functools import lru_cache

import array_api_strict
import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays
from gpulstm.training import SGD, Adam, AdamW
from tests.cuda_on_cpu import cupy_on_cpu

# Sizes below, at and above the NumPy path's block and the kernels' chunk, and none at all.
SHAPES = {"lstm": {"weight": (4, 3), "bias": (4,)}, "scale": (), "empty": (0, 3), "chunk": (1024,), "long": (5, 3301)}
STEPS = 100
OPTIMISERS = {
    "sgd": (SGD, {"learning_rate": 0.03}),
    "sgd, decay": (SGD, {"learning_rate": 0.03, "weight_decay": 0.1}),
    "sgd, momentum": (SGD, {"learning_rate": 0.03, "momentum": 0.9}),
    "sgd, momentum, decay": (SGD, {"learning_rate": 0.03, "momentum": 0.5, "weight_decay": 0.1}),
    "sgd, nesterov": (SGD, {"learning_rate": 0.03, "momentum": 0.9, "nesterov": True}),
    "sgd, all": (SGD, {"learning_rate": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": (Adam, {}),
    "adam, own constants": (Adam, {"learning_rate": 0.03, "betas": (0.5, 0.9), "epsilon": 1e-3}),
    "adam, no memory": (Adam, {"learning_rate": 0.03, "betas": (0.0, 0.0)}),
    "adamw": (AdamW, {}),
    "adamw, own constants": (
        AdamW,
        {"learning_rate": 0.03, "betas": (0.8, 0.95), "epsilon": 1e-4, "weight_decay": 0.3},
    ),
    "adamw, no decay": (AdamW, {"learning_rate": 0.03, "weight_decay": 0}),
}
KEEPING = ("sgd, momentum", "adam, own constants", "adamw, own constants")
LIBRARIES = ("numpy", "array_api_strict", "torch", "jax", "cupy")
IN_JAX = (*KEEPING, "sgd, all")  # which compiles every operation for every shape; torch goes the same way in our code
WIDE = [(library, "float64") for library in LIBRARIES]
NARROW = [(library, "float32") for library in ("numpy", "torch", "cupy")]  # the others go torch's way, and take longer


@contextmanager
def making(library):
    """A function that turns a NumPy array into the library's own copy."""
    with jax.enable_x64(True), cupy_on_cpu() as cupy:
        yield {
            "numpy": np.array,
            "array_api_strict": lambda a: array_api_strict.asarray(np.array(a)),
            "torch": torch.tensor,
            "jax": jax.numpy.array,
            "cupy": lambda a: cupy.asarray(np.array(a, order="C")),
        }[library]


def tree_of(make, value_of, shapes=SHAPES):
    return {
        name: tree_of(make, value_of, shape) if isinstance(shape, dict) else make(value_of(shape))
        for name, shape in shapes.items()
    }


def normal(rng, dtype="float64", scale=1.0):
    return lambda shape: np.array(scale * rng.normal(size=shape), dtype)


def flat(tree):
    """The tree's arrays as NumPy copies, in order."""
    for value in tree.values():
        yield from flat(value) if isinstance(value, dict) else [np.array(arrays.to_numpy(value))]


def torch_twin(kind, options, params):
    options = {"lr": 1e-3, **options}
    options["lr"] = options.pop("learning_rate", options["lr"])
    if "epsilon" in options:
        options["eps"] = options.pop("epsilon")
    return getattr(torch.optim, kind.__name__)(params, **options)


@lru_cache(maxsize=1)  # the libraries come one after another
def trained_by_torch(name, dtype):
    """Parameters, (learning rate, gradients) of 100 steps, the parameters after them, and the largest there was."""
    kind, options = OPTIMISERS[name]
    rng = np.random.default_rng(1)
    params, batches, largest = tree_of(np.array, normal(rng, dtype)), [], 1.0
    reference = [torch.tensor(a, requires_grad=True) for a in flat(params)]
    theirs = torch_twin(kind, options, reference)
    for step in range(STEPS):
        scale = 1.0 if kind is SGD else 10.0 ** rng.integers(-4, 5)
        grads = tree_of(np.array, normal(rng, dtype, scale))
        rate = theirs.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] * (0.9 if step % 10 == 9 else 1)
        batches.append((rate, grads))
        for parameter, gradient in zip(reference, flat(grads), strict=True):
            parameter.grad = torch.tensor(gradient)
        theirs.step()
        largest = max(largest, *(float(p.detach().abs().max()) for p in reference if p.numel()))
    return params, batches, [p.detach().numpy() for p in reference], largest


@pytest.mark.parametrize(
    ("name", "library", "dtype"),
    [(name, *way) for name in OPTIMISERS for way in WIDE + NARROW if way[0] != "jax" or name in IN_JAX],
)
def test_equal_to_torch_after_100_steps(library, name, dtype):
    kind, options = OPTIMISERS[name]
    initial, batches, wanted, largest = trained_by_torch(name, dtype)
    assert len(batches) == STEPS
    with making(library) as make:
        params, ours = tree_from(initial, make), kind(**{"learning_rate": 1e-3, **options})
        for rate, grads in batches:
            ours.learning_rate = rate
            ours.step(params, tree_from(grads, make))
        found = list(flat(params))
    # Each of 100 steps rounds a handful of times, by half a unit in the last place of what is added up.
    tolerance = 1e-12 if dtype == "float64" else STEPS * 2 * np.finfo(dtype).eps
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("where", ["same library", "numpy"])
@pytest.mark.parametrize("told", ["params", "next step"])
@pytest.mark.parametrize("name", KEEPING)
def test_a_checkpoint_goes_on_with_the_same_bits(library, name, where, told):
    kind, options = OPTIMISERS[name]
    with making(library) as make:
        rng = np.random.default_rng(2)
        params = tree_of(make, normal(rng, "float32"))
        batches = [tree_of(make, normal(rng, "float32")) for _ in range(6)]
        first = kind(**options)
        for grads in batches[:3]:
            first.step(params, grads)
        first.learning_rate = 0.02
        state, saved = first.state_dict(), tree_from(params, make)
        if where == "numpy":
            state["arrays"] = {key: np.array(arrays.to_numpy(a)) for key, a in state["arrays"].items()}
        for grads in batches[3:]:
            first.step(params, grads)

        second = kind(**options)
        second.load_state_dict(state, saved if told == "params" else None)
        before = {key: np.array(arrays.to_numpy(a)) for key, a in state["arrays"].items()}
        assert_same_state(second.state_dict(), state)
        for grads in batches[3:]:
            second.step(saved, grads)
        assert second.steps == 6 and second.learning_rate == 0.02
        for got, want in zip(flat(saved), flat(params), strict=True):
            np.testing.assert_array_equal(got, want)
        for key, array in state["arrays"].items():  # what was loaded was copied
            np.testing.assert_array_equal(arrays.to_numpy(array), before[key])
        assert_same_state(second.state_dict(), first.state_dict())
        for array in second.state_dict()["arrays"].values():
            assert arrays.library(array) == arrays.library(params["scale"])


def tree_from(tree, make):
    """A copy of a tree through NumPy."""
    return {
        key: tree_from(v, make) if isinstance(v, dict) else make(np.array(arrays.to_numpy(v)))
        for key, v in tree.items()
    }


def assert_same_state(found, wanted):
    assert list(found) == ["steps", "learning_rate", "arrays"]
    assert (found["steps"], found["learning_rate"]) == (wanted["steps"], wanted["learning_rate"])
    assert found["arrays"].keys() == wanted["arrays"].keys()
    for key, array in found["arrays"].items():
        np.testing.assert_array_equal(arrays.to_numpy(array), arrays.to_numpy(wanted["arrays"][key]))


def test_state_names_say_which_mean_and_which_parameter():
    params, grads = {"a": {"w": np.zeros(2)}, "0.b": np.zeros(3)}, {"a": {"w": np.ones(2)}, "0.b": np.ones(3)}
    adam, sgd, plain = Adam(0.5, betas=(0.75, 0.5)), SGD(1, momentum=0.5), SGD(1)
    for optimiser in (adam, sgd, plain):
        optimiser.step(params, grads)
    state = adam.state_dict()
    assert list(state["arrays"]) == ["m['a']['w']", "v['a']['w']", "m['0.b']", "v['0.b']"]
    np.testing.assert_array_equal(state["arrays"]["m['a']['w']"], [0.25] * 2)
    np.testing.assert_array_equal(state["arrays"]["v['0.b']"], [0.5] * 3)
    assert list(sgd.state_dict()["arrays"]) == ["momentum['a']['w']", "momentum['0.b']"]
    assert plain.state_dict() == {"steps": 1, "learning_rate": 1.0, "arrays": {}}
    assert Adam().state_dict() == {"steps": 0, "learning_rate": 1e-3, "arrays": {}}


def test_a_state_is_a_copy_on_the_way_out_and_on_the_way_in():
    params, adam = {"w": np.zeros(2)}, Adam(0.5)
    adam.step(params, {"w": np.ones(2)})
    state = adam.state_dict()
    kept = {key: array.copy() for key, array in state["arrays"].items()}
    other = Adam()
    other.load_state_dict(state)
    adam.step(params, {"w": np.ones(2)})
    assert not np.array_equal(adam.state_dict()["arrays"]["m['w']"], kept["m['w']"])
    state["arrays"]["m['w']"][:] = 7
    assert_same_state(other.state_dict(), {**state, "arrays": kept})


STATE = {"steps": 1, "learning_rate": 0.1, "arrays": {"m['w']": np.ones(2), "v['w']": np.ones(2)}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": -1}, ValueError, r"state\['steps'\] must not be negative, got -1"),
        ({"steps": 1.5}, TypeError, r"state\['steps'\] must be an integer, got float"),
        ({"learning_rate": -1}, ValueError, r"state\['learning_rate'\] must be finite and not negative"),
        ({"other": 1}, ValueError, "state must have the keys steps, learning_rate and arrays, got .*other"),
        ({"arrays": [1]}, TypeError, r"state\['arrays'\] must be a dict of arrays, got list"),
        ({"arrays": {"m['w']": [1.0]}}, TypeError, r"state\['arrays'\]\[.m\['w'\].\] must be an array"),
        ({"arrays": {"m['w']": np.ones(2)}}, ValueError, r"missing v\['w'\]"),
        ({"arrays": {}}, ValueError, "missing m, v"),
        (
            {"arrays": {"momentum['w']": np.ones(2)}},
            ValueError,
            r"keys such as this optimiser's, m\[...\] or v\[...\], got .*another optimiser",
        ),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, error, message):
    params, adam = {"w": np.zeros(2)}, Adam(0.5)
    adam.step(params, {"w": np.ones(2)})
    before = adam.state_dict()
    with pytest.raises(error, match=message):
        adam.load_state_dict({**STATE, **change})
    assert_same_state(adam.state_dict(), before)


@pytest.mark.parametrize("told", ["params", "next step"])
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"x": np.ones(2)}, ValueError, r"must be that of params: missing \['x'\], unexpected \['w'\]"),
        ({"w": np.ones(2), "x": np.ones(2)}, ValueError, r"must be that of params: missing \['x'\]"),
        ({"w": np.ones(3)}, ValueError, r"state of params\['w'\] must have its shape \(3,\) .* got shape \(2,\)"),
        ({"w": np.ones(2, "float32")}, TypeError, "dtype float32, got shape .2,. and dtype float64; nothing is cast"),
    ],
)
def test_a_state_of_other_parameters_is_refused(params, error, message, told):
    adam = Adam()
    if told == "params":
        with pytest.raises(error, match=message):
            adam.load_state_dict(STATE, params)
        assert adam.steps == 0 and adam.learning_rate == 1e-3
    else:
        adam.load_state_dict(STATE)
        kept = copy.deepcopy(params)
        with pytest.raises(error, match=message):
            adam.step(params, kept)
        assert adam.steps == 1
        for got, want in zip(flat(params), flat(kept), strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_state_of_no_steps_makes_a_fresh_optimiser():
    params, adam = {"w": np.zeros(2)}, Adam(0.5)
    adam.step(params, {"w": np.ones(2)})
    adam.load_state_dict(Adam(0.25).state_dict())
    assert_same_state(adam.state_dict(), {"steps": 0, "learning_rate": 0.25, "arrays": {}})
    other, again = {"w": np.zeros(2)}, {"w": np.zeros(2)}
    adam.step(other, {"w": np.ones(2)})
    Adam(0.25).step(again, {"w": np.ones(2)})
    np.testing.assert_array_equal(other["w"], again["w"])


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_arrays_change_in_place_whatever_their_order_and_gradients_stay(name, dtype):
    kind, options = OPTIMISERS[name]
    rng = np.random.default_rng(3)
    values, gradient = rng.normal(size=(37, 51)).astype(dtype), rng.normal(size=(37, 51)).astype(dtype)
    kept = gradient.copy()
    layouts = {
        "c": (values.copy(), gradient),
        "f": (np.asfortranarray(values), gradient),
        "strided": (np.repeat(values, 2, axis=1)[:, ::2], np.asfortranarray(gradient)),
    }
    params = {layout: {"p": p} for layout, (p, _) in layouts.items()}
    grads = {layout: {"p": g} for layout, (_, g) in layouts.items()}
    optimiser = kind(**{"learning_rate": 0.1, **options})
    for _ in range(3):
        optimiser.step(params, grads)
    for layout, (p, _) in layouts.items():
        assert params[layout]["p"] is p and p.dtype == dtype
        np.testing.assert_array_equal(p, params["c"]["p"])
    assert not np.array_equal(params["c"]["p"], values)
    np.testing.assert_array_equal(gradient, kept)


def test_the_numpy_path_makes_no_array_of_a_parameters_size():
    """Means are made at the first step; after that all intermediate results go where they went before."""
    params, grads = {"w": np.zeros((300, 400))}, {"w": np.ones((300, 400))}
    for optimiser in (AdamW(), SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)):
        optimiser.step(params, grads)
        tracemalloc.start()
        optimiser.step(params, grads)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < params["w"].nbytes / 10


@pytest.mark.parametrize("name", KEEPING)
def test_nan_and_infinity_spread_as_in_torch(name):
    kind, options = OPTIMISERS[name]
    value, gradient = np.array([1.0, 2.0, np.inf, 3.0]), np.array([np.nan, np.inf, 1.0, 1.0])
    params, reference = {"w": value.copy()}, torch.tensor(value, requires_grad=True)
    ours, theirs = kind(**options), torch_twin(kind, options, [reference])
    for _ in range(2):
        with np.errstate(invalid="ignore"):
            ours.step(params, {"w": gradient})
        reference.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(params["w"], reference.detach().numpy(), rtol=1e-12)
    assert np.isnan(params["w"][0]) and np.isfinite(params["w"][3])


def test_an_infinite_parameter_without_decay_stays_infinite():
    with cupy_on_cpu() as cupy:
        for library in (np, cupy):
            params = {"w": library.asarray(np.array([np.inf]))}
            SGD(0.1).step(params, {"w": library.asarray(np.ones(1))})
            assert float(params["w"][0]) == np.inf


def test_parameters_may_come_later_and_must_stay_what_they_were():
    params, adam = {"w": np.zeros(2)}, Adam(0.1)
    adam.step(params, {"w": np.ones(2)})
    adam.step({**params, "x": np.zeros(3)}, {"w": np.ones(2), "x": np.ones(3)})
    assert set(adam.moments) == {"['w']", "['x']"}
    for other, error in ((np.zeros(3), ValueError), (np.zeros(2, "float32"), TypeError), (torch.zeros(2), TypeError)):
        with pytest.raises(error, match=r"params\['w'\] must"):
            adam.step({"w": other}, {"w": other})
    assert adam.steps == 2


@pytest.mark.parametrize(
    ("parameter", "error", "message"),
    [
        (np.zeros(2, "int64"), TypeError, r"params\['w'\] must have dtype float32 or float64, got int64"),
        (np.broadcast_to(0.0, 2), ValueError, r"params\['w'\] must be writeable, got a read-only array"),
    ],
)
def test_what_cannot_be_changed_is_refused_first(parameter, error, message):
    params, optimiser = {"a": np.zeros(2), "w": parameter}, SGD(0.1)
    with pytest.raises(error, match=message):
        optimiser.step(params, {"a": np.ones(2), "w": parameter + parameter})
    assert not params["a"].any() and optimiser.steps == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD(-1), ValueError, "learning_rate must be finite and not negative, got -1"),
        (lambda: SGD(0.1, momentum=-1), ValueError, "momentum must be"),
        (lambda: SGD(0.1, momentum="0.9"), TypeError, "momentum must be a number, got str"),
        (lambda: SGD(0.1, weight_decay=np.inf), ValueError, "weight_decay must be finite"),
        (lambda: SGD(0.1, nesterov=True), ValueError, "nesterov must come with a momentum above 0"),
        (lambda: SGD(0.1, momentum=0.9, nesterov=1), TypeError, "nesterov must be True or False, got int"),
        (lambda: AdamW(weight_decay=-0.1), ValueError, "weight_decay must be"),
        (lambda: AdamW(betas=(0.9, 1.0)), ValueError, "betas must be"),
        (lambda: setattr(Adam(), "learning_rate", float("nan")), ValueError, "learning_rate must be finite"),
    ],
)
def test_wrong_constants_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_how_they_show_themselves():
    assert repr(SGD(0.1)) == "SGD(0.1, momentum=0.0, nesterov=False, weight_decay=0.0)"
    assert repr(Adam()) == "Adam(0.001, betas=(0.9, 0.999), epsilon=1e-08)"
    assert repr(AdamW()) == "AdamW(0.001, betas=(0.9, 0.999), epsilon=1e-08, weight_decay=0.01)"
