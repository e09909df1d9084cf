"""Gradients of LSTMs with options against central finite differences in float64, in training with its masks fixed.

Each option alone: every element of every argument. Combinations: one random direction per argument, of length 1; a
wrong element shows in it as surely, because the direction has no zero.

With differences D(h) = f(x + h) - f(x - h) the derivative is (8 D(h) - D(2h)) / 12h, which is off by

    truncation  h^4 / 30 * f5         = 4e-23 * f5: nothing, even where layer norm divides by a deviation of 0.01 and
                                        the fifth derivative f5 goes with its fifth power. D(h) / 2h alone would be off
                                        by h^2 / 6 * f3 = 6e-12 * 100^3, which is too much
    rounding    1.5 * eps / h * |f|   = 5.5e-11 * |f|

for h = 6e-6. |f| is what the outputs carry, weighted by gradients of size 1: some 50 values of size 1, each of which
some rounding of the steps before has reached, by as much as a gradient is large. So an error may be 5e-9 times the
larger of 1 and the argument's largest gradient; where layer norm multiplies rounding, ten times that (`test_variants`).
"""

import numpy as np
import pytest

import gpulstm as gl
from tests import backends, variant_cases
from tests.variant_cases import ALONE, COMBINATIONS, Case

STEP = 6e-6
TOLERANCE = 5e-9
WITH_LAYER_NORM = 5e-8


def outputs(backend, case: Case) -> tuple[np.ndarray, ...]:
    """y, h and c in training."""
    y, final, _ = gl.lstm_forward(
        backend.array(case.x),
        backend.array(case.params),
        backend.array(case.state),
        lengths=case.lengths,
        batch_first=case.batch_first,
        options=case.options,
        rng=case.rng,
    )
    return backend.numpy((y, *final))


def slope(backend, case: Case, name: str, direction: np.ndarray) -> float:
    """The loss' derivative along a direction of one argument; the loss weights every output by its gradient.

    Subtracted output by output, because the difference of two sums would carry the rounding of the sums.
    """

    def difference(step: float) -> float:
        above, below = (outputs(backend, with_argument(case, name, sign * step * direction)) for sign in (+1, -1))
        weights = (case.dy, *case.dstate)
        return sum(float(np.sum(w * (a - b))) for w, a, b in zip(weights, above, below, strict=True))

    return (8 * difference(STEP) - difference(2 * STEP)) / (12 * STEP)


def tolerance(case: Case) -> float:
    return WITH_LAYER_NORM if "weight_norm_c_l0" in case.params else TOLERANCE


def with_argument(case: Case, name: str, change: np.ndarray) -> Case:
    if name == "dx":
        return case.but(x=case.x + change)
    if name in ("dh", "dc"):
        return case.but(state=tuple(part + change if name == each else part
                                    for each, part in zip(("dh", "dc"), case.state, strict=True)))  # fmt: skip
    key = name.removeprefix("d")
    return case.but(params={**case.params, key: case.params[key] + change})


def arguments(case: Case) -> list[str]:
    return ["dx", *(["dh", "dc"] if case.state else []), *("d" + name for name in case.params)]


class TestAlone:
    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize("name", ALONE)
    def test_every_element(self, backend, name):
        case = variant_cases.alone(name, layers=1 + (name == "dropout"), directions=1)
        found = variant_cases.ours(case, backend)
        for argument in arguments(case):
            numerical = np.zeros_like(found[argument])
            for place in np.ndindex(numerical.shape):
                direction = np.zeros_like(numerical)
                direction[place] = 1.0
                numerical[place] = slope(backend, case, argument, direction)
            largest = np.abs(numerical).max()
            assert largest > 1e-3, f"{argument} is too small to be checked"
            error = np.abs(found[argument] - numerical).max()
            assert error <= tolerance(case) * max(1, largest), f"{argument} is off by {error:.1e} in {case}"


class TestCombinations:
    """A third of them: `test_variants` has the gradients of all, by automatic differentiation."""

    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize("seed", COMBINATIONS[::3])
    def test_a_direction_of_each_argument(self, backend, seed):
        check_directions(backend, variant_cases.combination(seed), seed)


class TestKernels:
    """The kernels' gradients equal the NumPy engine's in all combinations; a few here stand by themselves."""

    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("seed", COMBINATIONS[::20])
    def test_a_direction_of_each_argument(self, backend, seed):
        check_directions(backend, variant_cases.combination(seed), seed)


def check_directions(backend, case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = variant_cases.ours(case, backend)
    for argument in arguments(case):
        gradient = found[argument]
        direction = rng.choice([-1.0, 1.0], size=gradient.shape) * rng.uniform(0.5, 1.5, gradient.shape)
        direction /= np.linalg.norm(direction)
        error = abs(slope(backend, case, argument, direction) - float(np.sum(gradient * direction)))
        scale = max(1, np.abs(gradient).max())
        assert error <= tolerance(case) * scale, f"{argument} is off by {error / scale:.1e} in {case}"
