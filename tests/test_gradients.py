"""Gradients against central finite differences in float64: every element of every parameter, input and initial state.

A central difference of step h is off by h^2/6 * f''' (truncation) and eps/h * |f| (rounding). With h = 6e-6, near
the cube root of eps, where the two are of one size, and with f a sum of some 50 outputs of size 1 weighted by
gradients of size 1:

    truncation  (6e-6)^2 / 6 * f'''   = 6e-12 * f''', and f''' of a few stacked steps stays below 100:  6e-10
    rounding    2.2e-16 / 6e-6 * 50   = 1.9e-9

so 1e-8 is what a right gradient can differ by. Gradients here are of size 0.01 to 10.
"""

from itertools import product

import numpy as np
import pytest

from tests import backends, problems

STEP = 6e-6
TOLERANCE = 1e-8
LENGTHS = {"no lengths": None, "lengths": [4, 0, 2]}

# (layers, directions, bias, lengths, initial state). The NumPy engine takes all of them, and the kernels those in which
# every value of one option meets every value of another one.
ALL = list(product((1, 2), (1, 2), (True, False), LENGTHS, (True, False)))
SOME = [
    (1, 1, True, "lengths", True),
    (1, 1, False, "no lengths", False),
    (1, 2, True, "no lengths", True),
    (1, 2, False, "lengths", False),
    (2, 1, True, "lengths", False),
    (2, 1, False, "no lengths", True),
    (2, 2, True, "lengths", True),
]


def problem_of(option: tuple, seed: int = 1) -> problems.Problem:
    layers, directions, bias, lengths, state = option
    return problems.problem(
        seed,
        steps=4,
        batch=3,
        inputs=1 + 4 * (layers == 1),  # 5, or 1 where the second layer has the work to do
        hidden=2,
        layers=layers,
        directions=directions,
        bias=bias,
        state=state,
        lengths=LENGTHS[lengths],
    )


def loss_change(backend, given: problems.Problem, plus: problems.Problem, minus: problems.Problem) -> float:
    """loss(plus) - loss(minus), where loss weights every output by its gradient. Subtracted output by output, because
    the difference of two sums would carry the rounding of the sums."""
    above, below = problems.infer(backend, plus), problems.infer(backend, minus)
    weights = {"y": given.dy, "h": given.dstate[0], "c": given.dstate[1]}
    return sum(float(np.sum(weight * (above[name] - below[name]))) for name, weight in weights.items())


def numerical(backend, given: problems.Problem) -> dict[str, np.ndarray]:
    """The gradient of every argument by finite differences, under the names of `problems.solve`."""
    arguments = {"dx": given.x} | {"d" + name: value for name, value in given.params.items()}
    if given.state is not None:
        arguments |= {"dh": given.state[0], "dc": given.state[1]}
    found = {name: np.zeros_like(value) for name, value in arguments.items()}
    for name, value in arguments.items():
        for place in np.ndindex(value.shape):
            moved = []
            for sign in (+1, -1):
                changed = value.copy()
                changed[place] += sign * STEP
                moved.append(with_argument(given, name, changed))
            found[name][place] = loss_change(backend, given, *moved) / (2 * STEP)
    return found


def with_argument(given: problems.Problem, name: str, value: np.ndarray) -> problems.Problem:
    if name == "dx":
        return given.but(x=value)
    if name == "dh":
        return given.but(state=(value, given.state[1]))
    if name == "dc":
        return given.but(state=(given.state[0], value))
    return given.but(params={**given.params, name.removeprefix("d"): value})


def check(backend, option: tuple) -> None:
    given = problem_of(option)
    analytical = problems.solve(backend, given)
    expected = numerical(backend, given)
    assert set(expected) | {"y", "h", "c", "dh", "dc"} == set(analytical)
    for name, wanted in expected.items():
        assert np.abs(wanted).max() > 1e-3, f"{name} is too small to be checked"
        np.testing.assert_allclose(analytical[name], wanted, rtol=0, atol=TOLERANCE, err_msg=name)


class TestNumpy:
    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize("option", ALL, ids=str)
    def test_gradients(self, backend, option):
        check(backend, option)


class TestKernels:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("option", SOME, ids=str)
    def test_gradients(self, backend, option):
        check(backend, option)


class TestEquations:
    """Three, in which every value of an option comes: `test_lstm_matches_torch` has the gradients of many more."""

    BACKENDS = (backends.EQUATIONS,)

    @pytest.mark.parametrize("option", (SOME[0], SOME[3], SOME[5]), ids=str)
    def test_gradients(self, backend, option):
        check(backend, option)


@pytest.mark.parametrize("option", SOME, ids=str)
def test_zero_initial_state_has_the_gradient_of_one(backend, option):
    """state=None is a state of zeros, and its gradient is returned all the same."""
    given = problem_of(option).but(state=None)
    count, batch, hidden = given.dstate[0].shape
    zeros = tuple(np.zeros((count, batch, hidden)) for _ in range(2))
    problems.assert_close(problems.solve(backend, given), problems.solve(backend, given.but(state=zeros)))


def test_the_few_options_cover_every_pair():
    for first, second in ((a, b) for b in range(5) for a in range(b)):
        pairs = {(option[first], option[second]) for option in SOME}
        wanted = {(option[first], option[second]) for option in ALL}
        assert pairs == wanted, f"options {first} and {second} never meet as {wanted - pairs}"
