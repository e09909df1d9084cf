"""What is unusual, in the schedules with one launch for all time steps: NaN, infinity, no gradient, one step.

A block that waits for a number which another one takes for "not there yet" would wait for ever: the stand-in says so.
"""

import numpy as np
import pytest

from gpulstm.cuda import planner
from tests import backends
from tests.problems import infer, solve
from tests.schedule_cases import NUMPY, SCHEDULES, check, scheduled, small_problem

BACKENDS = backends.KERNELS
NOT_THERE = np.array(0xFFFFFFFF, np.uint32).view(np.float32)  # in `hiddens`; a NaN that somebody may well hand in
NAN = np.float32(np.nan)
STEPS, BATCH, HIDDEN = 5, 5, 20
LENGTHS = [5, 0, 3, 1, 5]
EMPTY = 1


def usual(**sizes):
    return small_problem(11, **{"hidden": HIDDEN, "steps": STEPS, "batch": BATCH, "lengths": LENGTHS, **sizes})


def changed(array: np.ndarray, at, value) -> np.ndarray:
    copy = array.copy()
    copy[at] = value
    return copy


def check_with_nan(found: dict, given, how=solve) -> None:
    """NaN where the NumPy engine has it, and the same numbers elsewhere."""
    with np.errstate(all="ignore"):
        expected = how(NUMPY, given)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(wanted), err_msg=name)
        scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestNan:
    @pytest.mark.parametrize("nan", [NAN, NOT_THERE], ids=["nan", "all ones"])
    @pytest.mark.parametrize("at", [(0, 0), (4, 4), (4, 2), (1, EMPTY)], ids=str)
    def test_in_x(self, backend, schedule, at, nan):
        """At the first step, at the last one, and twice beyond a sequence's end, where nobody may look."""
        given = usual(directions=2)
        given = given.but(x=changed(given.x, at, nan))
        assert bool(np.isnan(infer(NUMPY, given)["y"]).any()) == (at in ((0, 0), (4, 4)))
        with scheduled(backend, schedule, 5):
            check_with_nan(solve(backend, given), given)
            check_with_nan(infer(backend, given), given, infer)

    @pytest.mark.parametrize("nan", [NAN, NOT_THERE], ids=["nan", "all ones"])
    @pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_l0"])
    def test_in_parameters(self, backend, schedule, name, nan):
        given = usual(lengths=None)
        given = given.but(params=given.params | {name: changed(given.params[name], (2 * HIDDEN + 7, ...)[:1], nan)})
        assert np.isnan(infer(NUMPY, given)["y"]).any()
        with scheduled(backend, schedule, 5):
            check_with_nan(solve(backend, given), given)
            check_with_nan(infer(backend, given), given, infer)

    @pytest.mark.parametrize("sequence", [0, EMPTY, 3])
    @pytest.mark.parametrize("part", ["h", "c"])
    def test_of_all_ones_in_the_initial_state(self, backend, schedule, part, sequence):
        """The state of an empty sequence is handed on, and with it what means "not there yet" elsewhere."""
        given = usual(directions=2)
        h, c = given.state
        at = (slice(None), sequence, 6)
        given = given.but(state=(changed(h, at, NOT_THERE), c) if part == "h" else (h, changed(c, at, NOT_THERE)))
        with scheduled(backend, schedule, 5):
            trained, inferred = solve(backend, given), infer(backend, given)
        check_with_nan(trained, given)
        check_with_nan(inferred, given, infer)
        assert np.isnan(inferred[part][:, sequence, 6]).all()

    def test_in_gradients(self, backend, schedule):
        given = usual(directions=2)
        dh, dc = given.dstate
        with scheduled(backend, schedule, 5):
            for name in ("dy", "dh", "dc"):
                for nan in (NAN, NOT_THERE):
                    wrong = {
                        "dy": lambda nan=nan: {"dy": changed(given.dy, (1, 2, 7), nan)},
                        "dh": lambda nan=nan: {"dstate": (changed(dh, (0, 0, 7), nan), dc)},
                        "dc": lambda nan=nan: {"dstate": (dh, changed(dc, (0, EMPTY, 7), nan))},
                    }[name]()
                    check_with_nan(solve(backend, given.but(**wrong)), given.but(**wrong))


@pytest.mark.parametrize("schedule", ["loop", "graph"])
def test_nan_of_a_sequence_that_is_over_where_steps_are_launched_apart(backend, schedule):
    given = usual(directions=2)
    h, c = given.state
    given = given.but(state=(h, changed(c, (slice(None), 3, 6), NAN)))
    with planner.only(schedule):
        check_with_nan(solve(backend, given), given)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestInfinity:
    @pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
    def test_in_x(self, backend, schedule, value):
        given = usual(inputs=1)
        given = given.but(x=changed(given.x, (1, 2), np.float32(value)))
        with scheduled(backend, schedule, 5):
            check_with_nan(infer(backend, given), given, infer)
            found = solve(backend, given)
        assert np.isfinite(found["y"]).all()
        check_with_nan(found, given)

    @pytest.mark.parametrize("name", ["bias_l0", "weight_ih_l0"])
    def test_in_parameters(self, backend, schedule, name):
        """An infinite bias holds a gate open or shut, as some people want it."""
        given = usual(inputs=1)
        params = given.params | {name: changed(given.params[name], slice(HIDDEN, HIDDEN + 2), np.float32(np.inf))}
        given = given.but(params=params)
        with scheduled(backend, schedule, 5):
            found = infer(backend, given)
        assert np.isfinite(found["y"]).all()
        check_with_nan(found, given, infer)

    def test_in_the_initial_cell(self, backend, schedule):
        given = usual(lengths=None)
        h, c = given.state
        given = given.but(state=(h, changed(c, (0, 2, 6), np.float32(np.inf))))
        with scheduled(backend, schedule, 5):
            check_with_nan(infer(backend, given), given, infer)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestLittle:
    @pytest.mark.parametrize("lengths", [None, [1, 0, 1, 1, 0]], ids=["no lengths", "lengths"])
    def test_one_step(self, backend, schedule, lengths):
        given = usual(steps=1, directions=2, lengths=lengths)
        with scheduled(backend, schedule, 5):
            check(solve(backend, given), given)
            check(infer(backend, given), given, infer)

    @pytest.mark.parametrize("lengths", [None, LENGTHS, [0] * BATCH], ids=["no lengths", "lengths", "all empty"])
    def test_no_gradient_of_some_results(self, backend, schedule, lengths):
        given = usual(directions=2, lengths=lengths)
        dh, dc = given.dstate
        with scheduled(backend, schedule, 5):
            for missing in ({"dy": None}, {"dstate": None}, {"dstate": (None, dc)}, {"dy": None, "dstate": (dh, None)}):
                found = solve(backend, given.but(**missing))
                check(found, given.but(**missing))

    @pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["no lengths", "lengths"])
    def test_no_gradient_at_all_is_exactly_zero(self, backend, schedule, lengths):
        given = usual(directions=2, lengths=lengths)
        with scheduled(backend, schedule, 5):
            found = solve(backend, given.but(dy=None, dstate=None))
        for name in found.keys() - {"y", "h", "c"}:
            np.testing.assert_array_equal(found[name], np.zeros_like(found[name]), err_msg=name)

    def test_steps_past_the_end_take_no_gradient_and_the_state_passes_through(self, backend, schedule):
        given = usual()
        with scheduled(backend, schedule, 5):
            found = solve(backend, given)
        np.testing.assert_array_equal(found["h"][:, EMPTY], given.state[0][:, EMPTY])
        np.testing.assert_array_equal(found["c"][:, EMPTY], given.state[1][:, EMPTY])
        np.testing.assert_array_equal(found["dh"][:, EMPTY], given.dstate[0][:, EMPTY])
        np.testing.assert_array_equal(found["dc"][:, EMPTY], given.dstate[1][:, EMPTY])
        for n, length in enumerate(LENGTHS):
            assert not found["dx"][length:, n].any() and not found["y"][length:, n].any()

    def test_one_hidden_unit_or_one_quadruple(self, backend, schedule):
        given = usual(hidden=1 if schedule == "resident" else 4, batch=1, lengths=None)
        with scheduled(backend, schedule, 5):
            check(solve(backend, given), given)
