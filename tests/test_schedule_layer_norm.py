"""Layer norm in the schedules with one launch for all time steps, against the NumPy engine and the loop."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import layer_norm_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_one_launch
from tests import backends
from tests.backends import NUMPY, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import laid_out_by_hand, lengths_for, schedule_of_each
from tests.schedule_cases import scheduled as scheduled_so
from tests.test_kernel_sanitizers import without
from tests.variant_kernel_cases import RUNS, Case, by_numpy, case, check, error, infer, train

SUMS = "persistent, sums handed over"  # forward too, where the planner would do without
SCHEDULES = ("resident", "persistent", SUMS)
BACKENDS = backends.KERNELS
LENGTHS = (5, 0, 3, 1, 4)
AROUND = {"lstm_layer_norm_inputs_forward", "lstm_layer_norm_inputs_backward", "lstm_layer_norm_gain_gradient"}
AROUND |= {"lstm_layer_norm_slope_sums"}


@contextmanager
def scheduled(backend: Backend, schedule: str, multiprocessors: int = 0) -> Iterator[None]:
    """As `schedule_cases.scheduled`, and with `SUMS`."""
    planner._choose.cache_clear()
    with pytest.MonkeyPatch.context() as patch, scheduled_so(backend, schedule.partition(",")[0], multiprocessors):
        if schedule == SUMS:
            patch.setattr(layer_norm_layouts, "ONCE_TILES", ())
            patch.setattr(layer_norm_layouts, "ONCE_TILES_WITH_OPTIONS", ())
        yield
    planner._choose.cache_clear()


def usual(**changes) -> Case:
    """With 5 multiprocessors, several blocks in several groups; hidden makes three blocks, the last one half full."""
    return case(**{"steps": 5, "batch": 5, "hidden": 20, "lengths": LENGTHS, "layer_norm": True, **changes})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_both_directions_with_lengths(backend, schedule):
    with scheduled(backend, schedule, 5):
        for run in RUNS:
            check(backend, usual(bidirectional=True), run, "float32")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("number", range(2))
def test_sizes(backend, schedule, number):
    rng = np.random.default_rng([len(schedule), number])
    steps, batch = int(rng.integers(2, 12 if schedule == "resident" else 6)), int(rng.integers(1, 9))
    hidden = 33 + 4 * number if schedule == "resident" else 4 * int(rng.integers(3, 9))
    lengths = lengths_for(rng, steps, batch) if number else None
    sizes = {"steps": steps, "batch": batch, "hidden": hidden, "lengths": lengths, "dy": bool(number)}
    given = case(number, **sizes, layer_norm=True, bias=not number, state=bool(number), reverse=True, weight_drop=0.3)
    with scheduled(backend, schedule, 4):
        for run in RUNS:
            check(backend, given, run, "float32")


MASKED = {"recurrent_dropout": 0.3, "zoneout": (0.2, 0.4), "coupled": True, "weight_drop": 0.2}
BESIDE = {
    "dropout of h": {"recurrent_dropout": 0.3, "lengths": None},
    "dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate", "reverse": True},
    "zoneout of h": {"zoneout": (0.3, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.3)},
    "together": {**MASKED, "bidirectional": True},
}


@pytest.mark.parametrize("schedule", ("persistent", SUMS))
@pytest.mark.parametrize("name", BESIDE)
def test_with_other_options(backend, schedule, name):
    """Five steps, so that both slots come twice, and masks differ from step to step or do not."""
    given = usual(**BESIDE[name])
    with scheduled(backend, schedule, 5):
        for run in RUNS:
            check(backend, given, run, "float32")


@pytest.mark.parametrize("passes", [("loop", "persistent"), ("persistent", "loop")], ids=str)
def test_with_zoneout_one_pass_takes_what_the_other_left(backend, passes, monkeypatch):
    """The cell states before zoneout among it."""
    schedules, real = dict(zip((FORWARD, BACKWARD), passes, strict=True)), planner.choose

    def choose(direction, *arguments, **more):
        with planner.only(schedules[direction]):
            return real(direction, *arguments, **more)

    monkeypatch.setattr(planner, "choose", choose)
    with scheduled(backend, "persistent", 5):
        check(backend, usual(steps=3, batch=3, lengths=(3, 0, 2), **MASKED), "training", "float32")


def by_hand(direction: str, tiles: tuple[int, ...], hidden: int, share: int, groups: int = 2) -> Choice:
    blocks = -(-hidden // (planner.UNITS_PER_TILE * tiles[0]))
    return Choice("persistent", "by hand", f"lstm_persistent_layer_norm_{direction}", tiles, blocks, groups, share)


@pytest.mark.parametrize(
    ("direction", "tiles"), [(FORWARD, (2, 8, 4)), (FORWARD, (4, 1, 2)), (BACKWARD, (4, 1, 2)), (BACKWARD, (2, 1, 1))]
)
def test_tiles(backend, direction, tiles):
    """Several passes over a block's sequences, of which the last one is not full; one or two gates for a thread."""
    share = planner.SEQUENCES_PER_TILE * tiles[2] + 3
    batch = share + 2
    lengths = lengths_for(np.random.default_rng(1), 2, batch)
    more = MASKED if tiles == (4, 1, 2) else {}
    given = case(1, steps=2, batch=batch, hidden=20, lengths=lengths, layer_norm=True, **more)
    with scheduled(backend, "persistent"), laid_out_by_hand(**{direction: by_hand(direction, tiles, 20, share)}):
        check(backend, given, "training", "float32")


@pytest.mark.parametrize(("tiles", "hidden"), [((4, 1, 8), 68), ((2, 2, 4), 20)])
def test_tiles_of_the_kernel_that_hands_over_once(backend, tiles, hidden):
    """Both slots twice, teams that are not full, and of the first one two hidden units for a thread."""
    share = tiles[2] - 1
    batch = share + 2
    lengths = lengths_for(np.random.default_rng(1), 4, batch)
    more = MASKED if hidden == 68 else {}
    given = case(1, steps=4, batch=batch, hidden=hidden, lengths=lengths, layer_norm=True, **more)
    with scheduled(backend, "persistent"), laid_out_by_hand(forward=by_hand("once_forward", tiles, hidden, share)):
        for run in RUNS:
            check(backend, given, run, "float32")


@pytest.mark.parametrize("forward", ("loop", *SCHEDULES[:2]))
@pytest.mark.parametrize("backward", ("loop", *SCHEDULES[:2]))
def test_each_pass_takes_its_own_schedule(backend, forward, backward):
    """Forward and backward hand each other the same arrays, whichever schedule runs them."""
    with scheduled(backend, "persistent", 5), schedule_of_each(forward=forward, backward=backward):
        check(backend, usual(steps=3, batch=3, lengths=(3, 0, 2)), "training", "float32")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_cell_whose_mean_is_far_from_zero(backend, schedule):
    """The variance must not come out as a difference of two large numbers: here that would leave nothing of it."""
    given = usual(lengths=None)
    params, state = given.arrays["params"], given.arrays["state"]
    hidden = len(state[1][0, 0])
    bias = params["bias_l0"].copy()
    bias[hidden : 2 * hidden] = 20  # the forget gate is open
    c = (500 + 0.3 * state[1]).astype(np.float32)
    given = given.but(params=params | {"bias_l0": bias}, state=(state[0], c))
    with scheduled(backend, schedule, 5):
        found = infer(backend, given, "float32")
    assert (
        error(found["y"], by_numpy(given, "inference", "float64")["y"]) < 1e-3
    )  # rounding of c is 1e-4 of what varies


def test_cells_that_are_all_far_from_where_their_mean_was(backend):
    """In registers it is the last step's mean whose distances are squared, and before the first one it is zero."""
    given = usual(steps=3, batch=3, hidden=40, lengths=(3, 1, 2))
    h, c = given.arrays["state"]
    with scheduled(backend, "resident", 5):
        check(backend, given.but(state=(h, c + np.float32(3000))), "inference", "float32")


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_same_bits_in_any_order_and_with_a_late_block(self, schedule):
        given = usual(steps=3, batch=3, lengths=(3, 0, 2), **(MASKED if schedule != "resident" else {}))
        settings = [{}, {}, {"thread_order": "descending"}, {"thread_order": "random", "seed": 1}]
        if schedule != "resident":
            settings += [{"late_block": 1}, {"late_block": 2, "thread_order": "random", "seed": 2}]
        found = []
        for each in settings:
            with cupy_on_cpu(**each) as cupy:
                backend = Backend(backends.CUPY_ON_CPU, cupy)
                with scheduled(backend, schedule, 5):
                    found.append(train(backend, given, "float32"))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    @pytest.mark.parametrize(("mode", "schedule"), [("asan", "resident"), ("asan", "persistent"), ("tsan", "resident")])
    def test_under_sanitizers(self, mode, schedule):
        steps = 5 if schedule == "resident" else 2  # it goes through four at once, and prepares the next ones
        given = usual(steps=steps, batch=2, hidden=12 if schedule == "persistent" else 7, lengths=(steps, 1))
        with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            with scheduled(backend, schedule, 1 if schedule == "resident" else 4):
                check(backend, given, "training", "float32")

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_with_checkpoints(self, backend, schedule, monkeypatch):
        """A stretch adds to the gains' gradients of the one before, and so in another order. The resident kernel makes
        the variance of c from the mean of the step before, which the first step of a stretch does not know."""
        monkeypatch.setattr(engines, "WINDOW", 4)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given, found = usual(steps=7, batch=3, lengths=(7, 0, 5)), []
        a = backend.array({name: given.of("float32")[name] for name in ("x", "params", "state", "dy", "dstate")})
        with scheduled(backend, schedule, 5):
            for every in (None, 4):
                made = {"lengths": (7, 0, 5), "options": given.options, "checkpoint_every": every}
                y, _, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **made)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
                found.append(backend.numpy({"y": y, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}))
        norms = [name for name in found[0] if "norm" in name]
        assert len(norms) == 4
        for name in list(found[0]) if schedule == "resident" else norms:
            np.testing.assert_allclose(found[1].pop(name), found[0].pop(name), rtol=0, atol=1e-5, err_msg=name)
        assert_same_bits(found[1], found[0])

    @pytest.mark.parametrize(
        ("kernel", "line"),
        [
            ("forward", "if (lane == 0) store_word(row + part, to_hand_over(squares));"),
            (
                "forward",
                "if (lane == 0) store_words(row + padded + 2 * part, to_hand_over(mean), to_hand_over(spread));",
            ),
            ("once_forward", "store_word(slot + at, (__float_as_uint(sum) & ~1u) | bit);"),
            ("backward", "store_words(own, to_hand_over(sums[0]), to_hand_over(sums[1]));"),
            ("backward", "store_words(own + 2, to_hand_over(sums[2]), to_hand_over(sums[3]));"),
        ],
    )
    def test_a_sum_that_never_comes_ends_the_launch_and_sounds_the_alarm(self, backend, kernel, line, monkeypatch):
        file = f"lstm_persistent_layer_norm_{kernel}.cu"
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        without(monkeypatch, file, "#define SPINS 160000000", 1, "#define SPINS 60")
        without(monkeypatch, file, line, 1, f"if (blockIdx.x != 1) {{ {line} }}")
        run = train if kernel == "backward" else infer
        with scheduled(backend, SUMS if kernel == "forward" else "persistent", 5):
            run(backend, usual(steps=2, batch=1, lengths=None), "float32")
        (alarm,) = cupy_one_launch._alarms.values()
        assert alarm.seen[0] == 1
        assert alarm.is_heard() and not alarm.is_heard()


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestWhatIsLaunched:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_kernel_for_all_steps(self, backend, schedule):
        laid_out = schedule.partition(",")[0]
        with scheduled(backend, schedule, 5):
            backend.xp.on_cpu.reset_counts()
            train(backend, usual(steps=4, batch=2, lengths=None), "float32")
        # Sums of the columns of W_hh, of the gates' gradients, and over the batch of the gains'.
        forward = layer_norm_layouts.ONCE if schedule == "persistent" else f"lstm_{laid_out}_layer_norm_forward"
        passes = {forward: 1, f"lstm_{laid_out}_layer_norm_backward": 1}
        assert Counter(backend.xp.on_cpu.launches) == passes | dict.fromkeys(AROUND, 1) | {"column_sum": 3}

    @pytest.mark.parametrize("more", [{"peephole": True}, {"coupled": True}, {"zoneout": 0.2}], ids=str)
    def test_together_with_other_options(self, backend, schedule, more):
        given = usual(steps=2, batch=2, lengths=None, **more)
        with scheduled(backend, schedule, 5), planner.only("loop", schedule.partition(",")[0]):
            backend.xp.on_cpu.reset_counts()
            train(backend, given, "float32")
        launches = backend.xp.on_cpu.launches
        in_loop = schedule == "resident" or "peephole" in more
        assert launches["lstm_variant_cell_forward"] == (2 if in_loop else 0)
        assert launches["lstm_layer_norm_slope_sums"] == (0 if in_loop else 1)
        assert launches["lstm_draw_options"] == (2 if "zoneout" in more and not in_loop else 0)


@pytest.mark.parametrize("schedule", ("loop", *SCHEDULES))
class TestNotANumber:
    def test_beyond_the_end_of_a_sequence(self, backend, schedule):
        """Neither the padding nor an empty sequence's state gets anywhere."""
        given = usual(steps=4, lengths=(4, 0, 3, 1, 2))
        x, dy, state = given.arrays["x"].copy(), given.arrays["dy"].copy(), given.arrays["state"]
        for array in (x, dy):
            array[:, 1], array[3:, 2] = np.nan, np.inf
        state = tuple(part.copy() for part in state)
        for part in state:
            part[:, 1] = np.nan
        with scheduled(backend, schedule, 5):
            found, wanted = (train(backend, g, "float32") for g in (given.but(x=x, dy=dy, state=state), given))
        for name in wanted:
            if name in ("h", "c"):
                assert np.isnan(found[name][:, 1]).all()
                found[name][:, 1] = wanted[name][:, 1]
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)

    def test_it_spreads_as_in_numpy(self, backend, schedule):
        given = usual(steps=3, lengths=None)
        x, state = given.arrays["x"].copy(), tuple(part.copy() for part in given.arrays["state"])
        x[1, 0, 0], state[0][0, 2, 3] = np.nan, np.array(0xFFFFFFFF, np.uint32).view(np.float32)
        given = given.but(x=x, state=state)
        with scheduled(backend, schedule, 5):
            for run in RUNS.values():
                found, wanted = run(backend, given, "float32"), run(Backend(NUMPY, np), given, "float32")
                for name in wanted:
                    np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(wanted[name]), err_msg=name)
