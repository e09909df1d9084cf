"""The kernels that read a part of the recurrent weights from L2 in each step, against the NumPy engine and themselves.

Layers that need them are too large for here. These are small ones, laid out by hand with tiles that leave little room
on the chip, and the real tiles, of which then most is empty.
"""

from typing import NamedTuple

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import planner, wide_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_one_launch
from tests import backends, test_schedules
from tests.backends import Backend
from tests.cuda_on_cpu import LaunchError, SanitizerError, cupy_on_cpu
from tests.problems import Problem, assert_same_bits, infer, solve
from tests.schedule_cases import check, exact_inputs, laid_out_by_hand, lengths_for, scheduled, small_problem
from tests.test_kernel_sanitizers import without

BACKENDS = backends.KERNELS
MULTIPROCESSORS = 16  # that the tests may count on
BEYOND = "heap-buffer-overflow|use-after-poison|SEGV"
FILES = {FORWARD: "lstm_wide_forward.cu", BACKWARD: "lstm_wide_backward.cu"}


class Layout(NamedTuple):
    """Tiles, and sizes that are no multiples of what a block takes."""

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    hidden: int
    batch: int
    share: int

    def choices(self) -> dict[str, Choice]:
        blocks, groups = -(-self.hidden // wide_layouts.UNITS), -(-self.batch // self.share)
        sizes = blocks, groups, self.share, 0.0, "float32"
        kernels = zip((FORWARD, BACKWARD), (self.forward, self.backward), strict=True)
        return {way: Choice("persistent", "by hand", f"lstm_wide_{way}", tiles, *sizes) for way, tiles in kernels}

    def problem(self, *, steps: int = 5, lengths: bool = True, **more) -> Problem:
        chosen = lengths_for(np.random.default_rng(self.batch), steps, self.batch) if lengths else None
        sizes = {"hidden": self.hidden, "batch": self.batch, "steps": steps, "lengths": chosen}
        return small_problem(3, **sizes, **more)


# Three blocks, the last with four units; two groups, the last with two sequences of three, two passes; fragments in
# registers, in shared memory and from L2, more of those than are on their way together.
USUAL = Layout((2, 1, 1, 2), (16, 3, 5, 2), hidden=36, batch=5, share=3)
MORE_COLUMNS = Layout((2, 1, 1, 1), (16, 40, 20, 1), hidden=132, batch=1, share=1)
LAYOUTS = {
    "two groups and two passes": USUAL,
    "nothing from L2": Layout((1, 2, 2, 4), (16, 37, 27, 4), hidden=20, batch=6, share=6),
    "more columns than a warp has lanes for": MORE_COLUMNS,
    "real tiles, one sequence": Layout((16, 16, 27, 1), (16, 15, 27, 1), hidden=36, batch=2, share=2),
    "real tiles, four sequences": Layout((12, 8, 8, 4), (16, 10, 11, 4), hidden=36, batch=3, share=3),
}


def results(backend: Backend, layout: Layout, given: Problem, how=solve, passes=(FORWARD, BACKWARD)) -> dict:
    choices = {way: choice for way, choice in layout.choices().items() if way in passes}
    with scheduled(backend, "persistent", MULTIPROCESSORS), laid_out_by_hand(**choices):
        return how(backend, given)


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_results(backend, name):
    layout = LAYOUTS[name]
    given = layout.problem(steps=2 if layout.hidden > 100 else 5, lengths=layout.batch > 1)
    found = results(backend, layout, given)
    check(found, given)
    assert_same_bits(results(backend, layout, given), found)
    check(results(backend, layout, given, infer), given, infer)


def test_the_layouts_are_what_they_claim():
    streamed = {name: tuple(wide_layouts.Tiles(*tiles).streamed for tiles in LAYOUTS[name][:2]) for name in LAYOUTS}
    assert streamed["two groups and two passes"] == (6, 56) and streamed["nothing from L2"] == (0, 0)
    assert streamed["more columns than a warp has lanes for"] == (6, 4) and 128 < MORE_COLUMNS.hidden < 256
    for name in LAYOUTS:
        for kernel, tiles in zip(wide_layouts.TILES, LAYOUTS[name][:2], strict=True):
            assert ("real" in name) == (tiles in wide_layouts.TILES[kernel])


def test_what_may_be_missing_and_both_directions(backend):
    given = USUAL.problem(lengths=False, bias=False, directions=2, state=False, steps=3).but(dy=None)
    check(results(backend, USUAL, given), given)


def test_outputs_have_the_same_bits_in_any_layout_and_alone(backend):
    """How many sequences come at a time, and where weights are, changes nothing; so for a sequence on its own."""
    given = exact_inputs(USUAL.problem())
    found = results(backend, USUAL, given, infer)
    other = USUAL._replace(forward=(1, 2, 2, 4), share=5)
    assert_same_bits(results(backend, other, given, infer), found)
    n = slice(4, 5)
    alone = given.but(x=given.x[:, n], state=tuple(a[:, n] for a in given.state), lengths=given.lengths[n])
    one = USUAL._replace(forward=(1, 1, 1, 1), batch=1, share=1)
    found_alone = results(backend, one, alone, infer)
    assert_same_bits(found_alone, {name: value[:, n] for name, value in found.items()})
    trained = results(backend, USUAL, given, passes=(FORWARD,))
    assert_same_bits(found, {name: trained[name] for name in found})


def test_not_a_number_goes_where_it_belongs(backend):
    """Words that mean "not there" among them, and infinite weights beside the columns that there are."""
    given = USUAL.problem()
    h, c = (part.copy() for part in given.state)
    h[0, 1, 5] = np.array(0xFFFFFFFF, np.uint32).view(np.float32)
    params = dict(given.params)
    params["weight_hh_l0"] = given.params["weight_hh_l0"].copy()
    params["weight_hh_l0"][2, 35] = np.inf
    given = given.but(state=(h, c), params=params)
    found = results(backend, USUAL, given, infer)
    wanted = infer(Backend(backends.NUMPY, np), given)
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(value), err_msg=name)


def test_weights_at_an_odd_place(backend):
    """They are read sixteen bytes at a time, and a caller's may begin anywhere."""
    given = USUAL.problem()
    weight = given.params["weight_hh_l0"]
    flat = backend.array(np.concatenate([np.zeros(1, np.float32), weight.ravel()]))
    params = backend.array(given.params) | {"weight_hh_l0": flat[1:].reshape(weight.shape)}
    assert params["weight_hh_l0"].data.ptr % 16 == 4
    x, state, dy = backend.array(given.x), backend.array(given.state), backend.array(given.dy)
    found = []
    for used in (params, backend.array(given.params)):
        with scheduled(backend, "persistent", MULTIPROCESSORS), laid_out_by_hand(**USUAL.choices()):
            y, _, cache = gl.lstm_forward(x, used, state, lengths=given.lengths)
            dx, _, dstate = gl.lstm_backward(cache, dy)
        found.append(backend.numpy({"y": y, "dx": dx, "dh": dstate.h}))
    assert_same_bits(*found)


class TestOnThePlannersWord:
    """From `LSTM.plan` to the launches, with tiles for a small device."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("options", [{}, {"tf32": True}, {"zoneout": 0.1}], ids=str)
    def test_it_runs_what_the_plan_says(self, backend, monkeypatch, options):
        small = {wide_layouts.FORWARD: (USUAL.forward,), wide_layouts.BACKWARD: (USUAL.backward,)}
        monkeypatch.setattr(wide_layouts, "TILES", small)
        monkeypatch.setitem(planner.LAYOUTS, "persistent", lambda *_: [])  # as if no other kernel held the weights
        monkeypatch.setattr(cupy_one_launch, "_devices", {})
        monkeypatch.setattr(cupy_one_launch, "_described", lambda _: planner.Device(90, 5, 232448, True))
        planner._choose.cache_clear()
        given = USUAL.problem()
        lstm = gl.LSTM(3, USUAL.hidden, xp=backend.xp, rng=0, **options)
        lstm.params = backend.array(given.params)
        x, dy = backend.array(given.x), backend.array(given.dy)
        with planner.only("persistent"):
            plan = lstm.plan(x)
            y, state, cache = lstm.forward(x, backend.array(given.state), lengths=given.lengths)
            backend.xp.on_cpu.reset_counts()
            dx, grads, dstate = lstm.backward(cache, dy, backend.array(given.dstate))
        planner._choose.cache_clear()
        assert [choice.schedule for choice in plan] == ["persistent"] * 3
        assert "MB are read from L2" in str(plan) and "not measured" in str(plan)
        assert backend.xp.on_cpu.launches["lstm_wide_backward"] == 1
        if not options:  # other products are rounded in TF32; tests/test_schedule_wide_options.py has other options
            gradients = {"dx": dx, "dh": dstate.h, "dc": dstate.c, **{f"d{name}": g for name, g in grads.items()}}
            check(backend.numpy({"y": y, "h": state.h, "c": state.c, **gradients}), given)


class TestOrdersOfThreadsAndBlocks:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def results(self, **settings) -> dict:
        with cupy_on_cpu(**settings) as cupy, laid_out_by_hand(**USUAL.choices()):
            return solve(Backend("cupy-on-cpu", cupy), USUAL.problem())

    def test_change_no_bit(self):
        expected = self.results()
        check(expected, USUAL.problem())
        for settings in (*test_schedules.TestOrders.SETTINGS[1:3], {"late_block": 0}):
            assert_same_bits(self.results(**settings), expected)


class TestWhatIsNoticed:
    """Something taken out of the kernels; as they are, they pass."""

    BACKENDS = (backends.CUPY_ON_CPU,)
    ONE_BLOCK = USUAL._replace(hidden=16, batch=2, share=2)

    def train(self, layout: Layout, direction: str, mode: str = "fibers", **settings) -> None:
        given = layout.problem(steps=3, lengths=False, bias=False)
        with cupy_on_cpu() as cupy, laid_out_by_hand(**{direction: layout.choices()[direction]}):
            backend = Backend("cupy-on-cpu", cupy)
            x, params, dy = (backend.array(a) for a in (given.x, given.params, given.dy))
            state, dstate = backend.array(given.state), backend.array(given.dstate)
            with cupy_on_cpu(mode if direction == FORWARD else "fibers", **settings):
                y, final, cache = gl.lstm_forward(x, params, state)
            with cupy_on_cpu(mode if direction == BACKWARD else "fibers", **settings):
                dx, grads, dinitial = gl.lstm_backward(cache, dy, dstate)
            found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
            check(backend.numpy(found | {f"d{name}": value for name, value in grads.items()}), given)

    @pytest.mark.parametrize("direction", FILES)
    def test_nothing_under_sanitizers(self, direction):
        self.train(USUAL, direction, "asan")
        self.train(self.ONE_BLOCK, direction, "tsan")

    @pytest.mark.parametrize(
        ("layout", "direction", "line", "replacement"),
        [
            (MORE_COLUMNS, FORWARD, "ahead[n % SLOTS] = fragments.read(NTH_STREAMED(n + DEPTH), nothing)", "(void)0"),
            (MORE_COLUMNS, FORWARD, "* FRAGMENTS + STREAMED - 1)", "* FRAGMENTS)"),  # a fragment whose turn it is not
            (USUAL, FORWARD, "while (count > 0 && any_missing(words[i])", "while (false"),
            (USUAL, BACKWARD, "w.ask(fragments, count & zero);", "(void)0;"),
            (USUAL, BACKWARD, "departure_bit = ((count / 2) & 1) ^ 1", "departure_bit = 1"),
        ],
    )
    def test_wrong_results(self, monkeypatch, layout, direction, line, replacement):
        without(monkeypatch, FILES[direction], line, 1, replacement)
        with pytest.raises((AssertionError, LaunchError), match="is off by|deadlock"):
            for late_block in (0, 1):
                self.train(layout, direction, spin_limit=100, late_block=late_block)

    @pytest.mark.parametrize(("direction", "which", "count"), [(FORWARD, 0, 2), (BACKWARD, 2, 4)])
    def test_a_barrier_taken_out(self, monkeypatch, direction, which, count):
        without(monkeypatch, FILES[direction], "__syncthreads();", count, ";", which=which)
        with pytest.raises(SanitizerError, match="data race"):
            for _ in range(3):  # on a busy machine threads may happen not to meet
                self.train(self.ONE_BLOCK, direction, "tsan")

    @pytest.mark.parametrize(
        ("direction", "line", "wrong"),
        [
            (FORWARD, "quad < quads);", "quad <= quads);"),
            (BACKWARD, "output >= blocks * UNITS ||", "output > blocks * UNITS ||"),
        ],
    )
    def test_a_guard_that_lets_one_too_many_through(self, monkeypatch, direction, line, wrong):
        without(monkeypatch, FILES[direction], line, 1, wrong)
        with pytest.raises(SanitizerError, match=BEYOND):
            self.train(USUAL._replace(batch=3), direction, "asan")

    def test_a_block_that_says_nothing_raises_the_alarm(self, monkeypatch):
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        for file in FILES.values():
            without(monkeypatch, file, "#define SPINS 160000000", 1, "#define SPINS 60")
        given = USUAL.problem(steps=3, lengths=False)
        with cupy_on_cpu() as cupy, laid_out_by_hand(**USUAL.choices()):
            backend = Backend("cupy-on-cpu", cupy)
            silent = {
                FORWARD: (infer, "if (gate == 0) {", "if (gate == 0 && blockIdx.x != 1) {"),
                BACKWARD: (
                    solve,
                    "if (output >= blocks * UNITS ||",
                    "if (blockIdx.x == 1 || output >= blocks * UNITS ||",
                ),
            }
            for direction, (how, line, wrong) in silent.items():
                with monkeypatch.context() as patch:
                    without(patch, FILES[direction], line, 1, wrong)
                    how(backend, given)
                with pytest.raises(RuntimeError, match="waited for each other in vain"):
                    infer(backend, given)
            check(solve(backend, given), given)
