"""gpulstm.nn.LayerNorm: values and gradients against PyTorch and finite differences, on every array path."""

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn
from gpulstm.cuda import modules, sources
from gpulstm.engines import cupy_layer_norm
from tests import backends
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu
from tests.layer_cases import LIBRARIES, array_of, bits, slope

LEADING = [(), (5,), (4, 3), (2, 1, 3), (0, 3)]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def problem(leading, size, dtype="float64", epsilon=1e-5, seed=3):
    """(layer, x, dout) of NumPy; x is off centre and its rows differ in scale."""
    rng = np.random.default_rng(seed)
    layer = nn.LayerNorm(size, epsilon=epsilon, dtype=dtype)
    for value in layer.params.values():
        value[...] = rng.normal(size=size)
    x = 3 + rng.normal(size=(*leading, size)) * rng.uniform(0.1, 3, (*leading, 1))
    return layer, x.astype(dtype), rng.normal(size=x.shape).astype(dtype)


def solved(layer, convert, x, dout):
    """(out, dx, dweight, dbias) of the same layer in another library, as NumPy arrays."""
    twin = nn.LayerNorm(layer.size, epsilon=layer.epsilon)
    twin.params = {name: convert(value) for name, value in layer.params.items()}
    given = convert(x)
    out, cache = twin.forward(given)
    dx, grads = twin.backward(cache, convert(dout))
    assert list(grads) == ["weight", "bias"]
    results = (out, dx, *grads.values())
    for got in (*results, twin(given)):
        assert type(got) is type(given) and got.dtype == given.dtype
    np.testing.assert_array_equal(arrays.to_numpy(twin(given)), arrays.to_numpy(out))
    return tuple(arrays.to_numpy(a) for a in results)


def of_torch(layer, x, dout):
    reference = torch.nn.LayerNorm(layer.size, eps=layer.epsilon, dtype=torch.float64)
    reference.load_state_dict({k: torch.asarray(v.astype("float64")) for k, v in layer.params.items()})
    given = torch.tensor(x.astype("float64"), requires_grad=True)
    out = reference(given)
    out.backward(torch.asarray(dout.astype("float64")))
    return out.detach(), given.grad, reference.weight.grad, reference.bias.grad


def assert_all_close(found, wanted, tolerance):
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_it_equals_torch(library, leading, epsilon):
    given = problem(leading, 7, epsilon=epsilon)
    assert_all_close(solved(given[0], lambda a: array_of(library, a), *given[1:]), of_torch(*given), 1e-11)


class TestEngines:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("float64", 1e-11)])
    @pytest.mark.parametrize("size", [1, 2, 31, 33, 300])
    @pytest.mark.parametrize("leading", LEADING, ids=str)
    def test_it_equals_torch(self, backend, leading, size, dtype, tolerance):
        given = problem(leading, size, dtype)
        if dtype == "float32" and size < 3:  # the gradient is a small difference of large numbers, in PyTorch too
            tolerance = 1e-3
        assert_all_close(solved(given[0], backend.array, *given[1:]), of_torch(*given), tolerance)

    @pytest.mark.parametrize("rows", [7, 8, 9, 1100])
    def test_parameter_gradients_over_slabs(self, backend, rows):
        given = problem((rows,), 37)
        assert_all_close(solved(given[0], backend.array, *given[1:]), of_torch(*given), 1e-11)

    def test_strided_arrays(self, backend):
        layer, x, dout = problem((4, 3), 6)
        layer.params = {name: backend.array(value) for name, value in layer.params.items()}
        expected = layer.backward(layer.forward(backend.array(x))[1], backend.array(dout))
        x, dout = (backend.array(a.swapaxes(0, 1).copy()).swapaxes(0, 1) for a in (x, dout))
        dx, grads = layer.backward(layer.forward(x)[1], dout)
        np.testing.assert_array_equal(backend.numpy(dx), backend.numpy(expected[0]))
        for name in grads:
            np.testing.assert_allclose(backend.numpy(grads[name]), backend.numpy(expected[1][name]), rtol=1e-13)

    def test_the_same_bits_in_two_runs(self, backend):
        given = problem((60,), 33, "float32")
        first, again = (solved(given[0], backend.array, *given[1:]) for _ in range(2))
        assert [bits(a) for a in first] == [bits(a) for a in again]

    def test_far_from_zero_the_variance_is_that_of_the_distances(self, backend):
        """The mean of squares minus the square of the mean would be off by ten per cent here, or below zero."""
        layer, x, dout = problem((40,), 33)
        found = solved(layer, backend.array, x + 1e7, dout)
        np.testing.assert_allclose(found[0], of_torch(layer, x, dout)[0], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("poison", [np.nan, np.inf])
    def test_nan_stays_in_its_row(self, backend, poison):
        layer, x, dout = problem((5,), 33)
        x[2, 7] = poison
        out, dx, dweight, dbias = solved(layer, backend.array, x, dout)
        for got in (out, dx):
            assert np.isnan(got[2]).all() and np.isfinite(np.delete(got, 2, axis=0)).all()
        assert np.isnan(dweight).all() and np.isfinite(dbias).all()

    def test_a_constant_row_gives_the_bias(self, backend):
        layer, x, dout = problem((5,), 33)
        out = solved(layer, backend.array, np.full_like(x, 2.5), dout)[0]
        np.testing.assert_array_equal(out, np.broadcast_to(layer.params["bias"], out.shape))


def test_gradients_are_finite_differences():
    layer, x, dout = problem((4, 3), 5)
    dx, grads = layer.backward(layer.forward(x)[1], dout)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=x.shape)
    numeric = slope(lambda a: np.sum(layer(a) * dout), x, direction)
    np.testing.assert_allclose(np.sum(dx * direction), numeric, rtol=1e-7)
    for name in ("weight", "bias"):
        value, direction = layer.params[name], rng.normal(size=5)

        def loss(changed, name=name):
            layer.params[name] = changed
            return np.sum(layer(x) * dout)

        np.testing.assert_allclose(np.sum(grads[name] * direction), slope(loss, value, direction), rtol=1e-7)
        layer.params[name] = value


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_begins_with_ones_and_zeros(library):
    layer = nn.LayerNorm(4, dtype="float32", xp=LIBRARIES[library])
    weight, bias = layer.params["weight"], layer.params["bias"]
    assert type(weight) is type(bias) is type(array_of(library, 1.0)) and arrays.dtype_name(weight) == "float32"
    np.testing.assert_array_equal(arrays.to_numpy(weight), np.ones(4))
    np.testing.assert_array_equal(arrays.to_numpy(bias), np.zeros(4))


def test_under_jit():
    layer, x, dout = problem((4, 3), 5)

    def both(params, x, dout):
        twin = nn.LayerNorm(5)
        twin.params = params
        out, cache = twin.forward(x)
        return out, *twin.backward(cache, dout)

    out, dx, grads = jax.jit(both)({k: jax.numpy.asarray(v) for k, v in layer.params.items()}, x, dout)
    expected = solved(layer, np.array, x, dout)
    assert_all_close((out, dx, grads["weight"], grads["bias"]), expected, 1e-12)


def test_inputs_are_not_written_to():
    layer, x, dout = problem((4, 3), 5)
    for a in (x, dout, *layer.params.values()):
        a.flags.writeable = False
    layer.backward(layer.forward(x)[1], dout)


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.ones((4, 2)), TypeError, "x must have weight's dtype float32, got float64"),
        (np.ones((4, 2), "float32"), ValueError, r"x must have shape \(\.\.\., size\) = \(\.\.\., 3\), got \(4, 2\)"),
        (np.ones((), "float32"), ValueError, "x must have shape"),
        (torch.ones(4, 3), TypeError, "x must be a NumPy array like weight"),
        ([1.0], TypeError, "x must be an array"),
    ],
)
def test_it_refuses_a_wrong_input(x, error, message):
    with pytest.raises(error, match=message):
        nn.LayerNorm(3)(x)


@pytest.mark.parametrize("dout, error", [(np.ones((4, 2), "float32"), ValueError), (np.ones((4, 3)), TypeError)])
def test_it_refuses_a_wrong_gradient(dout, error):
    layer = nn.LayerNorm(3)
    with pytest.raises(error, match="dout must"):
        layer.backward(layer.forward(np.ones((4, 3), "float32"))[1], dout)


@pytest.mark.parametrize("epsilon, error", [(0, ValueError), (-1, ValueError), (np.nan, ValueError), ("1", TypeError)])
def test_it_refuses_wrong_constants(epsilon, error):
    with pytest.raises(error, match="epsilon must be"):
        nn.LayerNorm(3, epsilon=epsilon)
    with pytest.raises(ValueError, match="size must be at least 1"):
        nn.LayerNorm(0)


def test_repr():
    assert repr(nn.LayerNorm(3, epsilon=0.5)) == "LayerNorm(3, epsilon=0.5, dtype='float32')"


def spoil(monkeypatch, right, wrong, which=0, count=1):
    """Makes a source of this test's kernels wrong, at one of the places where a text stands."""
    text = sources.read("layer_norm.cu")
    parts = text.split(right)
    assert len(parts) == count + 1
    changed = right.join(parts[: which + 1]) + wrong + right.join(parts[which + 1 :])
    monkeypatch.setattr(sources, "read", lambda name: changed)
    monkeypatch.setattr(modules, "_kernels", {})


class TestSanitizers:
    @pytest.mark.parametrize("mode, order", [("asan", "random"), ("tsan", "descending")])
    @pytest.mark.parametrize("size", [3, 45])
    def test_clean(self, mode, order, size, monkeypatch):
        monkeypatch.setattr(cupy_layer_norm, "SLAB_ROWS", 3)
        given = problem((5,), size, "float32")
        with cupy_on_cpu(mode, thread_order=order, seed=1) as cupy:
            found = solved(given[0], cupy.asarray, *given[1:])
            assert len(cupy.on_cpu.launches) == 4
        assert_all_close(found, of_torch(*given), 2e-5)

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_barrier_taken_out_of_the_tree_is_a_race(self, monkeypatch, which):
        """The last two of four; the first two are those of block_sums."""
        spoil(monkeypatch, "__syncthreads();", "", which=2 + which, count=4)
        layer, x, dout = problem((9,), 3, "float32")
        with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match=r"data race[\s\S]*layer_norm\.cu"):
            solved(layer, cupy.asarray, x, dout)

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_barrier_taken_out_of_the_sums_is_a_race(self, monkeypatch, which):
        spoil(monkeypatch, "__syncthreads();", "", which=which, count=4)
        layer, x, dout = problem((3,), 100, "float32")
        with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match=r"data race[\s\S]*block_sums\.cuh"):
            solved(layer, cupy.asarray, x, dout)

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_bound_taken_out_is_caught(self, monkeypatch, which):
        right = ("if (column < columns)", "if (lane < COUNT && column < columns)")[which]
        spoil(monkeypatch, right, ("", "if (lane < COUNT)")[which])
        layer, x, dout = problem((19,), 31, "float32")
        with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            solved(layer, cupy.asarray, x, dout)
