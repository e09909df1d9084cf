"""The LSTM's options in float16 and bfloat16: step by step and in one launch, against the NumPy engine in float64."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import half_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_one_launch
from tests import backends, variant_kernel_cases
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, ROUNDING, TOLERANCE, numpy_dtype
from tests.problems import assert_same_bits
from tests.schedule_cases import laid_out_by_hand, scheduled
from tests.test_schedule_options import MASKED, TOGETHER
from tests.variant_kernel_cases import RUNS, Case, by_numpy, error, train

BACKENDS = backends.KERNELS
LENGTHS = (4, 0, 3, 1, 2)


def half(dtype: str, **changes: Any) -> Case:
    """Rounded to 16 bits, with gates far from 0 and 1: of 1 - o, where o is stored as 0.99, few bits are left.

    On 10 multiprocessors: two blocks, the second one hardly filled, in each of five groups.
    """
    sizes = {"steps": 4, "batch": 5, "hidden": 72, "lengths": LENGTHS}
    given = variant_kernel_cases.case(**{**sizes, **changes})
    params = {name: value / np.float32(2) for name, value in given.arrays["params"].items()}
    return given.but(**{name: rounded(a, dtype) for name, a in (given.arrays | {"params": params}).items()})


def small(dtype: str, **changes: Any) -> Case:
    """One block in each group."""
    return half(dtype, **{"steps": 3, "batch": 3, "hidden": 16, "lengths": (3, 0, 2), **changes})


def rounded(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        return {name: rounded(a, dtype) for name, a in value.items()}
    if isinstance(value, tuple):
        return tuple(rounded(a, dtype) for a in value)
    return value if value is None or value.dtype.kind == "i" else value.astype(numpy_dtype(dtype))


def check(backend: Backend, given: Case, run: str = "training") -> dict:
    """The tolerance is that of the plain LSTM in 16 bits: most options round nothing but a masked h once more. Layer
    norm rounds the products of x and of h apart, what they are normalised to, and its gradients: each once."""
    kind = given.arrays["x"].dtype
    found, wanted = RUNS[run](backend, given, kind), by_numpy(given, run, "float64")
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name].dtype == kind and found[name].shape == expected.shape, name
        off, bound = error(found[name], expected), TOLERANCE * ROUNDING[kind.name]
        assert off <= bound, f"{name} is off by {off:.2g}, more than {bound:.2g}, in {run} of {given}"
    return found


IN_THE_LOOP = {
    name: variant_kernel_cases.ALONE[name]
    for name in (
        *("peephole", "coupled", "hard sigmoid, softsign, affine", "recurrent dropout of the candidate"),
        *("zoneout", "weight drop", "dropout and peephole"),
    )
} | {
    "cell clip": {"cell_clip": 0.8, "seed": 3},  # where no pre-activation is so near to it that rounding crosses it
    "projection and zoneout": {"proj_size": 3, "zoneout": (0.2, 0.4), "recurrent_dropout": 0.3},
    "projection and peephole": {"proj_size": 3, "peephole": True, "weight_drop": 0.2},
    "together": {**TOGETHER, "bidirectional": True, "num_layers": 2, "dropout": 0.2},
    "layer norm": {"layer_norm": True},
    "layer norm and projection": {"layer_norm": True, "proj_size": 3, "zoneout": (0.2, 0.4)},
    "layer norm together": {"layer_norm": True, **TOGETHER, "bidirectional": True},
}
"""Small layers; a projection is folded into weight_hh where no mask of h is between the two."""


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_each_option_step_by_step(backend, name, run):
    dtype = DTYPES[list(IN_THE_LOOP).index(name) % 2]
    with planner.only("loop"):
        check(backend, half(dtype, hidden=16, **IN_THE_LOOP[name]), run)


@pytest.mark.parametrize(
    ("dtype", "made"),
    [
        ("float16", {**TOGETHER, "bidirectional": True}),
        ("bfloat16", {**TOGETHER, "recurrent_dropout_on": "candidate", "reverse": True, "bias": False}),
    ],
    ids=DTYPES,
)
@pytest.mark.parametrize("schedule", ["resident", "persistent"])
def test_all_options_in_one_launch(backend, schedule, dtype, made):
    given = half(dtype, **made) if schedule == "persistent" else half(dtype, hidden=21, **made)
    with scheduled(backend, schedule, 10):
        found = check(backend, given)
        assert_same_bits(train(backend, given, numpy_dtype(dtype)), found)
        check(backend, given, "inference")


@pytest.mark.parametrize(
    "made",
    [
        {"zoneout": (0.3, 0.0), "lengths": None, "state": False},
        {"zoneout": (0.0, 0.3), "dy": False},
        {"recurrent_dropout": 0.3},
        {"peephole": True},
        {"weight_drop": 0.4, "coupled": True},
    ],
    ids=str,
)
def test_each_option_in_one_launch(backend, made):
    given = small("bfloat16", **made)
    with scheduled(backend, "persistent", 3):
        for run in RUNS:
            check(backend, given, run)


@pytest.mark.parametrize(
    ("direction", "tiles"),
    [(FORWARD, (2, 4, 4, 1, 1, 2)), (FORWARD, (8, 4, 4, 0, 1, 2)), (FORWARD, (16, 4, 4, 2, 2, 4)),
     (BACKWARD, (8, 4, 4, 0, 1, 2))],
    ids=str,
)  # fmt: skip
def test_tiles(backend, direction, tiles):
    """Eight, two and two outputs for each thread, for which a unit's lanes draw; several passes over the sequences."""
    kernel = half_layouts.FORWARD if direction == FORWARD else half_layouts.BACKWARD
    share = 8 * half_layouts.Tiles(*tiles).sequence_tiles + 1
    given = half("float16", steps=2, hidden=40, batch=share + 2, lengths=np.arange(share + 2) % 3, **TOGETHER)
    blocks = -(-40 // half_layouts.units(kernel, tiles))
    choice = Choice("persistent", "by hand", kernel, tiles, blocks, 2, share, 1.0, "float16")
    with scheduled(backend, "persistent"), laid_out_by_hand(**{direction: choice}):
        check(backend, given)


class TestTheSameBits:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_in_any_order_and_with_a_late_block(self):
        given, found = half("bfloat16", steps=3, batch=2, lengths=(3, 2), **TOGETHER), []
        for settings in (
            {},
            {"thread_order": "descending"},
            {"thread_order": "random", "seed": 1, "late_block": 1},
            {"late_block": 2},
        ):
            with cupy_on_cpu(**settings) as cupy, scheduled(Backend(backends.CUPY_ON_CPU, cupy), "persistent", 10):
                found.append(train(Backend(backends.CUPY_ON_CPU, cupy), given, numpy_dtype("bfloat16")))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    def test_backward_in_several_launches(self, backend, monkeypatch):
        """Each stretch of time draws from its own first step on."""
        given, kind = small("float16", steps=5, lengths=(5, 0, 3), bidirectional=True, **TOGETHER), np.float16
        with scheduled(backend, "persistent", 3):
            expected = train(backend, given, kind)
            monkeypatch.setattr(cupy_one_launch, "EXCHANGE_BYTES", 2 * 4 * 3 * 2 * 16)  # two steps
            backend.xp.on_cpu.reset_counts()
            assert_same_bits(train(backend, given, kind), expected)
        assert backend.xp.on_cpu.launches["lstm_persistent_half_backward"] == 2 * 3

    @pytest.mark.parametrize("schedule", ["loop", "persistent"])
    def test_with_checkpoints(self, backend, schedule, monkeypatch):
        """Between two stretches h is handed on in 16 bits, before its mask, and c in float32."""
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given, found = small("bfloat16", steps=4, lengths=(4, 0, 3), **MASKED, weight_drop=0.2), []
        a = backend.array({name: given.of(numpy_dtype("bfloat16"))[name] for name in ("x", "params", "state", "dy")})
        with scheduled(backend, "persistent", 3), planner.only(schedule):
            for every in (None, 2):
                made = {"lengths": (4, 0, 3), "options": given.options, "rng": 5, "checkpoint_every": every}
                y, final, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **made)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"])
                found.append(
                    backend.numpy({"y": y, "h": final.h, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads})
                )
        assert_same_bits(found[1], found[0])


class TestPasses:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("in_one_launch", [FORWARD, BACKWARD])
    def test_each_may_take_another_schedule(self, backend, in_one_launch, monkeypatch):
        """Forward and backward hand each other the same arrays, whichever schedule runs them."""
        real = planner.choose

        def choose(direction, *arguments):
            with planner.only("persistent" if direction == in_one_launch else "loop"):
                return real(direction, *arguments)

        monkeypatch.setattr(planner, "choose", choose)
        with scheduled(backend, "persistent", 3):
            backend.xp.on_cpu.reset_counts()
            check(backend, small("float16", **TOGETHER))
        found = Counter(backend.xp.on_cpu.launches)
        other = BACKWARD if in_one_launch == FORWARD else FORWARD
        assert found[f"lstm_persistent_half_{in_one_launch}"] == 1
        assert found[f"lstm_variant_cell_{other}"] == 3 and not found[f"lstm_variant_cell_{in_one_launch}"]

    def test_no_access_is_outside_of_an_array(self):
        given = small("bfloat16", steps=2, lengths=(2, 0, 1), **TOGETHER)
        with cupy_on_cpu("asan", thread_order="random", seed=1) as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            with scheduled(backend, "persistent", 3):
                check(backend, given)


@pytest.mark.parametrize("schedule", ["loop", "persistent"])
def test_nan_gets_nowhere_beyond_the_end_of_a_sequence(backend, schedule):
    """Neither the padding nor an empty sequence's state, nor a wrong weight to an empty sequence."""
    given, kind = small("float16", **TOGETHER), np.float16
    x, dy, state = given.arrays["x"].copy(), given.arrays["dy"].copy(), given.arrays["state"]
    for array in (x, dy):
        array[:, 1], array[2:, 2] = np.nan, np.inf
    state = tuple(part.copy() for part in state)
    for part in state:
        part[:, 1] = np.nan
    params = given.arrays["params"]
    wrong_weight = given.but(params=params | {"weight_hh_l0": params["weight_hh_l0"] * kind(np.nan)})
    with scheduled(backend, "persistent", 3), planner.only(schedule):
        found, wanted = (train(backend, g, kind) for g in (given.but(x=x, dy=dy, state=state), given))
        of_weight = train(backend, wrong_weight, kind)
    for name in wanted:
        if name in ("h", "c"):
            assert np.isnan(found[name][:, 1]).all()
            found[name][:, 1] = wanted[name][:, 1]
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for name, before in zip(("dh", "dc"), given.arrays["dstate"], strict=True):
        np.testing.assert_array_equal(of_weight[name][:, 1], before[:, 1])
        assert np.isnan(of_weight[name][0, 0]).any()


class TestPlan:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_says_what_was_picked_and_why(self, dtype):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            made = {"dtype": dtype, "zoneout": 0.1, "xp": cupy, "rng": 0}
            x = cupy.zeros((5, 3, 2), gl.LSTM(2, 8, **made).params["weight_hh_l0"].dtype)
            for hidden, schedule in ((64, "resident: 3 x 1 block"), (192, "persistent: 3 x 3 blocks")):
                for choice in gl.LSTM(2, hidden, **made).plan(x):
                    assert str(choice).startswith(f"{schedule}, 1 sequence each; {dtype}")
            for choice in gl.LSTM(2, 64, cell_clip=3.0, **made).plan(x):
                assert str(choice) == "loop: one launch for all steps does not hold cell_clip"
            assert "is not a multiple of 8" in str(gl.LSTM(2, 132, **made).plan(x).forward)
