"""The resident backward kernel in 16 bits, by itself, against the recurrence in NumPy, rounded where it rounds."""

import numpy as np
import pytest

from gpulstm.cuda.planner import BACKWARD, Choice
from gpulstm.engines import Lane, cupy_one_launch
from gpulstm.parameters import Weights
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import numpy_dtype
from tests.half_recurrence import backward_in_numpy, check, check_in_any_order, forward_in_numpy, half_case, run
from tests.test_nvrtc_gate import nvrtc_or_skip

DTYPES = ("float16", "bfloat16")
SOME = np.array([9, 0, 6])

# (steps, hidden, settings): more steps than two times four, units that fill neither a block nor four, every QUADS.
CASES = {
    "lengths": (9, 37, {"lengths": SOME}),
    "reverse": (9, 21, {"lengths": SOME, "reverse": True}),
    "no dy": (5, 70, {"dy": False}),
    "whole": (8, 64, {}),
    "one step": (1, 32, {"reverse": True}),
}


def usual(dtype: str, name: str):
    steps, hidden, settings = CASES[name]
    case = half_case(dtype, steps, 3, hidden, **settings)
    quads = 2 * -(-hidden // 32)
    choice = Choice("resident", "by hand", "lstm_resident_backward", (quads,), 1, 3, 1, arithmetic=dtype)
    return case, choice


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_value(dtype, name):
    case, choice = usual(dtype, name)
    check(*run(BACKWARD, case, choice), dtype)


@pytest.mark.parametrize("mode", ["asan", "tsan", "ptx"])
def test_in_other_modes(mode):
    if mode == "ptx":
        nvrtc_or_skip()
    case, choice = usual("bfloat16" if mode == "asan" else "float16", "reverse")
    check(*run(BACKWARD, case, choice, mode, thread_order="random", seed=1), case.dtype)


def test_the_same_bits_in_any_order():
    check_in_any_order(BACKWARD, *usual("bfloat16", "lengths"), late_blocks=())


def test_both_directions_have_the_bits_of_one_after_the_other():
    one, choice = usual("float16", "lengths")
    other = half_case("float16", *one.sizes, seed=1, lengths=SOME, reverse=True)
    pairs = [(case, forward_in_numpy(case)) for case in (one, other)]
    dy = np.concatenate([one.dy, other.dy], axis=2)
    steps, _, hidden = one.sizes

    def found(launch) -> list[np.ndarray]:
        with cupy_on_cpu() as cupy:
            half = numpy_dtype("float16")
            gates = [cupy.asarray(forward["gates"].astype(half)) for _, forward in pairs]
            cells = [cupy.asarray(forward["cells"].astype(np.float32)) for _, forward in pairs]
            weights = [Weights(None, cupy.asarray(case.weight.astype(half)), None) for case, _ in pairs]
            dh, dc = ([cupy.asarray(getattr(case, n).copy()) for case, _ in pairs] for n in ("dh", "dc"))
            lanes = [Lane(0, hidden, False, 0), Lane(hidden, hidden, True, 1)]
            lengths = cupy.asarray(SOME.astype(np.int32))
            launch(gates, cells, weights, cupy.asarray(dy.astype(half)), dh, dc, lanes, lengths)
            return [a.get() for a in (*gates, *dh, *dc)]

    def together(*arguments):
        cupy_one_launch.backward_steps_of_both(choice._replace(directions=2), *arguments)

    def apart(gates, cells, weights, dy, dh, dc, lanes, lengths):
        for i, lane in enumerate(lanes):
            cupy_one_launch.backward_steps(choice, gates[i], cells[i], weights[i], dy, dh[i], dc[i], lane, lengths)

    for value, wanted in zip(found(together), found(apart), strict=True):
        np.testing.assert_array_equal(value, wanted)
    for i, (case, forward) in enumerate(pairs):
        gates = found(together)[i].astype(np.float32)
        expected = backward_in_numpy(case, forward["gates"], forward["cells"])
        check({"gates": gates}, expected, "float16")
