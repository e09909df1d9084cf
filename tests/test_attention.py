"""gpulstm.nn's attentions: values and gradients against PyTorch, by finite differences, and on every array library."""

from functools import cache

import jax
import numpy as np
import pytest
import torch

from gpulstm import arrays, nn
from gpulstm.cuda import modules, sources
from gpulstm.nn import additive_attention, masked_softmax, padding
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import SanitizerError, cupy_on_cpu

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
TARGET, SOURCE, BATCH, QUERY, KEY, VALUE, HIDDEN = 4, 6, 3, 5, 7, 2, 8
KINDS = {
    "dot": lambda dtype: nn.DotAttention(),
    "scaled dot": lambda dtype: nn.DotAttention(scale=0.3),
    "general": lambda dtype: nn.GeneralAttention(QUERY, KEY, dtype=dtype, rng=1),
    "scaled general": lambda dtype: nn.GeneralAttention(QUERY, KEY, scale=0.3, dtype=dtype, rng=1),
    "additive": lambda dtype: nn.AdditiveAttention(QUERY, KEY, HIDDEN, dtype=dtype, rng=1),
}
CASES = {
    "plain": {},
    "values": {"has_values": True},
    "lengths": {"lengths": (6, 0, 3)},
    "lengths and values": {"lengths": (2, 5, 0), "has_values": True},
    "one step": {"has_time": False, "has_values": True, "lengths": (6, 1, 0)},
    "nothing but empty sequences": {"lengths": (0, 0, 0)},
}
EMPTY = {
    "no sequence": {"batch": 0, "lengths": ()},
    "no target": {"target": 0},
    "no source": {"source": 0},
    "no source and values": {"source": 0, "has_values": True, "lengths": (0, 0, 0)},
    "no sequence, one step": {"batch": 0, "has_time": False, "has_values": True},
}


def problem(kind, case, dtype="float64"):
    """attention, {query, keys, values, dcontext} and lengths."""
    made = {"target": TARGET, "source": SOURCE, "batch": BATCH, "has_time": True, "has_values": False}
    made |= {"lengths": None} | (CASES | EMPTY)[case]
    rng = np.random.default_rng(0)
    time = (made["target"],) if made["has_time"] else ()
    source = (made["source"], made["batch"])
    given = {
        "query": rng.normal(size=(*time, made["batch"], KEY if "dot" in kind else QUERY)),
        "keys": rng.normal(size=(*source, KEY)),
        "values": rng.normal(size=(*source, VALUE)) if made["has_values"] else None,
        "dcontext": rng.normal(size=(*time, made["batch"], VALUE if made["has_values"] else KEY)),
    }
    return KINDS[kind](dtype), {n: None if a is None else a.astype(dtype) for n, a in given.items()}, made["lengths"]


def run(attention, convert, given, lengths):
    """Every result by one library."""
    given = {name: None if a is None else convert(a) for name, a in given.items()}
    true, attention.params = attention.params, {name: convert(a) for name, a in attention.params.items()}
    context, weights, kept = attention.forward(given["query"], given["keys"], given["values"], lengths=lengths)
    inferred = attention(given["query"], given["keys"], given["values"], lengths=lengths)
    dquery, dkeys, dvalues, grads = attention.backward(kept, given["dcontext"])
    attention.params = true
    assert (dvalues is None) == (given["values"] is None)
    results = {"context": context, "weights": weights, "dquery": dquery, "dkeys": dkeys, "dvalues": dvalues} | grads
    results |= {"inferred context": inferred[0], "inferred weights": inferred[1]}
    return {name: a for name, a in results.items() if a is not None}


def scores_in_torch(attention, query, keys, p):
    """Scores (batch, target, source) from query (target, batch, size), in PyTorch's words and one piece."""
    if isinstance(attention, nn.DotAttention):
        return attention.scale * torch.einsum("tbd,sbd->bts", query, keys)
    if isinstance(attention, nn.GeneralAttention):
        return attention.scale * torch.einsum("tbq,qk,sbk->bts", query, p["weight"], keys)
    q, k = torch.einsum("tbq,aq->bta", query, p["weight_query"]), torch.einsum("sbk,ak->bsa", keys, p["weight_key"])
    return torch.einsum("btsa,a->bts", torch.tanh(q.unsqueeze(2) + k.unsqueeze(1)), p["weight_score"])


@cache
def by_torch(kind, case):
    """Every result by PyTorch's autograd, in float64."""
    attention, given, lengths = problem(kind, case)
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in given.items() if a is not None and n != "dcontext"}
    params = {n: torch.tensor(a, requires_grad=True) for n, a in attention.params.items()}
    query, keys = leaves["query"], leaves["keys"]
    has_time = query.ndim == 3
    scores = scores_in_torch(attention, query if has_time else query[None], keys, params)
    if lengths is not None:
        counts = (torch.arange(keys.shape[0]) < torch.tensor(lengths)[:, None])[:, None, :]
        weights = torch.where(counts, torch.softmax(scores.masked_fill(~counts, -1e30), -1), 0)
    else:
        weights = torch.softmax(scores, -1)
    weights = weights.transpose(0, 1)
    context = torch.einsum("tbs,sbv->tbv", weights, leaves.get("values", keys))
    context, weights = (context, weights) if has_time else (context[0], weights[0])
    context.backward(torch.tensor(given["dcontext"]))
    results = {"context": context, "weights": weights, "inferred context": context, "inferred weights": weights}
    results |= {"d" + name: leaf.grad for name, leaf in leaves.items()} | {n: a.grad for n, a in params.items()}
    return {name: a.detach().numpy() for name, a in results.items()}


def assert_equal(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(backend, kind, case, dtype):
    attention, given, lengths = problem(kind, case, dtype)
    found = run(attention, backend.array, given, lengths)
    for value in found.values():
        assert arrays.library(value) == arrays.library(backend.array(np.ones(1))) and arrays.dtype_name(value) == dtype
    found = {name: backend.numpy(value) for name, value in found.items()}
    assert_equal(found, by_torch(kind, case), TOLERANCE[dtype])
    if lengths is not None:
        for sequence, length in enumerate(lengths):
            for name in ("weights", "inferred weights"):
                np.testing.assert_array_equal(found[name][..., sequence, length:], 0)
            np.testing.assert_array_equal(found["dkeys"][length:, sequence], 0)


@pytest.mark.parametrize(
    ("library", "case"),
    [*(("torch", case) for case in CASES), *(("jax", case) for case in ("plain", "lengths and values", "one step"))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_libraries_equal_torch(library, kind, case):
    with jax.enable_x64(True):
        found = run(
            problem(kind, case)[0], torch.tensor if library == "torch" else jax.numpy.asarray, *problem(kind, case)[1:]
        )
        assert {arrays.library(value) for value in found.values()} == {library}
        assert_equal({name: arrays.to_numpy(a) for name, a in found.items()}, by_torch(kind, case), 1e-12)


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_attend_to(backend, kind, case):
    attention, given, lengths = problem(kind, case)
    found = {name: backend.numpy(value) for name, value in run(attention, backend.array, given, lengths).items()}
    assert found["context"].shape == given["dcontext"].shape and found["dquery"].shape == given["query"].shape
    assert found["dkeys"].shape == given["keys"].shape
    assert not any(np.any(value) for value in found.values())


@pytest.mark.parametrize("case", ["lengths and values", "lengths", "one step"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind, case):
    attention, given, lengths = problem(kind, case)
    found = run(attention, np.array, given, lengths)
    rng, step = np.random.default_rng(1), 1e-6

    def loss(inputs, params):
        twin = KINDS[kind]("float64")
        twin.params = params
        context, _ = twin(inputs["query"], inputs["keys"], inputs["values"], lengths=lengths)
        return np.sum(context * given["dcontext"])

    for name in ("query", "keys", "values", *attention.params):
        value = attention.params[name] if name in attention.params else given[name]
        if value is None:
            continue
        direction = rng.normal(size=value.shape)
        differences = []
        for sign in (1, -1):
            moved = {name: value + sign * step * direction}
            inputs, params = (given | moved, attention.params) if name in given else (given, attention.params | moved)
            differences.append(sign * loss(inputs, params))
        gradient = found[name if name in attention.params else "d" + name]
        np.testing.assert_allclose(np.sum(gradient * direction), sum(differences) / (2 * step), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, KEY**-0.5])
def test_dot_attention_is_pytorchs_scaled_dot_product_attention(backend, scale):
    _, given, _ = problem("dot", "values")
    lengths = (6, 1, 3)
    found = run(nn.DotAttention(scale=scale), backend.array, given, lengths)
    leaves = [torch.tensor(given[name].transpose(1, 0, 2), requires_grad=True) for name in ("query", "keys", "values")]
    mask = (torch.arange(SOURCE) < torch.tensor(lengths)[:, None])[:, None, :].expand(BATCH, TARGET, SOURCE)
    context = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=mask, scale=scale)
    context.backward(torch.tensor(given["dcontext"].transpose(1, 0, 2)))
    wanted = {"context": context.detach()} | dict(
        zip(("dquery", "dkeys", "dvalues"), (a.grad for a in leaves), strict=True)
    )
    for name, value in wanted.items():
        np.testing.assert_allclose(backend.numpy(found[name]), value.transpose(0, 1), atol=1e-13, err_msg=name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_past_the_end_may_be_anything(backend, kind, value):
    attention, given, lengths = problem(kind, "lengths and values")
    wanted = run(attention, np.array, given, lengths)
    for name in ("keys", "values"):
        for sequence, length in enumerate(lengths):
            given[name][length:, sequence] = value
    found = run(attention, backend.array, given, lengths)
    assert_equal({name: backend.numpy(a) for name, a in found.items()}, wanted, 1e-14)


def test_weights_and_their_gradient_do_not_look_past_the_end(backend):
    """Nor does a NaN in a row that is there get out of it."""
    rng, lengths = np.random.default_rng(0), (3, 0, 6)
    scores, dweights = rng.normal(size=(2, BATCH, TARGET, SOURCE))
    scores[0, :, 3:] = dweights[0, :, 3:] = scores[1] = dweights[1] = np.nan
    dweights[0, 1, 2] = np.nan
    given = [backend.array(scores), backend.array(dweights)]
    padded = padding.checked(lengths, given[0], (SOURCE, BATCH), batch_first=False, name="scores")
    weights = masked_softmax.masked_softmax(given[0], padded)
    dscores = backend.numpy(masked_softmax.masked_softmax_backward(weights, given[1], padded))
    weights = backend.numpy(weights)
    for found in (weights, dscores):
        np.testing.assert_array_equal(found[0, :, 3:], 0)
        np.testing.assert_array_equal(found[1], 0)
    assert np.isnan(dscores[0, 1, :3]).all()
    for row in (0, 2, 3):
        leaf = torch.tensor(scores[0, row, :3], requires_grad=True)
        wanted = torch.softmax(leaf, 0)
        wanted.backward(torch.tensor(dweights[0, row, :3]))
        np.testing.assert_allclose(weights[0, row, :3], wanted.detach(), rtol=1e-14)
        np.testing.assert_allclose(dscores[0, row, :3], leaf.grad, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_stays_in_its_sequence(backend, kind):
    attention, given, lengths = problem(kind, "plain")
    wanted = run(attention, np.array, given, lengths)
    given["keys"][2, 1] = np.nan
    found = {name: backend.numpy(a) for name, a in run(attention, backend.array, given, lengths).items()}
    for name in ("context", "weights", "dquery", "dkeys"):
        assert np.isnan(found[name][:, 1]).any()
        np.testing.assert_allclose(found[name][:, [0, 2]], wanted[name][:, [0, 2]], atol=1e-14, err_msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_large_scores(backend, dtype):
    query = np.array([[1e4, 1.0], [-1e4, 1.0]], dtype)
    keys = np.array([[[1.0, 0.0]] * 2, [[-1.0, 0.0]] * 2, [[1.0, 1.0]] * 2], dtype)
    _, weights = nn.DotAttention()(backend.array(query), backend.array(keys), lengths=(3, 2))
    wanted = [[1 / (1 + np.e), 0, np.e / (1 + np.e)], [0, 1, 0]]
    np.testing.assert_allclose(backend.numpy(weights), wanted, rtol=1e-6 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("case", ["lengths and values", "no target"])
def test_windows_change_nothing(backend, case, monkeypatch):
    room = 3 * BATCH * SOURCE * HIDDEN  # three steps, then one
    monkeypatch.setattr(additive_attention, "WINDOW_ELEMENTS", {"NumPy": room, "elsewhere": room})
    attention, given, lengths = problem("additive", case)
    found = {name: backend.numpy(value) for name, value in run(attention, backend.array, given, lengths).items()}
    monkeypatch.undo()
    assert_equal(found, run(attention, np.array, given, lengths), 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_written_to_and_strides_do_not_matter(backend, kind):
    attention, given, lengths = problem(kind, "lengths and values")
    wanted = run(attention, np.array, given, lengths)
    turned = {name: np.ascontiguousarray(value.transpose(2, 1, 0)) for name, value in given.items()}
    kept = {name: backend.array(value) for name, value in turned.items()}

    def view(a):
        return backend.xp.permute_dims(a, (2, 1, 0)) if backend.name == backends.EQUATIONS else a.transpose(2, 1, 0)

    attention.params = {name: backend.array(value) for name, value in attention.params.items()}
    found = run(attention, lambda a: a, {name: view(value) for name, value in kept.items()}, lengths)
    assert_equal({name: backend.numpy(a) for name, a in found.items()}, wanted, 1e-13)
    for name, value in turned.items():
        np.testing.assert_array_equal(backend.numpy(kept[name]), value)


def test_parameters_start_within_their_bounds():
    additive = nn.AdditiveAttention(100, 400, 900, rng=0)
    bounds = {"weight_query": 0.1, "weight_key": 0.05, "weight_score": 1 / 30}
    assert {name: value.shape for name, value in additive.params.items()} == {
        **{"weight_query": (900, 100), "weight_key": (900, 400), "weight_score": (900,)}
    }
    for params, bound in [(additive.params, bounds), (nn.GeneralAttention(100, 4, rng=0).params, {"weight": 0.1})]:
        for name, value in params.items():
            assert value.dtype == np.float32 and 0.9 * bound[name] < np.abs(value).max() <= bound[name]
    assert not np.array_equal(
        additive.params["weight_query"].ravel()[:9], 2 * additive.params["weight_key"].ravel()[:9]
    )
    np.testing.assert_array_equal(
        additive.params["weight_key"], nn.AdditiveAttention(100, 400, 900, rng=0).params["weight_key"]
    )


class TestKernels:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("kind", ["dot", "additive"])
    def test_rows_longer_than_a_block(self, backend, kind):
        attention, given, _ = problem(kind, "values")
        rng = np.random.default_rng(2)
        given |= {"keys": rng.normal(size=(613, BATCH, KEY)), "values": rng.normal(size=(613, BATCH, VALUE))}
        for lengths in (None, (613, 257, 31)):
            found = run(attention, backend.array, given, lengths)
            wanted = run(attention, np.array, given, lengths)
            assert_equal({name: backend.numpy(a) for name, a in found.items()}, wanted, 1e-12)


class TestOnTheCpu:
    """What only the stand-in can do."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_launches_and_device(self, backend):
        attention, given, lengths = problem("dot", "lengths")
        with backend.xp.cuda.Device(1):
            ours = {name: backend.array(value) for name, value in given.items()}
        backend.xp.on_cpu.reset_counts()
        with backend.xp.cuda.Device(1):
            found = run(attention, lambda a: a, ours, lengths)
        assert dict(backend.xp.on_cpu.launches) == {"masked_softmax": 2, "masked_softmax_backward": 1}
        assert {a.device.id for a in found.values()} == {1}

    @pytest.mark.parametrize("mode", ["asan", "tsan"])
    @pytest.mark.parametrize("case", ["lengths and values", "plain"])
    def test_sanitizers(self, mode, case):
        check_under(mode, case)

    def test_a_barrier_taken_out_is_a_race(self, monkeypatch):
        """The second of softmax.cuh. A block has one row here, so the first has nothing to wait for."""
        true, barrier = sources.read("masked_softmax.cu"), "largest;\n        __syncthreads();"
        assert true.count(barrier) == 1
        monkeypatch.setattr(sources, "read", lambda name: true.replace(barrier, "largest;"))
        monkeypatch.setattr(modules, "_kernels", {})
        with pytest.raises(SanitizerError, match=r"data race[\s\S]*softmax\.cuh"):
            check_under("tsan", "plain", source=67)

    @pytest.mark.parametrize("which", [0, 1, 2, 3])
    def test_an_element_too_many_is_caught(self, which, monkeypatch):
        true, text = sources.read("masked_softmax.cu"), "k += blockDim.x)"
        parts = true.split(text)
        assert len(parts) == 5
        longer = parts[which].replace("k < length;", "k <= length;").replace("k < columns;", "k <= columns;")
        assert longer != parts[which]
        wrong = text.join([*parts[:which], longer, *parts[which + 1 :]])
        monkeypatch.setattr(sources, "read", lambda name: wrong)
        monkeypatch.setattr(modules, "_kernels", {})
        with pytest.raises(SanitizerError, match="heap-buffer-overflow"):
            check_under("asan", "plain")


def check_under(mode, case, source=SOURCE):
    attention, given, lengths = problem("dot", case, "float32")
    if source != SOURCE:
        given["keys"] = np.random.default_rng(3).normal(size=(source, BATCH, KEY)).astype("float32")
    with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
        backend = Backend(backends.CUPY_ON_CPU, cupy)
        found = {name: value.get() for name, value in run(attention, backend.array, given, lengths).items()}
    assert_equal(found, run(attention, np.array, given, lengths), 1e-5)
