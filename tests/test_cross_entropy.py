"""gpulstm.nn.cross_entropy: values and gradients against PyTorch, by finite differences, and on every array library."""

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn
from gpulstm.cuda import modules, sources
from gpulstm.nn import softmax
from tests import backends
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
CASES = {
    "plain": {},
    "one class": {"shape": (6, 1)},
    "a vector": {"shape": (5,)},
    "two leading axes": {"shape": (4, 3, 7)},
    "a block short of a warp": {"shape": (3, 31)},
    "more than a block": {"shape": (3, 613)},
    "ignored": {"shape": (4, 5, 7), "ignore_index": -100},
    "ignored class": {"shape": (4, 5, 7), "ignore_index": 2},
    "smoothing": {"shape": (4, 5, 7), "label_smoothing": 0.1},
    "only smoothing": {"shape": (4, 5, 301), "label_smoothing": 1.0},
    "lengths": {"shape": (5, 4, 7), "lengths": (3, 0, 5, 1)},
    "lengths batch first": {"shape": (4, 5, 7), "lengths": (3, 0, 5, 1), "batch_first": True},
    "lengths and inner axes": {"shape": (5, 4, 3, 2, 7), "lengths": (3, 0, 5, 1)},
    "inner axes batch first": {"shape": (4, 5, 3, 7), "lengths": (3, 0, 5, 1), "batch_first": True},
    "everything": {"shape": (5, 4, 37), "lengths": (3, 0, 5, 1), "ignore_index": -1, "label_smoothing": 0.3},
    "nothing counts": {"shape": (5, 2, 7), "lengths": (0, 0), "label_smoothing": 0.1},
    "everything ignored": {"shape": (1, 7), "ignore_index": -100},
    "no rows": {"shape": (0, 7)},
    "an empty batch": {"shape": (5, 0, 7), "lengths": (), "ignore_index": -100},
}


def problem(case, dtype="float64", seed=0):
    """logits, target and options. Where an index is ignored, at least the first target is it."""
    options = dict(CASES[case])
    shape = options.pop("shape", (9, 7))
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=shape) * 3, rng.integers(0, shape[-1], shape[:-1])
    if "ignore_index" in options and target.size:
        target[(rng.random(target.shape) < 0.3) | (np.arange(target.size).reshape(target.shape) == 0)] = options[
            "ignore_index"
        ]
    return logits.astype(dtype), np.asarray(target), options


def by_torch(logits, target, *, lengths=None, ignore_index=None, label_smoothing=0.0, batch_first=False):
    """loss and gradient, what does not count marked by an index of its own."""
    marked = target.copy()
    if ignore_index is not None:
        marked[target == ignore_index] = -7
    if lengths is not None:
        for sequence, length in enumerate(lengths):
            marked[(sequence, slice(length, None)) if batch_first else (slice(length, None), sequence)] = -7
    leaf = torch.tensor(logits, requires_grad=True)
    rows, labels = leaf.reshape(marked.size, logits.shape[-1]), torch.tensor(marked.reshape(-1))
    loss = torch.nn.functional.cross_entropy(rows, labels, ignore_index=-7, label_smoothing=label_smoothing)
    loss.backward()
    return loss.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_equals_torch(backend, case, dtype):
    logits, target, options = problem(case, dtype)
    given = backend.array(logits)
    loss, gradient = nn.cross_entropy(given, backend.array(target), **options)
    assert arrays.library(gradient) == arrays.library(given) and gradient.shape == given.shape and loss.shape == ()
    assert arrays.dtype_name(loss) == arrays.dtype_name(gradient) == dtype
    wanted_loss, wanted_gradient = by_torch(logits, target, **options)
    np.testing.assert_allclose(float(loss), wanted_loss, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(backend.numpy(gradient), wanted_gradient, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(backend.numpy(gradient)[wanted_gradient == 0], 0)


SIZES = ("a block short of a warp", "more than a block", "two leading axes")  # which matter to kernels
PARTS = ("ignored", "smoothing", "lengths")  # of "everything"


IN_JAX = ("plain", "inner axes batch first", "everything", "nothing counts", "an empty batch")  # which compiles long


@pytest.mark.parametrize(
    ("library", "case"),
    [*(("torch", case) for case in CASES if case not in SIZES + PARTS), *(("jax", case) for case in IN_JAX)],
)
def test_other_libraries_equal_torch(library, case):
    logits, target, options = problem(case)
    with jax.enable_x64(True):
        convert = torch.tensor if library == "torch" else jax.numpy.asarray
        loss, gradient = nn.cross_entropy(convert(logits), convert(target), **options)
        assert arrays.library(loss) == arrays.library(gradient) == library
        wanted_loss, wanted_gradient = by_torch(logits, target, **options)
        np.testing.assert_allclose(float(loss), wanted_loss, rtol=1e-12)
        np.testing.assert_allclose(arrays.to_numpy(gradient), wanted_gradient, rtol=0, atol=1e-12)


def test_pytorchs_own_gradient_is_ours():
    logits, target, options = problem("everything")
    logits[3:, 0] = np.nan  # past the first sequence's end
    leaf = torch.tensor(logits, requires_grad=True)
    loss, gradient = nn.cross_entropy(leaf, torch.tensor(target), **options)
    (own,) = torch.autograd.grad(loss, leaf)
    assert not own.isnan().any()
    np.testing.assert_allclose(own, gradient.detach(), atol=1e-15)


def test_under_jit_lengths_may_be_traced():
    logits, target, options = problem("everything", "float32")
    lengths = options.pop("lengths")
    run = jax.jit(lambda x, t, n: nn.cross_entropy(x, t, lengths=n, **options))
    loss, gradient = run(logits, jax.numpy.asarray(target), jax.numpy.asarray(lengths))
    wanted_loss, wanted_gradient = by_torch(logits, target, lengths=lengths, **options)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype):
    """300 classes and 70000 rows: neither the count nor a sum of losses would fit into half precision."""
    logits = torch.randn(70000, 3, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    target = torch.zeros(70000, dtype=torch.int64)
    loss, gradient = nn.cross_entropy(logits, target)
    assert loss.dtype == gradient.dtype == logits.dtype
    exact, _ = nn.cross_entropy(logits.double(), target)
    np.testing.assert_allclose(float(loss), float(exact), rtol=2**-8)


@pytest.mark.parametrize("case", ["everything", "lengths and inner axes"])
def test_the_gradient_is_a_finite_difference(case):
    logits, target, options = problem(case)
    _, gradient = nn.cross_entropy(logits, target, **options)
    direction, step = np.random.default_rng(1).normal(size=logits.shape), 1e-6
    after, before = (nn.cross_entropy(logits + s * direction, target, **options)[0] for s in (step, -step))
    np.testing.assert_allclose(np.sum(gradient * direction), (after - before) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_targets_of_every_integer_type(backend, dtype):
    logits, target, _ = problem("more than a block")
    target %= 100
    found = nn.cross_entropy(backend.array(logits), backend.array(target.astype(dtype)), ignore_index=-100)
    wanted = by_torch(logits, target)
    np.testing.assert_allclose(float(found[0]), wanted[0], rtol=1e-12)
    np.testing.assert_allclose(backend.numpy(found[1]), wanted[1], atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_large_logits(backend, dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4], [1e4, 1e4 - 1, 0]], dtype)
    target = np.array([1, 0, 0, 1])
    for smoothing in (0.0, 0.1):
        loss, gradient = nn.cross_entropy(backend.array(logits), backend.array(target), label_smoothing=smoothing)
        wanted = by_torch(logits, target, label_smoothing=smoothing)
        np.testing.assert_allclose(float(loss), wanted[0], rtol=TOLERANCE[dtype])
        np.testing.assert_allclose(backend.numpy(gradient), wanted[1], rtol=TOLERANCE[dtype], atol=1e-7)


SPECIAL = {
    "a class that cannot be": ([-np.inf, 1.0, 2.0], 1),
    "the first elements cannot be": ([-np.inf, -np.inf, 2.0], 2),
    "the target cannot be": ([1.0, 2.0, -np.inf], 2),
    "infinite": ([1.0, np.inf, 2.0], 1),
    "another one is infinite": ([1.0, np.inf, 2.0], 0),
    "two are infinite": ([np.inf, np.inf, 2.0], 0),
    "none can be": ([-np.inf, -np.inf, -np.inf], 0),
    "not a number": ([1.0, np.nan, 2.0], 0),
    "not a number first": ([np.nan, 1.0, 2.0], 2),
    "nothing but not a number": ([np.nan, np.nan, np.nan], 2),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_infinity_and_nan_as_in_torch(backend, name):
    row, label = SPECIAL[name]
    logits, target = np.array([row, [0.0, 1.0, 3.0]]), np.array([label, 1])
    for smoothing in (0.0, 0.1):
        loss, gradient = nn.cross_entropy(backend.array(logits), backend.array(target), label_smoothing=smoothing)
        wanted = by_torch(logits, target, label_smoothing=smoothing)
        np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-12)
        np.testing.assert_allclose(backend.numpy(gradient), wanted[1], atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_does_not_count_may_be_anything(backend, value):
    logits, target, options = problem("everything")
    wanted = nn.cross_entropy(logits, target, **options)
    logits[3:, 0] = value  # past the first sequence's end
    target[3:, 0] = 1000
    logits[target == -1] = value
    found = nn.cross_entropy(backend.array(logits), backend.array(target), **options)
    np.testing.assert_allclose(float(found[0]), wanted[0], rtol=1e-13)
    np.testing.assert_allclose(backend.numpy(found[1]), wanted[1], atol=1e-14)


@pytest.mark.parametrize("wrong", [-1, 7, 2**31, -(2**40)])
def test_a_target_that_is_no_class(backend, wrong):
    """NumPy says where; elsewhere nobody waits for values, and the position's loss and gradient are NaN."""
    logits, target, _ = problem("two leading axes")
    target[2, 1] = wrong
    if backend.name == backends.NUMPY:
        message = rf"target must be between 0 and classes - 1 = 6, got {wrong} at position \(2, 1\); ignore_index"
        with pytest.raises(ValueError, match=message):
            nn.cross_entropy(logits, target)
        return
    loss, gradient = nn.cross_entropy(backend.array(logits), backend.array(target))
    target[2, 1] = 0
    wanted = by_torch(logits, target)[1]
    wanted[2, 1] = np.nan
    assert np.isnan(float(loss))
    np.testing.assert_allclose(backend.numpy(gradient), wanted, atol=1e-14)


def test_inputs_stay_and_strides_do_not_matter(backend):
    logits, target, _ = problem("two leading axes")
    wanted = by_torch(np.ascontiguousarray(logits.transpose(1, 0, 2)), np.ascontiguousarray(target.T))
    ours, labels = backend.array(logits), backend.array(target)
    views = backend.xp.permute_dims(ours, (1, 0, 2)) if backend.name == backends.EQUATIONS else ours.transpose(1, 0, 2)
    loss, gradient = nn.cross_entropy(views, labels.T)
    np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-13)
    np.testing.assert_allclose(backend.numpy(gradient), wanted[1], atol=1e-14)
    np.testing.assert_array_equal(backend.numpy(ours), logits)
    np.testing.assert_array_equal(backend.numpy(labels), target)


X, T = np.ones((4, 3, 7), "float32"), np.ones((4, 3), int)


@pytest.mark.parametrize(
    "logits, target, options, error, message",
    [
        (X.tolist(), T, {}, TypeError, "logits must be an array .* got list"),
        (X, T.tolist(), {}, TypeError, "target must be an array .* got list"),
        (X.astype(int), T, {}, TypeError, "logits must have dtype float32 or float64, got int64"),
        (X, torch.tensor(T), {}, TypeError, "target must be a NumPy array like logits, got a torch array"),
        (X, T.astype("float32"), {}, TypeError, "target must be integers, one class for each position"),
        (X, T == 1, {}, TypeError, "target must be integers"),
        (X, X, {}, TypeError, "target must be integers.*one-hot vectors"),
        (X[..., :0], T, {}, ValueError, r"logits must have shape \(\.\.\., classes\) with at least one class"),
        (X[0, 0, 0], T, {}, TypeError, "logits must be an array"),
        (np.ones((), "float32"), T, {}, ValueError, r"logits must have shape \(\.\.\., classes\)"),
        (X, np.ones((4, 7), int), {}, ValueError, r"target must have logits' shape without the classes, \(4, 3\)"),
        (X, T, {"ignore_index": 1.0}, TypeError, "ignore_index must be an integer or None, got 1.0"),
        (X, T, {"ignore_index": True}, TypeError, "ignore_index must be an integer or None, got True"),
        (X, T, {"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number, got '0.1'"),
        (X, T, {"label_smoothing": True}, TypeError, "label_smoothing must be a number, got True"),
        (X, T, {"label_smoothing": -0.1}, ValueError, "label_smoothing must be between 0 and 1, got -0.1"),
        (X, T, {"label_smoothing": float("nan")}, ValueError, "label_smoothing must be between 0 and 1, got nan"),
        (X, T, {"lengths": [1, 2]}, ValueError, r"lengths must have shape \(batch,\) = \(3,\), got \(2,\)"),
        (X, T, {"lengths": [1, 2, 5]}, ValueError, "lengths must be between 0 and the number of time steps 4, got 5"),
        (X, T, {"lengths": [1, 2, 3, 4], "batch_first": True}, ValueError, "number of time steps 3, got 4"),
        (X[0], T[0], {"lengths": [1]}, ValueError, r"logits must have axes \(time, batch, \.\.\.\) with lengths"),
    ],
)
def test_refuses_what_does_not_match(logits, target, options, error, message):
    with pytest.raises(error, match=message):
        nn.cross_entropy(logits, target, **options)


class TestKernels:
    BACKENDS = backends.KERNELS

    def test_more_rows_than_blocks(self, backend, monkeypatch):
        monkeypatch.setattr(softmax, "MOST_BLOCKS", 3)
        for case in ("everything", "two leading axes", "more than a block"):
            logits, target, options = problem(case)
            loss, gradient = nn.cross_entropy(backend.array(logits), backend.array(target), **options)
            wanted = by_torch(logits, target, **options)
            np.testing.assert_allclose(float(loss), wanted[0], rtol=1e-12)
            np.testing.assert_allclose(backend.numpy(gradient), wanted[1], atol=1e-12)

    def test_the_same_bits_twice(self, backend):
        logits, target, options = problem("everything", "float32")
        given = backend.array(logits), backend.array(target)
        first, second = ([a.get().tobytes() for a in nn.cross_entropy(*given, **options)] for _ in range(2))
        assert first == second


class TestOnTheCpu:
    """What only the stand-in can do."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_launches(self, backend):
        """Counting takes a launch only where an index is ignored: lengths are known on the host."""
        counts, both = backend.xp.on_cpu, {"softmax_cross_entropy": 1, "softmax_cross_entropy_mean": 1}
        for case, wanted in {"lengths": both, "everything": both | {"softmax_cross_entropy_count": 1}}.items():
            logits, target, options = problem(case)
            given = backend.array(logits), backend.array(target)
            counts.reset_counts()
            nn.cross_entropy(*given, **options)
            assert dict(counts.launches) == wanted

    def test_everything_happens_on_the_arrays_device(self, backend):
        logits, target, options = problem("everything")
        with backend.xp.cuda.Device(1):
            given = backend.array(logits), backend.array(target)
        loss, gradient = nn.cross_entropy(*given, **options)
        assert loss.device == gradient.device == given[0].device
        with pytest.raises(ValueError, match="target must be on logits' device"):
            nn.cross_entropy(given[0], backend.array(target))

    @pytest.mark.parametrize("mode", ["asan", "tsan"])
    @pytest.mark.parametrize("case", ["everything", "a block short of a warp", "ignored", "an empty batch"])
    def test_sanitizers(self, mode, case, monkeypatch):
        check_under(mode, case, monkeypatch)

    def test_a_target_that_is_no_class_is_not_read(self):
        logits, target, _ = problem("two leading axes")
        target[0, 0], target[-1, -1] = -(2**30), 2**30
        with cupy_on_cpu("asan") as cupy:
            assert np.isnan(float(nn.cross_entropy(cupy.asarray(logits), cupy.asarray(target))[0]))

    @pytest.mark.parametrize("barrier", ["__syncthreads();  // what stood", "largest;\n        __syncthreads();"])
    def test_a_barrier_taken_out_is_a_race(self, barrier, monkeypatch):
        """The two of softmax.cuh; those of block_sums.cuh are everybody's."""
        replace_in_source(monkeypatch, barrier, barrier.replace("__syncthreads();", ""))
        with pytest.raises(SanitizerError, match=r"data race[\s\S]*softmax\.cuh"):
            check_under("tsan", "more than a block", monkeypatch)

    @pytest.mark.parametrize("loop", ["softmax.take", "{\n            const real shifted"])
    def test_a_class_too_many_is_caught(self, loop, monkeypatch):
        head = "k < classes; k += blockDim.x) "
        replace_in_source(monkeypatch, head + loop, head.replace("<", "<=") + loop)
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            check_under("asan", "two leading axes", monkeypatch)


def check_under(mode, case, monkeypatch):
    """Two rows or more for each block, in an order of threads that nobody would choose."""
    monkeypatch.setattr(softmax, "MOST_BLOCKS", 2)
    logits, target, options = problem(case, "float32")
    with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
        loss, gradient = (a.get() for a in nn.cross_entropy(cupy.asarray(logits), cupy.asarray(target), **options))
    wanted = by_torch(logits, target, **options)
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted[1], atol=1e-6)


def replace_in_source(monkeypatch, text, by):
    """Makes the kernels see ``by`` in place of a text that they have once."""
    true = sources.read("softmax_cross_entropy.cu")
    assert true.count(text) == 1
    monkeypatch.setattr(sources, "read", lambda name: true.replace(text, by))
    monkeypatch.setattr(modules, "_kernels", {})
