"""gpulstm.quick_checks: it says yes only where the checks that it stands for would find nothing."""

import copy
import pickle

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import functional, quick_checks
from gpulstm.masks import Draws
from gpulstm.options import PLAIN
from gpulstm.parameters import Layout
from tests import backends, problems

BACKENDS = backends.ENGINES


def case(backend, **sizes):
    given = problems.problem(hidden=3, **sizes)
    x, params, state = (backend.array(a) for a in (given.x, given.params, given.state))
    return Layout.of(params), x, params, state


def closely(layout, x, params, state, batch_first):
    functional._check_closely(layout, x, params, state, batch_first, Draws(PLAIN, None))


@pytest.mark.parametrize("sizes", [{}, {"bias": False}, {"layers": 2, "directions": 2}, {"dtype": "float32"}], ids=str)
def test_the_usual_case_holds(backend, sizes):
    layout, x, params, state = case(backend, **sizes)
    for given in (state, gl.State(*state), None):
        assert quick_checks.arguments_hold(layout, x, params, given, False)
    swapped = x.swapaxes(0, 1)
    assert quick_checks.arguments_hold(layout, swapped, params, state, True)
    assert quick_checks.arguments_hold(layout, x[:, 0], params, tuple(s[:, 0] for s in state), False)


def changes(backend):
    """What is wrong, and how it gets so."""

    def parameter(name, change):
        return lambda x, p, s: (x, {**p, name: change(p[name])}, s)

    def without(name):
        return lambda x, p, s: (x, {k: v for k, v in p.items() if k != name}, s)

    narrow = {"x": "x must have the parameters' dtype", "w": "dtype", "h": "dtype"}
    return {
        "x float32": (lambda x, p, s: (x.astype("float32"), p, s), narrow["x"]),
        "x integers": (lambda x, p, s: (x.astype("int32"), p, s), "dtype .*float32 or float64"),
        "x too wide": (lambda x, p, s: (x[..., :-1], p, s), "inputs = 4"),
        "x of 4 axes": (lambda x, p, s: (x[None], p, s), "x must have shape"),
        "x of 1 axis": (lambda x, p, s: (x[0, 0], p, s), "x must have shape"),
        "x a list": (lambda x, p, s: (x.tolist(), p, s), "x must be an array"),
        "weight float32": (parameter("weight_hh_l0", lambda w: w.astype("float32")), narrow["w"]),
        "weight transposed": (parameter("weight_hh_l0", lambda w: w.T), "is it transposed"),
        "bias a list": (parameter("bias_l0", lambda w: w.tolist()), "bias_l0 must be an array"),
        "bias None": (parameter("bias_l0", lambda w: None), "bias_l0 must be an array"),
        "no bias": (without("bias_l0"), "missing bias_l0"),
        "another name": (lambda x, p, s: (x, {**p, "bias_l1": p["bias_l0"]}, s), "unexpected bias_l1"),
        "h float32": (lambda x, p, s: (x, p, (s[0].astype("float32"), s[1])), narrow["h"]),
        "c of another batch": (lambda x, p, s: (x, p, (s[0], s[1][:, :-1])), "state.c must have shape"),
        "h without layers": (lambda x, p, s: (x, p, (s[0][0], s[1])), "state.h must have shape"),
        "only h": (lambda x, p, s: (x, p, (s[0], None)), "both h and c"),
        "three states": (lambda x, p, s: (x, p, (*s, s[0])), "must be a pair"),
        "an array as state": (lambda x, p, s: (x, p, s[0]), "must be a pair"),
        "another library's state": (
            lambda x, p, s: (x, p, (s[0], backend.numpy(s[1]) if backend.xp is not np else Foreign(s[1]))),
            "must be a",
        ),
    }


class Foreign:
    """Has what an array has, and is none."""

    def __init__(self, array):
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim


@pytest.mark.parametrize("name", changes(backends.Backend(backends.NUMPY, np)))
def test_what_is_wrong_does_not_hold(backend, name):
    layout, *arguments = case(backend)
    change, message = changes(backend)[name]
    x, params, state = change(*arguments)
    assert not quick_checks.arguments_hold(layout, x, params, state, False)
    with pytest.raises((TypeError, ValueError), match=message):
        closely(layout, x, params, state, False)
    with pytest.raises((TypeError, ValueError), match=message):
        functional.inference(layout, x, params, state, None, False, Draws(PLAIN, None))


def test_another_byte_order_and_masked_arrays_are_looked_at_closely():
    layout, x, params, state = case(backends.Backend(backends.NUMPY, np))
    for other in (x.astype(x.dtype.newbyteorder()), np.ma.masked_array(x)):
        assert not quick_checks.arguments_hold(layout, other, params, state, False)
        with pytest.raises(TypeError):
            closely(layout, other, params, state, False)
    assert not quick_checks.arguments_hold(layout, x, params, list(state), False)  # which is fine
    closely(layout, x, params, list(state), False)


class TestDevices:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("which", ["x", "weight", "c", "dy"])
    def test_another_device_does_not_hold(self, backend, which):
        layout, x, params, state = case(backend)
        with backend.xp.cuda.Device(1):
            if which == "x":
                x = backend.xp.asarray(x.get())
            elif which == "weight":
                params = params | {"weight_hh_l0": backend.xp.asarray(params["weight_hh_l0"].get())}
            elif which == "c":
                state = state[0], backend.xp.asarray(state[1].get())
            else:
                dy = backend.xp.asarray(np.zeros((5, 3, 3)))
        if which == "dy":
            assert not quick_checks.gradients_hold(layout, x, dy, dy.shape, None, 3)
            return
        assert not quick_checks.arguments_hold(layout, x, params, state, False)
        with pytest.raises(ValueError, match="device"):
            closely(layout, x, params, state, False)


def test_a_single_step(backend):
    cell = gl.LSTMCell(4, 3, dtype="float64", xp=backend.xp, rng=0)
    given = problems.problem(hidden=3)
    x, state = backend.array(given.x[0]), tuple(backend.array(s[0]) for s in given.state)
    holds = quick_checks.step_holds
    for case_x, case_state in ((x, None), (x, state), (x[0], tuple(s[0] for s in state))):
        assert holds(cell.layout, case_x, cell.params, case_state)
    for change in ({"bias": cell.params["bias"][1:]}, {"weight_hh": None}, {"weight_ih": x}):
        assert not holds(cell.layout, x, cell.params | change, state)
    assert not holds(cell.layout, x, {"weight_ih_l0": x}, None)
    for case_x, case_state in (
        (x[None], None),
        (x[:, 1:], None),
        (x.astype("float32"), None),
        (x, (state[0], None)),
        (x, (state[0], state[1][1:])),
        (x, (state[0].astype("float32"), state[1])),
        (x[0], state),
        (x, state[0]),
    ):
        assert not holds(cell.layout, case_x, cell.params, case_state)
        with pytest.raises((TypeError, ValueError)):
            cell(case_x, case_state)


def test_gradients(backend):
    layout, x, _, state = case(backend)
    dy = backend.array(np.zeros((5, 3, 3)))
    for given in (None, dy):
        for dstate in (None, (None, None), (state[0], None), (None, state[1]), state):
            assert quick_checks.gradients_hold(layout, x, given, dy.shape, dstate, 3)
    for given, dstate in (
        (dy[1:], None),
        (dy.astype("float32"), None),
        (dy.tolist(), None),
        (dy, (state[0],)),
        (dy, (state[0][0], None)),
        (None, (None, state[1].astype("float32"))),
    ):
        assert not quick_checks.gradients_hold(layout, x, given, dy.shape, dstate, 3)


def test_the_copy_of_a_layer_that_has_been_used(backend):
    """What is remembered of a layout and of options comes along, and is none of what makes two of them equal."""
    lstm = gl.LSTM(4, 3, dtype="float64", xp=backend.xp, rng=0)
    x = backend.array(problems.problem().x)
    y = backend.numpy(lstm(x)[0])
    fresh = gl.LSTM(4, 3, rng=0)
    assert lstm.layout == fresh.layout and hash(lstm.layout) == hash(fresh.layout) and lstm.options == fresh.options
    layout, options = pickle.loads(pickle.dumps((lstm.layout, lstm.options)))
    assert (layout, options) == (lstm.layout, lstm.options)
    twin = copy.copy(lstm)
    twin.layout, twin.options = copy.deepcopy((lstm.layout, lstm.options))
    assert backend.numpy(twin(x)[0]).tobytes() == y.tobytes()
