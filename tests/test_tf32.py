"""``tf32=True``: products of float32 with factors of 10 bits, on CuPy arrays alone and only where it is asked for."""

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.cuda import planner
from tests import backends
from tests.half_cases import NUMPY
from tests.problems import assert_same_bits
from tests.schedule_cases import in_float64, small_problem
from tests.test_half_precision import solve_with

BACKENDS = backends.KERNELS
ON = {"tf32": True}
TOLERANCE = 1e-3  # of the norm; one factor loses 2^-11 of itself at most, and errors are of both signs


@pytest.fixture(autouse=True)
def the_loop_alone():
    with planner.only("loop"):
        yield


def usual(**sizes):
    return small_problem(3, **{"hidden": 24, "inputs": 5, "steps": 9, "batch": 4, "directions": 2, **sizes})


def norms(found: dict, wanted: dict) -> dict[str, float]:
    return {name: float(np.linalg.norm(found[name] - w) / np.linalg.norm(w)) for name, w in wanted.items()}


def is_rough(backend, error: float) -> bool:
    """Whether factors were rounded, which cuBLAS may do, and the stand-in does."""
    return backend.name == backends.GPU or error > 2e-6


class TestValues:
    @pytest.mark.parametrize("lengths", [None, [9, 0, 4, 1]], ids=["no lengths", "lengths"])
    def test_of_the_plain_lstm(self, backend, lengths):
        given = usual(lengths=lengths)
        wanted = solve_with(NUMPY, in_float64(given))
        found, strict = (solve_with(backend, given, options=options) for options in (ON, {}))
        for name, error in norms(found, wanted).items():
            assert error < TOLERANCE, name
        for name in ("y", "dx", "dweight_hh_l0", "dh"):
            assert norms(strict, wanted)[name] < 2e-6, name
            assert is_rough(backend, norms(found, wanted)[name]), name
        assert {value.dtype.name for value in found.values()} == {"float32"}

    def test_of_the_lstm_with_options(self, backend):
        given = usual(bias=False)
        options = {"zoneout": (0.2, 0.1), "cell_clip": 2.0}
        wanted, found, strict = (
            solve_with(where, problem, options=options | more, rng=5)
            for where, problem, more in ((NUMPY, in_float64(given), {}), (backend, given, ON), (backend, given, {}))
        )
        assert norms(found, wanted)["y"] < TOLERANCE and is_rough(backend, norms(found, wanted)["y"])
        assert norms(strict, wanted)["y"] < 2e-6

    def test_the_same_bits_twice_and_in_inference(self, backend):
        given = usual(directions=1)
        found = solve_with(backend, given, options=ON)
        assert_same_bits(solve_with(backend, given, options=ON), found)
        lstm = gl.LSTM(5, 24, xp=backend.xp, tf32=True, rng=0)
        lstm.params = backend.array(given.params)
        y, state = lstm(backend.array(given.x), backend.array(given.state))
        assert_same_bits(backend.numpy({"y": y, "h": state.h, "c": state.c}), {n: found[n] for n in ("y", "h", "c")})


class TestCalls:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}], ids=str)
    def test_every_product_or_none(self, backend, options):
        gemms, given = backend.xp.on_cpu.gemms, usual(directions=1)
        for more, call in ((ON, "gemmEx"), ({}, "sgemm")):
            gemms.clear()
            solve_with(backend, given, options=options | more)
            assert set(gemms) == {call} and gemms[call] >= 2 * 9 + 4

    def test_schedules_of_one_launch_are_taken_as_without_it(self, backend):
        given = usual(hidden=8, directions=1)
        x = backend.array(given.x)
        with planner.only(*planner.AUTOMATIC):
            plans = [gl.LSTM(5, 8, xp=backend.xp, tf32=tf32, rng=0).plan(x) for tf32 in (False, True)]
            assert plans[0] == plans[1] and plans[0].forward.schedule != "loop"
            found = solve_with(backend, given, options=ON)
        for name, error in norms(found, solve_with(NUMPY, in_float64(given))).items():
            assert error < TOLERANCE, name


class TestTheOption:
    def test_it_is_shown(self):
        lstm = gl.LSTM(3, 4, tf32=True, rng=0)
        assert repr(lstm) == "LSTM(3, 4, tf32=True, dtype='float32')" and lstm.changed_options() == ON
        assert gl.LSTM(3, 4, rng=0).changed_options() == {}

    def test_it_changes_nothing_elsewhere(self):
        given = usual(directions=1)
        assert_same_bits(solve_with(NUMPY, given, options=ON), solve_with(NUMPY, given))
        assert str(gl.LSTM(5, 24, tf32=True, rng=0).plan(given.x)).startswith("forward  numpy")
        lstm = gl.LSTM(5, 24, tf32=True, xp=torch, rng=0)
        strict = gl.LSTM(5, 24, xp=torch, rng=0)
        assert torch.equal(lstm(torch.tensor(given.x))[0], strict(torch.tensor(given.x))[0])

    @pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
    def test_it_is_for_float32(self, backend, dtype):
        with pytest.raises(ValueError, match=f"tf32 must be False with dtype {dtype}, got True"):
            gl.LSTM(3, 4, tf32=True, dtype=dtype, xp=backend.xp)
        with pytest.raises(ValueError, match=f"tf32 must be False with dtype {dtype}, got True"):
            gl.LSTM(3, 4, tf32=True, dtype=dtype, xp=torch)

    def test_of_functions_too(self):
        given = usual()
        with pytest.raises(ValueError, match="tf32 must be False with dtype float64, got True"):
            solve_with(NUMPY, in_float64(given), options=ON)
        with pytest.raises(TypeError, match="tf32 must be True or False, got 1"):
            solve_with(NUMPY, given, options={"tf32": 1})
        with pytest.raises(TypeError, match="tf32 must be True or False, got 'yes'"):
            gl.LSTM(3, 4, tf32="yes")

    def test_the_drop_in_holds_it(self):
        from gpulstm.interop.torch import LSTM

        module = LSTM(3, 4, tf32=True)
        assert "tf32=True" in repr(module) and gl.LSTM.from_torch(module).options.tf32
        module.tf32 = False
        assert not gl.LSTM.from_torch(module).options.tf32
