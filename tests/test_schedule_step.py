"""The schedule "step": one launch for a single step of few sequences in inference."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import planner
from gpulstm.functional import lstm_inference
from tests import backends, problems
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import infer

BACKENDS = backends.KERNELS
NUMPY = Backend(backends.NUMPY, np)
KERNEL = "lstm_one_step_forward"
# 1e-15 and 1e-7 are the dtypes' rounding; sums have up to 100 terms, in another order.
TOLERANCE = {"float64": 1e-13, "float32": 2e-5}


@pytest.fixture(autouse=True)
def step_or_loop(request):
    if "backend" in request.fixturenames:
        request.getfixturevalue("backend")  # which has schedules of its own
    with planner.only("step", "loop"):
        yield


def check(backend, given) -> None:
    with planner.only("step"):
        found, expected = infer(backend, given), infer(NUMPY, given)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape and found[name].dtype == wanted.dtype, name
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=TOLERANCE[str(wanted.dtype)], err_msg=name)


SIZES = (
    {"batch": 1, "inputs": 5, "hidden": 3},
    {"batch": 1, "inputs": 33, "hidden": 37, "bias": False},
    {"batch": 1, "inputs": 64, "hidden": 32, "layers": 2, "directions": 2},
    {"batch": 2, "inputs": 1, "hidden": 6, "layers": 3},
    {"batch": 5, "inputs": 70, "hidden": 9, "directions": 2},
    {"batch": 8, "inputs": 31, "hidden": 65, "bias": False, "layers": 2},
)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_by_value(backend, sizes, state, dtype):
    check(backend, problems.problem(3, steps=1, state=state, dtype=dtype, **sizes))


LAYERS = (
    {},
    {"batch_first": True, "batch": 5, "bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"reverse": True},
    {"batch": None, "num_layers": 2},
)


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_a_layer_by_value(backend, options, state):
    """A layer leaves all axes where they are, and must give what the general call does, shapes included."""
    options = dict(options)
    batch = options.pop("batch", 3)
    of_numpy, ours = (gl.LSTM(6, 7, **options, dtype="float64", xp=xp, rng=0) for xp in (np, backend.xp))
    count, rng = of_numpy.layout.num_layers * of_numpy.layout.directions, np.random.default_rng(1)
    axes = (1,) if batch is None else (batch, 1) if of_numpy.batch_first else (1, batch)
    of_batch = () if batch is None else (batch,)
    x, h, c = (rng.normal(size=shape) for shape in ((*axes, 6), (count, *of_batch, 7), (count, *of_batch, 7)))
    given = (h, c) if state else None
    wanted_y, wanted = of_numpy(x, given)
    turned = backend.array(x.swapaxes(0, -1)).swapaxes(0, -1)  # the same, not contiguous
    with planner.only("step"):
        for of_x in (backend.array(x), turned):
            y, final = ours(of_x, backend.array(given))
            for found, expected in ((y, wanted_y), (final.h, wanted.h), (final.c, wanted.c)):
                assert found.shape == expected.shape
                np.testing.assert_allclose(backend.numpy(found), expected, rtol=0, atol=1e-13)


def test_a_layer_whose_arguments_are_wrong_says_so(backend):
    lstm, x = gl.LSTM(4, 8, xp=backend.xp, rng=0), backend.xp.ones((1, 2, 4), "float32")
    _, state = lstm(x)
    with pytest.raises(ValueError, match="state.h must have shape"):
        lstm(x, (state.h[:, :1], state.c))
    with pytest.raises(TypeError, match="x must have the parameters' dtype float32, got float64"):
        lstm(x.astype("float64"), state)
    lstm.params["bias_l0"] = lstm.params["bias_l0"][:-1]
    with pytest.raises(ValueError, match="bias_l0"):
        lstm(x, state)


def test_nan_and_infinity(backend):
    """Each stays with its own sequence: 0 * NaN of another one gets into no sum."""
    given = problems.problem(steps=1, batch=5, hidden=7)
    for value in (np.nan, np.inf):
        x, h = given.x.copy(), given.state[0].copy()
        x[0, 1, 0] = h[0, 3, 2] = value
        with np.errstate(all="ignore"):
            wrong = given.but(x=x, state=(h, given.state[1]))
            check(backend, wrong)
            found = infer(backend, wrong)
        if np.isnan(value):
            assert np.isnan(found["h"]).any(axis=-1).tolist() == [[False, True, False, True, False]]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [None, 1, 5])
def test_a_cell_by_value(backend, batch, bias):
    of_numpy, ours = (gl.LSTMCell(6, 7, bias=bias, dtype="float64", xp=xp, rng=0) for xp in (np, backend.xp))
    rng = np.random.default_rng(1)
    x, *state = (rng.normal(size=(batch, width) if batch else width) for width in (6, 7, 7))
    with planner.only("step"):
        for given in (None, tuple(state)):
            for found, wanted in zip(ours(backend.array(x), backend.array(given)), of_numpy(x, given), strict=True):
                assert found.shape == wanted.shape
                np.testing.assert_allclose(backend.numpy(found), wanted, rtol=0, atol=1e-13)


class TestLaunches:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def asks(self, backend, function) -> tuple[dict, int, dict]:
        backend.xp.on_cpu.reset_counts()
        function()
        counts = backend.xp.on_cpu
        return dict(counts.launches), sum(counts.gemms.values()), dict(counts.memory)

    def test_one_launch_and_three_arrays(self, backend):
        lstm, x = gl.LSTM(4, 8, xp=backend.xp, rng=0), backend.xp.ones((1, 1, 4), "float32")
        _, state = lstm(x)
        for given in (None, state):
            assert self.asks(backend, lambda given=given: lstm(x, given)) == ({KERNEL: 1}, 0, {"new": 3})

    def test_a_cell(self, backend):
        cell, x = gl.LSTMCell(4, 8, xp=backend.xp, rng=0), backend.xp.ones((2, 4), "float32")
        state = cell(x)
        for given in (None, state):
            assert self.asks(backend, lambda given=given: cell(x, given)) == ({KERNEL: 1}, 0, {"new": 2})
        assert self.asks(backend, lambda: cell(x[0], tuple(s[0] for s in state))) == ({KERNEL: 1}, 0, {"new": 2})

    def test_one_for_each_layer_and_direction(self, backend):
        given = problems.problem(steps=1, layers=3, directions=2)
        launches, products, memory = self.asks(backend, lambda: infer(backend, given))
        assert (launches, products) == ({KERNEL: 6}, 0)

    @pytest.mark.parametrize("sizes", [{"steps": 2}, {"steps": 1, "batch": 9}, {"steps": 1, "lengths": [1, 0, 1]}])
    def test_not_for(self, backend, sizes):
        given = problems.problem(**sizes)
        launches, products, _ = self.asks(backend, lambda: infer(backend, given))
        assert set(launches) == {"lstm_forward_step"} and products

    def test_not_where_it_is_not_allowed_nor_in_training(self, backend):
        given = problems.problem(steps=1)
        x, params = backend.array(given.x), backend.array(given.params)
        assert set(self.asks(backend, lambda: gl.lstm_forward(x, params))[0]) == {"lstm_forward_step"}
        with planner.only("loop"):
            assert set(self.asks(backend, lambda: lstm_inference(x, params))[0]) == {"lstm_forward_step"}
        with planner.only("step"):
            assert set(self.asks(backend, lambda: lstm_inference(x, params))[0]) == {KERNEL}
            with pytest.raises(ValueError, match="step takes a single step of up to 8 sequences, in inference"):
                gl.lstm_forward(x, params)

    def test_on_the_arrays_device(self, backend):
        with backend.xp.cuda.Device(1):
            cell = gl.LSTMCell(4, 2, xp=backend.xp, rng=0)
            x = backend.xp.ones((1, 4), "float32")
            lstm = gl.LSTM(4, 2, xp=backend.xp, rng=0)
        y, state = lstm(x[None])
        for array in (*cell(x), y, *state):
            assert array.device == x.device
        assert backend.xp.cuda.runtime.getDevice() == 0


def test_whatever_is_not_contiguous(backend):
    given = problems.problem(steps=1, batch=3)
    expected = infer(NUMPY, given)
    x, h, c = (backend.array(a.swapaxes(-1, -2)).swapaxes(-1, -2) for a in (given.x, *given.state))
    params = {name: backend.array(w.T).T for name, w in given.params.items()}
    y, final = lstm_inference(x, params, (h, c))
    problems.assert_close(backend.numpy({"y": y, "h": final.h, "c": final.c}), expected)
    turned = lstm_inference(x.swapaxes(0, 1), params, (h, c), batch_first=True)[0]
    np.testing.assert_allclose(backend.numpy(turned), expected["y"].swapaxes(0, 1), atol=1e-13)


def test_what_goes_in_is_left_alone_and_what_comes_out_is_new(backend):
    given = problems.problem(steps=1)
    x, params, state = (backend.array(a) for a in (given.x, given.params, given.state))
    y, final = lstm_inference(x, params, state)
    y[...] = 0
    kept = backend.numpy(final.h)
    assert kept.any() and (backend.numpy(state[0]) == given.state[0]).all()
    again, _ = lstm_inference(x, params, state)
    assert (backend.numpy(again)[0] == kept[0]).all()


@pytest.mark.parametrize("settings", [{"thread_order": "descending"}, {"thread_order": "random", "seed": 2}], ids=str)
def test_orders_of_threads_and_blocks(settings):
    given = problems.problem(steps=1, batch=5, hidden=9, dtype="float32")
    found = []
    for how in ({}, settings):
        with cupy_on_cpu(**how, schedules=("step",)) as cupy:
            found.append(infer(Backend("cupy-on-cpu", cupy), given))
    problems.assert_same_bits(*found)


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_under_sanitizers(mode):
    given = problems.problem(steps=1, batch=5, hidden=5, inputs=3, dtype="float32")
    with cupy_on_cpu(mode, schedules=("step",)) as cupy:
        check(Backend("cupy-on-cpu", cupy), given)


def test_the_plan_says_so(backend):
    lstm, x = gl.LSTM(4, 8, xp=backend.xp, rng=0), backend.xp.ones((1, 3, 4), "float32")
    plan = lstm.plan(x)
    assert plan.inference.schedule == "step" and plan.forward.schedule == plan.backward.schedule == "loop"
    assert str(plan).splitlines()[2] == "inference step: a single step of up to 8 sequences, in inference"
    longer = lstm.plan(backend.xp.ones((2, 3, 4), "float32"))
    assert longer.inference == longer.forward and "inference" not in str(longer)
    assert not any(planner.one_step(batch, "float32") for batch in (0, 9))
    for dtype, takes in (("float32", True), ("float64", True), ("float16", False), ("bfloat16", False)):
        assert bool(planner.one_step(8, dtype)) == takes


def test_it_is_not_for_options():
    with cupy_on_cpu(schedules=("step", "loop")) as cupy:
        lstm, x = gl.LSTM(4, 8, zoneout=0.1, xp=cupy, rng=0), cupy.ones((1, 3, 4), "float32")
        assert lstm.plan(x).inference.schedule == "loop"
        lstm(x)
        assert KERNEL not in cupy.on_cpu.launches


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_as_exact_where_tf32_is_allowed(layers):
    with cupy_on_cpu(schedules=("step", "loop")) as cupy:
        x, found = cupy.ones((1, 3, 4), "float32"), []
        for tf32 in (True, False):
            lstm = gl.LSTM(4, 8, layers, tf32=tf32, xp=cupy, rng=0)
            assert lstm.plan(x).inference.schedule == "step"
            found.append(cupy.asnumpy(lstm(x)[0]))
        assert cupy.on_cpu.launches == {KERNEL: 2 * layers}
    np.testing.assert_array_equal(*found)


def test_a_stream_of_single_steps_is_the_sequence(backend):
    given = problems.problem(steps=4, layers=2)
    expected, state, parts = infer(NUMPY, given), given.state, []
    for t in range(4):
        part = infer(backend, given.but(x=given.x[t : t + 1], state=state))
        parts.append(part["y"])
        state = part["h"], part["c"]
    problems.assert_close(dict(part, y=np.concatenate(parts)), expected)
