"""Weights and options from Keras' layers and to them, and whether both compute the same numbers."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl

import gpulstm as gl
from gpulstm.interop.keras import from_keras, to_keras
from tests import problems
from tests.keras_cases import QUIET, TOLERANCE, inputs, numbers, shuffled

pytestmark = QUIET

THIRD = ("hard_sigmoid", 1 / 6, 0.5)
LINEAR = ("affine", 1.0, 0.0)
ACTIVATIONS = {
    "plain": (("sigmoid", "tanh"), ("sigmoid", "tanh", "tanh")),
    "hard and relu": (("hard_sigmoid", "relu"), (THIRD, "relu", "relu")),
    "softsign and linear": (("softsign", None), ("softsign", LINEAR, LINEAR)),
    "tanh and sigmoid": (("tanh", "sigmoid"), ("tanh", "sigmoid", "sigmoid")),
}
BOTH_AND_BACK = [(False, False), (True, False), (False, True)]  # bidirectional, reverse


def refused(*wanted, error=ValueError):
    return pytest.raises(error, match="(?s)" + ".*".join(wanted))


def lstm(units=5, **options):
    """A built LSTM layer of Keras with random weights, 4 inputs."""
    layer = kl.LSTM(units, return_sequences=True, return_state=True, **options)
    layer.build((None, None, 4))
    return shuffled(layer)


def sequential(*parts, width=4):
    return shuffled(keras.Sequential([keras.Input((None, width)), *parts]))


class TestValues:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("both", "back"), BOTH_AND_BACK)
    def test_outputs_and_states_are_keras_own(self, name, dtype, bias, both, back):
        (gates, cell), ours = ACTIVATIONS[name]
        given = {"activation": cell, "recurrent_activation": gates, "use_bias": bias, "dtype": dtype}
        layer = kl.LSTM(5, return_sequences=True, return_state=True, go_backwards=back, **given)
        layer = kl.Bidirectional(layer, dtype=dtype) if both else layer
        layer.build((None, None, 4))
        shuffled(layer)
        x, rng = inputs(dtype), np.random.default_rng(4)
        count = 2 if both else 1
        h, c = (rng.normal(size=(count, 3, 5)).astype(dtype) for _ in "hc")
        y, *states = numbers(layer(x, initial_state=[s for pair in zip(h, c, strict=True) for s in pair]))

        found = from_keras(layer)
        wanted = gl.LSTM(
            4, 5, batch_first=True, bias=bias, bidirectional=both, reverse=back, activations=ours, dtype=dtype
        )
        assert repr(found) == repr(wanted)
        got, final = found(x, (h, c))
        problems.assert_close(
            {"y": got, "h": final.h, "c": final.c},
            {"y": y[:, ::-1] if back else y, "h": np.stack(states[::2]), "c": np.stack(states[1::2])},
            TOLERANCE[dtype],
        )

    @pytest.mark.parametrize("zeros", [True, False])
    @pytest.mark.parametrize(("both", "back"), BOTH_AND_BACK)
    def test_a_right_padded_mask_is_our_lengths(self, both, back, zeros):
        layer = kl.LSTM(5, return_sequences=True, return_state=True, go_backwards=back, zero_output_for_mask=zeros)
        layer = kl.Bidirectional(layer) if both else layer
        layer.build((None, None, 4))
        shuffled(layer)
        x, lengths = inputs(), np.array([7, 3, 5])
        mask = np.arange(7) < lengths[:, None]
        y, *states = numbers(layer(x, mask=keras.ops.convert_to_tensor(mask)))
        got, final = from_keras(layer)(x, lengths=lengths)
        y = np.where(mask[..., None], y[:, ::-1] if back else y, 0)  # past the end Keras may repeat the last one
        problems.assert_close(
            {"y": got, "h": final.h, "c": final.c},
            {"y": y, "h": np.stack(states[::2]), "c": np.stack(states[1::2])},
            1e-6,
        )

    def test_stacked_layers_become_one_lstm(self):
        for back in (False, True):
            model = sequential(kl.LSTM(5, return_sequences=True, go_backwards=back), kl.LSTM(5, return_sequences=True))
            y = numbers(model(inputs()))[0]
            found = from_keras(model)
            assert found.layout.num_layers == 2 and found.options.reverse is back
            problems.assert_close({"y": found(inputs())[0]}, {"y": y[:, ::-1] if back else y}, 1e-6)

    def test_bidirectional_layers_in_a_functional_model(self):
        x = start = keras.Input((None, 4))
        for rate in (0.3, 0.3, 0):
            x = kl.Bidirectional(kl.LSTM(5, return_sequences=True))(x)
            x = kl.Dropout(rate)(x) if rate else x
        model = shuffled(keras.Model(start, kl.Dense(2)(x)))
        inner = keras.Model(start, x)
        found = from_keras(model)
        assert found.changed_options() == {"num_layers": 3, "batch_first": True, "bidirectional": True, "dropout": 0.3}
        problems.assert_close({"y": found(inputs())[0]}, {"y": numbers(inner(inputs()))[0]}, 1e-6)


class TestRoundTrips:
    CASES = [
        {"num_layers": layers, "bias": bias, "bidirectional": both, "reverse": back, "activations": ours}
        for layers, bias, (both, back), (_, ours) in itertools.product(
            (1, 3), (True, False), BOTH_AND_BACK, list(ACTIVATIONS.values())[:3]
        )
    ] + [{"num_layers": 2, "dropout": 0.25}]

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("options", CASES, ids=str)
    def test_ours_to_keras_to_ours(self, options, dtype):
        given = gl.LSTM(4, 5, batch_first=True, dtype=dtype, rng=1, **options)
        made = to_keras(given)
        found = from_keras(made)
        assert repr(found) == repr(given)
        problems.assert_same_bits(found.params, given.params)
        y = numbers(made(inputs(dtype)))[0]
        y = y[:, ::-1] if options.get("reverse") else y
        problems.assert_close({"y": y}, {"y": given(inputs(dtype))[0]}, TOLERANCE[dtype])

    def test_arrays_as_get_weights_gives_them(self):
        for both, bias in itertools.product((False, True), (True, False)):
            given = gl.LSTM(4, 5, batch_first=True, bidirectional=both, bias=bias, rng=1)
            found = from_keras(to_keras(given).get_weights())
            assert repr(found) == repr(given)
            problems.assert_same_bits(found.params, given.params)
        weights = to_keras(gl.LSTM(4, 5, batch_first=True)).get_weights()
        found = from_keras(tuple(weights), activations=(THIRD, "relu", "relu"), reverse=True, dtype="float64")
        assert found.options.reverse and found.params["bias_l0"].dtype == np.float64
        assert found.options.activations[0] == THIRD

    def test_what_is_asked_of_the_layer(self):
        given = gl.LSTM(4, 5, batch_first=True, bidirectional=True)
        made = to_keras(given, return_sequences=False, return_state=True, name="reader")
        assert made.name == "reader" and [v.shape[1] for v in numbers(made(inputs()))] == [10, 5, 5, 5, 5]
        stack = to_keras(gl.LSTM(4, 5, 2, batch_first=True), return_sequences=False, name="stack")
        assert stack.name == "stack" and numbers(stack(inputs()))[0].shape == (3, 5)

    def test_another_library(self):
        import torch

        found = from_keras(lstm(), xp=torch)
        assert isinstance(found.params["bias_l0"], torch.Tensor)
        half = kl.LSTM(5, dtype="bfloat16", recurrent_initializer="zeros")  # PyTorch has no orthogonal one of it
        half.build((None, None, 4))
        found = from_keras(half, xp=torch)
        assert found.params["bias_l0"].dtype == torch.bfloat16
        assert from_keras(half, dtype="float32").params["weight_ih_l0"].dtype == np.float32
        with refused("dtype must be float32 or float64", "bfloat16", error=TypeError):
            from_keras(half)

    def test_mixed_precision_keeps_the_variables_dtype(self):
        assert from_keras(lstm(dtype="mixed_float16")).params["bias_l0"].dtype == np.float32

    def test_our_arrays_are_copies(self):
        layer = lstm()
        found = from_keras(layer)
        before = layer.get_weights()
        for array in found.params.values():
            array[...] = 7
        assert all((a == b).all() for a, b in zip(before, layer.get_weights(), strict=True))


class TestWhichLayer:
    MODEL = (lambda: kl.LSTM(5, return_sequences=True, name="a"), lambda: kl.LSTM(6, name="b"))

    def test_by_name_or_a_list_of_what_there_is(self):
        model = sequential(*(make() for make in self.MODEL))
        assert from_keras(model, layer="a").layout.input_size == 4
        assert from_keras(model, layer="b").layout.input_size == 5
        with refused("the same units", r"a \(5 units\), b \(6 units\)", "layer='a'"):
            from_keras(model)
        with refused("layer must name one LSTM layer, got 'c'", r"a \(5 units\), b"):
            from_keras(model, layer="c")

    def test_a_model_inside_a_model(self):
        inner = keras.Sequential([keras.Input((None, 4)), *(make() for make in self.MODEL)], name="inner")
        model = sequential(inner, kl.Dense(2))
        assert from_keras(model, layer="inner/b").layout.hidden_size == 6
        assert from_keras(model, layer="a").layout.hidden_size == 5

    @pytest.mark.parametrize(
        "between", [lambda: kl.Dense(5), lambda: kl.LayerNormalization(), lambda: kl.Activation("relu")]
    )
    def test_layers_with_something_between_are_no_stack(self, between):
        model = sequential(kl.LSTM(5, return_sequences=True, name="a"), between(), kl.LSTM(5, name="b"))
        for layer in (None, ("a", "b")):
            with refused("'b' does not read the output of 'a' alone", "pass layer="):
                from_keras(model, layer=layer)
        assert from_keras(model, layer="b").layout.num_layers == 1

    def test_an_encoder_and_a_decoder_are_no_stack(self):
        start = keras.Input((None, 4))
        y, *state = kl.LSTM(4, return_sequences=True, return_state=True, name="a")(start)
        model = keras.Model(start, kl.LSTM(4, name="b")(y, initial_state=state))
        with refused("'b' does not read the output of 'a' alone"):
            from_keras(model)

    def test_parallel_layers_are_no_stack(self):
        start = keras.Input((None, 4))
        model = keras.Model(start, [kl.LSTM(4, name="a")(start), kl.LSTM(4, name="b")(start)])
        with refused("'b' does not read the output of 'a' alone"):
            from_keras(model)

    def test_a_second_layer_that_goes_back(self):
        model = sequential(kl.LSTM(5, return_sequences=True), kl.LSTM(5, go_backwards=True))
        with refused("only the first one can have go_backwards"):
            from_keras(model)

    def test_no_lstm_at_all(self):
        with refused("must have an LSTM layer, got InputLayer, GRU"):
            from_keras(sequential(kl.GRU(5)))


class TestRefused:
    OURS = {
        "proj_size": {"proj_size": 2},
        "peephole": {"peephole": True},
        "layer_norm": {"layer_norm": True},
        "coupled": {"coupled": True},
        "cell_clip": {"cell_clip": 3.0},
        "zoneout": {"zoneout": 0.1},
        "weight_drop": {"weight_drop": 0.1},
        "tf32": {"tf32": True},
        "recurrent_dropout": {"recurrent_dropout": 0.1},
        "activations": {"activations": ("sigmoid", "tanh", "relu")},
        "activations=": {"activations": (("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")},
    }

    @pytest.mark.parametrize("name", OURS)
    def test_what_keras_cannot_hold(self, name):
        with refused("a Keras layer cannot hold", name):
            to_keras(gl.LSTM(4, 5, batch_first=True, **self.OURS[name]))

    def test_ours_without_the_axes_or_dtype(self):
        with refused("batch_first must be True"):
            to_keras(gl.LSTM(4, 5))
        with refused("return_state must be False with num_layers > 1"):
            to_keras(gl.LSTM(4, 5, 2, batch_first=True), return_state=True)
        import torch

        with refused("dtype must be float32 or float64", "bfloat16"):
            to_keras(gl.LSTM(4, 5, batch_first=True, dtype="bfloat16", xp=torch))

    def test_ignored_on_the_way_there(self):
        given = gl.LSTM(4, 5, 2, batch_first=True, dropout=0.5, recurrent_dropout=0.1)
        made = to_keras(given, ignore=("dropout", "recurrent_dropout"))
        assert [type(part).__name__ for part in made.layers] == ["LSTM", "LSTM"]

    def test_dropout(self):
        layer = lstm(dropout=0.5, recurrent_dropout=0.25)
        with refused("cannot hold dropout=0.5, recurrent_dropout=0.25", "ignore="):
            from_keras(layer)
        with refused("cannot hold recurrent_dropout=0.25 of layer"):
            from_keras(layer, ignore=("dropout",))
        assert not from_keras(layer, ignore=("dropout", "recurrent_dropout")).options.is_random
        with refused("ignore may name dropout, recurrent_dropout, got 'units'"):
            from_keras(layer, ignore=("units",))

    @pytest.mark.parametrize("between", [kl.SpatialDropout1D, kl.GaussianNoise])
    def test_another_noise_between_layers(self, between):
        model = sequential(kl.LSTM(5, return_sequences=True), between(0.2), kl.LSTM(5))
        with refused("one dropout rate between its layers"):
            from_keras(model)
        assert from_keras(model, ignore=("dropout",)).changed_options() == {"num_layers": 2, "batch_first": True}

    @pytest.mark.parametrize("mode", ["sum", "mul", "ave", None])
    def test_merge_mode(self, mode):
        layer = kl.Bidirectional(kl.LSTM(5), merge_mode=mode)
        layer.build((None, None, 4))
        with refused("merge_mode of layer", f"must be 'concat', got {mode!r}"):
            from_keras(layer)

    def test_directions_that_differ(self):
        layer = kl.Bidirectional(kl.LSTM(5), backward_layer=kl.LSTM(5, activation="relu", go_backwards=True))
        layer.build((None, None, 4))
        with refused("both directions", "must have the same activations"):
            from_keras(layer)

    def test_unbuilt(self):
        for layer in (kl.LSTM(5, name="new"), kl.Bidirectional(kl.LSTM(5), name="new")):
            with refused("layer 'new' must be built"):
                from_keras(layer)

    @pytest.mark.parametrize("make", [lambda: kl.GRU(5), lambda: kl.Dense(5), lambda: kl.Bidirectional(kl.GRU(5))])
    def test_other_layers(self, make):
        with refused("must be .*LSTM", error=TypeError):
            from_keras(make())

    def test_nothing_of_keras(self):
        class LSTM:
            def get_config(self):
                return {}

        for source in (LSTM(), None, 3, np.zeros(3)):
            with refused("source must be a Keras LSTM", f"got {type(source).__name__}", error=TypeError):
                from_keras(source)

    def test_a_subclass(self):
        class Mine(kl.LSTM):
            def call(self, *arguments, **options):
                return 0

        with refused("its subclass Mine", error=TypeError):
            from_keras(Mine(5))

    def test_functions_of_ones_own(self):
        def tanh(x):
            return x

        def other(x):
            return x

        for function, said in ((tanh, "must be Keras' own"), (other, "must be one of sigmoid")):
            with refused("activation of layer", said):
                from_keras(lstm(activation=function))
        with refused("recurrent_activation of layer", "must be one of sigmoid", "got 'elu'"):
            from_keras(lstm(recurrent_activation="elu"))

    def test_options_that_tell_themselves(self):
        with refused("activations must be None"):
            from_keras(lstm(), activations=("relu", "tanh", "tanh"))
        with refused("reverse must be None"):
            from_keras(lstm(), reverse=False)
        with refused("layer must be None"):
            from_keras(lstm(), layer="x")


class TestArrays:
    KERNEL, RECURRENT, BIAS = (np.ones(shape, "float32") for shape in ((4, 20), (5, 20), (20,)))

    def test_shapes_that_do_not_fit(self):
        k, r, b = self.KERNEL, self.RECURRENT, self.BIAS
        for given, wanted in (
            ([k.T, r, b], r"kernel must have shape \(inputs, 4\*hidden\) = \(4, 20\), got \(20, 4\); is it transposed"),
            ([k, r.T, b], r"recurrent_kernel .*= \(5, 20\), got \(20, 5\); is it transposed"),
            ([k, r, b[:5]], r"bias must have shape \(4\*hidden,\) = \(20,\), got \(5,\)"),
            ([k[:, :16], r, b], r"kernel must .*= \(4, 20\), got \(4, 16\)"),
            ([k[:, :15], r[:, :15], b[:15]], "is it a GRU's"),
            ([k[0], r, b], "kernel must"),
            ([k, r, b, k[:3], r, b], r"kernel must have shape .* = \(4, 20\), got \(3, 20\)"),
            ([k[:0], r, b], "kernel must"),
        ):
            with refused("the arrays of layer 'source' do not fit", wanted):
                from_keras(given)
        for bad in ([], [k], [k, r, b, k, r]):
            with refused("source must have the arrays kernel, recurrent_kernel", f"got {len(bad)} arrays"):
                from_keras(bad)

    def test_dtypes(self):
        k, r, b = self.KERNEL, self.RECURRENT, self.BIAS
        with refused("must have one dtype, got float32, float32, float64"):
            from_keras([k, r, b.astype("float64")])
        for bad in (k.astype(int), k.astype(complex), k.tolist(), None):
            with pytest.raises((TypeError, ValueError), match="kernel"):
                from_keras([bad, r, b])
