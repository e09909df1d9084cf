"""The schedules with one launch for all time steps against the NumPy engine, and against themselves."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import both_directions, planner
from gpulstm.engines import cupy_engine
from gpulstm.functional import lstm_inference
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import (
    SCHEDULES,
    check,
    exact_inputs,
    lengths_for,
    random_case,
    schedule_of_each,
    scheduled,
    small_problem,
)

BACKENDS = backends.KERNELS
CASES = {"resident": range(40), "persistent": range(26), "cluster": range(14, 35)}
HIDDEN = {"resident": 13, "persistent": 20, "cluster": 37}  # 20 makes three blocks, the last of them half full
LENGTHS = {"no lengths": None, "lengths": [6, 0, 3, 1, 5]}


def usual(schedule: str, **sizes):
    """Several blocks, both directions, and with 5 multiprocessors several groups."""
    return small_problem(7, **{"hidden": HIDDEN[schedule], "steps": 6, "batch": 5, "directions": 2, **sizes})


@pytest.mark.parametrize(("schedule", "number"), [(s, n) for s in SCHEDULES for n in CASES[s]])
def test_random_configurations(backend, schedule, number):
    case = random_case(schedule, number)
    with scheduled(backend, schedule, case.multiprocessors):
        check(solve(backend, case.given), case.given)
        check(infer(backend, case.given), case.given, infer)


def test_the_random_configurations_cover_what_they_claim():
    for schedule in SCHEDULES:
        cases = [random_case(schedule, number) for number in CASES[schedule]]
        given, choices = [c.given for c in cases], [c.choices() for c in cases]
        assert all(choice.schedule == schedule for plan in choices for choice in plan)
        batches, hidden = {g.x.shape[1] for g in given}, {g.params["weight_hh_l0"].shape[1] for g in given}
        assert len(batches) >= 8 and {1, 11} <= batches
        assert {g.x.shape[0] for g in given} >= ({5, 12, 20} if schedule == "cluster" else {2, 5, 17, 19})
        assert len(hidden) >= {"resident": 20, "persistent": 7, "cluster": 12}[schedule]
        for what in (
            ["weight_hh_l0_reverse" in g.params for g in given],
            ["weight_hh_l1" in g.params for g in given],
            ["bias_l0" in g.params for g in given],
            [g.state is None for g in given],
            [g.lengths is None for g in given],
            [plan.forward.groups > 1 for plan in choices],
            [plan.forward.groups * plan.forward.share > g.x.shape[1] for plan, g in zip(choices, given, strict=True)],
        )[: 6 if schedule == "resident" else 7]:  # whose blocks have a sequence each
            assert len(what) - 4 >= sum(what) >= 4
        assert all({0, len(g.x)} <= set(g.lengths) for g in given if g.lengths is not None and len(g.lengths) > 1)
        tiles = {plan.forward.tiles for plan in choices}
        if schedule == "cluster":
            assert {t[0] for t in tiles} == {2, 4} and {t[-1] for t in tiles} == {1, 2, 4, 8}
            continue
        assert len({t[0] for t in tiles}) >= 2 and len({t[-1] for t in tiles}) == 2
        assert schedule == "resident" or {plan.forward.blocks for plan in choices} >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestTheSameBits:
    def test_twice(self, backend, schedule):
        given = usual(schedule, lengths=LENGTHS["lengths"])
        with scheduled(backend, schedule, 5):
            assert_same_bits(solve(backend, given), solve(backend, given))
            assert_same_bits(infer(backend, given), infer(backend, given))

    def test_in_training_and_inference(self, backend, schedule):
        given = exact_inputs(usual(schedule, lengths=LENGTHS["lengths"]))
        with scheduled(backend, schedule, 5):
            trained = solve(backend, given)
            assert_same_bits(infer(backend, given), {name: trained[name] for name in ("y", "h", "c")})

    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_in_windows_of_time_and_parts_of_the_batch(self, backend, schedule, lengths, monkeypatch):
        """As inference runs what is too large for its buffer."""
        given = exact_inputs(usual(schedule, lengths=LENGTHS[lengths]))
        row = 4 * 4 * HIDDEN[schedule]  # bytes of one step's gates of one sequence
        with scheduled(backend, schedule, 5):
            expected = infer(backend, given)
            for rows in (4 * 5, 2):
                monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", rows * row)
                assert_same_bits(infer(backend, given), expected)

    def test_as_a_stream(self, backend, schedule):
        given = exact_inputs(usual(schedule, directions=1))
        with scheduled(backend, schedule, 5):
            expected, parts = infer(backend, given), []
            state = given.state
            for window in (slice(0, 1), slice(1, 4), slice(4, 6)):
                part = infer(backend, given.but(x=given.x[window], state=state))
                parts.append(part["y"])
                state = part["h"], part["c"]
            assert_same_bits(dict(part, y=np.concatenate(parts)), expected)

    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_of_a_sequence_alone(self, backend, schedule, lengths):
        """Outputs have the same bits; gradients may add up the blocks' contributions in another order."""
        given = exact_inputs(usual(schedule, lengths=LENGTHS[lengths]))
        rows = ("y", "h", "c", "dx", "dh", "dc")
        with scheduled(backend, schedule, 5):
            together = solve(backend, given)
            for n in (0, 1, 4):
                one = slice(n, n + 1)
                alone = solve(
                    backend,
                    given.but(
                        **{name: getattr(given, name)[:, one] for name in ("x", "dy")},
                        **{name: tuple(a[:, one] for a in getattr(given, name)) for name in ("state", "dstate")},
                        lengths=given.lengths and given.lengths[one],
                    ),
                )
                assert_same_bits({k: alone[k] for k in rows[:3]}, {k: together[k][:, one] for k in rows[:3]})
                for name in rows[3:]:
                    scale = np.abs(together[name]).max()
                    np.testing.assert_allclose(alone[name], together[name][:, one], rtol=0, atol=1e-6 * scale)

    @pytest.mark.parametrize("steps", [7, 8, 9])
    def test_with_checkpoints(self, backend, schedule, steps, monkeypatch):
        """Segments of 3 and 6 steps, of which the last one is shorter or not."""
        monkeypatch.setattr(engines, "WINDOW", 3)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        lengths = np.array([steps, 0, 5])
        given = usual(schedule, steps=steps, batch=3, lengths=lengths)
        x, params, state, dy, dstate = (
            backend.array(a) for a in (given.x, given.params, given.state, given.dy, given.dstate)
        )
        found = []
        with scheduled(backend, schedule, 5):
            for every in (None, 3, 6):
                y, final, cache = gl.lstm_forward(x, params, state, lengths=lengths, checkpoint_every=every)
                dx, grads, dinitial = gl.lstm_backward(cache, dy, dstate)
                results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}
                found.append(backend.numpy(results))
        for other in found[1:]:
            assert_same_bits(other, found[0])


class TestOrders:
    """Threads and blocks run in any order, and one block far behind the others: the results have the same bits."""

    SETTINGS = (
        {"thread_order": "descending"},
        {"thread_order": "ascending", "block_order": "descending"},
        *({"thread_order": "random", "seed": seed} for seed in (1, 2)),
    )
    BACKENDS = (backends.CUPY_ON_CPU,)

    def results(self, schedule: str, **settings) -> dict:
        given = usual(schedule, steps=5, directions=1, lengths=[5, 0, 3, 1, 4])
        with cupy_on_cpu(**settings) as cupy:
            backend = Backend("cupy-on-cpu", cupy)
            with scheduled(backend, schedule, 5):
                found = solve(backend, given)
        check(found, given)
        return found

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_of_threads_and_blocks(self, schedule):
        expected = self.results(schedule)
        for settings in self.SETTINGS:
            assert_same_bits(self.results(schedule, **settings), expected)

    @pytest.mark.parametrize(
        ("schedule", "late_block"), [*(("persistent", block) for block in (0, 1, 2)), ("cluster", 1), ("cluster", 2)]
    )
    def test_with_a_late_block(self, schedule, late_block):
        expected = self.results(schedule)
        for order in ("ascending", "random"):
            assert_same_bits(self.results(schedule, thread_order=order, seed=3, late_block=late_block), expected)


class TestCounts:
    """One launch for each layer and direction, however many steps there are."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize(("layers", "directions"), [(1, 1), (3, 1), (2, 2)])
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_training_and_inference(self, backend, schedule, layers, directions, lengths):
        given = usual(schedule, hidden=4, layers=layers, directions=directions, lengths=LENGTHS[lengths])
        x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
        runs, kept = layers * directions, []
        with scheduled(backend, schedule, 5), both_directions.ways("apart"):
            forward = backend.counted(lambda: kept.append(gl.lstm_forward(x, params, lengths=given.lengths)[2]))
            padding = {"without_padding": 1, "clear_inputs": runs} if given.lengths else {}
            assert forward == ({f"lstm_{schedule}_forward": runs, **padding}, runs)
            backward = backend.counted(lambda: gl.lstm_backward(kept[0], dy))
            assert backward == ({f"lstm_{schedule}_backward": runs, "column_sum": runs}, 3 * runs)
            inference = backend.counted(lambda: lstm_inference(x, params, lengths=given.lengths))
            assert inference == ({f"lstm_{schedule}_forward": runs}, runs)

    @pytest.mark.parametrize("sizes", [{"steps": 0}, {"batch": 0}], ids=str)
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_nothing_to_do_launches_nothing(self, backend, schedule, sizes):
        given = usual(schedule, **sizes)
        with planner.only(schedule, "loop"):
            assert backend.counted(lambda: solve(backend, given)) == ({}, 0)

    def test_each_pass_takes_its_own_schedule(self, backend):
        """Forward and backward hand each other the same arrays, whichever schedule runs them."""
        lengths = lengths_for(np.random.default_rng(0), 4, 5)
        given = usual("persistent", steps=4, hidden=12, lengths=lengths)
        of_training = [schedule for schedule in planner.SCHEDULES if schedule != "step"]
        for forward in of_training:
            for backward in of_training:
                backend.xp.on_cpu.reset_counts()
                with schedule_of_each(forward=forward, backward=backward):
                    check(solve(backend, given), given)
                of_all = {"column_sum", "without_padding", "state_of_running", "clear_inputs", "replay_arguments"}
                found = set(backend.xp.on_cpu.launches) - of_all
                assert found == {self.kernel(forward, planner.FORWARD), self.kernel(backward, planner.BACKWARD)}

    def kernel(self, schedule: str, direction: str) -> str:
        return f"lstm_{direction}_step" if schedule in ("loop", "graph") else f"lstm_{schedule}_{direction}"
