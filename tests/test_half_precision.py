"""float16 and bfloat16 in the plain LSTM on CuPy arrays, loop schedule, against the NumPy engine in float64."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import planner
from gpulstm.engines import cupy_engine
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, NUMPY, ROUNDING, TOLERANCE, check, half_problem, in_dtype, numpy_dtype
from tests.problems import Problem, assert_same_bits, infer, solve
from tests.schedule_cases import in_float64

BACKENDS = backends.KERNELS
LENGTHS = [6, 0, 3, 1, 5]
CASES = {
    "one layer": {"steps": 20},
    "two layers, both directions": {"layers": 2, "directions": 2},
    "lengths, no bias, both directions": {"lengths": LENGTHS, "bias": False, "directions": 2},
    "more rows than one block sums up": {"steps": 2, "batch": 300, "hidden": 3},
    "lengths, zero state": {"lengths": LENGTHS, "state": False, "bias": False},
}


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def the_loop_alone():
    with planner.only("loop"):
        yield


def solve_with(backend, given: Problem, **options) -> dict:
    """`solve` with options of `lstm_forward`."""
    y, final, cache = gl.lstm_forward(
        *(backend.array(a) for a in (given.x, given.params, given.state)), lengths=given.lengths, **options
    )
    dx, grads, dinitial = gl.lstm_backward(cache, backend.array(given.dy), backend.array(given.dstate))
    results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    return backend.numpy(results | {"d" + name: gradient for name, gradient in grads.items()})


@pytest.mark.parametrize("case", CASES)
def test_all_results(backend, dtype, case):
    given = half_problem(dtype, **CASES[case])
    found = solve(backend, given)
    check(found, given)
    assert_same_bits(infer(backend, given), {name: found[name] for name in ("y", "h", "c")})


def test_errors_are_those_of_16_bits(backend, dtype):
    """Not those of float32, which would mean that something was stored in it."""
    found = solve(backend, given := half_problem(dtype, steps=20))
    wanted = solve(NUMPY, in_float64(given))
    for name in ("y", "dx", "dweight_hh_l0"):
        error = np.linalg.norm(found[name].astype("float64") - wanted[name]) / np.linalg.norm(wanted[name])
        assert error > ROUNDING[dtype] / 10


@pytest.mark.parametrize("absent", [{"dy": None}, {"dstate": None}, {"dy": None, "dstate": None}], ids=str)
def test_gradients_may_be_absent(backend, absent):
    given = half_problem("bfloat16", lengths=LENGTHS, bias=False).but(**absent)
    found = solve(backend, given)
    check(found, given)
    if len(absent) == 2:
        assert not any(found[name].any() for name in found if name.startswith("d"))


def test_nan_of_a_sequence_that_is_over_is_no_input(backend, dtype):
    given = half_problem(dtype, lengths=LENGTHS, directions=2)
    given.state[1][:, 3, 4] = np.nan  # of one step, so that no other one may read what it leaves
    found, wanted = solve(backend, given), solve(NUMPY, in_float64(given))
    for name, expected in wanted.items():
        np.testing.assert_array_equal(np.isnan(found[name].astype("float64")), np.isnan(expected), err_msg=name)


def test_reverse(backend):
    given = half_problem("float16", lengths=LENGTHS, bias=False)
    check(solve_with(backend, given, options={"reverse": True}), given, partial(solve_with, options={"reverse": True}))


def test_dropout_between_layers(backend, dtype):
    """The masks' bits are the seed's alone, so both drop the same."""
    given, how = half_problem(dtype, layers=2), partial(solve_with, options={"dropout": 0.4}, rng=11)
    check(how(backend, given), given, how)


def test_batch_first_and_other_strides(backend):
    given = half_problem("bfloat16")
    turned = given.but(x=given.x.swapaxes(0, 1), dy=given.dy.swapaxes(0, 1))
    found, wanted = solve(backend, turned, batch_first=True), solve(backend, given)
    wanted |= {name: wanted[name].swapaxes(0, 1) for name in ("y", "dx")}
    assert_same_bits(found, wanted)


class TestTheSameBits:
    def test_twice(self, backend, dtype):
        given = half_problem(dtype, **CASES["lengths, no bias, both directions"])
        assert_same_bits(solve(backend, given), solve(backend, given))

    @pytest.mark.parametrize("every", [3, 6])
    def test_with_checkpoints(self, backend, dtype, every, monkeypatch):
        """Between two stretches c is handed on in float32."""
        monkeypatch.setattr(engines, "WINDOW", 3)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given = half_problem(dtype, steps=8, bias=False, lengths=[8, 0, 4, 7, 3])
        assert_same_bits(solve_with(backend, given, checkpoint_every=every), solve_with(backend, given))

    def test_in_windows_of_time_and_parts_of_the_batch(self, backend, monkeypatch):
        given = half_problem("float16", steps=7, bias=False, lengths=LENGTHS)
        expected = infer(backend, given)
        for rows in (10, 2):
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", rows * 4 * 9 * 2)
            found = infer(backend, given)
            if backend.name == backends.GPU:  # a product of fewer rows may add up in another order
                for name, wanted in expected.items():
                    np.testing.assert_allclose(found[name].astype("f4"), wanted.astype("f4"), rtol=0, atol=2**-9)
            else:
                assert_same_bits(found, expected)


class TestOrders:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_threads_run_in_any_order(self):
        given, found = half_problem("bfloat16", lengths=LENGTHS, bias=False), []
        for settings in ({}, {"thread_order": "descending"}, {"thread_order": "random", "seed": 3}):
            with cupy_on_cpu(**settings) as cupy:
                found.append(solve(Backend(backends.CUPY_ON_CPU, cupy), given))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    @pytest.mark.parametrize("half", DTYPES)
    def test_no_access_is_outside_of_an_array(self, half):
        given = half_problem(half, steps=2, batch=3, hidden=5, lengths=[2, 0, 1], bias=False)
        with cupy_on_cpu("asan") as cupy:
            check(solve(Backend(backends.CUPY_ON_CPU, cupy), given), given)


class TestFloat32Inside:
    """Sums of many small terms, which 16 bits would leave as they are: 1 + 2^-9 is 1 in bfloat16."""

    STEPS = 600

    def given(self) -> Problem:
        """Open gates, so that c grows by 2^-7 at every step; and each step's gradient is the same."""
        large, small = 30.0, float(np.arctanh(2.0**-7))
        params = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
        params["bias_l0"] = np.array([large, large, small, large])
        shape = (self.STEPS, 1, 1)
        dstate = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
        return Problem(np.ones(shape), params, None, None, None, dstate)

    @pytest.mark.parametrize("every", [None, 8])
    def test_cell_states_and_sums(self, backend, every, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 8)  # 75 windows, of which each adds to the gradients
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given = in_dtype(self.given(), "bfloat16")
        found = solve_with(backend, given, checkpoint_every=every)
        check(found, given)
        assert abs(float(found["c"][0, 0, 0]) - self.STEPS * 2.0**-7) < 0.05
        assert abs(float(found["dweight_ih_l0"][2, 0]) - self.STEPS) < 0.01 * self.STEPS

    def test_gradients_along_time(self, backend):
        """dc is 1 at the end, and what each dy adds to it is below 2^-9."""
        given = in_dtype(self.given(), "bfloat16")
        given = given.but(dy=np.full_like(given.x, 2.0**-9))
        check(solve(backend, given), given)


class TestUnusualNumbers:
    def test_nan_stays_with_its_sequence(self, backend, dtype):
        given = half_problem(dtype)
        given.x[2, 1, 0] = np.nan
        found, clean = solve(backend, given), solve(backend, half_problem(dtype))
        others = [0, 2, 3, 4]
        for name in ("y", "h", "c", "dx", "dh", "dc"):
            assert_same_bits({name: found[name][:, others]}, {name: clean[name][:, others]})
        assert (
            np.isnan(found["y"][2:, 1].astype("float32")).all() and np.isnan(found["c"][:, 1].astype("float32")).all()
        )
        assert not np.isnan(found["y"][:2, 1].astype("float32")).any()
        assert (found["y"].view(np.uint16) != 0xFFFF).all()

    def test_infinity_in_x_closes_or_opens_gates(self, backend, dtype):
        given = half_problem(dtype, batch=2)
        given.x[0, 0, 0] = np.inf
        found, wanted = solve(backend, given), solve(NUMPY, in_float64(given))
        for name in ("y", "h", "c"):
            np.testing.assert_allclose(
                found[name].astype("float64"), wanted[name], rtol=0, atol=4 * ROUNDING[dtype], err_msg=name
            )

    def test_a_pre_activation_too_large_for_float16_opens_the_gate(self, backend):
        """4 * 200 * 100 is beyond 65504 and becomes infinite: the gate is 1 and its slope 0, and nothing is NaN."""
        given = half_problem("float16", batch=2, inputs=4)
        weight = given.params["weight_ih_l0"]
        weight[...] = np.where(weight > 0, 200, -200)
        given.x[0] = 100
        given.x[1] = -100
        found = solve(backend, given)
        assert all(np.isfinite(value).all() for value in found.values())
        check(found, given)

    def test_an_empty_sequence_hands_its_state_on_and_takes_part_in_nothing(self, backend, dtype):
        given = half_problem(dtype, lengths=LENGTHS, bias=False)
        given.state[0][:, 1], given.state[1][:, 1] = np.nan, np.inf
        found = solve(backend, given)
        assert np.isnan(found["h"][:, 1].astype("float32")).all() and np.isinf(found["c"][:, 1].astype("float32")).all()
        assert np.isfinite(found["dweight_hh_l0"].astype("float32")).all()
        assert_same_bits({"dc": found["dc"][:, 1]}, {"dc": given.dstate[1][:, 1]})

    @pytest.mark.parametrize("sizes", [{"batch": 0}, {"steps": 0}], ids=str)
    def test_nothing_to_do(self, backend, dtype, sizes):
        given = half_problem(dtype, **sizes)
        found = solve(backend, given)
        assert all(value.dtype == numpy_dtype(dtype) for value in found.values())
        assert_same_bits({name: found[name] for name in "hc"}, dict(zip("hc", given.state, strict=True)))


class TestLayers:
    def test_a_layer(self, backend, dtype):
        lstm = gl.LSTM(3, 9, 2, dtype=dtype, xp=backend.xp, rng=0)
        exact = gl.LSTM(3, 9, 2, dtype="float64", rng=0)
        assert repr(lstm) == f"LSTM(3, 9, num_layers=2, dtype={dtype!r})"
        for name, value in backend.numpy(lstm.params).items():
            assert value.dtype == numpy_dtype(dtype)
            np.testing.assert_array_equal(value, exact.params[name].astype(value.dtype), err_msg=name)
        x = half_problem(dtype).x
        y, state = lstm(backend.array(x))
        exact.load_state_dict(backend.numpy(lstm.params))
        wanted = exact(x.astype("float64"))[0]
        bound = TOLERANCE * ROUNDING[dtype] * np.linalg.norm(wanted)
        assert np.linalg.norm(backend.numpy(y).astype("float64") - wanted) <= bound
        assert {y.dtype, state.h.dtype, state.c.dtype} == {numpy_dtype(dtype)}

    def test_a_cell(self, backend, dtype):
        cell, x = gl.LSTMCell(3, 9, dtype=dtype, xp=backend.xp, rng=0), half_problem(dtype).x[0]
        state, cache = cell.forward(backend.array(x))
        dx, grads, _ = cell.backward(cache, (state.h, None))
        layer = gl.LSTM(3, 9, dtype=dtype, xp=backend.xp, rng=0)
        _, final, kept = layer.forward(backend.array(x[None]))
        wanted_dx, wanted, _ = layer.backward(kept, dstate=(final.h, None))
        assert_same_bits(
            backend.numpy({"dx": dx, **grads}),
            backend.numpy({"dx": wanted_dx[0], **{name.removesuffix("_l0"): value for name, value in wanted.items()}}),
        )

    def test_from_pytorch_and_back(self, backend, dtype):
        torch.manual_seed(0)
        module = torch.nn.LSTM(3, 4, 2, dtype=getattr(torch, dtype))
        lstm = gl.LSTM.from_torch(module, xp=backend.xp)
        for name, value in backend.numpy(lstm.params).items():
            assert value.dtype == numpy_dtype(dtype)
            if name.startswith("weight"):
                np.testing.assert_array_equal(value.astype("float32"), getattr(module, name).float().detach().numpy())
        gate = backend.numpy(lstm.gate("forget", layer=1).bias)
        both = module.bias_ih_l1.float() + module.bias_hh_l1.float()
        np.testing.assert_array_equal(gate, both.detach().numpy()[4:8].astype(gate.dtype))

    def test_plan(self, backend, dtype):
        with planner.only(*planner.AUTOMATIC):
            plan = gl.LSTM(3, 132, dtype=dtype, xp=backend.xp, rng=0).plan(backend.array(half_problem(dtype).x))
        why = f"persistent reads eight hidden units of {dtype} at a time, and 132 is not a multiple of 8"
        for choice in plan:
            assert choice.schedule == "loop" and choice.reason.endswith(f", not 132; {why}")
            assert choice.reason.startswith("resident is for hidden_size up to ")


class TestCounts:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_kernel_and_one_product_for_each_step(self, backend):
        given, steps = half_problem("bfloat16", state=True), 6
        solve(backend, given)
        assert backend.xp.on_cpu.launches == {
            **{"lstm_forward_step": steps, "lstm_backward_step": steps, "column_sum": 1},
            "widen": 3,  # c of the initial state, and both gradients of the final one
            "narrow": 6,  # c of the final state, both of the initial one's gradients, and those of the three weights
        }
        assert backend.xp.on_cpu.gemms == {"gemmEx": steps + 1 + steps + 3}


class TestRefused:
    def test_on_numpy(self):
        for dtype in DTYPES:
            x, params = half_problem(dtype).x, half_problem(dtype).params
            with pytest.raises(TypeError, match=f"x must have dtype float32 or float64, got {dtype}; .*on CuPy arrays"):
                gl.lstm_forward(x, params)
            for layer in (gl.LSTM, gl.LSTMCell):
                with pytest.raises(
                    TypeError, match=f"float32 or float64, got '{dtype}'; 16 bits are for .* CuPy arrays"
                ):
                    layer(3, 4, dtype=dtype)

    def test_two_kinds_of_16_bits(self, backend):
        given = half_problem("float16")
        x = backend.array(half_problem("bfloat16").x)
        with pytest.raises(TypeError, match="x must have the parameters' dtype float16, got bfloat16"):
            gl.lstm_forward(x, backend.array(given.params))

    def test_the_other_layers(self, backend, dtype):
        x = backend.array(np.ones((4, 3, 2), numpy_dtype(dtype)))
        message = f"float32 or float64, got '?{dtype}'?; .*16 bits are for LSTMs on CuPy arrays"
        linear = gl.nn.Linear(2, 3, xp=backend.xp)
        with pytest.raises(TypeError, match=message):
            gl.nn.Linear(2, 3, dtype=dtype, xp=backend.xp)
        for call in (
            lambda: linear(x),
            lambda: gl.ops.sigmoid(x),
            lambda: gl.nn.mean_squared_error(x, x),
            lambda: gl.nn.LayerNorm(2, xp=backend.xp)(x),
            lambda: gl.nn.Dropout(0.5).forward(x, rng=0),
            lambda: gl.training.Adam(0.1).step({"w": x}, {"w": x}),
            lambda: gl.training.clip_by_global_norm({"w": x}, 1.0),
        ):
            with pytest.raises(TypeError, match=message):
                call()

    def test_bfloat16_without_its_package(self, backend, monkeypatch):
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
        with pytest.raises(
            ImportError, match="dtype 'bfloat16' on CuPy arrays needs the package ml_dtypes, .* pip install"
        ):
            gl.LSTM(3, 4, dtype="bfloat16", xp=backend.xp)
        gl.LSTM(3, 4, dtype="float16", xp=backend.xp)

    def test_on_an_old_device(self):
        with cupy_on_cpu(compute_capability="75") as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            check(infer(backend, given := half_problem("float16")), given, infer)
            with pytest.raises(
                TypeError, match="bfloat16 needs compute capability 8.0, and this device has 7.5; float16"
            ):
                infer(backend, half_problem("bfloat16"))
