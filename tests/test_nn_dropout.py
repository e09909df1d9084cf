"""gpulstm.nn.Dropout: the masks of the counters, on every array path, forward and backward."""

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn, philox
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu
from tests.layer_cases import LIBRARIES, array_of, bits, slope

SEED = 0x0123_4567_89AB_CDEF
STREAM = 3 * 2**30
SHAPES = [(1,), (7,), (5, 7), (4, 5, 7), (2, 3, 5, 7), (0, 7), (4, 0, 7), (3, 70, 100), (2, 20_000)]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def plain_mask(shape, probability, seed=SEED):
    """Element (..., sequence, unit) by its own counter; the axes before are time."""
    sequences = shape[-2] if len(shape) > 1 else 1
    times = int(np.prod(shape[:-2]))
    counter = (np.arange(shape[-1]), np.arange(sequences)[:, None], np.arange(times)[:, None, None], STREAM)
    word = philox.words(seed, counter)[0].reshape(shape)
    return np.where(word < round(probability * 2**32), 0.0, 1 / (1 - probability))


def check(convert, shape, probability, dtype="float64"):
    rng = np.random.default_rng(1)
    x, dout = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    mask = plain_mask(shape, probability).astype(dtype)
    layer, given = nn.Dropout(probability), convert(x)
    out, cache = layer.forward(given, rng=SEED)
    dx, grads = layer.backward(cache, convert(dout))
    assert grads == layer.params == {} and layer(given) is given
    for got, want in ((out, x * mask), (dx, dout * mask)):
        assert type(got) is type(given) and got.dtype == given.dtype and tuple(got.shape) == shape
        np.testing.assert_array_equal(arrays.to_numpy(got), want)
    np.testing.assert_array_equal(arrays.to_numpy(given), x)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_are_those_of_the_counters(library, shape, probability):
    check(lambda a: array_of(library, a), shape, probability)


class TestEngines:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_masks_are_those_of_the_counters(self, backend, shape, probability, dtype):
        check(backend.array, shape, probability, dtype)

    def test_strided_input(self, backend):
        x = np.arange(24.0).reshape(4, 6)
        given = backend.array(x.T.copy()).T
        out, cache = nn.Dropout(0.5).forward(given, rng=SEED)
        np.testing.assert_array_equal(backend.numpy(out), x * plain_mask((4, 6), 0.5))

    def test_nan_and_infinity_go_through(self, backend):
        with np.errstate(invalid="ignore"):
            out, _ = nn.Dropout(0.5).forward(backend.array(np.array([[np.nan, np.inf] * 8])), rng=SEED)
            expected = np.array([[np.nan, np.inf] * 8]) * plain_mask((1, 16), 0.5)
        np.testing.assert_array_equal(backend.numpy(out), expected)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_how_much_is_kept(probability):
    """Over 10^6 draws, within five standard deviations of the binomial distribution, for a fixed seed."""
    out, _ = nn.Dropout(probability).forward(np.ones((10, 100, 1000)), rng=SEED)
    kept = np.count_nonzero(out) / out.size
    assert abs(kept - (1 - probability)) < 5 * (probability * (1 - probability) / out.size) ** 0.5
    np.testing.assert_allclose(out[out != 0], 1 / (1 - probability), rtol=1e-15)


def test_an_elements_mask_does_not_depend_on_the_sizes_of_the_rest():
    small, large = (nn.Dropout(0.5).forward(np.ones(shape), rng=3)[0] for shape in ((2, 3, 5), (4, 7, 9)))
    np.testing.assert_array_equal(small, large[:2, :3, :5])


def test_seeds_and_generators():
    def draw(rng):
        return bits(nn.Dropout(0.5).forward(np.ones((8, 16)), rng=rng)[0])

    assert draw(7) == draw(7) == draw(np.int64(7)) != draw(8)
    assert draw(np.random.default_rng(3)) == draw(np.random.default_rng(3))
    generator = np.random.default_rng(3)
    assert draw(generator) != draw(generator) and draw(None) != draw(None)


def test_two_of_them_in_a_model_do_not_share_masks():
    x = np.ones((50, 20))
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    out, cache = model.forward(x, rng=7)
    assert abs(np.mean(out != 0) - 0.25) < 0.05, "a shared mask would leave half of it"
    np.testing.assert_array_equal(model.forward(x, rng=7)[0], out)
    np.testing.assert_array_equal(model.backward(cache, x)[0], out)
    assert model(x) is x


def test_gradients_are_finite_differences():
    rng = np.random.default_rng(2)
    x, dout, direction = rng.normal(size=(3, 4, 5, 6))
    layer = nn.Dropout(0.4)
    dx, _ = layer.backward(layer.forward(x, rng=1)[1], dout)
    numeric = slope(lambda a: np.sum(layer.forward(a, rng=1)[0] * dout), x, direction)
    np.testing.assert_allclose(np.sum(dx * direction), numeric, rtol=1e-7)


def test_under_jit():
    x = np.ones((3, 4, 5))
    got = jax.jit(lambda x: nn.Dropout(0.5).forward(x, rng=SEED)[0])(x)
    np.testing.assert_array_equal(got, plain_mask((3, 4, 5), 0.5))


def test_torch_differentiates_through_it():
    x = torch.ones((4, 5, 7), dtype=torch.float64, requires_grad=True)
    nn.Dropout(0.3).forward(x, rng=SEED)[0].sum().backward()
    np.testing.assert_array_equal(x.grad, plain_mask((4, 5, 7), 0.3))


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_the_kernel_is_clean(mode):
    with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
        check(cupy.asarray, (3, 5, 7), 0.3, "float32")
        assert cupy.on_cpu.launches == {"masked_copy": 2}


@pytest.mark.parametrize(
    "probability, error", [(1, ValueError), (-0.1, ValueError), ("half", TypeError), (True, TypeError)]
)
def test_it_refuses_a_wrong_probability(probability, error):
    with pytest.raises(error, match="probability must be"):
        nn.Dropout(probability)


@pytest.mark.parametrize("x, error", [(np.ones(3, int), TypeError), ([1.0], TypeError), (np.ones(()), ValueError)])
def test_it_refuses_a_wrong_input(x, error):
    layer = nn.Dropout(0.5)
    for call in (layer, layer.forward):
        with pytest.raises(error, match="x must"):
            call(x)


@pytest.mark.parametrize("dout, error", [(np.ones((4, 2)), ValueError), (torch.ones(4, 3), TypeError)])
def test_it_refuses_a_wrong_gradient(dout, error):
    layer = nn.Dropout(0.5)
    with pytest.raises(error, match="dout must"):
        layer.backward(layer.forward(np.ones((4, 3)))[1], dout)


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_it_refuses_a_wrong_seed(probability):
    with pytest.raises(TypeError, match="rng must be"):
        nn.Dropout(probability).forward(np.ones((2, 3)), rng="seven")


def test_repr():
    assert repr(nn.Dropout(0.25)) == "Dropout(0.25)"
