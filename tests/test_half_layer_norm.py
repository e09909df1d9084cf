"""Layer norm in one launch in float16, bfloat16 and TF32, against the NumPy engine in float64 and the loop.

The kernels are those of float32, which tests/test_schedule_layer_norm.py goes through. Here is what differs: where
numbers are rounded, and one product of TF32 instead of three.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import catalogue, layer_norm_layouts, planner
from gpulstm.cuda.catalogue import Specialisation
from gpulstm.cuda.planner import BACKWARD, FORWARD, Device
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, numpy_dtype
from tests.problems import assert_same_bits
from tests.schedule_cases import schedule_of_each
from tests.test_half_options import check, half
from tests.test_schedule_layer_norm import MASKED, SUMS, scheduled
from tests.test_schedule_layer_norm import usual as in_float32
from tests.variant_kernel_cases import Case, by_numpy, error, train

BACKENDS = backends.KERNELS
H200 = Device(90, 132, 232448, True)
TF32_TOLERANCE = 1e-3


def usual(dtype: str, **changes) -> Case:
    """Of many blocks three, the last one half full."""
    return half(dtype, **{"hidden": 20, "layer_norm": True, **changes})


def masked(**changes) -> Case:
    return usual("bfloat16", **MASKED, **changes)


CASES = {
    "resident float16": ("resident", "float16", {"bidirectional": True}),
    "resident bfloat16": ("resident", "bfloat16", {"hidden": 37, "bias": False, "lengths": None}),
    "persistent float16": ("persistent", "float16", {"bidirectional": True}),
    "persistent bfloat16": ("persistent", "bfloat16", {**MASKED, "lengths": None, "dy": False}),
    "sums float16": (SUMS, "float16", {"reverse": True, "state": False, "bias": False}),
    "sums bfloat16": (SUMS, "bfloat16", MASKED),
}


@pytest.mark.parametrize("name", CASES)
def test_all_results(backend, name):
    schedule, dtype, made = CASES[name]
    given = usual(dtype, **made)
    with scheduled(backend, schedule, 5):
        found = check(backend, given)
        check(backend, given, "inference")
        if name == "sums bfloat16":
            assert_same_bits(train(backend, given, numpy_dtype(dtype)), found)


@pytest.mark.parametrize(
    ("forward", "backward", "given"),
    [
        ("loop", "persistent", masked(steps=3, lengths=(3, 0, 2, 3, 1))),
        ("persistent", "loop", masked(steps=3, lengths=(3, 0, 2, 3, 1))),
        ("loop", "resident", usual("float16")),
        ("resident", "loop", usual("float16")),
    ],
    ids=["loop-persistent", "persistent-loop", "loop-resident", "resident-loop"],
)
def test_each_pass_takes_its_own_schedule(backend, forward, backward, given):
    """Forward and backward hand each other the same arrays, in 16 bits too."""
    with scheduled(backend, "persistent", 5), schedule_of_each(forward=forward, backward=backward):
        check(backend, given)


@pytest.mark.parametrize("schedule", [SUMS, "persistent"])
def test_in_tf32(backend, schedule):
    """The products of x are exact, so that it is those of h that are rounded."""
    given = in_float32(steps=3, lengths=(3, 0, 2, 3, 1), tf32=True, **MASKED)
    x, params = given.arrays["x"], given.arrays["params"]
    eighths = {name: np.round(8 * w) / 8 if "weight_ih" in name else w for name, w in params.items()}
    given = given.but(x=np.round(8 * x) / 8, params=eighths)
    wanted = by_numpy(replace(given, options=replace(given.options, tf32=False)), "training", "float64")
    with scheduled(backend, schedule, 5):
        found = train(backend, given, "float32")
    errors = {name: error(found[name], wanted[name]) for name in wanted}
    assert max(errors.values()) <= TF32_TOLERANCE, errors
    assert errors["y"] > 1e-6  # it did multiply in TF32


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("schedule", [SUMS, "persistent"])
    def test_the_same_bits_in_any_order_and_with_a_late_block(self, schedule):
        given, found = masked(steps=2, lengths=(2, 1, 2, 0, 2)), []
        for each in ({}, {"thread_order": "random", "seed": 1, "late_block": 1}):
            with cupy_on_cpu(**each) as cupy, scheduled(Backend(backends.CUPY_ON_CPU, cupy), schedule, 5):
                found.append(train(Backend(backends.CUPY_ON_CPU, cupy), given, numpy_dtype("bfloat16")))
        assert_same_bits(found[1], found[0])

    @pytest.mark.parametrize("schedule", ["loop", "resident", SUMS, "persistent"])
    def test_a_stretch_begins_with_the_h_that_the_one_before_it_ended_with(self, backend, schedule, monkeypatch):
        """h is rounded where it is made, not only where it is stored: between two stretches it is handed on in 16 bits.
        c is float32 there. The resident kernel's variances of c differ in their last bits from stretch to stretch."""
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        dtype, made = ("float16", {}) if schedule == "resident" else ("bfloat16", MASKED)
        given, found = usual(dtype, **made), []
        a = backend.array({name: given.of(numpy_dtype(dtype))[name] for name in ("x", "params", "state", "dy")})
        with scheduled(backend, schedule, 5):
            for every in (None, 2):
                more = {
                    "lengths": given.arrays["lengths"],
                    "options": given.options,
                    "rng": 5,
                    "checkpoint_every": every,
                }
                y, final, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **more)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"])
                found.append(backend.numpy({"y": y, "h": final.h, "dx": dx, "dh": dinitial.h, **grads}))
        whole, parts = ({name: a for name, a in each.items() if "norm" not in name} for each in found)
        assert_same_bits(parts, whole)

    def test_what_is_launched(self, backend):
        """h crosses in words of 32 bits, which are made of 16 before and turned into 16 behind."""
        with scheduled(backend, SUMS, 5):
            backend.xp.on_cpu.reset_counts()
            train(backend, usual("float16", steps=2, lengths=None, state=False), numpy_dtype("float16"))
            in_sums = Counter(backend.xp.on_cpu.launches)
        with scheduled(backend, "persistent", 5):
            backend.xp.on_cpu.reset_counts()
            train(backend, usual("float16", steps=2, lengths=None, state=False), numpy_dtype("float16"))
            once = Counter(backend.xp.on_cpu.launches)
        assert in_sums["lstm_persistent_layer_norm_forward"] == once[layer_norm_layouts.ONCE] == 1
        assert in_sums["lstm_persistent_layer_norm_backward"] == once["lstm_persistent_layer_norm_backward"] == 1
        assert in_sums["widen"] == once["widen"] + 1 and in_sums["narrow"] == once["narrow"] + 1


@pytest.mark.parametrize("schedule", ["resident", SUMS, "persistent"])
def test_nan_gets_nowhere_beyond_the_end_of_a_sequence(backend, schedule):
    given, kind = usual("float16", steps=3, lengths=(3, 0, 2, 3, 1)), np.float16
    x, dy, state = (given.arrays[name] for name in ("x", "dy", "state"))
    x, dy, state = x.copy(), dy.copy(), tuple(part.copy() for part in state)
    for array in (x, dy):
        array[:, 1], array[2:, 2] = np.nan, np.inf
    for part in state:
        part[:, 1] = np.nan
    with scheduled(backend, schedule, 5):
        found, wanted = (train(backend, g, kind) for g in (given.but(x=x, dy=dy, state=state), given))
    for name in wanted:
        if name in ("h", "c"):
            assert np.isnan(found[name][:, 1]).all()
            found[name][:, 1] = wanted[name][:, 1]
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


class TestPlan:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_says_what_was_picked_and_why(self, dtype):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            made = {"dtype": dtype, "layer_norm": True, "xp": cupy, "rng": 0}
            x = cupy.zeros((5, 3, 2), gl.LSTM(2, 8, **made).params["weight_hh_l0"].dtype)
            for hidden, schedule, what in (
                (64, "resident: 3 x 1 block", ""),
                (100, "persistent", "products in TF32; "),
            ):
                for choice in gl.LSTM(2, hidden, **made).plan(x):
                    assert str(choice).startswith(schedule) and choice.arithmetic == dtype
                    assert f"; {dtype}; {what}" in str(choice)
                    assert choice.reason.endswith("us a step predicted with layer norm, from floors, not measured")

    @pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
    def test_laid_out_as_tf32_is(self, direction):
        for not_plain in (planner.LAYER_NORM, planner.LAYER_NORM_AND_OPTIONS):
            of = {d: planner.choose(direction, 20, 260, d, H200, "", not_plain) for d in (*DTYPES, "tf32", "float32")}
            assert {of[d]._replace(arithmetic="", reason="") for d in (*DTYPES, "tf32")} == {
                of["tf32"]._replace(arithmetic="", reason="")
            }
            assert [of[d].arithmetic for d in of] == list(of) and of["tf32"].microseconds < of["float32"].microseconds

    def test_16_bits_are_multiplied_by_one_product(self):
        for entry in catalogue.LAYER_NORM:
            tiles = catalogue.TILES[entry][1][0]
            of = {d: Specialisation(entry, d, (True,), tiles).definitions["TF32"] for d in catalogue.dtypes_of(entry)}
            assert of == {"float32": 0, "tf32": 1, "float16": 1, "bfloat16": 1}

    def test_one_of_float64_takes_the_loop(self):
        choice = planner.choose(FORWARD, 20, 260, "float64", H200, "", planner.LAYER_NORM)
        assert choice.schedule == "loop" and "not float64" in choice.reason
