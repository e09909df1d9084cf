"""Layers on top of each other side by side in one launch: the values of the NumPy engine, and the same bits in every
order of blocks and threads."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import catalogue, modules, occupancy, packed, planner, stacked_layers
from gpulstm.engines import cupy_engine, cupy_layers, cupy_one_launch
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import assert_given_up, check, errors, laid_out_by_hand, scheduled, small_problem
from tests.test_half_precision import solve_with
from tests.test_kernel_sanitizers import without
from tests.test_schedule_alarm import IN_VAIN
from tests.test_tf32 import TOLERANCE as TF32_TOLERANCE

BACKENDS = backends.KERNELS
MULTIPROCESSORS = 12  # three layers have two blocks for each of two sequences
SIZES = {"hidden": 12, "steps": 2, "batch": 2, "layers": 3}
KERNELS = ("lstm_persistent_forward", "lstm_persistent_backward")


@pytest.fixture(autouse=True)
def worth_it(monkeypatch):
    """Small layers, few steps: what it would cost on a GPU does not matter here."""
    monkeypatch.setattr(stacked_layers, "FEWEST_STEPS", 1)
    monkeypatch.setattr(stacked_layers, "WORTH", 1000.0)
    stacked_layers._side_by_side.cache_clear()
    yield
    stacked_layers._side_by_side.cache_clear()


def given_for(seed: int = 7, **sizes):
    wanted = SIZES | sizes
    return small_problem(seed, **{"lengths": np.arange(wanted["batch"])[::-1] % (wanted["steps"] + 1), **wanted})


@contextmanager
def laid_out(backend: Backend, way: str = "any", multiprocessors: int = MULTIPROCESSORS):
    with scheduled(backend, "persistent", multiprocessors), stacked_layers.ways(way):
        yield


def train(backend: Backend, given, way: str = "any", **options) -> dict:
    with laid_out(backend, way):
        return solve_with(backend, given, options=options)


def launches(backend: Backend, function) -> Counter:
    """Of the kernels that run the time steps."""
    backend.xp.on_cpu.reset_counts()
    function()
    return Counter({name: count for name, count in backend.xp.on_cpu.launches.items() if name in KERNELS})


class TestValues:
    def test_all_results(self, backend):
        given = given_for()
        check(train(backend, given), given)
        with laid_out(backend):
            check(infer(backend, given), given, infer)

    def test_what_may_be_missing_and_the_other_direction(self, backend):
        given = given_for(steps=3, lengths=None, state=False, bias=False, layers=2).but(dy=None)
        found = train(backend, given, reverse=True)
        expected = solve_with(Backend(backends.NUMPY, np), given, options={"reverse": True})
        for name, wanted in expected.items():
            assert np.linalg.norm(found[name] - wanted) <= 1e-6 * np.linalg.norm(wanted), name

    def test_lengths_and_the_other_direction(self, backend):
        given = given_for(steps=3, batch=3, layers=2, lengths=[2, 0, 3])
        found = train(backend, given, reverse=True)
        expected = solve_with(Backend(backends.NUMPY, np), given, options={"reverse": True})
        for name, wanted in expected.items():
            assert np.linalg.norm(found[name] - wanted) <= 1e-6 * np.linalg.norm(wanted), name

    def test_tf32(self, backend):
        given = given_for()
        found = errors(train(backend, given, tf32=True), given)
        assert max(found.values()) <= TF32_TOLERANCE and found["y"] > 1e-6  # it did multiply in TF32

    @pytest.mark.parametrize(("tiles", "hidden", "batch"), [((2, 2, 2), 12, 27), ((4, 1, 1), 68, 9)], ids=str)
    def test_larger_tiles_and_several_passes(self, backend, tiles, hidden, batch):
        """The last block has fewer units than the others, the last pass over a group's sequences fewer of them. With 68
        hidden units some warps have more of da than others."""
        layout = tiles, -(-hidden // (4 * tiles[0])), 1, batch
        choices = {
            direction: planner.Choice("persistent", "by hand", kernel, *layout, 1.0, "float32", layers=2)
            for direction, kernel in zip((planner.FORWARD, planner.BACKWARD), KERNELS, strict=True)
        }
        given = given_for(hidden=hidden, batch=batch, layers=2, lengths=np.arange(batch) % 3)
        with laid_out(backend), laid_out_by_hand(**choices), pytest.MonkeyPatch.context() as patch:
            patch.setattr(stacked_layers, "side_by_side", lambda direction, *_: (choices[direction], ""))
            check(solve(backend, given), given)


class TestTheSameBits:
    def test_inference_in_parts_and_training(self, backend, monkeypatch):
        given = given_for(steps=4, lengths=[4, 1], layers=2)
        expected = train(backend, given)
        with laid_out(backend):
            whole = infer(backend, given)
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 3 * 2 * 4 * 12 * 4)  # three steps
            assert_same_bits(infer(backend, given), whole)
        assert_same_bits(whole, {name: expected[name] for name in whole})

    def test_a_backward_pass_in_stretches(self, backend, monkeypatch):
        given = given_for(steps=4, lengths=[4, 2])
        expected = train(backend, given)
        monkeypatch.setattr(cupy_layers, "HANDED_BYTES", 3 * 2 * 2 * 4 * 12 * 4)  # three steps of two layers
        found = launches(backend, lambda: assert_same_bits(train(backend, given), expected))
        assert found == {KERNELS[0]: 1, KERNELS[1]: 2}

    def test_a_pass_may_run_side_by_side_alone(self, backend, monkeypatch):
        given, real = given_for(layers=2), stacked_layers.side_by_side
        for alone in (planner.FORWARD, planner.BACKWARD):
            with monkeypatch.context() as patch:
                patch.setattr(
                    stacked_layers, "side_by_side", lambda d, *a, alone=alone: real(d, *a) if d == alone else (None, "")
                )
                check(train(backend, given), given)


class TestOrders:
    """Threads and blocks in any order, and one block of each layer far behind the others."""

    BACKENDS = (backends.CUPY_ON_CPU,)
    SETTINGS = (
        {"thread_order": "random", "block_order": "descending", "seed": 1},
        *({"late_block": block} for block in (1, 6, 11)),
    )

    def test_the_same_bits(self, backend):
        given = given_for()
        expected = train(backend, given)
        for settings in self.SETTINGS:
            with cupy_on_cpu(**settings) as cupy:
                assert_same_bits(train(Backend(backends.CUPY_ON_CPU, cupy), given), expected)

    def test_no_access_outside_of_the_arrays(self):
        given = given_for(layers=2)
        with cupy_on_cpu("asan") as cupy:
            check(train(Backend(backends.CUPY_ON_CPU, cupy), given), given)

    def test_the_blocks_are_many(self, backend):
        with laid_out(backend):
            device = cupy_one_launch.current_device()
            for direction in (planner.FORWARD, planner.BACKWARD):
                one = planner.choose(direction, 2, 12, "float32", device)
                found, _ = stacked_layers.side_by_side(direction, one, 3, 2, 2, 12, device)
                assert (found.layers, found.groups, found.blocks, found.share) == (3, 2, 2, 1)


class TestCounts:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_launch_for_all_layers(self, backend):
        given = given_for()
        for way, count in (("any", 1), ("apart", 3)):
            both_passes = dict.fromkeys(KERNELS, count)
            assert launches(backend, lambda way=way: train(backend, given, way)) == both_passes
            with laid_out(backend, way):
                assert launches(backend, lambda: infer(backend, given)) == {KERNELS[0]: count}

    def test_products_that_are_left_out(self, backend):
        """Those with the inputs of all layers but the lowest, forward and back."""
        given, found = given_for(), {}
        for way in ("any", "apart"):
            backend.xp.on_cpu.reset_counts()
            train(backend, given, way)
            found[way] = sum(backend.xp.on_cpu.gemms.values())
        assert found == {"any": 1 + 1 + 2 * 3, "apart": 3 + 3 + 2 * 3}

    @pytest.mark.parametrize(
        "more", [{"checkpoint_every": 2}, {"options": {"zoneout": 0.1}}, {"options": {"dropout": 0.5}}], ids=str
    )
    def test_what_runs_one_after_the_other(self, backend, more, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given, kept = given_for(lengths=None, layers=2), []
        x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
        with laid_out(backend):
            found = launches(backend, lambda: kept.append(gl.lstm_forward(x, params, rng=1, **more)))
            assert found[KERNELS[0]] == 2
            assert launches(backend, lambda: gl.lstm_backward(kept[0][2], dy))[KERNELS[1]] == 2


class TestAlarm:
    """A layer that waits for the one below in vain gives up, and the next launch says so."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        monkeypatch.setattr(packed, "_thread", packed._Thread())

    @pytest.mark.parametrize("direction", [planner.FORWARD, planner.BACKWARD])
    def test_a_layer_that_hands_nothing_on(self, backend, direction, monkeypatch):
        given = given_for(lengths=None, layers=2)
        file = f"lstm_persistent_{direction}.cu"
        silent = {
            planner.FORWARD: ("store_word((unsigned*)h_after + at", "if (layer) store_word((unsigned*)h_after + at"),
            planner.BACKWARD: ("store_word(handed + q", "if (layer > 8) store_word(handed + q"),
        }
        with laid_out(backend):
            with monkeypatch.context() as patch:
                without(patch, file, "#define SPINS 160000000", 1, "#define SPINS 60")
                without(patch, file, silent[direction][0], 1, silent[direction][1])
                solve(backend, given) if direction == planner.BACKWARD else infer(backend, given)
            with pytest.raises(RuntimeError, match=IN_VAIN):
                infer(backend, given)
            assert_given_up(lambda: infer(backend, given))
            check(infer(backend, given), given, infer)

    def test_a_device_that_does_not_run_all_blocks(self, backend, monkeypatch):
        given, settings = given_for(lengths=None), {"multiprocessors": 3, "shared_memory_optin": 48 * 1024}
        monkeypatch.setattr(modules, "_kernels", {})
        with laid_out(backend):
            with cupy_on_cpu(**settings, schedules=("persistent",)) as small, monkeypatch.context() as patch:
                patch.delattr(small.cuda.driver, "launchCooperativeKernel")  # so that launches go through CuPy
                patch.setattr(occupancy, "obstacle", lambda *_, **__: "")  # as if the driver had said there is room
                with pytest.warns(UserWarning, match="grid size will be reduced from 12 to 3,"):
                    infer(backend, given)
            with pytest.raises(RuntimeError, match="in vain"):
                infer(backend, given)
            assert_given_up(lambda: infer(backend, given))
            check(infer(backend, given), given, infer)


def test_kernels_of_layers_are_those_that_can_also_run_one():
    assert set(catalogue.LAYERS) == {e for e, (_, switches) in catalogue.KERNELS.items() if "LAYERS" in switches}
    of_float32 = {entry: tiles for entry, tiles in catalogue.LAYERS.items() if entry in catalogue.TILES}
    assert set(of_float32) == set(KERNELS)
    assert all(set(tiles) <= set(catalogue.TILES[entry][1]) for entry, tiles in of_float32.items())
