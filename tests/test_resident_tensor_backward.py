"""The resident backward kernel on the tensor cores, by itself, against NumPy, rounded where it rounds."""

from dataclasses import replace

import numpy as np
import pytest

from gpulstm.cuda import resident_tensor_layouts
from gpulstm.cuda.planner import BACKWARD, Choice
from gpulstm.engines import Lane, cupy_one_launch
from gpulstm.parameters import Weights
from tests import test_half_options
from tests.backends import CUPY_ON_CPU, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import numpy_dtype
from tests.half_recurrence import (
    check,
    check_in_any_order,
    forward_in_numpy,
    half_case,
    run,
    run_backward,
)
from tests.resident_half import check_both_directions_back
from tests.schedule_cases import scheduled
from tests.test_schedule_options import TOGETHER

DTYPES = ("float16", "bfloat16")
SOME = np.array([9, 0, 6, 1, 8])
KERNEL = resident_tensor_layouts.BACKWARD

# (tiles, steps, batch, hidden, settings): more steps than are fetched ahead and than are written out in a row, blocks
# that are not full, units that fill neither a warp nor all warps, and all tiles.
CASES = {
    "lengths": ((4, 1), 9, 5, 38, {"lengths": SOME}),
    "reverse": ((2, 1), 9, 5, 22, {"lengths": SOME, "reverse": True}),
    "eight sequences": ((6, 2), 9, 5, 66, {"lengths": SOME}),
    "no dy": ((6, 1), 3, 3, 96, {"dy": False}),
    "largest": ((8, 1), 3, 4, 128, {"lengths": SOME[1:] % 4}),
    "eight of the largest": ((8, 2), 4, 8, 116, {"reverse": True}),
    "one step": ((8, 1), 1, 1, 98, {"reverse": True}),
}


def usual(dtype: str, name: str):
    tiles, steps, batch, hidden, settings = CASES[name]
    return half_case(dtype, steps, batch, hidden, **settings), laid_out(dtype, tiles, batch)


def laid_out(dtype: str, tiles: tuple[int, ...], batch: int, groups: int = 0) -> Choice:
    """In as few blocks as can be, unless told otherwise."""
    groups = groups or -(-batch // resident_tensor_layouts.sequences(KERNEL, tiles))
    return Choice("resident", "by hand", KERNEL, tiles, 1, groups, -(-batch // groups), arithmetic=dtype)


@pytest.mark.parametrize("name", CASES)
def test_by_value(name):
    dtype = DTYPES[list(CASES).index(name) % 2]
    case, choice = usual(dtype, name)
    check(*run(BACKWARD, case, choice), dtype)


def test_however_many_sequences_a_block_has():
    """The same bits; and a sequence whose gradients are no numbers is so for itself."""
    case, choice = usual("float16", "lengths")
    worse = replace(case, dh=case.dh.copy(), dc=case.dc.copy())
    worse.dc[1:3], worse.dh[3] = np.inf, np.nan
    forward = forward_in_numpy(case)
    given = forward["gates"], forward["cells"]
    with cupy_on_cpu() as cupy:
        expected = run_backward(cupy, case, choice, *given)
        for groups in (3, 5):
            found = run_backward(cupy, case, laid_out(case.dtype, choice.tiles, 5, groups), *given, wider=2)
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
        found = run_backward(cupy, worse, choice, *given)
    for name, value in expected.items():
        others = np.s_[:, [0, 4]] if name == "gates" else np.s_[[0, 4]]
        np.testing.assert_array_equal(found[name][others], value[others], err_msg=name)
    np.testing.assert_array_equal(found["dh"][1], case.dh[1])  # of a sequence without a step
    assert np.isinf(found["dc"][1]).all() and np.isnan(found["gates"][0, 3]).all()
    assert (found["gates"][1:, 3] == 0).all() and not np.isfinite(found["gates"][0, 2]).any()


def test_a_dy_and_weights_between_two_words():
    """Wherever they begin: dy is read two numbers at a time."""
    case, choice = usual("bfloat16", "reverse")
    forward = forward_in_numpy(case)
    with cupy_on_cpu() as cupy:
        expected = run_backward(cupy, case, choice, forward["gates"], forward["cells"])
        half = numpy_dtype(case.dtype)

        def shifted(numbers):
            array = cupy.empty(1 + numbers.size, half)[1:].reshape(numbers.shape)
            array[...] = cupy.asarray(numbers.astype(half))
            assert array.data.ptr % 4 == 2
            return array

        gates, dh, dc = (cupy.asarray(a) for a in (forward["gates"].astype(half), case.dh, case.dc))
        cells, lengths = (cupy.asarray(forward["cells"].astype("f4")), cupy.asarray(SOME.astype("i4")))
        weights, lane = Weights(None, shifted(case.weight), None), Lane(0, case.sizes[2], True, 0)
        cupy_one_launch.backward_steps(choice, gates, cells, weights, shifted(case.dy), dh, dc, lane, lengths)
        np.testing.assert_array_equal(gates.get().astype("f4"), expected["gates"])
        np.testing.assert_array_equal(dh.get(), expected["dh"])


@pytest.mark.parametrize("mode", ["asan", "tsan"])  # as PTX: test_kernels_in_ptx
def test_in_other_modes(mode):
    case, choice = usual("bfloat16" if mode == "asan" else "float16", "reverse")
    check(*run(BACKWARD, case, choice, mode, thread_order="random", seed=1), case.dtype)


@pytest.mark.parametrize("name", ["lengths", "eight sequences"])
def test_the_same_bits_in_any_order(name):
    check_in_any_order(BACKWARD, *usual("bfloat16", name), late_blocks=())


def test_both_directions_have_the_bits_of_one_after_the_other():
    check_both_directions_back(*usual("float16", "lengths"))


@pytest.mark.parametrize(
    ("dtype", "made"),
    [
        ("float16", {**TOGETHER, "bidirectional": True, "lengths": (4, 0, 3, 1, 2)}),
        ("bfloat16", {**TOGETHER, "recurrent_dropout_on": "candidate", "reverse": True, "peephole": False}),
        ("float16", {"recurrent_dropout": 0.3, "weight_drop": 0.2}),
    ],
    ids=["all", "but peepholes", "masks alone"],
)
def test_with_options(dtype, made):
    """All gradients of a layer; a block has two or three of its sequences."""
    given = test_half_options.half(dtype, hidden=22, **made)
    with cupy_on_cpu(thread_order="random") as cupy:
        backend = Backend(CUPY_ON_CPU, cupy)
        with scheduled(backend, "resident", 4):
            test_half_options.check(backend, given)
        assert cupy.on_cpu.launches[KERNEL] == 1
