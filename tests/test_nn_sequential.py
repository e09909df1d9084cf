"""gpulstm.nn.Sequential: a whole model against PyTorch by value and gradient, and what it does with its layers."""

from collections.abc import MutableMapping

import jax
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays, nn
from tests import backends
from tests.layer_cases import LIBRARIES, array_of, slope
from tests.model_cases import (
    BATCH,
    CLASSES,
    HIDDEN,
    LENGTHS,
    STEPS,
    TOKENS,
    WIDTH,
    Noise,
    forecaster,
    moved,
    tagger,
    tokens,
)


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


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
        """As they do on a dict of the same arrays; JAX's are replaced, NumPy's changed in place. JAX compiles each
        operation for each shape, so there the model is a small one."""

        def new_model():
            linear = [nn.Linear(WIDTH, WIDTH, dtype="float64", rng=seed) for seed in range(2)]
            return tagger() if library == "numpy" else nn.Sequential(linear[0], nn.Sequential(linear[1]))

        model = moved(new_model(), lambda a: array_of(library, a))
        x = tokens() if library == "numpy" else np.random.default_rng(1).normal(size=(BATCH, WIDTH))
        out, cache = model.forward(array_of(library, x))
        _, grads = model.backward(cache, out)
        plain = {name: array_of(library, arrays.to_numpy(value)) for name, value in model.params.items()}
        same = {name: array_of(library, arrays.to_numpy(value)) for name, value in grads.items()}
        for params, gradients in ((model.params, grads), (plain, same)):
            gl.training.clip_by_global_norm(gradients, 0.5)
            gl.training.Adam(0.1).step(params, gradients)
        before = new_model().params
        assert len(before) >= 4
        for name, value in model.params.items():
            np.testing.assert_array_equal(value, plain[name])
            assert not np.array_equal(value, before[name])


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
