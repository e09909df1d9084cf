"""Options that make no sense, and parameters and states that do not fit the options: which exception, and whether the
message names the option or parameter, what was expected, what came, and why."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import parameters
from gpulstm.functional import lstm_inference
from tests.test_errors import refused

NAN = float("nan")
PROBABILITIES = ("dropout", "recurrent_dropout", "weight_drop", "zoneout")


def layer(**options):
    return gl.LSTM(4, 5, 2, **options)


class TestProbabilities:
    @pytest.mark.parametrize("name", PROBABILITIES)
    @pytest.mark.parametrize("value", [1, 1.0, 1.5, -0.1, NAN, np.inf, np.float32(2)], ids=repr)
    def test_out_of_range(self, name, value):
        reason = "learns nothing" if name == "zoneout" else "nothing would be left"
        with refused(ValueError, f"{name} must be at least 0 and below 1", f"got {value}", reason):
            layer(**{name: value})

    @pytest.mark.parametrize("name", PROBABILITIES)
    @pytest.mark.parametrize("value", [True, False, "0.5", None, np.array(0.5), 0.5j], ids=repr)
    def test_not_a_number(self, name, value):
        with refused(TypeError, f"{name} must be a probability", f"got {value!r}"):
            layer(**{name: value})

    @pytest.mark.parametrize("name", PROBABILITIES)
    def test_numbers_of_numpy(self, name):
        options = layer(**{name: np.float32(0.5)}).options
        assert getattr(options, name) == ((0.5, 0.5) if name == "zoneout" else 0.5)

    @pytest.mark.parametrize("pair", [(0.1, 1.0), (NAN, 0.1), [-0.1, 0.2]], ids=str)
    def test_a_pair_for_zoneout_with_one_out_of_range(self, pair):
        with refused(ValueError, "zoneout must be at least 0 and below 1"):
            layer(zoneout=pair)

    def test_not_a_pair(self):
        for bad in ((0.1,), (0.1, 0.2, 0.3), []):
            with refused(ValueError, "zoneout must be one probability, or a pair for h and c", f"got {bad!r}"):
                layer(zoneout=bad)
        with refused(TypeError, "zoneout must be a probability", "got True"):
            layer(zoneout=(0.1, True))

    @pytest.mark.parametrize("where", ["cell", "Hidden", "", None, 3])
    def test_where_recurrent_dropout_acts(self, where):
        with refused(ValueError, "recurrent_dropout_on must be 'hidden' or 'candidate'", f"got {where!r}"):
            layer(recurrent_dropout=0.1, recurrent_dropout_on=where)


class TestContradictions:
    @pytest.mark.parametrize("value", [5, 6, np.int64(5)])
    def test_a_projection_that_is_no_smaller(self, value):
        with refused(ValueError, "proj_size must be below hidden_size 5", f"got {value}", "smaller"):
            layer(proj_size=value)

    def test_a_negative_projection(self):
        with refused(ValueError, "proj_size must be at least", "got -1"):
            layer(proj_size=-1)

    @pytest.mark.parametrize("value", [True, False, 1.5, 0.0, "2", None, np.array(2)], ids=repr)
    def test_a_projection_that_is_no_integer(self, value):
        with refused(TypeError, "proj_size must be an integer", f"got {type(value).__name__}"):
            layer(proj_size=value)

    def test_layer_norm_without_bias(self):
        with refused(ValueError, "layer_norm must come with bias=True", "centred on zero"):
            layer(layer_norm=True, bias=False)

    def test_dropout_between_the_layers_of_one(self):
        with refused(ValueError, "dropout must be 0 with one layer", "got 0.1", "between layers"):
            gl.LSTM(4, 5, 1, dropout=0.1)


class TestClip:
    @pytest.mark.parametrize("value", [0, 0.0, -1, NAN, np.inf, -np.inf], ids=repr)
    def test_out_of_range(self, value):
        with refused(ValueError, "cell_clip must be positive", f"got {value}", "None switches it off"):
            layer(cell_clip=value)

    @pytest.mark.parametrize("value", [True, False, "1", [1.0], np.array(1.0)], ids=repr)
    def test_not_a_number(self, value):
        with refused(TypeError, "cell_clip must be a positive number or None", f"got {value!r}"):
            layer(cell_clip=value)


@pytest.mark.parametrize("value", [1, 0, "yes", None], ids=repr)
def test_coupled_is_yes_or_no(value):
    with refused(TypeError, "coupled must be True or False", f"got {value!r}"):
        layer(coupled=value)


class TestActivations:
    @pytest.mark.parametrize("value", ["tanh", ("tanh", "tanh"), ("tanh",) * 4, (), None, 3, {"tanh"}], ids=repr)
    def test_not_three(self, value):
        with refused(ValueError, "activations must be three", "gates", "candidate", "cell", f"got {value!r}"):
            layer(activations=value)

    @pytest.mark.parametrize("name", ["Tanh", "swish", "", "hard_tanh"])
    def test_unknown(self, name):
        for which, part in enumerate(("[0] (gates)", "[1] (candidate)", "[2] (cell)")):
            names = ["sigmoid", "tanh", "tanh"]
            names[which] = name
            with refused(ValueError, f"activations{part} must be one of sigmoid, tanh, relu", f"got {name!r}"):
                layer(activations=tuple(names))

    @pytest.mark.parametrize("value", [3, None, ("affine", 1, 2, 3), (1.0, "affine"), np.tanh, (), []], ids=repr)
    def test_neither_a_name_nor_a_name_with_parameters(self, value):
        with refused(TypeError, "activations[1] (candidate) must be a name or (name, alpha, beta)", f"got {value!r}"):
            layer(activations=("sigmoid", value, "tanh"))

    @pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softsign"])
    def test_parameters_for_one_that_has_none(self, name):
        with refused(ValueError, f"activations[0] (gates): {name} has no parameters", "1.0"):
            layer(activations=((name, 1.0), "tanh", "tanh"))

    @pytest.mark.parametrize("value", ["1", True, None, np.array(1.0)], ids=repr)
    def test_parameters_that_are_no_numbers(self, value):
        with refused(TypeError, "activations[2] (cell) must have numbers for alpha and beta"):
            layer(activations=("sigmoid", "tanh", ("affine", 1.0, value)))

    @pytest.mark.parametrize("value", [NAN, np.inf, -np.inf], ids=repr)
    def test_parameters_that_are_not_finite(self, value):
        with refused(ValueError, "activations[2] (cell)", "finite", f"{value}"):
            layer(activations=("sigmoid", "tanh", ("affine", value)))

    @pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, int])
    def test_numbers_of_numpy(self, kind):
        """As every probability takes them."""
        cell = layer(activations=("sigmoid", "tanh", ("affine", kind(2), kind(1)))).options.activations[2]
        assert (cell.alpha, cell.beta) == (2.0, 1.0)


class TestOptionsOfTheFunctions:
    X = np.zeros((3, 2, 4), np.float32)
    PARAMS = layer(rng=0).params

    def refuse(self, error, options, *parts):
        for run in (gl.lstm_forward, lstm_inference):
            with refused(error, *parts) as caught:
                run(self.X, self.PARAMS, options=options)
            assert "checked()" not in str(caught.value), "an internal name says nothing to a caller"

    def test_unknown_ones_are_named_all_of_them(self):
        self.refuse(TypeError, {"zonout": 0.1}, "option", "'zonout'")
        self.refuse(TypeError, {"zoneout": 0.1, "bad": 1, "worse": 2}, "option", "'bad'", "'worse'")

    @pytest.mark.parametrize("name", ["proj_size", "peephole", "layer_norm", "bias", "hidden_size"])
    def test_those_that_are_read_off_the_parameters(self, name):
        self.refuse(TypeError, {name: 1}, "option", f"'{name}'", "params")

    @pytest.mark.parametrize("value", [None, "zoneout", 3, [("zoneout", 0.1)]], ids=repr)
    def test_no_mapping(self, value):
        self.refuse(TypeError, value, "options must be a dict", f"got {type(value).__name__}")

    def test_bad_values(self):
        self.refuse(ValueError, {"zoneout": 1.0}, "zoneout must be at least 0 and below 1", "got 1.0")
        self.refuse(ValueError, {"cell_clip": -1}, "cell_clip must be positive")

    @pytest.mark.parametrize("rng", [-1, 2**64, np.int64(-1)])
    def test_a_seed_out_of_range(self, rng):
        with refused(ValueError, "rng must be a seed between 0 and 2^64 - 1", f"got {rng}"):
            gl.lstm_forward(self.X, self.PARAMS, options={"zoneout": 0.1}, rng=rng)
        with refused(ValueError, "rng must be a seed between 0 and 2^64 - 1", f"got {rng}"):
            layer(zoneout=0.1).forward(self.X, rng=rng)

    @pytest.mark.parametrize("rng", ["a", 1.5, [1], True, np.random.RandomState(0)], ids=lambda v: type(v).__name__)
    def test_no_seed(self, rng):
        with refused(TypeError, "rng must be None, an integer seed or a numpy.random.Generator"):
            gl.lstm_forward(self.X, self.PARAMS, options={"zoneout": 0.1}, rng=rng)

    @pytest.mark.parametrize("rng", ["a", True])
    def test_no_seed_for_a_plain_one_either(self, rng):
        with refused(TypeError, "rng must be None, an integer seed or a numpy.random.Generator"):
            layer().forward(self.X, rng=rng)

    def test_a_generator_stays_where_it_is_if_nothing_is_random(self):
        rng = np.random.default_rng(0)
        layer().forward(self.X, rng=rng)
        assert rng.random() == np.random.default_rng(0).random()

    @pytest.mark.parametrize("missing", ["weight_norm_ih_l0", "bias_l0", "weight_ih_l1", "weight_peephole_l0"])
    def test_what_is_missing_is_named_and_not_what_is_there(self, missing):
        params = dict(layer(layer_norm=True, peephole=True).params)
        del params[missing]
        with refused(ValueError, f"missing {missing}") as caught:
            gl.lstm_forward(self.X, params)
        assert "unexpected" not in str(caught.value)

    def test_the_ends_of_the_range(self):
        for rng in (0, 2**64 - 1, np.uint64(2**64 - 1)):
            gl.lstm_forward(self.X, self.PARAMS, options={"zoneout": 0.1}, rng=rng)


# hidden 5, proj 3: name -> its shape in words, and some that it must not have
SHAPES: dict[str, tuple] = {
    "weight_hr_l0": ("(proj, hidden) = (3, 5)", (3, 4)),
    "weight_hr_l1": ("(proj, hidden) = (3, 5)", (5, 3), (3, 4)),
    "weight_hh_l0": ("(4*hidden, proj) = (20, 3)", (20, 5)),
    "weight_peephole_l0": ("(3*hidden,) = (15,)", (20,), (5,), (3, 5)),
    "weight_peephole_l1": ("(3*hidden,) = (15,)", (14,)),
    "weight_norm_ih_l0": ("(4*hidden,) = (20,)", (5,), (20, 1)),
    "weight_norm_hh_l1": ("(4*hidden,) = (20,)", (3,)),
    "weight_norm_c_l0": ("(hidden,) = (5,)", (20,), (3,)),
    "bias_norm_c_l1": ("(hidden,) = (5,)", (3,), ()),
}


class TestParameters:
    """hidden 5, proj 3, two layers, with everything that has parameters."""

    LSTM = layer(proj_size=3, peephole=True, layer_norm=True, dtype="float64", rng=0)
    X = np.zeros((3, 2, 4))

    def refuse(self, params: dict, *parts: str, error=ValueError):
        """By a layer, which knows its shapes, and by the function, which has to read them off the others."""
        lstm = layer(proj_size=3, peephole=True, layer_norm=True, dtype="float64", rng=0)
        lstm.params = params
        for run in (lstm, lstm.forward, lambda x: gl.lstm_forward(x, params)):
            with refused(error, *parts) as caught:
                run(self.X)
        return str(caught.value)

    @pytest.mark.parametrize("name", SHAPES)
    def test_of_another_shape(self, name):
        words, *shapes = SHAPES[name]
        for shape in shapes:
            message = self.refuse(
                {**self.LSTM.params, name: np.zeros(shape)}, f"{name} must have shape {words}", str(shape)
            )
            assert message.count("must have shape") == 1, f"one parameter is wrong, and this blames more: {message}"

    def test_a_transposed_projection(self):
        message = self.refuse(
            {**self.LSTM.params, "weight_hr_l0": np.zeros((5, 3))}, "weight_hr_l0", "is it transposed?"
        )
        assert message.count("must have shape") == 1, f"one parameter is wrong, and this blames more: {message}"

    @pytest.mark.parametrize("kind", parameters.KINDS[3:])
    def test_missing(self, kind):
        params = dict(self.LSTM.params)
        shape = params.pop(kind + "_l1").shape
        self.refuse(params, f"missing {kind}_l1 {shape}")

    def test_everything_in_one_message(self):
        params = {**self.LSTM.params, "weight_norm_x_l0": np.zeros(5), "weight_peephole_l2": np.zeros(15),
                  "weight_norm_c_l0": np.zeros(4)}  # fmt: skip
        del params["bias_norm_c_l1"]
        for part in ("missing bias_norm_c_l1 (5,)", "unexpected weight_norm_x_l0", "unexpected weight_peephole_l2",
                     "weight_norm_c_l0 must have shape (hidden,) = (5,), got (4,)"):  # fmt: skip
            self.refuse(params, part)

    def test_more_than_the_layer_has(self):
        plain = layer(dtype="float64")
        plain.params = {**plain.params, "weight_peephole_l0": np.zeros(15)}
        with refused(ValueError, "unexpected weight_peephole_l0"):
            plain(self.X)

    @pytest.mark.parametrize("name", ["weight_hr_l0", "weight_peephole_l0", "weight_norm_ih_l1", "bias_norm_c_l0"])
    def test_of_another_kind(self, name):
        value = self.LSTM.params[name]
        self.refuse({**self.LSTM.params, name: value.tolist()}, f"{name} must be an array", "list", error=TypeError)
        self.refuse(
            {**self.LSTM.params, name: value.astype("float32")}, f"{name} must have", "float32", error=TypeError
        )


class TestStatesOfAProjection:
    LSTM = layer(proj_size=3, dtype="float64")
    X = np.zeros((3, 2, 4))

    @pytest.mark.parametrize(
        "h, c, parts",
        [
            (5, 5, ("state.h must have shape (layers*directions, batch, proj) = (2, 2, 3)", "got (2, 2, 5)")),
            (3, 3, ("state.c must have shape (layers*directions, batch, hidden) = (2, 2, 5)", "got (2, 2, 3)")),
            (5, 3, ("state.h must have shape (layers*directions, batch, proj) = (2, 2, 3)", "got (2, 2, 5)")),
        ],
    )
    def test_state(self, h, c, parts):
        state = (np.zeros((2, 2, h)), np.zeros((2, 2, c)))
        with refused(ValueError, *parts):
            self.LSTM(self.X, state)
        _, _, cache = self.LSTM.forward(self.X)
        with refused(ValueError, "d" + parts[0], parts[1]):
            self.LSTM.backward(cache, None, state)

    def test_without_a_batch(self):
        with refused(ValueError, "state.h must have shape (layers*directions, proj) = (2, 3)", "got (2, 5)"):
            self.LSTM(self.X[:, 0], (np.zeros((2, 5)), np.zeros((2, 5))))

    def test_dy(self):
        _, _, cache = self.LSTM.forward(self.X)
        with refused(ValueError, "dy must have y's shape (3, 2, 3)", "got (3, 2, 5)"):
            self.LSTM.backward(cache, np.zeros((3, 2, 5)))
