"""Layer norm in the schedules with one launch for all time steps, against the NumPy engine and the loop."""

from collections import Counter

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_one_launch
from tests import backends
from tests.backends import NUMPY, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import laid_out_by_hand, lengths_for, schedule_of_each, scheduled
from tests.test_kernel_sanitizers import without
from tests.variant_kernel_cases import RUNS, Case, by_numpy, case, check, error, infer, train

SCHEDULES = ("resident", "persistent")
BACKENDS = backends.KERNELS
LENGTHS = (5, 0, 3, 1, 4)
AROUND = {"lstm_layer_norm_inputs_forward", "lstm_layer_norm_inputs_backward", "lstm_layer_norm_gain_gradient"}


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
    hidden = 4 * int(rng.integers(3, 9)) if schedule == "persistent" else 33 + 4 * number
    lengths = lengths_for(rng, steps, batch) if number else None
    sizes = {"steps": steps, "batch": batch, "hidden": hidden, "lengths": lengths, "dy": bool(number)}
    given = case(number, **sizes, layer_norm=True, bias=not number, state=bool(number), reverse=True, weight_drop=0.3)
    with scheduled(backend, schedule, 4):
        for run in RUNS:
            check(backend, given, run, "float32")


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
    given = case(1, steps=2, batch=batch, hidden=20, lengths=lengths, layer_norm=True)
    with scheduled(backend, "persistent"), laid_out_by_hand(**{direction: by_hand(direction, tiles, 20, share)}):
        check(backend, given, "training", "float32")


@pytest.mark.parametrize("forward", ("loop", *SCHEDULES))
@pytest.mark.parametrize("backward", ("loop", *SCHEDULES))
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


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_same_bits_in_any_order_and_with_a_late_block(self, schedule):
        given = usual(steps=3, batch=3, lengths=(3, 0, 2))
        settings = [{}, {}, {"thread_order": "descending"}, {"thread_order": "random", "seed": 1}]
        if schedule == "persistent":
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
        given = usual(steps=2, batch=2, hidden=12 if schedule == "persistent" else 7, lengths=(2, 1))
        with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            with scheduled(backend, schedule, 1 if schedule == "resident" else 4):
                check(backend, given, "training", "float32")

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_with_checkpoints(self, backend, schedule, monkeypatch):
        """A stretch adds to the gains' gradients of the one before, and so in another order."""
        monkeypatch.setattr(engines, "WINDOW", 4)
        given, found = usual(steps=7, batch=3, lengths=(7, 0, 5)), []
        a = backend.array({name: given.of("float32")[name] for name in ("x", "params", "state", "dy", "dstate")})
        with scheduled(backend, schedule, 5):
            for every in (None, 4):
                made = {"lengths": (7, 0, 5), "options": given.options, "checkpoint_every": every}
                y, _, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **made)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
                found.append(backend.numpy({"y": y, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}))
        norms = [name for name in found[0] if "norm" in name]
        for name in norms:
            np.testing.assert_allclose(found[1].pop(name), found[0].pop(name), rtol=0, atol=1e-5)
        assert_same_bits(found[1], found[0])
        assert len(norms) == 4

    @pytest.mark.parametrize(
        ("direction", "line"),
        [
            (FORWARD, "if (lane == 0) store_word(row + part, to_hand_over(squares));"),
            (FORWARD, "if (lane == 0) store_words(row + padded + 2 * part, to_hand_over(mean), to_hand_over(spread));"),
            (BACKWARD, "store_words(row + 2 * block, to_hand_over(sums[0]), to_hand_over(sums[1]));"),
            (BACKWARD, "store_words(row + padded + 2 * block, to_hand_over(sums[0]), to_hand_over(sums[1]));"),
        ],
    )
    def test_a_sum_that_never_comes_ends_the_launch_and_sounds_the_alarm(self, backend, direction, line, monkeypatch):
        file = f"lstm_persistent_layer_norm_{direction}.cu"
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        without(monkeypatch, file, "#define SPINS 4000000", 1, "#define SPINS 60")
        without(monkeypatch, file, line, 1, f"if (blockIdx.x != 1) {{ {line} }}")
        with scheduled(backend, "persistent", 5):
            run = infer if direction == FORWARD else train
            run(backend, usual(steps=2, batch=1, lengths=None), "float32")
        (alarm,) = cupy_one_launch._alarms.values()
        assert alarm.seen[0] == 1
        with pytest.raises(RuntimeError, match="waited for each other in vain"):
            alarm.check()


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestWhatIsLaunched:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_kernel_for_all_steps(self, backend, schedule):
        with scheduled(backend, schedule, 5):
            backend.xp.on_cpu.reset_counts()
            train(backend, usual(steps=4, batch=2, lengths=None), "float32")
        # Sums of the columns of W_hh, of the gates' gradients, and over the batch of the gains'.
        passes = {f"lstm_{schedule}_layer_norm_{direction}": 1 for direction in (FORWARD, BACKWARD)}
        assert Counter(backend.xp.on_cpu.launches) == passes | dict.fromkeys(AROUND, 1) | {"column_sum": 3}

    @pytest.mark.parametrize("more", [{"peephole": True}, {"coupled": True}, {"recurrent_dropout": 0.2}], ids=str)
    def test_together_with_other_options_it_takes_the_loop(self, backend, schedule, more):
        given = usual(steps=2, batch=2, lengths=None, **more)
        with scheduled(backend, schedule, 5), planner.only("loop", schedule):
            backend.xp.on_cpu.reset_counts()
            train(backend, given, "float32")
        assert backend.xp.on_cpu.launches["lstm_variant_cell_forward"] == 2


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
