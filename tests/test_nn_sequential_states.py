"""gpulstm.nn.Sequential: gradients of the states that its recurrent layers begin and end with."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import nn
from tests import backends
from tests.layer_cases import slope
from tests.model_cases import BATCH, CLASSES, HIDDEN, LENGTHS, STEPS, WIDTH, forecaster, moved

SIZES = (HIDDEN, 3, HIDDEN)  # of the recurrent layers, the second one in a model inside


def states(rng):
    return tuple(tuple(rng.normal(size=(1, BATCH, size)) for _ in "hc") for size in SIZES)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@pytest.mark.parametrize("given", [(0, 1, 2), (1,), ()], ids=str)
def test_gradients_of_both_are_finite_differences(given, lengths):
    model, rng = forecaster(), np.random.default_rng(3)
    x, dout = rng.normal(size=(STEPS, BATCH, WIDTH)), rng.normal(size=(STEPS, BATCH, CLASSES))
    state, every = states(rng), states(rng)
    dstate = tuple(every[i] if i in given else None for i in range(len(SIZES)))
    _, cache = model.forward(x, state, lengths=lengths)
    assert cache.dstate is None
    dx, grads = model.backward(cache, dout, dstate)

    def loss(x, state):
        out, final = model.stream(x, state, lengths=lengths)
        return np.sum(out * dout) + sum(
            np.sum(one * d) for i in given for one, d in zip(final[i], dstate[i], strict=True)
        )

    direction = rng.normal(size=x.shape)
    np.testing.assert_allclose(np.sum(dx * direction), slope(lambda v: loss(v, state), x, direction), rtol=1e-6)
    assert len(cache.dstate) == len(SIZES)
    for layer, parts in enumerate(cache.dstate):
        for part, gradient in enumerate(parts):
            direction = rng.normal(size=gradient.shape)

            def of_part(value, layer=layer, part=part):
                changed = [list(pair) for pair in state]
                changed[layer][part] = value
                return loss(x, tuple(map(tuple, changed)))

            found = np.sum(gradient * direction)
            np.testing.assert_allclose(found, slope(of_part, state[layer][part], direction), rtol=1e-6, atol=1e-9)


class TestWindows:
    BACKENDS = backends.ALL

    def test_handed_on_the_gradient_is_that_of_the_whole(self, backend):
        """And dropped it is not: a window that knows nothing of the ones behind it learns less."""
        model, rng = moved(forecaster(), backend.array), np.random.default_rng(4)
        x, dout = rng.normal(size=(STEPS, BATCH, WIDTH)), rng.normal(size=(STEPS, BATCH, CLASSES))
        _, cache = model.forward(backend.array(x))
        whole_dx, whole = model.backward(cache, backend.array(dout))

        def of_windows(handed_on):
            parts, state, caches = (slice(0, 2), slice(2, 3), slice(3, STEPS)), None, []
            for part in parts:
                _, cache = model.forward(backend.array(x[part]), state)
                state = cache.state
                caches.append(cache)
            dstate, dx, total = None, [], {}
            for part, cache in zip(reversed(parts), reversed(caches), strict=True):
                of_x, grads = model.backward(cache, backend.array(dout[part]), dstate if handed_on else None)
                dstate, dx = cache.dstate, [backend.numpy(of_x), *dx]
                total = {name: total.get(name, 0) + backend.numpy(value) for name, value in grads.items()}
            return np.concatenate(dx), total, dstate

        dx, total, dstate = of_windows(handed_on=True)
        np.testing.assert_allclose(dx, backend.numpy(whole_dx), rtol=1e-10, atol=1e-13)
        for name, value in whole.items():
            np.testing.assert_allclose(total[name], backend.numpy(value), rtol=1e-10, atol=1e-13, err_msg=name)
        for got, want in zip(dstate, cache.dstate, strict=True):
            for one, other in zip(got, want, strict=True):
                np.testing.assert_allclose(backend.numpy(one), backend.numpy(other), rtol=1e-10, atol=1e-13)
        cut_dx, _, _ = of_windows(handed_on=False)
        assert np.abs(cut_dx[:2] - backend.numpy(whole_dx)[:2]).max() > 1e-4


@pytest.mark.parametrize(
    "dstate, error, message",
    [
        ((None,), ValueError, "dstate must have one state for each of 3 recurrent layers, got 1"),
        (gl.State(1, 2), TypeError, r"dstate must be a tuple .* got State; write \(dstate,\)"),
        ((None, None, (1, 2)), TypeError, r"^layer 2 \(LSTM\): dstate"),
    ],
)
def test_a_wrong_gradient_of_states(dstate, error, message):
    model = forecaster()
    _, cache = model.forward(np.zeros((STEPS, BATCH, WIDTH)))
    with pytest.raises(error, match=message):
        model.backward(cache, np.zeros((STEPS, BATCH, CLASSES)), dstate)


def test_a_model_without_recurrent_layers_has_none():
    model = nn.Sequential(nn.Linear(2, 3, dtype="float64"))
    _, cache = model.forward(np.ones((4, 2)))
    model.backward(cache, np.ones((4, 3)))
    assert cache.dstate == ()
