"""The resident forward kernel in 16 bits, by itself, against the recurrence in NumPy, rounded where it rounds."""

from dataclasses import replace

import numpy as np
import pytest

from gpulstm.cuda.planner import FORWARD, Choice
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_recurrence import check, check_in_any_order, forward_in_numpy, half_case, run, run_forward
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
    """y has the bits of training, and the states are the final ones."""
    case, choice = usual("bfloat16", name)
    last = 0 if case.reverse else case.sizes[0]
    with cupy_on_cpu() as cupy:
        kept, alone = (run_forward(cupy, case, choice, keep, wider=2) for keep in (True, False))
    np.testing.assert_array_equal(alone["y"], kept["y"])
    for name in ("hiddens", "cells"):
        np.testing.assert_array_equal(alone[name], kept[name][last])
    check({"y": alone["y"]}, forward_in_numpy(case), case.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_launch_goes_on_with_the_same_bits(dtype):
    """What the products read within a launch is h as it is stored, and c is not rounded."""
    case, choice = usual(dtype, "lengths")
    with cupy_on_cpu() as cupy:
        whole = run_forward(cupy, case, choice, keep=False)
        first = run_forward(cupy, replace(case, inputs=case.inputs[:5]), choice, keep=False)
        rest = replace(case, inputs=case.inputs[5:], first_time=5, h=first["hiddens"], c=first["cells"])
        second = run_forward(cupy, rest, choice, keep=False)
    np.testing.assert_array_equal(np.concatenate([first["y"], second["y"]]), whole["y"])
    for name in ("hiddens", "cells"):
        np.testing.assert_array_equal(second[name], whole[name])


@pytest.mark.parametrize("mode", ["asan", "tsan", "ptx"])
def test_in_other_modes(mode):
    if mode == "ptx":
        nvrtc_or_skip()
    case, choice = usual("bfloat16" if mode == "asan" else "float16", "reverse")
    check(*run(FORWARD, case, choice, mode, thread_order="random", seed=1), case.dtype)


def test_the_same_bits_in_any_order():
    check_in_any_order(FORWARD, *usual("bfloat16", "lengths"), late_blocks=())
