"""gpulstm.nn.LastStep: what it picks, against a plain loop and the LSTM's own final state, on every array path."""

import jax
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays, nn
from tests import backends
from tests.layer_cases import LIBRARIES, array_of, slope

LENGTHS = [None, [5, 0, 2, 1], [0, 0, 0, 0]]
FLAGS = [(first, both) for first in (False, True) for both in (False, True)]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def plain(x, lengths, batch_first, bidirectional):
    x = x.swapaxes(0, 1) if batch_first else x
    steps, batch, features = x.shape
    out = np.zeros((batch, features), x.dtype)
    for n, length in enumerate([steps] * batch if lengths is None else lengths):
        if length:
            half = features // 2 if bidirectional else features
            out[n, :half], out[n, half:] = x[length - 1, n, :half], x[0, n, half:]
    return out


def solved(convert, x, dout, lengths, batch_first, bidirectional):
    """(out, dx, that of a call) as NumPy arrays."""
    layer = nn.LastStep(batch_first=batch_first, bidirectional=bidirectional)
    given = convert(x)
    out, cache = layer.forward(given, lengths=lengths)
    dx, grads = layer.backward(cache, convert(dout))
    assert grads == layer.params == {}
    for got in (out, dx):
        assert type(got) is type(given) and got.dtype == given.dtype
    return tuple(arrays.to_numpy(a) for a in (out, dx, layer(given, lengths=lengths)))


def check(convert, lengths, batch_first, bidirectional, dtype="float64"):
    rng = np.random.default_rng(3)
    x, dout = rng.normal(size=(5, 4, 6)).astype(dtype), rng.normal(size=(4, 6)).astype(dtype)
    x = x.swapaxes(0, 1).copy() if batch_first else x
    flags = (lengths, batch_first, bidirectional)
    out, dx, called = solved(convert, x, dout, *flags)
    expected = plain(x, *flags)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(called, expected)
    unit = np.eye(x.size).reshape(-1, *x.shape)  # the layer is linear: its matrix, column by column
    jacobian = np.array([plain(u, *flags) for u in unit])
    np.testing.assert_array_equal(dx, np.einsum("knf,nf->k", jacobian, dout).reshape(x.shape))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_it_picks_each_sequences_own_step(library, lengths, flags):
    check(lambda a: array_of(library, a), lengths, *flags)


class TestEngines:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("flags", FLAGS, ids=str)
    @pytest.mark.parametrize("lengths", LENGTHS, ids=str)
    def test_it_picks_each_sequences_own_step(self, backend, lengths, flags, dtype):
        check(backend.array, lengths, *flags, dtype)

    @pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (0, 0, 4)], ids=str)
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_nothing_to_pick(self, backend, shape, bidirectional):
        dout = np.ones((shape[1], 4))
        out, dx, _ = solved(backend.array, np.ones(shape), dout, None, False, bidirectional)
        np.testing.assert_array_equal(out, np.zeros((shape[1], 4)))
        np.testing.assert_array_equal(dx, np.zeros(shape))

    def test_without_a_batch_axis(self, backend):
        x, dout = np.arange(20.0).reshape(5, 4), np.array([1.0, 2, 3, 4])
        for lengths, expected in ((None, [16, 17, 2, 3]), (2, [4, 5, 2, 3]), (0, [0, 0, 0, 0])):
            out, dx, _ = solved(backend.array, x, dout, lengths, False, True)
            np.testing.assert_array_equal(out, expected)
            wanted = np.zeros((5, 4))
            if lengths != 0:
                wanted[(lengths or 5) - 1, :2], wanted[0, 2:] = dout[:2], dout[2:]
            np.testing.assert_array_equal(dx, wanted)

    def test_nan_of_a_step_that_is_not_picked_stays_out(self, backend):
        x = np.full((3, 2, 2), np.nan)
        x[1, 0] = 1.0
        np.testing.assert_array_equal(
            solved(backend.array, x, np.ones((2, 2)), [2, 0], False, False)[0], [[1, 1], [0, 0]]
        )

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_it_is_the_lstms_final_hidden_state(self, backend, bidirectional):
        lstm = gl.LSTM(3, 4, 2, bidirectional=bidirectional, dtype="float64", rng=1)
        lstm.params = backend.array(lstm.params)
        lengths = [6, 0, 2]
        y, state = lstm(backend.array(np.random.default_rng(2).normal(size=(6, 3, 3))), lengths=lengths)
        out = nn.LastStep(bidirectional=bidirectional)(y, lengths=lengths)
        final = backend.numpy(state.h)
        np.testing.assert_array_equal(backend.numpy(out), np.concatenate(final[2:] if bidirectional else final[1:], -1))


def test_gradients_are_finite_differences():
    rng = np.random.default_rng(4)
    x, dout, direction = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    layer = nn.LastStep(bidirectional=True)
    dx, _ = layer.backward(layer.forward(x, lengths=[5, 0, 2])[1], dout)
    numeric = slope(lambda a: np.sum(layer(a, lengths=[5, 0, 2]) * dout), x, direction)
    np.testing.assert_allclose(np.sum(dx * direction), numeric, rtol=1e-8)


def test_under_jit():
    layer = nn.LastStep()
    x = np.random.default_rng(5).normal(size=(5, 3, 4))
    got = jax.jit(lambda x, lengths: layer(x, lengths=lengths))(x, np.array([5, 0, 2]))
    np.testing.assert_array_equal(got, layer(x, lengths=[5, 0, 2]))


@pytest.mark.parametrize(
    "x, lengths, error, message",
    [
        (np.ones(4), None, ValueError, r"x must have shape \(time, batch, features\), .* got \(4,\)"),
        (np.ones((5, 2, 3)), None, ValueError, r"x must have an even number of features .* got shape \(5, 2, 3\)"),
        (np.ones((5, 2, 4)), [6, 1], ValueError, "lengths must be between 0 and the number of time steps 5, got 6"),
        (np.ones((5, 2, 4)), [1], ValueError, r"lengths must have shape \(batch,\) = \(2,\), got \(1,\)"),
        (np.ones((5, 2, 4), int), None, TypeError, "x must have dtype"),
        ([[1.0]], None, TypeError, "x must be an array"),
    ],
)
def test_it_refuses_a_wrong_input(x, lengths, error, message):
    with pytest.raises(error, match=message):
        nn.LastStep(bidirectional=True)(x, lengths=lengths)


@pytest.mark.parametrize("dout, error", [(np.ones((4, 2)), ValueError), (torch.ones(2, 4), TypeError)])
def test_it_refuses_a_wrong_gradient(dout, error):
    layer = nn.LastStep()
    with pytest.raises(error, match="dout must"):
        layer.backward(layer.forward(np.ones((5, 2, 4)))[1], dout)


def test_repr():
    assert repr(nn.LastStep(bidirectional=True)) == "LastStep(bidirectional=True)"
