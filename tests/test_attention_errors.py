"""What attentions refuse, and how they behave under other libraries' transformations."""

import jax
import numpy as np
import pytest
import torch

from gpulstm import nn

QUERY, KEYS, VALUES = np.ones((4, 3, 5), "float32"), np.ones((6, 3, 7), "float32"), np.ones((6, 3, 2), "float32")


def general():
    return nn.GeneralAttention(5, 7, rng=0)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: general()(QUERY.tolist(), KEYS), TypeError, "query must be an array .* got list"),
        (lambda: general()(QUERY.astype(int), KEYS), TypeError, "query must have dtype float32 or float64, got int64"),
        (lambda: general()(QUERY.astype("float64"), KEYS), TypeError, "query must have weight's dtype float32"),
        (lambda: nn.DotAttention()(KEYS, KEYS.astype("float64")), TypeError, "keys must have query's dtype float32"),
        (lambda: general()(QUERY, KEYS, torch.ones(6, 3, 2)), TypeError, "values must be a NumPy array like weight"),
        (
            lambda: general()(QUERY, KEYS[..., :4]),
            ValueError,
            r"keys must have shape \(source_time, batch, 7\), got \(6, 3, 4\)",
        ),
        (
            lambda: nn.DotAttention()(KEYS, KEYS[0]),
            ValueError,
            r"keys must have shape \(source_time, batch, key_size\)",
        ),
        (
            lambda: general()(KEYS, KEYS),
            ValueError,
            r"query must have shape .* \(batch, query_size\) = \(3, 5\) beside these keys, got \(6, 3, 7\)$",
        ),
        (lambda: general()(QUERY[:, :2], KEYS), ValueError, r"\(batch, query_size\) = \(3, 5\).*got \(4, 2, 5\)"),
        (lambda: general()(QUERY[0, 0], KEYS), ValueError, r"query must have shape .*got \(5,\)"),
        (lambda: general()(QUERY[None], KEYS), ValueError, r"query must have shape .*got \(1, 4, 3, 5\)"),
        (
            lambda: nn.DotAttention()(QUERY, KEYS),
            ValueError,
            r"= \(3, 7\) beside these keys, got \(4, 3, 5\); this attention needs queries as wide as the keys",
        ),
        (
            lambda: general()(QUERY, KEYS, VALUES[:5]),
            ValueError,
            r"values must have shape \(source_time, batch, value_size\) = \(6, 3, value_size\) .* got \(5, 3, 2\)",
        ),
        (lambda: general()(QUERY, KEYS, VALUES[0]), ValueError, "values must have shape"),
        (lambda: general()(QUERY, KEYS, lengths=[1, 2]), ValueError, r"lengths must have shape \(batch,\) = \(3,\)"),
        (lambda: general()(QUERY, KEYS, lengths=[1, 2, 7]), ValueError, "the number of time steps 6, got 7"),
        (lambda: nn.DotAttention(scale="1"), TypeError, "scale must be a number, got '1'"),
        (lambda: nn.DotAttention(scale=float("nan")), ValueError, "scale must be finite, got nan"),
        (lambda: nn.GeneralAttention(5, 7, scale=True), TypeError, "scale must be a number, got True"),
        (lambda: nn.GeneralAttention(0, 7), ValueError, "query_size must be at least 1"),
        (lambda: nn.AdditiveAttention(5, 7, 0), ValueError, "attention_size must be at least 1"),
        (lambda: nn.AdditiveAttention(5, 7.0, 2), TypeError, "key_size must be an integer"),
        (lambda: nn.AdditiveAttention(5, 7, 2, dtype="int32"), TypeError, "dtype must be float32 or float64"),
    ],
)
def test_refuses_what_does_not_match(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "dcontext, error, message",
    [
        (np.ones((4, 3, 7), "float32"), ValueError, r"context's shape \(4, 3, 2\), got \(4, 3, 7\)"),
        (np.ones((3, 2), "float32"), ValueError, r"context's shape \(4, 3, 2\), got \(3, 2\)"),
        (np.ones((4, 3, 2)), TypeError, "dcontext must have query's dtype float32, got float64"),
        (None, TypeError, "dcontext must be an array"),
    ],
)
def test_backward_refuses_what_does_not_match(dcontext, error, message):
    attention = general()
    cache = attention.forward(QUERY, KEYS, VALUES)[2]
    with pytest.raises(error, match=message):
        attention.backward(cache, dcontext)


KINDS = {"dot": lambda xp: nn.DotAttention(), "general": lambda xp: nn.GeneralAttention(7, 7, xp=xp, rng=0)}
KINDS["additive"] = lambda xp: nn.AdditiveAttention(7, 7, 5, xp=xp, rng=0)


@pytest.mark.parametrize("kind", KINDS)
def test_under_jit_lengths_may_be_traced(kind):
    rng, lengths = np.random.default_rng(0), np.array([6, 0, 2])
    query, keys = rng.normal(size=(4, 3, 7)).astype("float32"), rng.normal(size=(6, 3, 7)).astype("float32")
    attention = KINDS[kind](jax.numpy)
    found = jax.jit(lambda q, k, n: attention(q, k, lengths=n))(query, keys, jax.numpy.asarray(lengths))
    for ours, wanted in zip(found, KINDS[kind](np)(query, keys, lengths=lengths), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pytorchs_own_gradient_is_ours(kind):
    """An empty sequence, and a NaN past the end of another one, do not reach it."""
    rng, attention = np.random.default_rng(0), KINDS[kind](torch)
    query, keys = torch.tensor(rng.normal(size=(4, 3, 7)).astype("float32")), rng.normal(size=(6, 3, 7))
    keys[2:, 2] = keys[:, 1] = np.nan
    keys = torch.tensor(keys.astype("float32"))
    leaves = [query.requires_grad_(), keys.requires_grad_()]
    context, _, cache = attention.forward(*leaves, lengths=(6, 0, 2))
    dcontext = torch.tensor(rng.normal(size=(4, 3, 7)).astype("float32"))
    own = torch.autograd.grad(context, leaves, dcontext)
    for found, wanted in zip(attention.backward(cache, dcontext)[:2], own, strict=True):
        assert not wanted.isnan().any()
        np.testing.assert_allclose(found.detach(), wanted, rtol=1e-4, atol=1e-5)
