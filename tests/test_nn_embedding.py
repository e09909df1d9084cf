"""gpulstm.nn.Embedding: values and gradients against PyTorch, on every array path, and the order of its sums."""

from itertools import product

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn
from gpulstm.cuda import modules, sources
from tests import backends
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu
from tests.layer_cases import LIBRARIES, array_of, bits, slope

COUNT, SIZE = 11, 5
SHAPES = [(), (7,), (4, 3), (2, 1, 3), (0, 3), (40, 20)]
DTYPES = ["int8", "int32", "int64", "uint8", "uint32"]


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


def problem(shape, dtype="float64", padding_index=None, count=COUNT, seed=3):
    """(layer, x, dout) of NumPy."""
    rng = np.random.default_rng(seed)
    layer = nn.Embedding(count, SIZE, padding_index=padding_index, dtype=dtype, rng=rng)
    x = rng.integers(0, count, shape)
    return layer, np.asarray(x), rng.normal(size=(*shape, SIZE)).astype(dtype)


def solved(layer, convert, x, dout):
    """(out, gradient) of the same layer in another library, as NumPy arrays."""
    twin = nn.Embedding(layer.count, layer.size, padding_index=layer.padding_index)
    twin.params = {"weight": convert(layer.params["weight"])}
    out, cache = twin.forward(convert(x))
    dx, grads = twin.backward(cache, convert(dout))
    assert dx is None and grads.keys() == {"weight"}
    for got in (out, grads["weight"]):
        assert type(got) is type(twin.params["weight"]) and got.dtype == twin.params["weight"].dtype
    return arrays.to_numpy(out), arrays.to_numpy(grads["weight"])


def of_torch(layer, x, dout):
    reference = torch.nn.Embedding(layer.count, layer.size, padding_idx=layer.padding_index, dtype=torch.float64)
    reference.load_state_dict({"weight": torch.asarray(layer.params["weight"].astype("float64"))})
    out = reference(torch.asarray(x.astype("int64")))
    out.backward(torch.asarray(dout.astype("float64")))
    return out.detach().numpy(), reference.weight.grad.numpy()


IN_JAX = [("jax", (), None), ("jax", (4, 3), 2), ("jax", (0, 3), None)]  # few: it compiles anew for each size


@pytest.mark.parametrize(
    ("library", "shape", "padding_index"),
    [*product([name for name in LIBRARIES if name != "jax"], SHAPES, (None, 2)), *IN_JAX],
    ids=str,
)
def test_it_equals_torch(library, shape, padding_index):
    layer, x, dout = problem(shape, padding_index=padding_index)
    for got, want in zip(solved(layer, lambda a: array_of(library, a), x, dout), of_torch(layer, x, dout), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


class TestEngines:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
    @pytest.mark.parametrize("padding_index", [None, 2])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_it_equals_torch(self, backend, shape, padding_index, dtype, tolerance):
        layer, x, dout = problem(shape, dtype, padding_index)
        for got, want in zip(solved(layer, backend.array, x, dout), of_torch(layer, x, dout), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("padding_index", [None, 4])
    @pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 48, 300, 1000])
    @pytest.mark.parametrize("tokens", ["one", "two", "few", "frequent", "all different", "runs as long as a chunk"])
    def test_runs_across_chunks(self, backend, tokens, rows, padding_index):
        """Whole numbers add up exactly, in whatever order: what differs is wrong."""
        count = max(rows, COUNT)
        rng = np.random.default_rng(rows)
        x = {
            "one": np.full(rows, 4),
            "two": np.arange(rows) % 2 * 4,
            "few": rng.integers(0, 6, rows),
            "frequent": np.where(rng.random(rows) < 0.8, 4, rng.integers(0, count, rows)),
            "all different": rng.permutation(count)[:rows],
            "runs as long as a chunk": np.arange(rows) // max(16, int(rows**0.5)),
        }[tokens]
        layer = nn.Embedding(count, SIZE, padding_index=padding_index, dtype="float64", rng=0)
        dout = rng.integers(-99, 99, (rows, SIZE)).astype(float)
        expected = np.zeros((count, SIZE))
        np.add.at(expected, x, dout)
        if padding_index is not None:
            expected[padding_index] = 0
        np.testing.assert_array_equal(solved(layer, backend.array, x, dout)[1], expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_any_integers_and_strides(self, backend, dtype):
        layer, x, dout = problem((6, 4))
        expected = solved(layer, np.array, x, dout)
        given = backend.array(x.astype(dtype).T.copy()).T
        dout = backend.array(np.repeat(dout, 2, axis=-1))[..., ::2]
        twin = nn.Embedding(COUNT, SIZE)
        twin.params = backend.array(layer.params)
        out, cache = twin.forward(given)
        _, grads = twin.backward(cache, dout)
        np.testing.assert_array_equal(backend.numpy(out), expected[0])
        np.testing.assert_allclose(backend.numpy(grads["weight"]), expected[1], rtol=1e-14)

    def test_the_same_bits_in_two_runs(self, backend):
        layer, x, dout = problem((50, 20), "float32")
        first, again = (solved(layer, backend.array, x, dout)[1] for _ in range(2))
        assert bits(first) == bits(again)

    def test_nan_stays_in_its_row(self, backend):
        layer, x, dout = problem((300,))
        dout[x == 3] = np.inf
        dout[np.flatnonzero(x == 3)[0]] = np.nan
        gradient = solved(layer, backend.array, x, dout)[1]
        assert np.isnan(gradient[3]).all() and np.isfinite(np.delete(gradient, 3, axis=0)).all()


class TestOutOfRange:
    @pytest.mark.parametrize("wrong", [-1, COUNT, 127])
    def test_numpy_refuses(self, wrong):
        layer, x, _ = problem((4, 3))
        x[1, 2] = wrong
        with pytest.raises(ValueError, match=f"x must be between 0 and count - 1 = 10, got {wrong}; does the table"):
            layer(x.astype("int8"))

    @staticmethod
    def check(layer, convert, dtype):
        wrong = [COUNT, 100] + ([-1, -COUNT] if dtype.startswith("int") else [])
        x = np.array([1, *wrong, 3, 1, *wrong], dtype)
        dout = np.arange(len(x) * SIZE, dtype="float64").reshape(-1, SIZE)
        out, gradient = solved(layer, convert, x, dout)
        inside = x.astype(int) % 256 < COUNT
        np.testing.assert_array_equal(out[inside], layer.params["weight"][x[inside]])
        assert np.isnan(out[~inside]).all()
        expected = np.zeros((COUNT, SIZE))
        np.add.at(expected, x[inside], dout[inside])
        np.testing.assert_array_equal(gradient, expected)

    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
    @pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "numpy"])
    def test_elsewhere_it_is_nan_without_a_gradient(self, library, dtype):
        self.check(problem(())[0], lambda a: array_of(library, a), dtype)

    @pytest.mark.parametrize("mode", ["fibers", "asan"])
    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint8"])
    def test_the_kernel_does_not_read_out_of_bounds(self, dtype, mode):
        with cupy_on_cpu(mode) as cupy:
            self.check(problem(())[0], cupy.asarray, dtype)

    def test_its_bounds_check_taken_out_is_caught(self, monkeypatch):
        spoil(monkeypatch, "row >= 0 && row < count ?", "row < 100 ?")
        with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            self.check(problem(())[0], cupy.asarray, "int64")


def test_gradients_are_finite_differences():
    layer, x, dout = problem((4, 3))
    grads = layer.backward(layer.forward(x)[1], dout)[1]
    direction = np.random.default_rng(1).normal(size=(COUNT, SIZE))

    def loss(weight):
        twin = nn.Embedding(COUNT, SIZE, dtype="float64")
        twin.params = {"weight": weight}
        return np.sum(twin(x) * dout)

    numeric = slope(loss, layer.params["weight"], direction)
    np.testing.assert_allclose(np.sum(grads["weight"] * direction), numeric, rtol=1e-8)


def test_both_passes_under_jit():
    layer, x, dout = problem((4, 3))
    expected = solved(layer, np.array, x, dout)

    def both(weight, x, dout):
        twin = nn.Embedding(COUNT, SIZE)
        twin.params = {"weight": weight}
        out, cache = twin.forward(x)
        return out, twin.backward(cache, dout)[1]["weight"]

    for got, want in zip(jax.jit(both)(layer.params["weight"], x, dout), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_jax_without_64_bits():
    with jax.enable_x64(False):
        layer, x, dout = problem((4, 3), "float32")
        for got, want in zip(
            solved(layer, jax.numpy.asarray, x.astype("int32"), dout), of_torch(layer, x, dout), strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6)


class TestParameters:
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_they_begin_normally_distributed_but_for_the_padding(self, library):
        layer = nn.Embedding(300, 200, padding_index=7, xp=LIBRARIES[library], dtype="float64", rng=1)
        weight = arrays.to_numpy(layer.params["weight"])
        assert type(layer.params["weight"]) is type(array_of(library, 1.0)) and weight.shape == (300, 200)
        assert not weight[7].any()
        others = np.delete(weight, 7, axis=0)
        assert abs(others.mean()) < 0.02 and abs(others.std() - 1) < 0.01
        same = nn.Embedding(300, 200, rng=1, dtype="float32")
        np.testing.assert_array_equal(others.astype("float32"), np.delete(same.params["weight"], 7, axis=0))

    @pytest.mark.parametrize(
        "arguments, error, message",
        [
            ((0, 5, None), ValueError, "count must be at least 1, got 0"),
            ((5, 2.0, None), TypeError, "size must be an integer"),
            ((5, 3, -1), ValueError, "padding_index must be at least 0, got -1"),
            ((5, 3, 5), ValueError, "padding_index must be below count = 5, got 5"),
        ],
        ids=str,
    )
    def test_wrong_sizes(self, arguments, error, message):
        count, size, padding_index = arguments
        with pytest.raises(error, match=message):
            nn.Embedding(count, size, padding_index=padding_index)

    def test_repr(self):
        assert repr(nn.Embedding(5, 3, padding_index=0)) == "Embedding(5, 3, padding_index=0, dtype='float32')"


@pytest.mark.parametrize(
    "x, message",
    [
        (np.ones(3), "x must have an integer dtype, got float64; x numbers the table's rows"),
        (np.ones(3, bool), "x must have an integer dtype, got bool"),
        ([1, 2], "x must be an array .* got list"),
        (torch.ones(3, dtype=torch.int64), "x must be a NumPy array like weight, got a torch array"),
    ],
)
def test_it_refuses_a_wrong_input(x, message):
    with pytest.raises(TypeError, match=message):
        nn.Embedding(5, 3)(x)


@pytest.mark.parametrize(
    "dout, error, message",
    [
        (
            np.ones((4, 2), "float32"),
            ValueError,
            r"dout must have the shape of forward's result, \(4, 3\), got \(4, 2\)",
        ),
        (np.ones((4, 3)), TypeError, "dout must have weight's dtype float32, got float64"),
    ],
)
def test_it_refuses_a_wrong_gradient(dout, error, message):
    layer = nn.Embedding(5, 3)
    with pytest.raises(error, match=message):
        layer.backward(layer.forward(np.zeros(4, int))[1], dout)


def test_inputs_are_not_written_to():
    layer, x, dout = problem((4, 3), padding_index=1)
    x.flags.writeable = dout.flags.writeable = layer.params["weight"].flags.writeable = False
    layer.backward(layer.forward(x)[1], dout)


def spoil(monkeypatch, right, wrong):
    """Makes the kernels of this test wrong."""
    text = sources.read("embedding.cu")
    assert text.count(right) == 1
    monkeypatch.setattr(sources, "read", lambda name: text.replace(right, wrong))
    monkeypatch.setattr(modules, "_kernels", {})


class TestSanitizers:
    @pytest.mark.parametrize("mode, order", [("asan", "random"), ("tsan", "descending")])
    def test_clean(self, mode, order):
        layer, x, dout = problem((49,), "float32", padding_index=2, count=7)
        x[:30] = 5  # a run over three chunks of sixteen
        with cupy_on_cpu(mode, thread_order=order, seed=1) as cupy:
            got = solved(layer, cupy.asarray, x, dout)
            assert len(cupy.on_cpu.launches) == 3
        for ours, wanted in zip(got, solved(layer, np.array, x, dout), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "right, wrong",
        [
            ("if (index >= elements) return;", ""),
            ("end < rows && token[order[end - 1]]", "token[order[end - 1]]"),
            ("if (end >= rows || token", "if (token"),
        ],
    )
    def test_a_bound_taken_out_is_caught(self, monkeypatch, right, wrong):
        spoil(monkeypatch, right, wrong)
        layer, x, dout = problem((48,), "float32")
        x[:40] = COUNT - 1
        with cupy_on_cpu("asan") as cupy, pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            solved(layer, cupy.asarray, x, dout)

    def test_a_run_joined_by_every_chunk_is_a_race(self, monkeypatch):
        spoil(monkeypatch, "if (chunk.began_before && token[order[chunk.first]] == row) return;", "")
        layer, x, dout = problem((49,), "float32")
        x[:] = 5
        with cupy_on_cpu("tsan") as cupy, pytest.raises(SanitizerError, match="data race"):
            solved(layer, cupy.asarray, x, dout)
