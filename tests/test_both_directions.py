"""Both directions of a layer side by side in one launch: the same bits as one after the other."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import both_directions, catalogue, modules, occupancy, planner
from gpulstm.engines import cupy_engine, cupy_one_launch
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import check as check_half
from tests.half_cases import half_problem
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import assert_given_up, check, scheduled, small_problem
from tests.test_half_precision import solve_with

BACKENDS = backends.KERNELS

# name -> (schedule, what the layer is like, multiprocessors). The persistent ones have several blocks in a group, and
# groups of one sequence for one direction, of two sequences side by side.
CASES = {
    "resident": ("resident", {"hidden": 13}, 14),
    "resident bfloat16": ("resident", {"hidden": 13, "dtype": "bfloat16"}, 14),
    "float32": ("persistent", {"hidden": 12}, 10),
    "tf32": ("persistent", {"hidden": 12}, 10),
    "float16": ("persistent", {"hidden": 72, "dtype": "float16"}, 10),
}


def given_for(name: str, **sizes):
    """Several groups with several blocks each, in both directions."""
    steps = sizes.get("steps", 3)
    wanted = {"steps": steps, "batch": 3, "directions": 2, "lengths": [steps, 0, steps - 1], **CASES[name][1], **sizes}
    return small_problem(7, **wanted) if "dtype" not in wanted else half_problem(wanted.pop("dtype"), **wanted)


@contextmanager
def laid_out(backend: Backend, name: str, way: str):
    schedule, _, multiprocessors = CASES[name]
    with scheduled(backend, schedule, multiprocessors), both_directions.ways(way):
        yield


def train(backend: Backend, name: str, given, way: str) -> dict:
    with laid_out(backend, name, way):
        return solve_with(backend, given, options={"tf32": name == "tf32"})


def launches(backend: Backend, function) -> Counter:
    """Of the kernels that run the time steps."""
    backend.xp.on_cpu.reset_counts()
    function()
    return Counter({k: n for k, n in backend.xp.on_cpu.launches.items() if k in catalogue.BIDIRECTIONAL})


class TestTheSameBits:
    @pytest.mark.parametrize("name", CASES)
    def test_all_results(self, backend, name):
        given = given_for(name)
        apart, together = (train(backend, name, given, way) for way in ("apart", "alike"))
        assert_same_bits(together, apart)
        if name != "tf32":
            (check_half if "dtype" in CASES[name][1] else check)(together, given)
        with laid_out(backend, name, "apart"):
            expected = infer(backend, given)
        with laid_out(backend, name, "alike"):
            assert_same_bits(infer(backend, given), expected)

    @pytest.mark.parametrize("name", ["float32", "float16"])
    def test_what_may_be_missing(self, backend, name):
        given = given_for(name, lengths=None, state=False, bias=False, steps=1).but(dy=None)
        assert_same_bits(train(backend, name, given, "alike"), train(backend, name, given, "apart"))

    @pytest.mark.parametrize("name", ["resident", "float16"])
    def test_a_pass_may_run_side_by_side_alone(self, backend, name, monkeypatch):
        """Then the backward pass finds the arrays of the two directions wherever they are."""
        given, real = given_for(name, steps=2), both_directions.side_by_side
        expected = train(backend, name, given, "apart")
        for alone in (planner.FORWARD, planner.BACKWARD):
            with monkeypatch.context() as patch:
                patch.setattr(both_directions, "side_by_side", lambda d, *a: real(d, *a) if d == alone else (None, ""))  # noqa: B023
                assert_same_bits(train(backend, name, given, "alike"), expected)


def test_any_layout_computes_the_same(backend):
    given = small_problem(7, hidden=20, steps=3, batch=11, directions=2, lengths=np.arange(11) % 4)
    with scheduled(backend, "persistent", 8), both_directions.ways("any"):
        one = planner.choose(planner.FORWARD, 11, 20, "float32", cupy_one_launch.current_device())
        both, _ = both_directions.side_by_side(planner.FORWARD, one, 11, 20, cupy_one_launch.current_device())
        assert both.tiles != one.tiles
        check(solve(backend, given), given)


class TestOrders:
    """Threads and blocks in any order, and one block of either direction far behind the others."""

    BACKENDS = (backends.CUPY_ON_CPU,)
    SETTINGS = (
        {"thread_order": "descending"},
        {"thread_order": "random", "block_order": "descending", "seed": 1},
        *({"late_block": block} for block in (1, 7)),  # of either direction
    )

    @pytest.mark.parametrize("name", ["resident", "float32", "float16"])
    def test_the_same_bits(self, backend, name):
        given = given_for(name, steps=2)
        expected = train(backend, name, given, "apart")
        for settings in self.SETTINGS if name != "resident" else self.SETTINGS[:2]:
            with cupy_on_cpu(**settings) as cupy:
                assert_same_bits(train(Backend(backends.CUPY_ON_CPU, cupy), name, given, "alike"), expected)

    def test_no_access_outside_of_the_arrays(self):
        given = given_for("float32", steps=2)
        with cupy_on_cpu("asan") as cupy:
            check(train(Backend(backends.CUPY_ON_CPU, cupy), "float32", given, "alike"), given)

    @pytest.mark.parametrize("name", ["float32", "float16"])
    def test_the_blocks_are_many(self, name):
        sizes = CASES[name][1]
        with cupy_on_cpu() as cupy, laid_out(Backend(backends.CUPY_ON_CPU, cupy), name, "alike"):
            device = cupy_one_launch.current_device()
            for direction in (planner.FORWARD, planner.BACKWARD):
                one = planner.choose(direction, 3, sizes["hidden"], sizes.get("dtype", "float32"), device)
                both, _ = both_directions.side_by_side(direction, one, 3, sizes["hidden"], device)
                assert (one.groups, one.share) == (3, 1) and (both.groups, both.share) == (2, 2)
                assert both.blocks == both.directions == 2


class TestCounts:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_launch_for_each_layer(self, backend):
        given = given_for("resident", layers=2)
        for way, directions in (("alike", 1), ("apart", 2)):
            both_passes = {f"lstm_resident_{d}": 2 * directions for d in ("forward", "backward")}
            assert launches(backend, lambda way=way: train(backend, "resident", given, way)) == both_passes
            with laid_out(backend, "resident", way):
                found = launches(backend, lambda: infer(backend, given))
            assert found == {"lstm_resident_forward": 2 * directions}

    def test_inference_keeps_to_its_buffer(self, backend, monkeypatch):
        given = given_for("resident")
        whole = 3 * 3 * 4 * 13 * 4  # bytes of the gates of one direction
        with laid_out(backend, "resident", "alike"):
            expected = infer(backend, given)
            for limit, count in ((2 * whole, 1), (2 * whole - 1, 2), (whole, 2)):
                monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", limit)
                found = []
                assert launches(backend, lambda found=found: found.append(infer(backend, given))) == {
                    "lstm_resident_forward": count
                }
                assert_same_bits(found[0], expected)

    def test_checkpoints_run_one_after_the_other(self, backend, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given = given_for("resident")
        x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
        with laid_out(backend, "resident", "alike"):
            for more, forward in (({}, 1), ({"checkpoint_every": 2}, 4), ({"options": {"zoneout": 0.1}}, 1)):
                kept = []
                found = launches(backend, lambda more=more, kept=kept: kept.append(gl.lstm_forward(x, params, **more)))
                assert found["lstm_resident_forward"] == forward
                found = launches(backend, lambda kept=kept: gl.lstm_backward(kept[0][2], dy))
                assert found["lstm_resident_backward"] == forward

    def test_long_sequences_of_16_bits_take_several_launches(self, backend, monkeypatch):
        """Each of the directions has a stretch of time of its own, and both have as many steps in it."""
        given = given_for("float16", steps=5, hidden=16)
        expected = train(backend, "float16", given, "apart")
        monkeypatch.setattr(cupy_one_launch, "EXCHANGE_BYTES", 2 * 2 * 4 * 3 * 2 * 16)  # two steps of both
        found = launches(backend, lambda: assert_same_bits(train(backend, "float16", given, "alike"), expected))
        assert found == {"lstm_persistent_half_forward": 1, "lstm_persistent_half_backward": 3}


class TestMissingBlocks:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("multiprocessors", [1, 3])
    def test_a_device_that_does_not_run_all_blocks(self, backend, multiprocessors, monkeypatch):
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        given = given_for("float32", steps=2, lengths=None)
        with laid_out(backend, "float32", "alike"):
            expected = infer(backend, given)
            monkeypatch.setattr(modules, "_kernels", {})
            settings = {"multiprocessors": multiprocessors, "shared_memory_optin": 48 * 1024}
            with cupy_on_cpu(**settings, schedules=("persistent",)) as small, monkeypatch.context() as patch:
                patch.delattr(small.cuda.driver, "launchCooperativeKernel")  # so that launches go through CuPy
                patch.setattr(occupancy, "obstacle", lambda *_, **__: "")  # as if the driver had said there is room
                with pytest.warns(UserWarning, match=f"grid size will be reduced from 8 to {multiprocessors},"):
                    infer(backend, given)
            with pytest.raises(RuntimeError, match="in vain"):
                infer(backend, given)
            assert_given_up(lambda: infer(backend, given))
            assert_same_bits(infer(backend, given), expected)
