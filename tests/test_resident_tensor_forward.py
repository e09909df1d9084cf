"""The resident forward kernel on the tensor cores, by itself, against NumPy, rounded where it rounds."""

from dataclasses import replace

import numpy as np
import pytest

from gpulstm.cuda import resident_tensor_layouts
from gpulstm.cuda.planner import FORWARD, Choice
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_recurrence import check, check_in_any_order, half_case, run, run_forward
from tests.resident_half import check_a_second_launch, check_inference
from tests.test_nvrtc_gate import nvrtc_or_skip

DTYPES = ("float16", "bfloat16")
SOME = np.array([9, 0, 6, 1, 8])

# (steps, batch, hidden, blocks, settings): more steps than two times four, a block that is not full, units that fill
# neither a warp nor a word, hidden sizes that are read by 16 bytes and that are not, and all tiles.
CASES = {
    "lengths": (9, 5, 37, 2, {"lengths": SOME}),
    "lengths, a block for each": (9, 5, 21, 5, {"lengths": SOME}),
    "reverse": (9, 5, 21, 2, {"lengths": SOME, "reverse": True, "first_time": 2}),
    "reverse, a block for each": (9, 5, 37, 5, {"lengths": SOME, "reverse": True, "first_time": 2}),
    "words": (4, 3, 96, 1, {"bias": False}),
    "odd": (3, 2, 93, 2, {}),
    "largest": (6, 3, 128, 1, {}),
    "largest, a block for each": (6, 2, 128, 2, {}),
    "one step": (1, 1, 120, 1, {"reverse": True}),
}


def usual(dtype: str, name: str):
    steps, batch, hidden, groups, settings = CASES[name]
    return half_case(dtype, steps, batch, hidden, **settings), laid_out(dtype, batch, hidden, groups)


def laid_out(dtype: str, batch: int, hidden: int, groups: int = 0) -> Choice:
    """In as few blocks as can be, unless told otherwise, and with the smallest tiles."""
    groups = groups or -(-batch // 4)
    share = -(-batch // groups)
    tiles = next(
        tiles
        for tiles in resident_tensor_layouts.TILES[KERNEL]
        if resident_tensor_layouts.units(tiles) >= hidden and resident_tensor_layouts.sequences(KERNEL, tiles) >= share
    )
    return Choice("resident", "by hand", KERNEL, tiles, 1, groups, share, arithmetic=dtype)


KERNEL = resident_tensor_layouts.FORWARD


@pytest.mark.parametrize("name", CASES)
def test_by_value(name):
    dtype = DTYPES[list(CASES).index(name) % 2]
    case, choice = usual(dtype, name)
    check(*run(FORWARD, case, choice), dtype)


@pytest.mark.parametrize("name", ["lengths", "reverse, a block for each"])
def test_in_inference(name):
    check_inference(*usual("bfloat16", name))


def test_however_many_sequences_a_block_has():
    """The same bits; and a sequence that is infinite, or no number, is so for itself."""
    case, choice = usual("float16", "lengths")
    worse = replace(case, c=case.c.copy(), h=case.h.copy())
    worse.c[1:3], worse.h[3] = np.inf, np.nan
    with cupy_on_cpu() as cupy:
        expected = run_forward(cupy, case, choice)
        for groups in (3, 5):
            found = run_forward(cupy, case, laid_out(case.dtype, 5, 37, groups))
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        found = run_forward(cupy, worse, choice)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name][:, [0, 4]], value[:, [0, 4]], err_msg=name)
    assert np.isinf(found["cells"][6, 2]).all() and np.isnan(found["y"][0, 3]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_launch_goes_on_with_the_same_bits(dtype):
    check_a_second_launch(*usual(dtype, "lengths"))


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_in_other_modes(mode):
    case, choice = usual("bfloat16" if mode == "asan" else "float16", "reverse")
    check(*run(FORWARD, case, choice, mode, thread_order="random", seed=1), case.dtype)


def test_as_ptx():
    """Also there one sequence in a block has the bits that several have."""
    nvrtc_or_skip()
    case, choice = usual("float16", "lengths")
    found, expected = run(FORWARD, case, choice, "ptx", thread_order="random", seed=1)
    check(found, expected, "float16")
    alone, _ = run(FORWARD, case, laid_out("float16", 5, 37, 5), "ptx")
    for name, value in found.items():
        np.testing.assert_array_equal(alone[name], value, err_msg=name)


def test_the_same_bits_in_any_order():
    check_in_any_order(FORWARD, *usual("bfloat16", "lengths"), late_blocks=())
