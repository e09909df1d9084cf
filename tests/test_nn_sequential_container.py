"""gpulstm.nn.Sequential as a container: state dicts, numbers and slices, copies, and what its errors say."""

import copy
import pickle

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import nn
from tests.model_cases import BATCH, CLASSES, HIDDEN, LENGTHS, STEPS, WIDTH, Noise, forecaster, tagger, tokens


class TestLoading:
    def test_a_model_of_its_own_kind(self):
        model, other = forecaster(seed=2), forecaster(seed=3)
        x = np.random.default_rng(1).normal(size=(STEPS, BATCH, WIDTH))
        assert not np.array_equal(model(x), other(x))
        other.load_state_dict({name: torch.asarray(value) for name, value in model.params.items()})
        np.testing.assert_array_equal(model(x), other(x))
        assert other.params["3.weight"] is not model.params["3.weight"]

    def test_everything_wrong_is_in_one_error_and_nothing_changes(self):
        model = forecaster()
        before = {name: (value, value.copy()) for name, value in model.params.items()}
        given = {name: value + 1 for name, (value, _) in before.items()}
        del given["2.bias_l0"]
        given |= {"3.weight": np.ones((HIDDEN, CLASSES)), "1.0.scale": np.ones(1), "7.weight": np.ones(1)}
        with pytest.raises(ValueError) as error:
            model.load_state_dict(given)
        assert str(error.value) == (
            "the state dict does not fit this model: unexpected 7.weight; "
            "layer 1 (Sequential): layer 0 (Linear): unexpected scale; "
            "layer 2 (LSTM): missing bias_l0 (16,); "
            "layer 3 (Linear): weight must have shape (3, 4), got (4, 3); is it transposed?"
        )
        for name, (value, numbers) in before.items():
            assert model.params[name] is value
            np.testing.assert_array_equal(value, numbers)

    def test_a_value_that_is_no_array_changes_nothing_either(self):
        model = forecaster()
        given = {name: value + 1 for name, value in model.params.items()} | {"3.bias": "zero"}
        before = dict(model.params)
        with pytest.raises(TypeError, match=r"layer 3 \(Linear\): bias must be an array of floating-point numbers"):
            model.load_state_dict(given)
        assert all(model.params[name] is value for name, value in before.items())

    def test_it_refuses_what_is_no_mapping(self):
        with pytest.raises(TypeError, match="mapping must be a dict of arrays .* got list"):
            forecaster().load_state_dict([1])


class TestAsAContainer:
    def test_numbers_slices_and_length(self):
        model = forecaster()
        assert len(model) == 4 and [type(layer).__name__ for layer in model] == ["LSTM", "Sequential", "LSTM", "Linear"]
        assert model[0] is next(iter(model)) and model[-1] is model[3]
        part = model[2:]
        assert isinstance(part, nn.Sequential) and len(part) == 2 and part[1] is model[3]
        with pytest.raises(IndexError):
            model[4]

    def test_repr(self):
        assert repr(nn.Sequential(nn.Embedding(5, 3), nn.Sequential(nn.LastStep(), Noise.__new__(Noise)))).startswith(
            "Sequential(\n"
            "  (0): Embedding(5, 3, dtype='float32')\n"
            "  (1): Sequential(\n"
            "    (0): LastStep()\n"
            "    (1): Noise()\n"
            "  )\n"
            ")"
        )
        assert "Linear" in repr(forecaster()) and "object at" not in repr(forecaster())

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_a_copy_is_its_own(self, copied):
        model, x = tagger(), tokens()
        expected = model(x)
        twin = copied(model)
        twin.params["2.bias"] += 1
        np.testing.assert_array_equal(model(x), expected)
        np.testing.assert_allclose(twin(x), expected + 1, rtol=1e-12)
        out, cache = twin.forward(x, lengths=LENGTHS)
        assert twin.backward(cache, out)[1].keys() == model.params.keys()

    @pytest.mark.parametrize(
        "layers, error, message",
        [
            ((), ValueError, "Sequential must have at least one layer"),
            (([nn.LastStep()],), TypeError, r"takes its layers one by one, got a list; write Sequential\(\*layers\)"),
            ((nn.LastStep(), np.tanh), TypeError, "layer 1 must be a layer with forward, backward, got <ufunc 'tanh'>"),
            ((nn.LastStep,), TypeError, "layer 0 must be a layer, got the class LastStep; call it to make one"),
        ],
        ids=str,
    )
    def test_what_is_no_layer(self, layers, error, message):
        with pytest.raises(error, match=message):
            nn.Sequential(*layers)

    def test_a_layer_cannot_be_in_it_twice_unless_it_has_no_parameters(self):
        linear, last = nn.Linear(2, 2), nn.LastStep()
        with pytest.raises(ValueError, match=r"layer 1 \(Sequential\) must have parameters of its own, got those of "):
            nn.Sequential(linear, nn.Sequential(last, linear))
        assert len(nn.Sequential(last, last)) == 2


class TestErrors:
    """Which layer, and the layer's own message, in the layer's own type of error."""

    @pytest.mark.parametrize(
        "call, error, message",
        [
            (lambda m: m(tokens() + 5), ValueError, r"^layer 0 \(Embedding\): x must be between 0 and count - 1"),
            (lambda m: m(tokens() * 1.0), TypeError, r"^layer 0 \(Embedding\): x must have an integer dtype"),
            (lambda m: m.forward(tokens(), lengths=[1]), ValueError, r"^layer 1 \(LSTM\): lengths must have shape"),
            (lambda m: m.stream(tokens(), (1,)), TypeError, r"^layer 1 \(LSTM\): state must be a pair \(h, c\)"),
            (
                lambda m: m.backward(m.forward(tokens())[1], np.ones((STEPS, BATCH, 2))),
                ValueError,
                r"^layer 2 \(Linear\): dout must have the shape of forward's result, \(6, 4, 3\), got \(6, 4, 2\)",
            ),
            (
                lambda m: nn.Sequential(nn.LastStep(), m)(np.ones((2, 3, 4))),
                TypeError,
                r"^layer 1 \(Sequential\): layer 0 \(Embedding\): x must have an integer dtype",
            ),
        ],
    )
    def test_it_names_the_layer(self, call, error, message):
        with pytest.raises(error, match=message):
            call(tagger())

    def test_an_error_of_another_kind_gets_a_note(self):
        class Odd(TypeError):
            pass

        class Failing(Noise):
            def __call__(self, x):
                raise Odd("one", "two")

        with pytest.raises(Odd) as error:
            nn.Sequential(nn.LastStep(), Failing())(np.ones((2, 3, 4)))
        assert error.value.args == ("one", "two") and error.value.__notes__ == ["in layer 1 (Failing)"]

    @pytest.mark.parametrize(
        "state, error, message",
        [
            ((None,), ValueError, "state must have one state for each of 3 recurrent layers, got 1"),
            (gl.State(1, 2), TypeError, r"state must be a tuple .* got State; write \(state,\)"),
            ({}, TypeError, "state must be a tuple of a state for each recurrent layer, got dict"),
        ],
        ids=str,
    )
    def test_a_wrong_state(self, state, error, message):
        x = np.ones((STEPS, BATCH, WIDTH))
        for call in (forecaster().stream, forecaster().forward):
            with pytest.raises(error, match=message):
                call(x, state)

    def test_a_wrong_cache(self):
        model = tagger()
        other = forecaster().forward(np.ones((STEPS, BATCH, WIDTH)))[1]
        for cache in (None, other):
            with pytest.raises(TypeError, match=r"cache must be that of out, cache = forward\(x\) of this model"):
                model.backward(cache, np.ones((STEPS, BATCH, CLASSES)))

    def test_a_layer_that_forgets_a_gradient(self):
        class Forgetful(nn.Linear):
            def backward(self, cache, dout):
                return dout, {}

        model = nn.Sequential(Forgetful(2, 2))
        with pytest.raises(ValueError, match=r"layer 0 \(Forgetful\): backward must give gradients of \['weight'"):
            model.backward(model.forward(np.ones((3, 2), "float32"))[1], np.ones((3, 2), "float32"))

    def test_a_layer_before_one_without_a_gradient_of_its_input(self):
        class Rounded(Noise):
            def backward(self, cache, dout):
                return None, {}

        model = nn.Sequential(nn.Linear(2, 2), Rounded())
        with pytest.raises(TypeError, match=r"layer 0 \(Linear\): layer 1 behind it gives no gradient of its input"):
            model.backward(model.forward(np.ones((3, 2), "float32"))[1], np.ones((3, 2), "float32"))
