"""80 random configurations against torch.nn.LSTM, 40 of them on the equations: outputs, final states, every gradient.

The tolerances are relative to the norm of the array. In float64 rounding is 1e-16 and the longest chain (40 steps,
3 layers) multiplies it by some hundreds: 1e-10 leaves room. In float32 rounding is 6e-8, and 1e-5 is the same room.
"""

from functools import cache

import numpy as np
import pytest

from gpulstm import engines
from tests import backends, torch_reference

CASES = range(80)
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@cache
def expected(seed: int, dtype: str) -> dict[str, np.ndarray]:
    return torch_reference.run(torch_reference.random_case(seed, dtype))


def check(backend, seed: int, dtype: str) -> None:
    case = torch_reference.random_case(seed, dtype)
    reference = expected(seed, dtype)
    results = torch_reference.ours(case, backend)
    assert set(results) - {"inference y", "inference h", "inference c"} == set(reference)
    for name, value in results.items():
        wanted = reference[name.removeprefix("inference ")]
        assert value.dtype == wanted.dtype, name
        error = torch_reference.relative_error(value, wanted)
        assert error <= TOLERANCE[dtype], f"{name} is off by {error:.2e} in {case}"


class TestNumpy:
    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize(
        ("seed", "dtype"), [*((seed, "float64") for seed in CASES), *((seed, "float32") for seed in CASES[::2])]
    )
    def test_matches(self, backend, seed, dtype):
        check(backend, seed, dtype)


class TestEquations:
    BACKENDS = (backends.EQUATIONS,)

    @pytest.mark.parametrize("seed", CASES[::2])
    def test_matches(self, backend, seed):
        check(backend, seed, "float64")

    @pytest.mark.parametrize("seed", CASES[::8])
    def test_matches_in_float32(self, backend, seed):
        """Few: a dtype is all that differs from the test above, and array-api-strict would refuse a mixture."""
        check(backend, seed, "float32")


class TestKernels:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("seed", CASES)
    def test_matches(self, backend, seed):
        check(backend, seed, "float64")

    @pytest.mark.parametrize("seed", CASES[::3])
    def test_matches_in_float32(self, backend, seed):
        check(backend, seed, "float32")


class TestWindows:
    """Longer than a window of time, in which weight gradients are added up: several windows, the last one shorter."""

    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("window", [1, 3, 7])
    @pytest.mark.parametrize("seed", CASES[:12])
    def test_matches(self, backend, seed, window, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", window)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        check(backend, seed, "float64")


def test_the_cases_cover_what_they_claim():
    """A generator that never draws a zero length would leave that line unchecked."""
    cases = [torch_reference.random_case(seed, "float64") for seed in CASES]
    lengths = [case.lengths for case in cases if case.lengths is not None]
    assert sum(0 in each for each in lengths) >= 10
    assert any((each == 0).all() for each in lengths)
    assert any(case.x.shape[1 - case.batch_first] == 1 for case in cases), "batch 1"
    assert {case.num_layers for case in cases} == {1, 2, 3}
    assert {(case.bidirectional, case.bias, case.batch_first) for case in cases} == {
        (a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)
    }
    assert sum(case.state is None for case in cases) >= 10
    assert all(case.input_size != case.hidden_size for case in cases)
