"""gpulstm.nn.Sequential: a whole model against PyTorch by value and gradient, and what it does with its layers."""

import copy
import pickle
from collections.abc import MutableMapping

import jax
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays, nn
from tests import backends
from tests.layer_cases import LIBRARIES, array_of, slope

TOKENS, WIDTH, HIDDEN, CLASSES = 13, 5, 4, 3
STEPS, BATCH = 6, 4
LENGTHS = [6, 0, 3, 1]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def tagger(dtype="float64", dropout=0.0, seed=1):
    """Embedding, two bidirectional layers, linear: a class for each step."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Embedding(TOKENS, WIDTH, padding_index=0, dtype=dtype, rng=rng),
        gl.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, dropout=dropout, dtype=dtype, rng=rng),
        nn.Linear(2 * HIDDEN, CLASSES, dtype=dtype, rng=rng),
    )


def forecaster(dtype="float64", seed=2):
    """Recurrent layers that stand apart, one of them inside of a model inside."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        gl.LSTM(WIDTH, HIDDEN, dtype=dtype, rng=rng),
        nn.Sequential(nn.Linear(HIDDEN, WIDTH, dtype=dtype, rng=rng), gl.LSTM(WIDTH, 3, dtype=dtype, rng=rng)),
        gl.LSTM(3, HIDDEN, dtype=dtype, rng=rng),
        nn.Linear(HIDDEN, CLASSES, dtype=dtype, rng=rng),
    )


def tokens(seed=3):
    return np.random.default_rng(seed).integers(0, TOKENS, (STEPS, BATCH))


def moved(model, convert):
    """The same model with its parameters in another library."""
    twin = copy.deepcopy(model)
    for name, value in model.params.items():
        twin.params[name] = convert(value)
    return twin


class OfTorch(torch.nn.Module):
    """`tagger` in PyTorch, in evaluation mode; its state dict's names are a Sequential's."""

    def __init__(self):
        super().__init__()
        self.add_module("0", torch.nn.Embedding(TOKENS, WIDTH, padding_idx=0, dtype=torch.float64))
        lstm = torch.nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, dropout=0.5, dtype=torch.float64)
        self.add_module("1", lstm)
        self.add_module("2", torch.nn.Linear(2 * HIDDEN, CLASSES, dtype=torch.float64))
        self.train(False)

    def forward(self, x, lengths=None):
        embedding, lstm, linear = self.children()
        embedded = embedding(x)
        if lengths is None:
            return linear(lstm(embedded)[0])
        packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, lengths, enforce_sorted=False)
        return linear(torch.nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], total_length=len(x))[0])


def check_against_torch(convert, dtype, lengths, tolerance):
    torch.manual_seed(5)
    reference, x = OfTorch(), tokens()
    dout = np.random.default_rng(6).normal(size=(STEPS, BATCH, CLASSES)).astype(dtype)
    expected = reference(torch.asarray(x), lengths)
    expected.backward(torch.asarray(dout.astype("float64")))
    wanted = {name: p.grad.numpy() for name, p in reference.named_parameters()}
    for name in [name for name in wanted if ".bias_ih" in name]:
        wanted[name.replace("bias_ih", "bias")] = wanted.pop(name)
        del wanted[name.replace("bias_ih", "bias_hh")]

    model = moved(tagger(dtype), convert)
    model.load_state_dict(reference.state_dict())
    out, cache = model.forward(convert(x), lengths=lengths)
    dx, grads = model.backward(cache, convert(dout))
    assert dx is None and list(grads) == list(model.params) and grads.keys() == wanted.keys()
    assert arrays.dtype_name(out) == dtype and len(cache.state) == 1
    numbers = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(arrays.to_numpy(out), expected.detach(), **numbers)
    np.testing.assert_allclose(arrays.to_numpy(model(convert(x), lengths=lengths)), expected.detach(), **numbers)
    for name in grads:
        np.testing.assert_allclose(arrays.to_numpy(grads[name]), wanted[name], **numbers, err_msg=name)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("lengths", [None, [6, 2, 3, 1]], ids=str)
def test_a_model_equals_torch(library, lengths):
    check_against_torch(lambda a: array_of(library, a), "float64", lengths, 1e-11)


class TestEngines:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-11)])
    @pytest.mark.parametrize("lengths", [None, [6, 2, 3, 1]], ids=str)
    def test_a_model_equals_torch(self, backend, lengths, dtype, tolerance):
        check_against_torch(backend.array, dtype, lengths, tolerance)

    def test_training_lowers_the_loss(self, backend):
        """A label for each sequence: whether token 1 is in it, among steps that count."""
        rng = np.random.default_rng(1)
        x, lengths = rng.integers(1, 5, (STEPS, 12)), rng.integers(0, STEPS + 1, 12)
        there = [1 in x[:length, n] for n, length in enumerate(lengths)]
        model = nn.Sequential(
            nn.Embedding(5, 4, dtype="float64", rng=rng),
            gl.LSTM(4, 6, bidirectional=True, dtype="float64", rng=rng),
            nn.LastStep(bidirectional=True),
            nn.Linear(12, 1, dtype="float64", rng=rng),
        )
        model = moved(model, backend.array)
        x, target = backend.array(x), backend.array(np.array(there, float)[:, None])
        optimiser, losses = gl.training.Adam(0.05), []
        for _ in range(60):
            out, cache = model.forward(x, lengths=lengths)
            loss, dout = nn.mean_squared_error(out, target)
            _, grads = model.backward(cache, dout)
            gl.training.clip_by_global_norm(grads, 1.0)
            optimiser.step(model.params, grads)
            losses.append(float(loss))
        assert losses[-1] < 0.01 < 0.2 < losses[0]

    def test_streaming_gives_what_one_call_gives(self, backend):
        model = moved(forecaster(), backend.array)
        x = np.random.default_rng(7).normal(size=(STEPS, BATCH, WIDTH))
        whole, final = model.stream(backend.array(x))
        assert len(final) == 3 and all(isinstance(state, gl.State) for state in final)
        state, parts = None, []
        for part in (x[:2], x[2:3], x[3:]):
            out, state = model.stream(backend.array(part), state)
            parts.append(backend.numpy(out))
        np.testing.assert_allclose(np.concatenate(parts), backend.numpy(whole), rtol=1e-13)
        for got, want in zip(state, final, strict=True):
            np.testing.assert_allclose(backend.numpy(got.h), backend.numpy(want.h), rtol=1e-13)
            np.testing.assert_allclose(backend.numpy(got.c), backend.numpy(want.c), rtol=1e-13)

    def test_training_begins_where_a_state_says(self, backend):
        model = moved(forecaster(), backend.array)
        x = np.random.default_rng(7).normal(size=(STEPS, BATCH, WIDTH))
        whole, cache = model.forward(backend.array(x))
        first, begun = model.forward(backend.array(x[:2]))
        second, done = model.forward(backend.array(x[2:]), begun.state)
        np.testing.assert_allclose(backend.numpy(second), backend.numpy(whole)[2:], rtol=1e-13)
        for got, want in zip(done.state, cache.state, strict=True):
            np.testing.assert_allclose(backend.numpy(got.c), backend.numpy(want.c), rtol=1e-13)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
def test_gradients_are_finite_differences(lengths):
    model, rng = forecaster(), np.random.default_rng(8)
    x, dout = rng.normal(size=(STEPS, BATCH, WIDTH)), rng.normal(size=(STEPS, BATCH, CLASSES))
    state = tuple(tuple(rng.normal(size=(1, BATCH, size)) for _ in "hc") for size in (HIDDEN, 3, HIDDEN))
    dx, grads = model.backward(model.forward(x, state, lengths=lengths)[1], dout)

    def loss(x):
        return np.sum(model.stream(x, state, lengths=lengths)[0] * dout)

    direction = rng.normal(size=x.shape)
    np.testing.assert_allclose(np.sum(dx * direction), slope(loss, x, direction), rtol=1e-7)
    for name in grads:
        value = model.params[name]
        direction = rng.normal(size=value.shape)

        def changed(array, name=name):
            model.params[name] = array
            return loss(x)

        np.testing.assert_allclose(np.sum(grads[name] * direction), slope(changed, value, direction), rtol=1e-6)
        model.params[name] = value


class TestParams:
    def test_names_are_pytorchs(self):
        assert list(forecaster().params) == [
            *("0.weight_ih_l0", "0.weight_hh_l0", "0.bias_l0", "1.0.weight", "1.0.bias"),
            *("1.1.weight_ih_l0", "1.1.weight_hh_l0", "1.1.bias_l0"),
            *("2.weight_ih_l0", "2.weight_hh_l0", "2.bias_l0", "3.weight", "3.bias"),
        ]

    def test_it_is_a_live_view(self):
        model = forecaster()
        params = model.params
        assert isinstance(params, MutableMapping) and len(params) == len(list(params)) == 13
        new = np.zeros((CLASSES, HIDDEN))
        params["3.weight"] = new
        assert model[3].params["weight"] is new
        inner = params["1.0.bias"] = np.ones(WIDTH)
        assert model[1][0].params["bias"] is inner
        model[3].params = {"weight": new + 1}
        assert "3.bias" not in params and params["3.weight"][0, 0] == 1 and len(params) == 12
        assert repr(params).startswith("{0.weight_ih_l0: (16, 5) float64, ")

    @pytest.mark.parametrize("name", ["3.nothing", "4.weight", "weight", "3", "03.weight", "-1.weight", "", 3, None])
    def test_it_has_no_other_names(self, name):
        params = forecaster().params
        assert name not in params
        with pytest.raises(KeyError):
            params[name]
        with pytest.raises(KeyError):
            params[name] = np.ones(1)

    def test_nothing_can_be_taken_away(self):
        with pytest.raises(TypeError, match="'3.bias' cannot be taken away"):
            del forecaster().params["3.bias"]

    @pytest.mark.parametrize("library", ["numpy", "jax"])
    def test_adam_and_clipping_work_on_it(self, library):
        """As they do on a dict of the same arrays; JAX's are replaced, NumPy's changed in place."""
        model = moved(tagger(), lambda a: array_of(library, a))
        out, cache = model.forward(array_of(library, tokens()))
        _, grads = model.backward(cache, out)
        plain = {name: array_of(library, arrays.to_numpy(value)) for name, value in model.params.items()}
        same = {name: array_of(library, arrays.to_numpy(value)) for name, value in grads.items()}
        for params, gradients in ((model.params, grads), (plain, same)):
            gl.training.clip_by_global_norm(gradients, 0.5)
            gl.training.Adam(0.1).step(params, gradients)
        before = tagger().params
        for name, value in model.params.items():
            np.testing.assert_array_equal(value, plain[name])
            assert not np.array_equal(value, before[name])


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


class Noise:
    """A random layer, to see which seeds it is given."""

    def __init__(self):
        self.seeds = []

    def __call__(self, x):
        return x

    def forward(self, x, rng=None):
        self.seeds.append(rng)
        return x, None

    def backward(self, cache, dout):
        return dout, {}


class TestSeeds:
    def seeds(self, rng):
        layers = [Noise() for _ in range(4)]
        nn.Sequential(layers[0], layers[1], nn.Linear(2, 2), nn.Sequential(layers[2], layers[3])).forward(
            np.ones((3, 2), "float32"), rng=rng
        )
        return [layer.seeds[0] for layer in layers]

    def test_each_layer_has_its_own_and_the_same_ones_again(self):
        seeds = self.seeds(7)
        assert len(set(seeds)) == 4 and all(0 <= seed < 2**64 for seed in seeds)
        assert self.seeds(7) == seeds == self.seeds(np.int64(7))
        assert not set(seeds) & set(self.seeds(8))
        assert self.seeds(np.random.default_rng(3)) == self.seeds(np.random.default_rng(3)) != seeds

    def test_a_generator_goes_on(self):
        generator = np.random.default_rng(3)
        assert self.seeds(generator) != self.seeds(generator)

    def test_none_leaves_it_to_the_layers(self):
        assert self.seeds(None) == [None] * 4

    def test_they_do_not_change_from_version_to_version(self):
        assert self.seeds(7)[:2] == [3386250816931739734, 4042502035264064771]

    @pytest.mark.parametrize("rng", ["seven", -1, True])
    def test_a_wrong_seed_is_refused_even_where_nothing_is_random(self, rng):
        with pytest.raises((TypeError, ValueError), match="rng must"):
            nn.Sequential(nn.Linear(2, 2)).forward(np.ones((3, 2), "float32"), rng=rng)

    def test_dropout_between_the_layers_of_an_lstm(self):
        model = tagger(dropout=0.5)
        outs = [model.forward(tokens(), rng=seed)[0] for seed in (1, 1, 2, None, None)]
        np.testing.assert_array_equal(outs[0], outs[1])
        assert not np.array_equal(outs[0], outs[2]) and not np.array_equal(outs[3], outs[4])
        np.testing.assert_array_equal(model(tokens()), model(tokens()))


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
            with pytest.raises(TypeError, match="cache must be what this model's forward returned last"):
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
