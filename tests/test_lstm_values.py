"""Unusual memory and unusual numbers: strides, read-only arrays, NaN, infinities, huge and tiny values."""

import tempfile

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.functional import lstm_inference
from tests import backends, problems

BIG = {"layers": 2, "directions": 2}
LENGTHS = {"no lengths": None, "lengths": [5, 0, 3]}


@pytest.fixture(autouse=True)
def quiet_equations(backend):
    """The engines silence NumPy's warnings themselves. The equations are the library's own operations, and their
    warnings about infinities are that library's business."""
    silent = {"over": "ignore", "invalid": "ignore"} if backend.name == backends.EQUATIONS else {}
    with np.errstate(**silent):
        yield


# How an array can lie in memory while its values stay the same. Each takes a backend's array and gives an equal one.
def fortran(backend, a):
    return a.T.copy().T


def every_other(backend, a):
    wide = backend.xp.zeros(tuple(2 * n for n in a.shape), dtype=a.dtype)
    part = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    part[...] = a
    return part


def backwards(backend, a):
    flips = tuple(slice(None, None, -1) for _ in a.shape)
    return a[flips].copy()[flips]


def read_only(backend, a):
    a.flags.writeable = False
    return a


def mapped(backend, a):
    """What numpy.load(..., mmap_mode="r") gives: a subclass of ndarray, read-only."""
    with tempfile.TemporaryFile() as file:
        file.write(a.tobytes())
        file.flush()
        return np.memmap(file, a.dtype, "r", shape=a.shape)


LAYOUTS = {f.__name__: f for f in (fortran, every_other, backwards)}


def leaves(value):
    """All arrays in a dict, tuple or array."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [value]


class TestMemoryLayouts:
    BACKENDS = backends.ENGINES  # arrays of other libraries go to that library's own operations

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_strides(self, backend, layout, lengths):
        check_layout(backend, LAYOUTS[layout], LENGTHS[lengths])

    @pytest.mark.parametrize("only", ["x", "params", "state", "dy", "dstate"])
    def test_one_strided_argument_among_contiguous_ones(self, backend, only):
        check_layout(backend, every_other, [5, 0, 3], only)


class TestReadOnly:
    BACKENDS = (backends.NUMPY,)  # CuPy has no read-only arrays

    @pytest.mark.parametrize("layout", [read_only, mapped])
    def test_read_only(self, backend, layout):
        check_layout(backend, layout, [5, 0, 3])

    def test_broadcast(self, backend):
        """Stride 0: all sequences are one row of memory."""
        given = problems.problem(**BIG)
        same = given.but(
            x=np.broadcast_to(given.x[:, :1], given.x.shape),
            state=tuple(np.broadcast_to(part[:, :1], part.shape) for part in given.state),
            dy=np.broadcast_to(given.dy[:, :1], given.dy.shape),
            dstate=tuple(np.broadcast_to(part[:, :1], part.shape) for part in given.dstate),
        )
        backend.array = lambda value: value  # the arrays themselves, no copies
        found = problems.solve(backend, same)
        for name in ("y", "h", "c", "dx", "dh", "dc"):
            np.testing.assert_allclose(found[name], found[name][:, :1].repeat(3, axis=1), rtol=0, atol=1e-12)
        copied = same.but(**{name: np.ascontiguousarray(getattr(same, name)) for name in ("x", "dy")})
        problems.assert_close(found, problems.solve(backend, copied))


def check_layout(backend, layout, lengths, only: str | None = None) -> None:
    """Right results in training and inference, and not one byte of an argument changed."""
    given = problems.problem(**BIG, lengths=lengths)
    expected, expected_inference = problems.solve(backend, given), problems.infer(backend, given)
    arguments = {name: backend.array(getattr(given, name)) for name in ("x", "params", "state", "dy", "dstate")}

    def lay_out(value):
        if isinstance(value, dict):
            return {key: layout(backend, item) for key, item in value.items()}
        return tuple(map(lay_out, value)) if isinstance(value, tuple) else layout(backend, value)

    arguments |= {name: lay_out(value) for name, value in arguments.items() if only in (None, name)}
    before = [backend.numpy(leaf).tobytes() for leaf in leaves(tuple(arguments.values()))]
    x, params, state, dy, dstate = arguments.values()

    inferred, inferred_state = lstm_inference(x, params, state, lengths=lengths)
    y, final, cache = gl.lstm_forward(x, params, state, lengths=lengths)
    dx, grads, dinitial = gl.lstm_backward(cache, dy, dstate)
    found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    found |= {"d" + name: gradient for name, gradient in grads.items()}
    problems.assert_close(backend.numpy(found), expected)
    inference = backend.numpy({"y": inferred, "h": inferred_state.h, "c": inferred_state.c})
    problems.assert_close(inference, expected_inference)
    assert [backend.numpy(leaf).tobytes() for leaf in leaves(tuple(arguments.values()))] == before


class TestNotANumber:
    """IEEE says where NaN and infinity come out: in everything computed from them, and in nothing else."""

    @pytest.mark.parametrize("lengths", [None, [5, 2, 3]], ids=LENGTHS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("where", ["x", "h", "c", "dy", "dh", "dc"])
    def test_a_sequence_does_not_reach_its_neighbours(self, backend, where, value, lengths):
        given = problems.problem(**BIG, lengths=lengths)
        spoilt = spoil(given, where, value, sequence=1)
        expected, found = problems.solve(backend, given), problems.solve(backend, spoilt)
        others = [0, 2]
        for name in ("y", "h", "c", "dx", "dh", "dc"):
            np.testing.assert_allclose(found[name][:, others], expected[name][:, others], rtol=0, atol=1e-12)
        if np.isnan(value):
            spoilt_names = ("dx",) if where in ("dy", "dh", "dc") else ("y", "h", "c", "dx", "dh", "dc")
            for name in spoilt_names:
                assert np.isnan(found[name][:, 1]).any(), f"NaN in {where} was lost on its way to {name}"
            assert np.isnan(found["dweight_ih_l0"]).any(), "a weight's gradient is a sum over all sequences"
        inferred = problems.infer(backend, spoilt)
        for name in inferred:
            np.testing.assert_allclose(inferred[name][:, others], expected[name][:, others], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("where", ["x", "dy"])
    def test_padding_is_never_read(self, backend, where, value):
        """Whatever stands past a sequence's end: outputs, states and all gradients are those of zeros there."""
        given = problems.problem(**BIG, lengths=[5, 0, 3])
        padded = getattr(given, where).copy()
        for sequence, length in enumerate(given.lengths):
            padded[length:, sequence] = value
        spoilt = given.but(**{where: padded})
        problems.assert_close(problems.solve(backend, spoilt), problems.solve(backend, given))
        problems.assert_close(problems.infer(backend, spoilt), problems.infer(backend, given))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_the_state_of_an_empty_sequence_passes_through(self, backend, value):
        """Bit for bit, and into nothing else: that sequence has no step, so no parameter's gradient knows it."""
        given = problems.problem(**BIG, lengths=[5, 0, 3])
        state = tuple(part.copy() for part in given.state)
        for part in state:
            part[:, 1] = value
        expected, found = problems.solve(backend, given), problems.solve(backend, given.but(state=state))
        for name, part in zip(("h", "c"), state, strict=True):
            np.testing.assert_array_equal(found[name][:, 1], part[:, 1])
        finite = [name for name in found if name not in ("h", "c")]
        problems.assert_close({n: found[n] for n in finite}, {n: expected[n] for n in finite})

    def test_nan_in_a_weight_is_not_hidden(self, backend):
        given = problems.problem()
        weight = given.params["weight_hh_l0"].copy()
        weight[0, 0] = np.nan
        found = problems.infer(backend, given.but(params={**given.params, "weight_hh_l0": weight}))
        assert np.isnan(found["y"][:, :, 0]).all()


def spoil(given: problems.Problem, where: str, value: float, sequence: int) -> problems.Problem:
    """One number of one sequence, at its first step."""
    if where in ("h", "c", "dh", "dc"):
        name = "dstate" if where.startswith("d") else "state"
        pair = [part.copy() for part in getattr(given, name)]
        pair["hc".index(where[-1])][0, sequence, 0] = value
        return given.but(**{name: tuple(pair)})
    changed = getattr(given, where).copy()
    changed[0, sequence, 0] = value
    return given.but(**{where: changed})


class TestExtremes:
    """Gates saturate: nothing overflows, and no warning is shown (warnings are errors in this test suite)."""

    @pytest.mark.parametrize("scale", [1e4, 1e30])
    @pytest.mark.parametrize("of", ["x", "weight_ih_l0", "weight_hh_l0", "bias_l0"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_huge_argument(self, backend, of, scale, dtype):
        given = problems.problem(dtype=dtype, layers=2)
        factor = given.x.dtype.type(scale)
        if of == "x":
            given = given.but(x=given.x * factor)
        else:
            given = given.but(params={**given.params, of: given.params[of] * factor})
        found = problems.solve(backend, given)
        for name, value in found.items():
            # A slope of exactly zero, times anything finite: gradients stay finite as well.
            assert np.isfinite(value).all(), name
        assert (np.abs(found["y"]) <= 1).all()
        assert (np.abs(found["c"]) <= np.abs(given.state[1]).max() + 5).all(), "each step adds at most 1 to |c|"

    def test_saturated_gates_have_their_limits(self, backend):
        """A huge bias forces each gate: input and forget open, candidate 1, output open. c counts the steps."""
        given = problems.problem(state=False, hidden=2)
        params = {name: np.zeros_like(p) for name, p in given.params.items()} | {"bias_l0": np.full(8, 1e30)}
        found = problems.infer(backend, given.but(params=params))
        np.testing.assert_array_equal(found["c"], np.full((1, 3, 2), 5.0))
        expected = np.tanh(np.arange(1.0, 6.0))[:, None, None].repeat(3, 1).repeat(2, 2)
        np.testing.assert_allclose(found["y"], expected, rtol=1e-15)

    def test_overflow_of_a_product_is_ieee(self, backend):
        """1e30 * 1e30 is infinite in float32; a gate of it is saturated, not NaN, and shows no warning."""
        given = problems.problem(dtype="float32", inputs=1, state=False, batch=2)
        given = given.but(x=np.full_like(given.x, 1e30), params={
            name: np.full_like(p, 1e30) if name == "weight_ih_l0" else np.zeros_like(p)
            for name, p in given.params.items()
        })  # fmt: skip
        found = problems.infer(backend, given)
        np.testing.assert_array_equal(found["c"], np.full((1, 2, 2), 5.0, np.float32))

    def test_tiny_values(self, backend):
        """Denormals may be flushed to zero on a GPU, and are nothing beside 1: compared loosely."""
        given = problems.problem(dtype="float32", state=False)
        found = problems.solve(backend, given.but(x=given.x * np.float32(1e-42)))
        zero = problems.solve(backend, given.but(x=np.zeros_like(given.x)))
        problems.assert_close(found, zero, tolerance=1e-6)

    def test_forgetting_nothing_for_a_long_time(self, backend):
        """With the forget gate open and the input gate shut, c is carried through 300 steps unchanged."""
        given = problems.problem(steps=300, batch=2, hidden=1)
        params = {name: np.zeros_like(p) for name, p in given.params.items()}
        params["bias_l0"] = np.array([-1e3, 1e3, 0.0, 1e3])
        found = problems.solve(backend, given.but(params=params, dy=None, dstate=(None, given.dstate[1])))
        np.testing.assert_array_equal(found["c"], given.state[1])
        np.testing.assert_array_equal(found["dc"], given.dstate[1])
