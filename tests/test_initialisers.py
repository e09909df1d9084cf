"""How an LSTM's parameters begin: the distributions, Keras's formulas, chrono's time scales, one seed everywhere."""

import math

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays
from tests.test_errors import refused

HIDDEN, INPUTS = 64, 100
FORGET = slice(HIDDEN, 2 * HIDDEN)
EVERYTHING = {"num_layers": 2, "bidirectional": True, "peephole": True, "layer_norm": True}
LIBRARIES = {"numpy": np, "torch": torch, "jax": jnp, "array-api-strict": array_api_strict}


def params(**options) -> dict[str, np.ndarray]:
    """A large layer's parameters in float64."""
    return gl.LSTM(INPUTS, HIDDEN, **{"dtype": "float64", "rng": 0, **options}).params


def of_kind(found: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    wanted = [value for name, value in found.items() if name.partition("_l")[0] == kind]
    assert wanted
    return wanted


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Within the bounds, near to both of them, and of a uniform distribution's mean and variance.

    Five standard errors: by chance one test of a million would fail, and with a fixed seed it fails always or never.
    """
    values, width = values.ravel(), high - low
    assert low <= values.min() < low + 40 * width / values.size
    assert high - 40 * width / values.size < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * values.size)
    # (x - mean)^2 of a uniform distribution has the variance width^4 / 180.
    assert abs(values.var() - width**2 / 12) < 5 * width**2 / math.sqrt(180 * values.size)


class TestUniform:
    def test_every_weight_and_bias_is_pytorchs(self):
        for name, value in params(proj_size=16, **EVERYTHING).items():
            if "norm" not in name:
                assert_uniform(value, -(HIDDEN**-0.5), HIDDEN**-0.5)

    def test_the_draws_are_those_of_earlier_versions(self):
        """A seed in somebody's script keeps its meaning: parameter after parameter, NumPy's uniform."""
        draw = np.random.default_rng(3)
        for value in params(rng=3, num_layers=2).values():
            np.testing.assert_array_equal(value, draw.uniform(-1 / 8, 1 / 8, value.shape))

    def test_layer_norm_begins_as_the_normalisation_itself(self):
        for init in ("uniform", "glorot"):
            found = params(init=init, **EVERYTHING)
            for name, value in found.items():
                if "norm" in name:
                    np.testing.assert_array_equal(value, 1.0 if name.startswith("weight") else 0.0)
            assert len([name for name in found if "norm" in name]) == 4 * 4


class TestGlorot:
    @pytest.mark.parametrize("name, fan_in", [("weight_ih_l0", INPUTS), ("weight_ih_l1", 2 * HIDDEN)])
    def test_input_weights_by_keras_formula(self, name, fan_in):
        """GlorotUniform: limit = sqrt(6 / (fan_in + fan_out)), of a kernel (inputs, 4 * units)."""
        limit = math.sqrt(6 / (fan_in + 4 * HIDDEN))
        assert_uniform(params(init="glorot", **EVERYTHING)[name], -limit, limit)

    @pytest.mark.parametrize("proj_size", [0, 16, 1])
    def test_recurrent_weights_are_orthogonal_as_keras(self, proj_size):
        """Orthogonal, of a recurrent kernel (units, 4 * units): orthonormal rows, so columns of ours."""
        for weight in of_kind(params(init="glorot", proj_size=proj_size, **EVERYTHING), "weight_hh"):
            assert weight.shape == (4 * HIDDEN, proj_size or HIDDEN)
            np.testing.assert_allclose(weight.T @ weight, np.eye(weight.shape[1]), rtol=0, atol=1e-14)

    def test_orthogonal_matrices_are_drawn_evenly(self):
        """Without the correction of QR's signs the first row's entries would all be of one sign."""
        first = np.array([gl.LSTM(1, 2, init="glorot", rng=seed).params["weight_hh_l0"][0] for seed in range(400)])
        assert (abs((first > 0).mean(axis=0) - 0.5) < 5 * 0.5 / 20).all()  # five standard errors
        # An entry of a random unit vector of 8 numbers has the mean square 1/8, and a variance of it of 7/320.
        assert (abs((first**2).mean(axis=0) - 1 / 8) < 5 * math.sqrt(7 / 320 / 400)).all()

    def test_float32_is_as_orthogonal_as_it_can_be(self):
        weight = params(init="glorot", dtype="float32")["weight_hh_l0"]
        np.testing.assert_allclose(weight.T @ weight, np.eye(HIDDEN), rtol=0, atol=1e-6)

    def test_biases_are_zero_but_for_the_forget_gates(self):
        """Keras's unit_forget_bias: "add 1 to the bias of the forget gate" and zeros."""
        expected = np.zeros(4 * HIDDEN)
        expected[FORGET] = 1.0
        for bias in of_kind(params(init="glorot", **EVERYTHING), "bias"):
            np.testing.assert_array_equal(bias, expected)

    def test_coupled_gates_have_no_forget_bias(self):
        assert not params(init="glorot", coupled=True)["bias_l0"].any()

    def test_without_a_bias(self):
        assert set(params(init="glorot", bias=False)) == {"weight_ih_l0", "weight_hh_l0"}

    def test_projection_and_peepholes(self):
        found = params(init="glorot", proj_size=16, peephole=True)
        limit = math.sqrt(6 / (HIDDEN + 16))
        assert_uniform(found["weight_hr_l0"], -limit, limit)
        assert_uniform(found["weight_peephole_l0"], -1 / 8, 1 / 8)


class TestForgetBias:
    @pytest.mark.parametrize("init", ["uniform", "glorot"])
    @pytest.mark.parametrize("value", [0, -1.5, np.float32(2), np.int64(3)], ids=str)
    def test_it_is_put_into_the_forget_gate_and_nowhere_else(self, init, value):
        with_it, without = (params(init=init, forget_bias=b, **EVERYTHING) for b in (value, None))
        for name, found in with_it.items():
            expected = without[name].copy()
            if name.startswith("bias_l"):
                expected[FORGET] = value
            np.testing.assert_array_equal(found, expected)

    def test_gate_shows_it(self):
        lstm = gl.LSTM(5, 3, 2, forget_bias=1.0)
        np.testing.assert_array_equal(lstm.gate("forget", layer=1).bias, 1.0)


class TestChrono:
    LONGEST = 784

    def forget_gates(self, longest: float = LONGEST, **options) -> np.ndarray:
        """What the forget gates are where nothing but their bias speaks."""
        found = params(chrono=longest, num_layers=20, **options)
        return 1 / (1 + np.exp(-np.concatenate([bias[FORGET] for bias in of_kind(found, "bias")])))

    @pytest.mark.parametrize("init", ["uniform", "glorot"])
    @pytest.mark.parametrize("longest", [2.5, 3, np.int64(10), LONGEST], ids=str)
    def test_time_scales_are_uniform_up_to_the_longest_dependency(self, init, longest):
        """1 / (1 - f) is the time in which a cell forgets: 1 + u with u uniform in (1, T - 1), Tallec and Ollivier."""
        assert_uniform(1 / (1 - self.forget_gates(longest, init=init)), 2, longest)

    def test_half_lives_are_within_the_longest_dependency(self):
        half_lives = np.log(0.5) / np.log(self.forget_gates())
        assert half_lives.min() >= 1 and half_lives.max() <= math.log(2) * self.LONGEST
        assert half_lives.max() > 0.68 * self.LONGEST, "the longest ones are there"

    def test_the_input_gate_has_the_opposite_bias_and_nothing_else_changes(self):
        with_it, without = (params(chrono=c, init="uniform", **EVERYTHING) for c in (self.LONGEST, None))
        for name, found in with_it.items():
            if name.startswith("bias_l"):
                np.testing.assert_array_equal(found[:HIDDEN], -found[FORGET])
                np.testing.assert_array_equal(found[2 * HIDDEN :], without[name][2 * HIDDEN :])
            else:
                np.testing.assert_array_equal(found, without[name])

    def test_every_layer_and_direction_has_its_own(self):
        biases = of_kind(params(chrono=self.LONGEST, **EVERYTHING), "bias")
        assert len({bias[FORGET].tobytes() for bias in biases}) == 4

    def test_coupled_gates_forget_the_same(self):
        """f = 1 - i = 1 - sigmoid(-b) = sigmoid(b)"""
        bias = params(chrono=self.LONGEST, coupled=True)["bias_l0"]
        found = 1 - 1 / (1 + np.exp(-bias[:HIDDEN]))
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-bias[FORGET])), rtol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"init": "glorot"}, {"chrono": 50, "init": "glorot"}, {"forget_bias": 1.5}, EVERYTHING], ids=str
)
def test_one_seed_gives_one_set_of_parameters_in_every_library(library, dtype, options):
    with jax.enable_x64(True):
        ours = gl.LSTM(5, 3, **options, dtype=dtype, rng=7).params
        theirs = gl.LSTM(5, 3, **options, dtype=dtype, xp=LIBRARIES[library], rng=7).params
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert arrays.dtype_name(value) == dtype
            np.testing.assert_array_equal(arrays.to_numpy(value), ours[name])


class TestOtherParameters:
    @pytest.mark.parametrize("options", [{}, {"init": "glorot"}, {"chrono": 9}, {"forget_bias": 2}], ids=str)
    def test_a_cell_begins_as_a_layer(self, options):
        layer = gl.LSTM(5, 3, **options, rng=1).params
        for name, value in gl.LSTMCell(5, 3, **options, rng=1).params.items():
            np.testing.assert_array_equal(value, layer[name + "_l0"])

    def test_kernels_can_use_them(self):
        for init in ("uniform", "glorot"):
            for value in params(init=init, chrono=9, **EVERYTHING).values():
                assert value.flags.c_contiguous and value.flags.writeable and value.flags.owndata

    def test_linear_begins_as_before(self):
        draw = np.random.default_rng(3)
        for value in gl.nn.Linear(16, 5, dtype="float64", rng=3).params.values():
            np.testing.assert_array_equal(value, draw.uniform(-1 / 4, 1 / 4, value.shape))


@pytest.mark.parametrize("layer", [gl.LSTM, gl.LSTMCell])
class TestBadArguments:
    def test_init(self, layer):
        for bad in ("Glorot", "orthogonal", "chrono", "", None, 1, np.zeros(2)):
            with refused(ValueError, "init must be one of 'uniform', 'glorot'", f"got {bad!r}"):
                layer(4, 2, init=bad)

    @pytest.mark.parametrize("name", ["forget_bias", "chrono"])
    def test_numbers(self, layer, name):
        for bad in ("1", True, [3.0], np.array(3.0), 3j):
            with refused(TypeError, f"{name} must be a number or None", f"got {bad!r}"):
                layer(4, 2, **{name: bad})
        for bad in (np.nan, np.inf):
            with refused(ValueError, f"{name} must be finite", f"got {bad}"):
                layer(4, 2, **{name: bad})

    @pytest.mark.parametrize("name", ["forget_bias", "chrono"])
    def test_there_is_no_bias(self, layer, name):
        with refused(ValueError, f"{name} must be None without a bias", "got 3", "bias=False leaves nothing"):
            layer(4, 2, bias=False, **{name: 3})

    def test_chrono_is_too_short(self, layer):
        for bad in (2, 1, 0, -5.0):
            with refused(ValueError, "chrono must be above 2", f"got {bad}", "time steps"):
                layer(4, 2, chrono=bad)

    def test_two_ways_at_once(self, layer):
        with refused(ValueError, "forget_bias must be None with chrono", "got 1.0"):
            layer(4, 2, chrono=10, forget_bias=1.0)


def test_coupled_gates_take_no_forget_bias():
    with refused(ValueError, "forget_bias must be None with coupled gates", "got 0.0", "one minus the input gate"):
        gl.LSTM(4, 2, coupled=True, forget_bias=0.0)


def test_chrono_is_about_sigmoids():
    with refused(ValueError, "chrono must come with gates of activation 'sigmoid'", "got 'hard_sigmoid'"):
        gl.LSTM(4, 2, chrono=10, activations=("hard_sigmoid", "tanh", "tanh"))
