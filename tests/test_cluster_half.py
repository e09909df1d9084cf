"""The cluster kernels of float16 and bfloat16 by themselves, against NumPy with the same roundings, and layers in them
from end to end.

The layouts are uneven wherever they can be: the last block has no unit at all and the one before it few, the last
cluster has fewer sequences, and the number of units is odd. Each test run takes some kinds of tiles; the environment
variable GPULSTM_WHOLE_GATE=1 makes it all of them.
"""

import os
from collections import Counter

import numpy as np
import pytest

from gpulstm.cuda import cluster_half_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_engine
from tests import backends
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, half_problem
from tests.half_cases import check as check_layer
from tests.half_recurrence import (
    HalfCase,
    backward_in_numpy,
    check,
    check_in_any_order,
    forward_in_numpy,
    half_case,
    run,
    run_backward,
    run_forward,
)
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import scheduled

BACKENDS = backends.KERNELS
DIRECTIONS = (FORWARD, BACKWARD)
ALL = [(d, tiles) for d in DIRECTIONS for tiles in cluster_half_layouts.TILES[cluster_half_layouts.KERNELS[d]]]
# Weights in registers alone and not, 8 and 16 sequences, an odd number of tiles for two warps, clusters of 8 and 16.
KINDS = [
    *((FORWARD, tiles) for tiles in ((8, 384, 0, 1), (8, 384, 2, 2))),
    *((BACKWARD, tiles) for tiles in ((8, 384, 2, 2), (16, 768, 6, 1))),
]
SMALL = (4, 128, 0, 1)


def by_hand(direction: str, tiles: tuple[int, ...], dtype: str, batch: int, share: int) -> Choice:
    kernel = cluster_half_layouts.KERNELS[direction]
    return Choice("cluster", "by hand", kernel, tiles, tiles[0], -(-batch // share), share, arithmetic=dtype)


def usual(dtype: str, direction: str, **settings) -> tuple[HalfCase, Choice]:
    """Two of four blocks have units, the second an odd number of them; the second cluster has fewer sequences."""
    sizes = {"steps": 4, "batch": 5, "hidden": 37, **settings}
    return half_case(dtype, **sizes), by_hand(direction, SMALL, dtype, sizes["batch"], 3)


@pytest.mark.parametrize(("direction", "tiles"), ALL if os.environ.get("GPULSTM_WHOLE_GATE") else KINDS, ids=str)
def test_kinds_of_tiles(direction, tiles):
    t = cluster_half_layouts.Tiles(*tiles)
    dtype = DTYPES[ALL.index((direction, tiles)) % 2]
    # With a multiple of 8 the forward kernel loads eight weights at a time.
    hidden, share = t.width - t.units - (8 if direction == FORWARD and t.in_shared else 3), t.sequences
    batch = 2 * share - 3 if t.size == 4 else share - 3
    case = half_case(dtype, 3, batch, hidden, lengths=np.arange(batch) % 4)
    check(*run(direction, case, by_hand(direction, tiles, dtype, batch, share)), dtype)


def test_the_kinds_are_of_all():
    assert len(ALL) == len(set(ALL)) == 21 and set(KINDS) < set(ALL)
    for direction in DIRECTIONS:
        assert {t[3] for d, t in KINDS if d == direction} == {1, 2}
    assert {bool(t[2]) for d, t in KINDS if d == FORWARD} == {False, True}


SETTINGS = {
    "plain": {},
    "reverse": {"reverse": True, "lengths": np.array([4, 0, 2, 1, 3])},
    "later": {"first_time": 2, "lengths": np.array([6, 0, 3, 2, 5])},
    "nothing that may be missing": {"bias": False, "dy": False},
    "one step": {"steps": 1},
    "one sequence": {"batch": 1, "hidden": 40},  # eight weights at a time
}


@pytest.mark.parametrize(("setting", "dtype"), [(name, DTYPES[i % 2]) for i, name in enumerate(SETTINGS)])
class TestByValue:
    def test_forward(self, dtype, setting):
        case, choice = usual(dtype, FORWARD, **SETTINGS[setting])
        expected = forward_in_numpy(case)
        with cupy_on_cpu() as cupy:
            kept = run_forward(cupy, case, choice, wider=3)
            check(kept, expected, dtype)
            found = run_forward(cupy, case, choice, keep=False)
        last = 0 if case.reverse else -1
        np.testing.assert_array_equal(found["y"], kept["y"])
        np.testing.assert_array_equal(found["hiddens"], kept["hiddens"][last])
        np.testing.assert_array_equal(found["cells"], kept["cells"][last])
        np.testing.assert_array_equal(found["gates"], case.inputs)

    def test_backward(self, dtype, setting):
        case, choice = usual(dtype, BACKWARD, **{**SETTINGS[setting], "first_time": 0})
        given = forward_in_numpy(case)
        with cupy_on_cpu() as cupy:
            found = run_backward(cupy, case, choice, given["gates"], given["cells"], wider=3)
        check(found, backward_in_numpy(case, given["gates"], given["cells"]), dtype)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_bits_in_any_order(direction):
    case, choice = usual("float16", direction, lengths=np.array([4, 0, 2, 1, 3]))
    check_in_any_order(direction, case, choice, late_blocks=(0, 1, 5))


def test_how_a_layer_is_laid_out_changes_no_bit_of_an_output():
    """Neither how many sequences a cluster takes, nor of how many blocks of the same width it is."""
    case = half_case("bfloat16", 2, 9, 24)
    layouts = (((4, 128, 0, 1), 1), ((4, 128, 0, 1), 5), ((4, 128, 0, 2), 9), ((8, 128, 0, 1), 8))
    found = [run(FORWARD, case, by_hand(FORWARD, tiles, "bfloat16", 9, share))[0] for tiles, share in layouts]
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


class TestLayers:
    def given(self, dtype: str, **sizes):
        return half_problem(dtype, **{"hidden": 21, "steps": 5, "lengths": [5, 0, 3, 1, 4], **sizes})

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_results(self, backend, dtype):
        given = self.given(dtype, directions=2)
        with scheduled(backend, "cluster", 5):
            found = solve(backend, given)
            check_layer(found, given)
            assert_same_bits(solve(backend, given), found)
            assert_same_bits(infer(backend, given), {name: found[name] for name in ("y", "h", "c")})

    def test_what_may_be_missing(self, backend):
        given = self.given("float16", lengths=None, bias=False, layers=2, steps=3).but(dy=None)
        with scheduled(backend, "cluster", 5):
            check_layer(solve(backend, given), given)

    def test_inference_in_windows_of_time_and_parts_of_the_batch(self, backend, monkeypatch):
        given = self.given("bfloat16")
        with scheduled(backend, "cluster", 5):
            expected = infer(backend, given)
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 2 * 4 * 2 * 21)
            assert_same_bits(infer(backend, given), expected)


class TestPasses:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_each_may_take_another_schedule(self, backend, monkeypatch):
        given, real = half_problem("float16", hidden=24, steps=4), planner.choose

        def choose(direction, *arguments):
            with planner.only("cluster" if direction == in_clusters else "persistent"):
                return real(direction, *arguments)

        monkeypatch.setattr(planner, "choose", choose)
        for in_clusters in DIRECTIONS:
            backend.xp.on_cpu.reset_counts()
            check_layer(solve(backend, given), given)
            found = Counter(backend.xp.on_cpu.launches)
            other = BACKWARD if in_clusters == FORWARD else FORWARD
            assert found[f"lstm_cluster_half_{in_clusters}"] == found[f"lstm_persistent_half_{other}"] == 1
