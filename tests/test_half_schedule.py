"""Layers in float16, bfloat16 and TF32 whose time steps run in one launch, from end to end."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import planner, resident_tensor_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD
from gpulstm.engines import cupy_engine
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, check, half_problem
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import NUMPY, exact_inputs, in_float64, schedule_of_each, scheduled, small_problem
from tests.test_half_precision import solve_with

BACKENDS = backends.KERNELS
LENGTHS = [5, 0, 3, 1, 4]


def half(dtype: str, **sizes):
    """On 5 multiprocessors: blocks that have all hidden units, of one sequence each."""
    return half_problem(dtype, **{"hidden": 40, "steps": 5, "lengths": LENGTHS, **sizes})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", ["resident", "persistent"])
class TestHalf:
    def test_all_results(self, backend, schedule, dtype):
        given = half(dtype, directions=2)
        with scheduled(backend, schedule, 5):
            found = solve(backend, given)
            check(found, given)
            assert_same_bits(solve(backend, given), found)
            assert_same_bits(infer(backend, given), {name: found[name] for name in ("y", "h", "c")})

    def test_what_may_be_missing(self, backend, schedule, dtype):
        given = half(dtype, lengths=None, bias=False, layers=2, steps=3).but(dy=None)
        with scheduled(backend, schedule, 5):
            check(solve(backend, given), given)

    def test_inference_in_windows_of_time_and_parts_of_the_batch(self, backend, schedule, dtype, monkeypatch):
        given = half(dtype)
        with scheduled(backend, schedule, 5):
            expected = infer(backend, given)
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 2 * 4 * 2 * 40)
            for name, value in infer(backend, given).items():
                np.testing.assert_allclose(value.astype("f4"), expected[name].astype("f4"), rtol=0, atol=0.01)


class TestPasses:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_each_may_take_another_schedule(self, backend):
        """Forward and backward hand each other the same arrays, whichever schedule runs them."""
        given = half("bfloat16")
        kernels = {"loop": "lstm_{}_step", "persistent": "lstm_persistent_half_{}"}
        of_tensors = resident_tensor_layouts.KERNELS  # of both passes, or of one
        resident = {way: of_tensors.get(way, f"lstm_resident_{way}") for way in (FORWARD, BACKWARD)}
        for forward, backward in (("loop", "persistent"), ("persistent", "resident"), ("resident", "loop")):
            backend.xp.on_cpu.reset_counts()
            with schedule_of_each(forward=forward, backward=backward):
                check(solve(backend, given), given)
            found = Counter({k: n for k, n in backend.xp.on_cpu.launches.items() if k.startswith("lstm_")})
            names = {
                way: kernels.get(s, resident[way]).format(way)
                for way, s in zip(resident, (forward, backward), strict=True)
            }
            assert found == {
                names[FORWARD]: 5 if forward == "loop" else 1,
                names[BACKWARD]: 5 if backward == "loop" else 1,
            }


def errors(found: dict, given) -> dict[str, float]:
    wanted = solve_with(NUMPY, in_float64(given))
    return {name: float(np.linalg.norm(found[name] - w) / (np.linalg.norm(w) or 1)) for name, w in wanted.items()}


@contextmanager
def arithmetics(**of):
    """Within it the passes named in ``of`` run in this arithmetic, whatever was asked for."""
    real = planner.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            planner, "choose", lambda direction, n, h, dtype, *rest: real(direction, n, h, of[direction], *rest)
        )
        yield


class TestTF32:
    def test_all_results(self, backend):
        given = small_problem(3, hidden=20, steps=5, batch=5, directions=2, lengths=LENGTHS)
        with scheduled(backend, "persistent", 5):
            found = solve_with(backend, given, options={"tf32": True})
        assert max(errors(found, given).values()) < 1e-3

    def test_each_pass_rounds_its_own_factors(self, backend):
        """W_ih x is exact here, so y shows what the forward kernel does, and dh what the backward kernel adds."""
        given = exact_inputs(small_problem(3, hidden=20, steps=5, batch=5))
        with scheduled(backend, "persistent", 5):
            for forward, backward in (("float32", "float32"), ("tf32", "float32"), ("float32", "tf32")):
                with arithmetics(forward=forward, backward=backward):
                    off = errors(solve(backend, given), given)
                assert (2e-6 < off["y"] < 1e-3) == (forward == "tf32")
                assert (2e-6 < off["dh"] < 1e-3) == ("tf32" in (forward, backward))

    def test_factors_are_rounded_to_the_nearest(self, backend):
        """All factors lie a little below a number of TF32: dropping bits would take 7/8 of 2^-10 from each."""
        given = small_problem(3, hidden=8, steps=1, batch=1, bias=False)
        below = np.float32(1 + 2**-10 - 2**-13)
        params = {n: np.full_like(w, below / 8 if n == "weight_hh_l0" else 0) for n, w in given.params.items()}
        state = np.full_like(given.state[0], below), np.zeros_like(given.state[1])
        given = given.but(params=params, state=state, dy=np.ones_like(given.dy))
        with scheduled(backend, "persistent", 5):
            for result, arithmetic in (("y", {"forward": "tf32"}), ("dh", {"backward": "tf32"})):
                with arithmetics(**{"forward": "float32", "backward": "float32", **arithmetic}):
                    off = errors(solve(backend, given), given)
                assert 2e-5 < off[result] < 4e-4

    def test_nan_and_infinity(self, backend):
        """An infinite factor stays infinite, where three products would make it NaN."""
        given = small_problem(3, hidden=8, steps=2, batch=2, state=True)
        h, c = (part.copy() for part in given.state)
        h[0, 0, 3], h[0, 1, 2] = np.inf, np.nan
        given = given.but(state=(h, c))
        with scheduled(backend, "persistent", 5):
            y = solve_with(backend, given, options={"tf32": True})["y"]
        wanted = solve_with(NUMPY, in_float64(given))["y"]
        np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))


class TestPlan:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"dtype": "float16", "hidden": 192}, ("persistent: 3 x ", "float16, 64 hidden units a block")),
            ({"dtype": "bfloat16", "hidden": 256}, ("persistent: ", "bfloat16, ", "predicted")),
            ({"dtype": "bfloat16"}, ("resident: 3 x 1 block, 1 sequence each; bfloat16", "predicted")),
            ({"tf32": True}, ("resident: 3 x 1 block",)),
            ({"hidden": 100, "tf32": True}, ("persistent: ", "products in TF32; ")),
            ({"hidden": 132, "dtype": "float16"}, ("loop: ", "and 132 is not a multiple of 8")),
        ],
        ids=str,
    )
    def test_it_says_what_was_picked_and_why(self, settings, words):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            settings = dict(settings)
            lstm = gl.LSTM(2, settings.pop("hidden", 64), xp=cupy, rng=0, **settings)
            x = cupy.zeros((5, 3, 2), lstm.params["weight_hh_l0"].dtype)
            plan = lstm.plan(x)
        for choice in plan:
            assert all(word in str(choice) for word in words), choice
