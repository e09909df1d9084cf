"""``tf32=True`` together with options, in one launch for all time steps: by value, and what `LSTM.plan` says."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import planner, wide_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD
from gpulstm.engines import cupy_one_launch
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu
from tests.schedule_cases import scheduled
from tests.test_half_schedule import arithmetics
from tests.test_schedule_options import TOGETHER, usual
from tests.test_tf32 import TOLERANCE
from tests.variant_kernel_cases import RUNS, Case, by_numpy, error, train

BACKENDS = backends.KERNELS
H200, RTX = planner.Device(90, 132, 232448, True), planner.Device(86, 82, 101376, True)


def exact(given: Case) -> Case:
    """With x and W_ih of so few bits that W_ih x is exact: what is off then comes from the time steps."""
    params = {n: np.round(w * 8) / 8 if n.startswith("weight_ih") else w for n, w in given.arrays["params"].items()}
    return given.but(x=np.round(given.arrays["x"] * 8) / 8, params=params)


def errors(found: dict, given: Case, run: str = "training") -> dict[str, float]:
    return {name: error(found[name], wanted) for name, wanted in by_numpy(given, run, "float64").items()}


class TestValues:
    def test_all_results(self, backend):
        """Also that what `LSTM(tf32=True)` runs is such a kernel: the products of x are exact here either way."""
        given = exact(usual(steps=4, lengths=(4, 0, 3, 1, 4), bidirectional=True, **TOGETHER))
        in_tf32 = replace(given, options=replace(given.options, tf32=True))
        for run in RUNS:
            with scheduled(backend, "persistent", 10):
                off = errors(RUNS[run](backend, in_tf32, "float32"), given, run)
            assert max(off.values()) < TOLERANCE and off["y"] > 2e-6

    def test_each_pass_rounds_its_own_factors(self, backend):
        """y shows what the forward kernel does, and dh what the backward kernel adds."""
        given = exact(usual(steps=3, lengths=(3, 0, 2, 1, 3), **TOGETHER))
        with scheduled(backend, "persistent", 5):
            for forward, backward in (("float32", "float32"), ("tf32", "float32"), ("float32", "tf32")):
                with arithmetics(forward=forward, backward=backward):
                    off = errors(train(backend, given, "float32"), given)
                assert (2e-6 < off["y"] < TOLERANCE) == (forward == "tf32")
                assert (2e-6 < off["dh"] < TOLERANCE) == ("tf32" in (forward, backward))

    def test_options_that_change_nothing_leave_the_plain_layers_numbers(self, backend):
        """The same factors are rounded to the same numbers. Now and then one lies between two, and rounding in float32,
        which is not the same, decides: one factor in ten thousand, and a tenth of what all are off by is much."""
        given = exact(usual(steps=3, lengths=(3, 0, 2, 1, 3), peephole=True))
        params = given.arrays["params"]
        given = given.but(params={n: w * (0 if "peephole" in n else 1) for n, w in params.items()})
        plain = replace(given, layout=replace(given.layout, peephole=False))
        plain = plain.but(params={n: w for n, w in params.items() if "peephole" not in n})
        with scheduled(backend, "persistent", 5), arithmetics(forward="tf32", backward="tf32"):
            found, wanted = (train(backend, each, "float32") for each in (given, plain))
        for name, off in errors(wanted, plain).items():
            assert error(found[name], wanted[name]) < 0.1 * off, name


SIZES = [*product((FORWARD, BACKWARD), (1, 9, 64, 200), (100, 256, 512, 1024))]


class TestPlanner:
    @pytest.mark.parametrize("device", [H200, RTX], ids=["H200", "RTX 3090"])
    def test_options_are_laid_out_as_the_plain_layer(self, device):
        with planner.only("persistent"):
            for direction, batch, hidden in SIZES:
                asked = direction, batch, hidden, "tf32", device
                plain = planner.choose(*asked)
                assert planner.choose(*asked, "", "options") == plain
                assert plain.arithmetic == ("float32" if plain.kernel in wide_layouts.TILES else "tf32")


class TestPlanOfALayer:
    def plan(self, monkeypatch, hidden: int, **settings) -> planner.Plan:
        monkeypatch.setattr(cupy_one_launch, "_devices", {})
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC, folded=None) as cupy:
            return gl.LSTM(2, hidden, **settings, xp=cupy, rng=0).plan(cupy.zeros((50, 3, 2), "float32"))

    @pytest.mark.parametrize(
        "settings",
        [
            {"zoneout": 0.1, "recurrent_dropout": 0.3},
            {"peephole": True, "weight_drop": 0.2, "coupled": True},
            {"zoneout": 0.1, "bidirectional": True},
            {"peephole": True, "proj_size": 8},
        ],
        ids=str,
    )
    def test_of_many_blocks(self, settings, monkeypatch):
        found = self.plan(monkeypatch, 104, tf32=True, **settings)
        for choice in (found.forward, found.backward, found.inference or found.forward):
            assert choice.schedule == "persistent" and choice.arithmetic == "tf32"
            assert "; products in TF32; " in str(choice)
            assert choice.directions == 1 + settings.get("bidirectional", False)

    def test_of_kernels_that_multiply_in_float32(self, monkeypatch):
        found, strict = (self.plan(monkeypatch, 20, tf32=tf32, zoneout=0.1) for tf32 in (True, False))
        assert found == strict and {choice.arithmetic for choice in found if choice} == {"float32"}
