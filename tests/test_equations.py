"""The equations in four array libraries: by value against the NumPy engine, and against two other people's autograd."""

import functools
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays, equations
from gpulstm.parameters import Weights
from tests import backends, problems

NUMPY = backends.Backend(backends.NUMPY, np)
LIBRARIES = {"numpy": np, "array-api-strict": array_api_strict, "torch": torch, "jax": jnp}
LENGTHS = {"no lengths": None, "lengths": [5, 0, 3]}


@pytest.fixture
def jax_float64():
    """JAX computes in float32 until told otherwise, for the whole process: switched back afterwards."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=LIBRARIES)
def library(request, jax_float64):
    return backends.Backend("equations", LIBRARIES[request.param])


def layer_weights(params: dict[str, Any], suffix: str = "_l0") -> Weights:
    return Weights(params["weight_ih" + suffix], params["weight_hh" + suffix], params.get("bias" + suffix))


def engine_result(given: problems.Problem) -> dict[str, np.ndarray]:
    return problems.solve(NUMPY, given)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
class TestSequence:
    """`equations.sequence` and `sequence_backward` of one direction, called directly."""

    def test_equals_the_numpy_engine(self, library, reverse, bias, lengths):
        both = problems.problem(directions=2, bias=bias, lengths=LENGTHS[lengths])
        suffix, index = ("_l0_reverse", 1) if reverse else ("_l0", 0)
        columns = slice(2, 4) if reverse else slice(0, 2)
        # The other direction's outputs and states have no gradient, so dx is this direction's alone.
        only = [np.zeros_like(d) for d in (both.dy, *both.dstate)]
        only[0][..., columns] = both.dy[..., columns]
        for zeros, d in zip(only[1:], both.dstate, strict=True):
            zeros[index] = d[index]
        expected = engine_result(both.but(dy=only[0], dstate=tuple(only[1:])))

        x, h, c, params, dy, dh, dc = library.array(
            [both.x, both.state[0][index], both.state[1][index], both.params, both.dy[..., columns]]
            + [d[index] for d in both.dstate]
        )
        steps_of = None if both.lengths is None else library.array(np.array(both.lengths))
        weights = layer_weights(params, suffix)
        y, h_final, c_final, saved = equations.sequence(x, h, c, weights, steps_of, reverse)
        dx, gradients, dh0, dc0 = equations.sequence_backward(saved, dy, dh, dc, weights, steps_of, reverse)

        wanted = {"y": expected["y"][..., columns], "dx": expected["dx"]}
        wanted |= {name: expected[name][index] for name in ("h", "c", "dh", "dc")}
        wanted |= {name: expected[f"d{name}{suffix}"] for name in ("weight_ih", "weight_hh")}
        found = {"y": y, "h": h_final, "c": c_final, "dx": dx, "dh": dh0, "dc": dc0}
        found |= {"weight_ih": gradients.input, "weight_hh": gradients.recurrent}
        if bias:
            wanted["bias"], found["bias"] = expected["dbias" + suffix], gradients.bias
        else:
            assert gradients.bias is None
        problems.assert_close(library.numpy(found), wanted)

    def test_without_dy_equals_a_dy_of_zeros(self, library, reverse, bias, lengths):
        given = problems.problem(bias=bias, lengths=LENGTHS[lengths])
        x, (h, c), (dh, dc), params = library.array([given.x, given.state, given.dstate, given.params])
        steps_of = None if given.lengths is None else library.array(np.array(given.lengths))
        weights = layer_weights(params)
        saved = equations.sequence(x, h[0, ...], c[0, ...], weights, steps_of, reverse)[3]
        results = [
            equations.sequence_backward(saved, dy, dh[0, ...], dc[0, ...], weights, steps_of, reverse)
            for dy in (None, library.array(np.zeros_like(given.dy)))
        ]
        for without, zeros in zip(*((r[0], r[1].input, r[1].recurrent, *r[2:]) for r in results), strict=True):
            np.testing.assert_array_equal(library.numpy(without), library.numpy(zeros))


class TestStep:
    def test_written_out_gate_by_gate(self):
        """The textbook's form: each gate is a matrix times [h, x]. A wrong order of gates shows here."""
        rng = np.random.default_rng(0)
        x, h, c = rng.normal(size=(3, 4)), rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
        w_x, w_h, b = rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), rng.normal(size=8)
        h_next, c_next, saved = equations.step(x, h, c, Weights(w_x, w_h, b))
        a = [x @ w_x[k : k + 2].T + h @ w_h[k : k + 2].T + b[k : k + 2] for k in (0, 2, 4, 6)]
        i, f, o = (1 / (1 + np.exp(-a[k])) for k in (0, 1, 3))
        wanted_c = f * c + i * np.tanh(a[2])
        np.testing.assert_allclose(c_next, wanted_c, rtol=1e-14)
        np.testing.assert_allclose(h_next, o * np.tanh(wanted_c), rtol=1e-14)
        np.testing.assert_allclose([saved.i, saved.f, saved.g, saved.o], [i, f, np.tanh(a[2]), o], rtol=1e-14)

    def test_step_backward_agrees_with_autograd(self):
        given = problems.problem(batch=3)
        x, h, c = (torch.tensor(a, requires_grad=True) for a in (given.x[0], given.state[0][0], given.state[1][0]))
        weights = Weights(*(torch.tensor(p, requires_grad=True) for p in layer_weights(given.params)[:3]))
        dh, dc = (torch.tensor(d[0]) for d in given.dstate)
        h_next, c_next, saved = equations.step(x, h, c, weights)
        expected = torch.autograd.grad((h_next, c_next), (x, h, c, *weights[:3]), (dh, dc))
        with torch.no_grad():
            found = equations.step_backward(saved, dh, dc, weights)
            of_weights = (found.da.T @ saved.x, found.da.T @ saved.h_previous, found.da.sum(0))
        for ours, theirs in zip((found.dx, found.dh, found.dc, *of_weights), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    def test_sigmoid_saturates_without_overflow(self):
        with np.errstate(all="raise", under="ignore"):
            found = equations.sigmoid(np.array([-1e300, -40.0, 0.0, 40.0, 1e300]))
        np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], rtol=0, atol=1e-16)


PROBLEMS = {  # three steps: jit compiles every one of them
    "one layer": {"steps": 3, "layers": 1},
    "two layers, lengths": {"steps": 3, "layers": 2, "lengths": [3, 0, 2]},
    "two directions, no bias": {"steps": 3, "layers": 1, "directions": 2, "bias": False},
    "two of both, lengths, no state": {"steps": 3, "layers": 2, "directions": 2, "lengths": [2, 3, 0], "state": False},
}


@pytest.mark.parametrize("sizes", PROBLEMS.values(), ids=PROBLEMS)
class TestThroughTheFunctions:
    def test_every_library_agrees_with_the_numpy_engine(self, library, sizes):
        given = problems.problem(**sizes)
        problems.assert_close(problems.solve(library, given), engine_result(given))
        inferred = problems.infer(library, given)
        problems.assert_close(inferred, {name: engine_result(given)[name] for name in inferred})

    def test_torch_autograd_agrees_with_backward(self, sizes):
        given = problems.problem(**sizes)
        params = {name: torch.tensor(p, requires_grad=True) for name, p in given.params.items()}
        x = torch.tensor(given.x, requires_grad=True)
        state = given.state and tuple(torch.tensor(a, requires_grad=True) for a in given.state)
        y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths)
        asked = [torch.tensor(d) for d in (given.dy, *given.dstate)]
        leaves = [x, *params.values(), *(state or ())]
        theirs = torch.autograd.grad((y, *final), leaves, asked)
        with torch.no_grad():
            dx, grads, dinitial = gl.lstm_backward(cache, asked[0], asked[1:])
        ours = [dx, *(grads[name] for name in params), *(dinitial if state else ())]
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)

    def test_jax_jit_and_grad(self, jax_float64, sizes):
        """With the lengths traced too: under jit nobody can look at their values."""
        given = problems.problem(**sizes)
        lengths = None if given.lengths is None else jnp.asarray(given.lengths)

        def loss(x, params, state, lengths):
            y, final, _ = gl.lstm_forward(x, params, state, lengths=lengths)
            asked = zip((y, *final), (given.dy, *given.dstate), strict=True)
            return sum(jnp.sum(a * d) for a, d in asked), (y, *final)

        arguments = jax.tree.map(jnp.asarray, (given.x, given.params, given.state))
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (_, outputs), (dx, grads, dstate) = compiled(*arguments, lengths)
        found = dict(zip(("y", "h", "c"), outputs, strict=True)) | {"dx": dx}
        found |= {"d" + name: gradient for name, gradient in grads.items()}
        expected = engine_result(given)
        if dstate is None:
            expected = {name: value for name, value in expected.items() if name not in ("dh", "dc")}
        else:
            found |= dict(zip(("dh", "dc"), dstate, strict=True))
        problems.assert_close({name: np.asarray(value) for name, value in found.items()}, expected)

    def test_our_backward_under_jax_jit(self, jax_float64, sizes):
        given = problems.problem(**sizes)
        as_jax = functools.partial(jax.tree.map, jnp.asarray)

        @jax.jit
        def both_ways(x, params, state, dy, dstate):
            _, _, cache = gl.lstm_forward(x, params, state, lengths=given.lengths)
            return gl.lstm_backward(cache, dy, dstate)

        dx, grads, dinitial = both_ways(*as_jax((given.x, given.params, given.state, given.dy, given.dstate)))
        found = {"dx": dx, "dh": dinitial.h, "dc": dinitial.c} | {"d" + name: g for name, g in grads.items()}
        expected = {name: value for name, value in engine_result(given).items() if name in found}
        problems.assert_close({name: np.asarray(value) for name, value in found.items()}, expected)


class TestPaddingUnderAutograd:
    """where(running, new, old) has the right value with NaN in new, but autograd multiplies new's NaN slope by 0."""

    given = problems.problem(steps=3, layers=2, directions=2, lengths=[3, 0, 1])

    def padded(self) -> np.ndarray:
        x = self.given.x.copy()
        for sequence, length in enumerate(self.given.lengths):
            x[length:, sequence] = np.nan
        return x

    def test_torch(self):
        params = {name: torch.tensor(p, requires_grad=True) for name, p in self.given.params.items()}
        x = torch.tensor(self.padded(), requires_grad=True)
        y, final, _ = gl.lstm_forward(x, params, lengths=self.given.lengths)
        asked = [torch.tensor(d) for d in (self.given.dy, *self.given.dstate)]
        found = torch.autograd.grad((y, *final), [x, *params.values()], asked)
        expected = engine_result(self.given.but(state=None))
        wanted = [expected["dx"], *(expected["d" + name] for name in params)]
        for mine, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine.numpy(), other, rtol=1e-10, atol=1e-10)

    def test_jax(self, jax_float64):
        def loss(params, x):
            y, final, _ = gl.lstm_forward(x, params, lengths=self.given.lengths)
            asked = zip((y, *final), (self.given.dy, *self.given.dstate), strict=True)
            return sum(jnp.sum(a * d) for a, d in asked)

        params = jax.tree.map(jnp.asarray, self.given.params)
        found = jax.grad(loss)(params, jnp.asarray(self.padded()))
        expected = engine_result(self.given.but(state=None))
        for name, gradient in found.items():
            np.testing.assert_allclose(np.asarray(gradient), expected["d" + name], rtol=1e-10, atol=1e-10)


def every_array(given: problems.Problem, library: backends.Backend) -> dict[str, Any]:
    """All results of training and inference, left as the library's arrays."""
    x, params, state = (library.array(a) for a in (given.x, given.params, given.state))
    y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths)
    dx, grads, dinitial = gl.lstm_backward(cache, library.array(given.dy), library.array(given.dstate))
    return {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("state", [True, False])
def test_library_and_dtype_are_preserved(library, dtype, state):
    given = problems.problem(directions=2, dtype=dtype, state=state, lengths=[5, 0, 3])
    kind = type(library.array(given.x))
    for name, found in every_array(given, library).items():
        assert isinstance(found, kind), name
        assert arrays.dtype_name(found) == dtype, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("xp", [torch, jnp], ids=["torch", "jax"])
def test_half_precision_in_libraries_that_have_it(xp, dtype):
    """Nothing is widened on the way: a Python float or a stray float32 zero would do that."""
    given = problems.problem(steps=3, directions=2, dtype="float32", lengths=[3, 0, 2])
    kind = getattr(xp, dtype)
    half = backends.Backend("equations", xp)
    half.array = lambda value: None if value is None else jax.tree.map(lambda a: xp.asarray(a, dtype=kind), value)
    expected = engine_result(given)
    for name, found in every_array(given, half).items():
        assert arrays.dtype_name(found) == dtype, name
        # bfloat16 has 8 significant bits, rounding 2^-9 = 0.002: 3 % is a chain of some fifteen roundings.
        wanted = expected[name if name in expected else "d" + name]
        close = np.asarray(found.astype("float32") if xp is jnp else found.float())
        assert np.linalg.norm(close - wanted) < 0.03 * np.linalg.norm(wanted), name


def test_device_is_preserved():
    """array-api-strict refuses to mix its devices: a zero made on the default one would raise."""
    where = array_api_strict.Device("device1")
    given = problems.problem(layers=2, directions=2, lengths=[5, 0, 3], state=False)
    strict = backends.Backend("equations", array_api_strict)
    strict.array = lambda value: (
        None if value is None else jax.tree.map(lambda a: array_api_strict.asarray(a, device=where), value)
    )
    for name, found in every_array(given, strict).items():
        assert found.device == where, name


def test_a_trained_torch_layer_needs_nothing_but_its_parameters():
    """requires_grad parameters in, a y with a graph out; our own backward on them gives the same gradients."""
    lstm = gl.LSTM(4, 2, 2, bidirectional=True, dtype="float64", xp=torch, rng=0)
    for parameter in lstm.params.values():
        parameter.requires_grad_()
    x = torch.tensor(problems.problem().x)
    y, _, cache = lstm.forward(x)
    (y**2).sum().backward()
    _, grads, _ = lstm.backward(cache, 2 * y)
    for name, parameter in lstm.params.items():
        torch.testing.assert_close(grads[name].detach(), parameter.grad, rtol=1e-12, atol=1e-12)


def test_float64_in_jax_was_not_left_on():
    assert jnp.asarray(np.zeros(1)).dtype == jnp.float32
