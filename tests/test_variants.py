"""Every option alone and 59 random combinations of them, on every array path: outputs and states against
`plain_loop`, gradients against automatic differentiation of `plain_torch`, and PyTorch's own LSTM where it has the
option.

Errors are relative to the norm of an array. The worst case of float64 is 2e-13, which is 1500 roundings of 1.1e-16:
layer norm multiplies rounding where the numbers that it normalises are nearly equal. 1e-10 leaves room for another
order of summation. In float32 as many roundings of 6e-8 are 9e-5, and 3e-4 is the room. With an option alone on top of
the plain LSTM there are a tenth of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.activations import Activation, clamp
from gpulstm.functional import lstm_inference
from tests import backends, variant_cases
from tests.variant_cases import ALONE, COMBINATIONS, COVERING, COVERING_AGAIN, Case, relative_error

TOLERANCE = {"float64": 1e-10, "float32": 3e-4}
TOLERANCE_ALONE = {"float64": 1e-11, "float32": 3e-5}


def check(case: Case, expected: dict[str, np.ndarray], backend, dtype: str, tolerance: float) -> None:
    results = variant_cases.ours(case, backend, dtype)
    assert set(results) == set(expected)
    for name, value in results.items():
        assert value.dtype == dtype, name
        error = relative_error(value, expected[name])
        assert error <= tolerance, f"{name} is off by {error:.2e} in {case}"


def check_alone(backend, name: str, dtype: str) -> None:
    check(variant_cases.alone(name), variant_cases.expected_alone(name), backend, dtype, TOLERANCE_ALONE[dtype])


def check_combination(backend, seed: int, dtype: str) -> None:
    expected = variant_cases.expected_combination(seed)
    check(variant_cases.combination(seed), expected, backend, dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ALONE)
def test_alone(backend, name, dtype):
    check_alone(backend, name, dtype)


class TestNumpy:
    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize(
        ("seed", "dtype"), [*((seed, "float64") for seed in COMBINATIONS), *((seed, "float32") for seed in COVERING)]
    )
    def test_combination(self, backend, seed, dtype):
        check_combination(backend, seed, dtype)


class TestEquations:
    BACKENDS = (backends.EQUATIONS,)

    @pytest.mark.parametrize("seed", COMBINATIONS)
    def test_combination(self, backend, seed):
        check_combination(backend, seed, "float64")

    @pytest.mark.parametrize("seed", COMBINATIONS[::6])
    def test_combination_in_float32(self, backend, seed):
        """Few: a dtype is all that differs from the test above, and array-api-strict would refuse a mixture."""
        check_combination(backend, seed, "float32")


class TestKernels:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("seed", COMBINATIONS)
    def test_combination(self, backend, seed):
        check_combination(backend, seed, "float64")

    @pytest.mark.parametrize("seed", COVERING_AGAIN)
    def test_combination_in_float32(self, backend, seed):
        check_combination(backend, seed, "float32")


class TestTheOptionsAct:
    """An option that both sides ignore would pass everything above."""

    @pytest.mark.parametrize(
        "name", [name for name in ALONE if set(ALONE[name]) - {"proj_size", "peephole", "layer_norm"}]
    )
    def test_in_training_and_in_inference(self, backend, name):
        case = variant_cases.alone(name)
        with_option = variant_cases.ours(case, backend)
        without = variant_cases.ours(case.but(options={}), backend)
        in_training_alone = {"dropout", "recurrent_dropout", "weight_drop"} & set(case.options)
        assert (with_option["y"] != without["y"]).any()
        assert (with_option["inference y"] == without["inference y"]).all() == bool(in_training_alone)
        if in_training_alone:
            assert with_option["inference y"].tobytes() == without["inference y"].tobytes()

    @pytest.mark.parametrize(
        "name, straight",
        [
            ("gates hard_sigmoid, steep", (("affine", 0.6, 0.4), "tanh", "tanh")),
            ("candidate hard_sigmoid", ("sigmoid", ("affine", 0.7, 0.5), "tanh")),
            ("gates relu", ("affine", "tanh", "tanh")),
            ("candidate relu", ("sigmoid", "affine", "tanh")),
            ("cell relu", ("sigmoid", "tanh", "affine")),
        ],
    )
    def test_the_values_reach_the_bends(self, name, straight):
        case = variant_cases.alone(name)
        with backends.open_backend(backends.NUMPY) as numpy:
            bent = variant_cases.ours(case, numpy)["y"]
            assert (
                relative_error(variant_cases.ours(case.but(options={"activations": straight}), numpy)["y"], bent) > 0.01
            )


def test_zero_is_on_relus_flat_side(backend):
    """x, h and c of zero without bias: c stays an exact zero, and relu lets no gradient through, as PyTorch's."""
    params = {name: value for name, value in variant_cases.alone("cell relu").params.items() if "bias" not in name}
    x, params = backend.array(np.zeros((3, 4, 2))), backend.array(params)
    y, _, cache = gl.lstm_forward(x, params, options={"activations": ("sigmoid", "tanh", "relu")})
    dx, _, _ = gl.lstm_backward(cache, y + 1)
    assert (backend.numpy(dx) == 0).all()


class TestOtherLibraries:
    @pytest.fixture
    def float64_in_jax(self):
        with jax.enable_x64(True):
            yield

    @pytest.mark.parametrize("name", ALONE)
    def test_jax(self, float64_in_jax, name):
        case = variant_cases.alone(name, layers=1 + (name == "dropout"), directions=1)
        self.check_same_as_numpy(backends.Backend("jax", jnp), case)

    @pytest.mark.parametrize("name", ALONE)
    def test_torch(self, name):
        self.check_same_as_numpy(backends.Backend("torch", torch), variant_cases.alone(name))

    @pytest.mark.parametrize("seed", COMBINATIONS[::6])
    def test_torch_with_a_combination(self, seed):
        self.check_same_as_numpy(backends.Backend("torch", torch), variant_cases.combination(seed))

    def check_same_as_numpy(self, library, case: Case) -> None:
        with backends.open_backend(backends.NUMPY) as numpy:
            expected = variant_cases.ours(case, numpy)
        check(case, expected, library, "float64", TOLERANCE["float64"])

    @pytest.mark.parametrize("seed", COMBINATIONS[7::4])
    def test_torchs_autograd_agrees_with_our_backward(self, seed):
        case = variant_cases.combination(seed)
        library = backends.Backend("torch", torch)
        params = {name: torch.tensor(p, requires_grad=True) for name, p in case.params.items()}
        x = torch.tensor(case.x, requires_grad=True)
        state = tuple(torch.tensor(part, requires_grad=True) for part in case.initial())
        how = {"lengths": case.lengths, "batch_first": case.batch_first, "options": case.options, "rng": case.rng}
        y, final, _ = gl.lstm_forward(x, params, state, **how)
        torch.autograd.backward([y, *final], [library.array(d) for d in (case.dy, *case.dstate)])
        leaves = {"dx": x, "dh": state[0], "dc": state[1]} | {"d" + name: p for name, p in params.items()}
        ours = variant_cases.ours(case, library)
        for name, leaf in leaves.items():
            found = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
            assert relative_error(found, ours[name]) <= TOLERANCE["float64"], f"{name} in {case}"

    @pytest.mark.parametrize(
        "activation", [("relu",), ("hard_sigmoid", 0.2, 0.5), ("hard_sigmoid", -0.25, 0.5)], ids=str
    )
    def test_autograd_agrees_with_the_slope_at_the_kinks(self, activation):
        """An exact zero is no rarity: c is one at the start, and stays one where the candidate is dropped."""
        activation = Activation(*activation)
        a = torch.tensor([-3.0, -2.5, -2.0, -0.0, 0.0, 2.0, 2.5, 3.0], dtype=torch.float64, requires_grad=True)
        value = activation(a)
        value.sum().backward()
        np.testing.assert_array_equal(a.grad, activation.slope(value.detach()))

    def test_autograd_agrees_at_the_clip(self):
        a = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        clamp(a, 2.0).sum().backward()
        np.testing.assert_array_equal(a.grad, [0, 0, 1, 1, 0, 0])

    def test_jax_compiles_and_differentiates_all_options_at_once(self, float64_in_jax):
        case = variant_cases.combination(rich_combination())
        options = {"lengths": case.lengths, "batch_first": case.batch_first, "options": case.options, "rng": case.rng}

        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1, 2))
        def gradients(x, params, state):
            y, final, _ = gl.lstm_forward(x, params, state, **options)
            return sum((out * d).sum() for out, d in zip((y, *final), (case.dy, *case.dstate), strict=True))

        dx, grads, dstate = gradients(*jax.tree.map(jnp.asarray, (case.x, case.params, case.initial())))
        found = {"dx": dx, "dh": dstate[0], "dc": dstate[1]} | {"d" + name: d for name, d in grads.items()}
        expected = variant_cases.expected_combination(rich_combination())
        for name, value in found.items():
            assert relative_error(np.asarray(value), expected[name]) <= TOLERANCE["float64"], name


class TestPyTorchsLSTM:
    """What torch.nn.LSTM has itself."""

    SIZES = (
        # inputs, hidden, proj, layers, directions, bias, batch_first
        (4, 5, 3, 1, 1, True, False),
        (2, 6, 1, 1, 2, True, True),
        (5, 4, 3, 2, 1, False, False),
        (3, 7, 2, 2, 2, True, False),
        (6, 4, 2, 3, 2, True, True),
        (1, 3, 2, 3, 1, False, True),
    )

    @pytest.mark.parametrize("sizes", SIZES, ids=str)
    def test_projection(self, backend, sizes):
        inputs, hidden, proj, layers, directions, bias, batch_first = sizes
        torch.manual_seed(sum(sizes))
        module = torch.nn.LSTM(
            inputs, hidden, layers, bias, batch_first, 0.0, directions == 2, proj, dtype=torch.float64
        )
        lanes = layers * directions
        x, h, c = (torch.randn(shape, dtype=torch.float64, requires_grad=True)
                   for shape in ((5, 4, inputs), (lanes, 4, proj), (lanes, 4, hidden)))  # fmt: skip
        if batch_first:
            x = x.detach().transpose(0, 1).clone().requires_grad_()
        y, final = module(x, (h, c))
        weights = [torch.randn_like(out) for out in (y, *final)]
        torch.autograd.backward([y, *final], weights)

        named = dict(module.named_parameters())
        params = {
            name.replace("bias_ih", "bias"): p.detach().numpy() for name, p in named.items() if "bias_hh" not in name
        }
        for name in (name for name in params if name.startswith("bias")):
            params[name] = params[name] + named[name.replace("bias", "bias_hh")].detach().numpy()
        ours = (backend.array(value.detach().numpy()) for value in (x, h, c))
        found_x, *state = ours
        found_y, found, cache = gl.lstm_forward(found_x, backend.array(params), tuple(state), batch_first=batch_first)
        dy, *dstate = (backend.array(d.numpy()) for d in weights)
        dx, grads, dinitial = gl.lstm_backward(cache, dy, tuple(dstate))

        pairs = {"y": (found_y, y), "h": (found.h, final[0]), "c": (found.c, final[1]), "dx": (dx, x.grad)}
        pairs |= {"dh": (dinitial.h, h.grad), "dc": (dinitial.c, c.grad)}
        pairs |= {name: (d, named[name.replace("bias", "bias_ih")].grad) for name, d in grads.items()}
        for name, (value, wanted) in pairs.items():
            assert relative_error(backend.numpy(value), wanted.detach().numpy()) < TOLERANCE["float64"], name

    def test_dropout_in_inference(self, backend):
        torch.manual_seed(1)
        module = torch.nn.LSTM(4, 3, 3, dropout=0.5, bias=False, dtype=torch.float64).eval()
        x = torch.randn(5, 2, 4, dtype=torch.float64)
        params = {name: p.detach().numpy() for name, p in module.named_parameters()}
        y, _ = lstm_inference(backend.array(x.numpy()), backend.array(params), options={"dropout": 0.5})
        assert relative_error(backend.numpy(y), module(x)[0].detach().numpy()) < TOLERANCE["float64"]


def options_of(case: Case) -> set[str]:
    """The options of a combination that are on, by name."""
    kinds = {name.partition("_l")[0] for name in case.params}
    found = {"proj_size"} if case.proj_size else set()
    found |= {"peephole"} if "weight_peephole" in kinds else set()
    found |= {"layer_norm"} if any(name.startswith("weight_norm") for name in case.params) else set()
    where = case.options.get("recurrent_dropout_on", "")
    return found | {key + (f" {where}" if key == "recurrent_dropout" else "") for key in case.options}


def rich_combination() -> int:
    """The combination with the most options on."""
    return max(COMBINATIONS, key=lambda seed: len(options_of(variant_cases.combination(seed))))


def all_combinations() -> list[Case]:
    return [variant_cases.combination(seed) for seed in COMBINATIONS]


class TestTheCasesCoverWhatTheyClaim:
    def test_every_option_meets_every_other_one(self):
        names = {"proj_size", "peephole", "layer_norm", "coupled", "cell_clip", "activations", "dropout",
                 "recurrent_dropout hidden", "recurrent_dropout candidate", "zoneout", "weight_drop"}  # fmt: skip
        lists = [[options_of(variant_cases.combination(n)) for n in seeds] for seeds in (COVERING, COVERING_AGAIN)]
        for first in names:
            for second in names - {first}:
                exclude_each_other = {first, second} == {"recurrent_dropout hidden", "recurrent_dropout candidate"}
                for on in lists:
                    together = sum(first in each and second in each for each in on)
                    assert together >= 2 or exclude_each_other, f"{first} and {second} meet {together} times"

    def test_layouts(self):
        cases = all_combinations()
        layouts = {(case.num_layers, case.directions, case.batch_first, case.state is None) for case in cases}
        assert len(layouts) == 3 * 2 * 2 * 2
        assert sum("bias_l0" not in case.params for case in cases) >= 6
        lengths = [case.lengths for case in cases if case.lengths is not None]
        assert sum(0 in each for each in lengths) >= 10 and sum(each.max() < 8 for each in lengths) >= 10
        assert any((each == 0).all() for each in lengths)

    def test_sizes_are_all_different(self):
        for case in all_combinations():
            sizes = [case.input_size, case.hidden_size, *case.x.shape[:2]] + (
                [case.proj_size] if case.proj_size else []
            )
            assert len(set(sizes)) == len(sizes) and case.x.shape[0 if case.batch_first else 1] >= 2

    def test_all_activations(self):
        found = [set(), set(), set()]
        for case in all_combinations():
            for seen, each in zip(found, case.options.get("activations", ()), strict=False):
                seen.add(each)
        assert found == [set(variant_cases.GATES), set(variant_cases.OTHERS), set(variant_cases.OTHERS)]
