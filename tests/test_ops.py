"""`gpulstm.ops`: each function and its backward by value, by finite differences, and with every kind of ``out``."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import ops
from tests import backends, problems

ROWS, HIDDEN = (2, 3), 5  # any number of leading axes
EPS = {"float32": 6e-8, "float64": 1.1e-16}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def quarters(a):
    return np.split(a, 4, axis=-1)


def activated(a):
    i, f, g, o = quarters(a)
    return np.concatenate([sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)], axis=-1)


def slopes(gates):
    i, f, g, o = quarters(gates)
    return np.concatenate([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], axis=-1)


def updated(gates, c):
    i, f, g, o = quarters(gates)
    c_next = f * c + i * g
    return c_next, o * np.tanh(c_next)


def updated_backward(gates, c, c_next, dc_next, dh):
    i, f, g, o = quarters(gates)
    tanh_c = np.tanh(c_next)
    dc = dc_next + dh * o * (1 - tanh_c**2)
    return np.concatenate([dc * g, dc * c, dc * i, dh * tanh_c], axis=-1), dc * f


@dataclass(frozen=True)
class Op:
    """An op, its formula in NumPy, and which arguments it takes: "w"ide (..., 4*hidden) or "n"arrow (..., hidden)."""

    formula: Any
    arguments: str
    results: str


OPS = {
    "sigmoid": Op(sigmoid, "n", "n"),
    "sigmoid_backward": Op(lambda y, dy: dy * y * (1 - y), "nn", "n"),
    "tanh": Op(np.tanh, "n", "n"),
    "tanh_backward": Op(lambda y, dy: dy * (1 - y * y), "nn", "n"),
    "gate_activations": Op(activated, "w", "w"),
    "gate_activations_backward": Op(lambda gates, dgates: dgates * slopes(gates), "ww", "w"),
    "cell_update": Op(updated, "wn", "nn"),
    "cell_update_backward": Op(updated_backward, "wnnnn", "wn"),
}


def shape_of(letter: str, rows: tuple = ROWS) -> tuple[int, ...]:
    return (*rows, 4 * HIDDEN if letter == "w" else HIDDEN)


def arguments_of(name: str, dtype: str = "float64", rows: tuple = ROWS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape_of(letter, rows)).astype(dtype) for letter in OPS[name].arguments]


def as_tuple(result: Any) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def expected(name: str, arguments: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """By the formula, in float64."""
    return as_tuple(OPS[name].formula(*(a.astype("float64") for a in arguments)))


def compare(backend, found: Any, wanted: tuple, dtype: str = "float64") -> None:
    found = as_tuple(found)
    assert len(found) == len(wanted)
    for ours, other in zip(found, wanted, strict=True):
        ours = backend.numpy(ours)
        assert ours.shape == other.shape and ours.dtype == dtype
        # Ten operations at most, each off by half a unit in the last place of values below 20.
        np.testing.assert_allclose(ours, other, rtol=20 * EPS[dtype], atol=20 * EPS[dtype])


@pytest.mark.parametrize("name", OPS)
class TestEachOp:
    @pytest.mark.parametrize("dtype", EPS)
    @pytest.mark.parametrize("rows", [ROWS, (), (1,), (257,)], ids=str)
    def test_by_value(self, backend, name, dtype, rows):
        arguments = arguments_of(name, dtype, rows)
        compare(backend, getattr(ops, name)(*map(backend.array, arguments)), expected(name, arguments), dtype)

    def test_inputs_are_not_written_to(self, backend, name):
        arguments = [backend.array(a) for a in arguments_of(name)]
        before = [backend.numpy(a).tobytes() for a in arguments]
        getattr(ops, name)(*arguments)
        assert [backend.numpy(a).tobytes() for a in arguments] == before

    def test_no_rows(self, backend, name):
        arguments = arguments_of(name, rows=(0,))
        compare(backend, getattr(ops, name)(*map(backend.array, arguments)), expected(name, arguments))

    @pytest.mark.parametrize("xp", [torch, jnp], ids=["torch", "jax"])
    def test_other_libraries(self, name, xp):
        arguments = arguments_of(name, "float32")
        found = as_tuple(getattr(ops, name)(*map(xp.asarray, arguments)))
        for ours, other in zip(found, expected(name, arguments), strict=True):
            assert isinstance(ours, type(xp.asarray(0.0)))
            np.testing.assert_allclose(np.asarray(ours), other, rtol=20 * EPS["float32"], atol=20 * EPS["float32"])


@pytest.mark.parametrize("name", OPS)
class TestOut:
    BACKENDS = backends.ENGINES

    def outs(self, backend, name: str) -> tuple:
        return tuple(backend.xp.full(shape_of(letter), 99.0) for letter in OPS[name].results)

    def call(self, name: str, arguments: list, outs: tuple) -> tuple:
        return as_tuple(getattr(ops, name)(*arguments, out=outs if len(outs) > 1 else outs[0]))

    def test_the_result_lands_there(self, backend, name):
        arguments, outs = arguments_of(name), self.outs(backend, name)
        found = self.call(name, [backend.array(a) for a in arguments], outs)
        assert all(ours is out for ours, out in zip(found, outs, strict=True))
        compare(backend, found, expected(name, arguments))

    def test_in_place(self, backend, name):
        """Every input whose shape a result has may be that result."""
        letters, results = OPS[name].arguments, OPS[name].results
        for place, letter in enumerate(letters):
            if letter not in results:
                continue
            arguments = arguments_of(name)
            given = [backend.array(a) for a in arguments]
            outs = list(self.outs(backend, name))
            outs[results.index(letter)] = given[place]
            found = self.call(name, given, tuple(outs))
            assert found[results.index(letter)] is given[place]
            compare(backend, found, expected(name, arguments))

    def test_strided(self, backend, name):
        """The elements between the strides stay as they are."""
        wide = [backend.xp.full((2, 3, 2 * shape_of(letter)[-1]), 99.0) for letter in OPS[name].results]
        outs = tuple(w[..., ::2] for w in wide)
        arguments = arguments_of(name)
        found = self.call(name, [backend.array(a) for a in arguments], outs)
        assert all(ours is out for ours, out in zip(found, outs, strict=True))
        compare(backend, found, expected(name, arguments))
        assert all((backend.numpy(w)[..., 1::2] == 99.0).all() for w in wide)

    def test_strided_inputs(self, backend, name):
        arguments = arguments_of(name)
        for strided in (
            [backend.array(a).swapaxes(0, 1).copy().swapaxes(0, 1) for a in arguments],
            [backend.array(np.flip(a))[::-1, ::-1, ::-1] for a in arguments],
        ):
            assert not any(a.flags.c_contiguous for a in strided)
            compare(backend, getattr(ops, name)(*strided), expected(name, arguments))

    def test_a_wrong_out_is_refused(self, backend, name):
        arguments = [backend.array(a) for a in arguments_of(name)]
        good = self.outs(backend, name)
        other = backends.Backend("numpy", np) if backend.name in backends.KERNELS else backends.Backend("torch", torch)
        for place in range(len(good)):
            called = rf"out\[{place}\]" if len(good) > 1 else "out"
            wrong = {
                "shape": (good[place][1:], ValueError),
                "dtype": (good[place].astype("float32"), TypeError),
                "library": (other.xp.ones(good[place].shape), TypeError),
                "list": (good[place].tolist(), TypeError),
                "broadcast": (backend.xp.ones((4, *good[place].shape)), ValueError),
            }
            for what, (array, error) in wrong.items():
                outs = (*good[:place], array, *good[place + 1 :])
                with pytest.raises(error, match=f"^{called} must"):
                    self.call(name, arguments, outs)
                assert all((backend.numpy(out) == 99.0).all() for out in good), f"{what}: nothing was written"
        if len(good) > 1:
            for pair in (good[0], (good[0],), (*good, good[0])):
                with pytest.raises(TypeError, match="out must be a pair"):
                    getattr(ops, name)(*arguments, out=pair)

    def test_a_read_only_out_is_refused(self, backend, name):
        if backend.name != backends.NUMPY:
            return  # CuPy has no read-only arrays
        outs = self.outs(backend, name)
        for out in outs:
            out.flags.writeable = False
        with pytest.raises(ValueError, match="must be writeable, got a read-only array"):
            self.call(name, arguments_of(name), outs)


def test_out_is_for_arrays_that_can_be_written_to():
    with pytest.raises(TypeError, match="out is for NumPy and CuPy arrays"):
        ops.sigmoid(torch.zeros(3), out=torch.zeros(3))


class TestLaunches:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("name", OPS)
    def test_one_each(self, backend, name):
        arguments = [backend.array(a) for a in arguments_of(name)]
        backend.xp.on_cpu.reset_counts()
        getattr(ops, name)(*arguments)
        assert sum(backend.xp.on_cpu.launches.values()) == 1 and not backend.xp.on_cpu.gemms
        getattr(ops, name)(*(a[:0] for a in arguments))
        assert sum(backend.xp.on_cpu.launches.values()) == 1, "nothing to do, nothing launched"

    @pytest.mark.parametrize("name", OPS)
    def test_on_the_arrays_device(self, backend, name):
        with backend.xp.cuda.Device(1):
            arguments = [backend.array(a) for a in arguments_of(name)]
        found = as_tuple(getattr(ops, name)(*arguments))
        assert all(ours.device == arguments[0].device for ours in found)
        compare(backend, found, expected(name, arguments_of(name)))


def difference(function, arguments: list, place: int, weights: tuple) -> np.ndarray:
    """d(sum of results x weights) / d(argument), by central differences: 1e-10 for h^2 and 4e-11 for eps/h."""
    step, gradient = 1e-5, np.zeros_like(arguments[place])
    for index in np.ndindex(gradient.shape):
        sums = []
        for sign in (1, -1):
            moved = [a.copy() for a in arguments]
            moved[place][index] += sign * step
            sums.append([np.sum(w * r) for w, r in zip(weights, as_tuple(function(*moved)), strict=True)])
        gradient[index] = (np.array(sums[0]) - sums[1]).sum() / (2 * step)
    return gradient


class TestFiniteDifferences:
    """Sums of 30 or 120 results: 1e-8 is what h^2 and eps/h leave, as in test_gradients.py."""

    BACKENDS = (backends.NUMPY,)  # test_by_value holds the other paths against the same numbers

    @pytest.mark.parametrize("name", ["sigmoid", "tanh", "gate_activations"])
    def test_elementwise(self, name):
        (x,) = arguments_of(name)
        dy = np.random.default_rng(1).normal(size=x.shape)
        found = getattr(ops, name + "_backward")(getattr(ops, name)(x), dy)
        np.testing.assert_allclose(found, difference(getattr(ops, name), [x], 0, (dy,)), rtol=0, atol=1e-8)

    def test_cell_update(self):
        gates, c = arguments_of("cell_update")
        dc_next, dh = np.random.default_rng(1).normal(size=(2, *c.shape))
        c_next, _ = ops.cell_update(gates, c)
        found = ops.cell_update_backward(gates, c, c_next, dc_next, dh)
        for place, ours in enumerate(found):
            numerical = difference(ops.cell_update, [gates, c], place, (dc_next, dh))
            np.testing.assert_allclose(ours, numerical, rtol=0, atol=1e-8)


class TestExtremes:
    """Saturation and IEEE; warnings are errors, so overflow inside would be seen."""

    BACKENDS = backends.ENGINES
    X = np.array([-np.inf, -1e300, -1000.0, -0.0, 0.0, 1000.0, 1e300, np.inf, np.nan])

    def test_sigmoid_and_tanh(self, backend):
        found = backend.numpy(ops.sigmoid(backend.array(self.X)))
        np.testing.assert_array_equal(found, [0, 0, 0, 0.5, 0.5, 1, 1, 1, np.nan])
        found = backend.numpy(ops.tanh(backend.array(self.X)))
        np.testing.assert_array_equal(found, [-1, -1, -1, -0.0, 0, 1, 1, 1, np.nan])

    def test_gates(self, backend):
        a = np.tile(self.X[:, None], 4)  # (9, 4*1)
        found = backend.numpy(ops.gate_activations(backend.array(a)))
        np.testing.assert_array_equal(found[:, 2], [-1, -1, -1, -0.0, 0, 1, 1, 1, np.nan])
        for k in (0, 1, 3):
            np.testing.assert_array_equal(found[:, k], [0, 0, 0, 0.5, 0.5, 1, 1, 1, np.nan])

    def test_infinities_and_nan_in_the_cell(self, backend):
        gates = np.full((4, 4), 0.5)
        c, h = (backend.numpy(r) for r in ops.cell_update(
            backend.array(gates), backend.array(np.array([[np.inf], [-np.inf], [np.nan], [1e308]]))
        ))  # fmt: skip
        np.testing.assert_array_equal(c[:, 0], [np.inf, -np.inf, np.nan, 0.5e308 + 0.25])
        np.testing.assert_array_equal(h[:, 0], [0.5, -0.5, np.nan, 0.5])

    def test_an_infinite_gradient(self, backend):
        y, dy = np.array([0.25, 0.0, 0.25]), np.array([np.inf, np.inf, np.nan])
        found = backend.numpy(ops.sigmoid_backward(backend.array(y), backend.array(dy)))
        np.testing.assert_array_equal(found, [np.inf, np.nan, np.nan])  # 0 * inf is NaN


def test_zero_dimensional_arrays(backend):
    """An array in is an array out, where NumPy itself would give a scalar."""
    for name in ("sigmoid", "tanh"):
        found = getattr(ops, name)(backend.xp.asarray(np.array(0.5)))
        assert isinstance(found, type(backend.array(np.zeros(1)))) and found.shape == ()
        np.testing.assert_allclose(backend.numpy(found), OPS[name].formula(0.5), rtol=1e-15)


@pytest.mark.parametrize("dtype", EPS)
def test_the_pieces_make_a_step_of_the_lstm(backend, dtype):
    """gate_activations and cell_update, with the two products, and their backwards: one step of lstm_forward."""
    given = problems.problem(steps=1, dtype=dtype)
    wanted = problems.solve(backend, given)
    w_x, w_h, b = (given.params[name + "_l0"] for name in ("weight_ih", "weight_hh", "bias"))
    h, c = (part[0] for part in given.state)
    gates = ops.gate_activations(backend.array(given.x[0] @ w_x.T + h @ w_h.T + b))
    c_next, h_next = ops.cell_update(gates, backend.array(c))
    dc_next, dh = backend.array(given.dstate[1][0]), backend.array(given.dstate[0][0] + given.dy[0])
    dgates, dc = ops.cell_update_backward(gates, backend.array(c), c_next, dc_next, dh)
    da = backend.numpy(ops.gate_activations_backward(gates, dgates))
    found = {"y": backend.numpy(h_next)[None], "h": backend.numpy(h_next)[None], "c": backend.numpy(c_next)[None]}
    found |= {"dx": (da @ w_x)[None], "dh": (da @ w_h)[None], "dc": backend.numpy(dc)[None]}
    found |= {"dweight_ih_l0": da.T @ given.x[0], "dweight_hh_l0": da.T @ h, "dbias_l0": da.sum(0)}
    problems.assert_close(found, wanted, tolerance=200 * EPS[dtype])


class TestBadInput:
    @pytest.mark.parametrize("width", [0, 3, 6])
    def test_gates_have_four_parts(self, backend, width):
        with pytest.raises(ValueError, match=rf"gates must have 4\*hidden on its last axis, got shape \(2, {width}\)"):
            ops.cell_update(backend.array(np.zeros((2, width))), backend.array(np.zeros((2, 1))))

    def test_shapes_of_one_call(self, backend):
        narrow, wide = backend.array(np.zeros((2, 3))), backend.array(np.zeros((2, 12)))
        with pytest.raises(ValueError, match=r"dy must have y's shape \(2, 3\), got \(2, 12\)"):
            ops.sigmoid_backward(narrow, wide)
        with pytest.raises(ValueError, match=r"c must have shape \(\.\.\., hidden\) = \(2, 3\).*got \(2, 12\)"):
            ops.cell_update(wide, wide)
        with pytest.raises(ValueError, match=r"dh must have shape .* got \(1, 3\)"):
            ops.cell_update_backward(wide, narrow, narrow, narrow, narrow[:1, ...])

    def test_dtypes(self, backend):
        for dtype in ("int64", "bool"):
            with pytest.raises(TypeError, match=f"x must have dtype float.*got {dtype}"):
                ops.sigmoid(backend.array(np.zeros(3, dtype)))
        with pytest.raises(TypeError, match="dy must have y's dtype float64, got float32"):
            ops.tanh_backward(backend.array(np.zeros(3)), backend.array(np.zeros(3, "float32")))

    def test_libraries(self, backend):
        with pytest.raises(TypeError, match="dgates must be a torch array like gates"):
            ops.gate_activations_backward(torch.zeros(2, 4, dtype=torch.float64), backend.array(np.zeros((2, 4))))
        for bad in ([1.0, 2.0], 1.0, None, "abc", np.float64(1)):
            with pytest.raises(TypeError, match="x must be an array"):
                ops.sigmoid(bad)

    def test_a_gate_buffer_of_no_axes(self, backend):
        with pytest.raises(ValueError, match="preactivations"):
            ops.gate_activations(backend.array(np.zeros(())))


def test_the_names_are_public():
    assert gl.ops is ops
