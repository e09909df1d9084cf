"""The resident backward kernel in 16 bits, by itself, against the recurrence in NumPy, rounded where it rounds."""

import numpy as np
import pytest

from gpulstm.cuda.planner import BACKWARD, Choice
from tests.half_recurrence import check, check_in_any_order, half_case, run
from tests.resident_half import check_both_directions_back
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
    check_both_directions_back(*usual("float16", "lengths"))
