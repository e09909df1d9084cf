"""The resident forward kernel in 16 bits, by itself, against the recurrence in NumPy, rounded where it rounds."""

import numpy as np
import pytest

from gpulstm.cuda.planner import FORWARD, Choice
from tests.half_recurrence import check, check_in_any_order, half_case, run
from tests.resident_half import check_a_second_launch, check_inference
from tests.test_nvrtc_gate import nvrtc_or_skip

DTYPES = ("float16", "bfloat16")
SOME = np.array([9, 0, 6])

# (steps, hidden, settings): more steps than two times four, units that fill neither a block nor a warp, every QUADS.
CASES = {
    "lengths": (9, 37, {"lengths": SOME}),
    "reverse": (9, 21, {"lengths": SOME, "reverse": True, "first_time": 2}),
    "whole": (4, 64, {"bias": False}),
    "largest": (2, 93, {}),
    "one step": (1, 32, {"reverse": True}),
}


def usual(dtype: str, name: str):
    steps, hidden, settings = CASES[name]
    quads = next(quads for quads in (2, 4, 6) if 16 * quads >= hidden)
    choice = Choice("resident", "by hand", "lstm_resident_forward", (quads,), 1, 3, 1, arithmetic=dtype)
    return half_case(dtype, steps, 3, hidden, **settings), choice


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_value(dtype, name):
    case, choice = usual(dtype, name)
    check(*run(FORWARD, case, choice), dtype)


@pytest.mark.parametrize("name", ["lengths", "reverse"])
def test_in_inference(name):
    check_inference(*usual("bfloat16", name))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_launch_goes_on_with_the_same_bits(dtype):
    check_a_second_launch(*usual(dtype, "lengths"))


@pytest.mark.parametrize("mode", ["asan", "tsan", "ptx"])
def test_in_other_modes(mode):
    if mode == "ptx":
        nvrtc_or_skip()
    case, choice = usual("bfloat16" if mode == "asan" else "float16", "reverse")
    check(*run(FORWARD, case, choice, mode, thread_order="random", seed=1), case.dtype)


def test_the_same_bits_in_any_order():
    check_in_any_order(FORWARD, *usual("bfloat16", "lengths"), late_blocks=())
