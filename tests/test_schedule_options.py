"""The LSTM's options in the schedules with one launch for all time steps, against the NumPy engine and each other."""

from collections import Counter

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines, functional, options
from gpulstm.cuda import both_directions, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.masks import Draws
from tests import backends
from tests.backends import NUMPY, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import laid_out_by_hand, lengths_for, schedule_of_each, scheduled
from tests.variant_kernel_cases import RUNS, Case, case, check, train

SCHEDULES = ("resident", "persistent")  # that hold options

BACKENDS = backends.KERNELS
MASKED = {"recurrent_dropout": 0.3, "zoneout": (0.2, 0.4)}
TOGETHER = {**MASKED, "peephole": True, "coupled": True, "weight_drop": 0.2}
HELD = {
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "recurrent dropout": {"recurrent_dropout": 0.3},
    "recurrent dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"},
    "zoneout of h": {"zoneout": (0.3, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.3)},
    "weight drop": {"weight_drop": 0.4},
    "together": {**TOGETHER, "num_layers": 2, "dropout": 0.2},
}
LENGTHS = (6, 0, 3, 1, 5)
SEED = 0x123456789ABCDEF0


def usual(**changes) -> Case:
    """With 5 multiprocessors, several blocks in several groups; hidden makes three blocks, the last one half full."""
    return case(**{"steps": 6, "batch": 5, "hidden": 20, "lengths": LENGTHS, **changes})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", HELD)
def test_each_option(backend, name, schedule):
    given = usual(bidirectional=True, **HELD[name])
    with scheduled(backend, schedule, 5):
        for run in RUNS:
            check(backend, given, run, "float32")


def random_case(schedule: str, number: int) -> Case:
    rng = np.random.default_rng([len(schedule), number])
    steps, batch = int(rng.integers(1, 20 if schedule == "resident" else 8)), int(rng.integers(1, 12))

    def maybe(value, otherwise):
        return value if rng.random() < 0.5 else otherwise

    probabilities = [round(float(p), 2) for p in rng.uniform(0.1, 0.6, 4)]
    return case(
        number,
        steps=steps,
        batch=batch,
        hidden=4 * int(rng.integers(1, 7)) if schedule == "persistent" else int(rng.integers(1, 41)),
        lengths=maybe(lengths_for(rng, steps, batch), None),
        state=maybe(True, False),
        dy=number % 4 > 0,
        bias=maybe(True, False),
        bidirectional=number % 3 == 0,
        reverse=number % 3 == 1,
        peephole=maybe(True, False),
        coupled=maybe(True, False),
        recurrent_dropout=maybe(probabilities[0], 0.0),
        recurrent_dropout_on=maybe("candidate", "hidden"),
        zoneout=(maybe(probabilities[1], 0.0), maybe(probabilities[2], 0.0)),
        weight_drop=maybe(probabilities[3], 0.0),
    )


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_combinations(backend, schedule, number):
    given = random_case(schedule, number)
    with scheduled(backend, schedule, 4):
        for run in RUNS:
            check(backend, given, run, "float32")


def by_hand(kernel: str, tiles: tuple[int, ...], hidden: int, share: int) -> Choice:
    blocks = -(-hidden // (planner.UNITS_PER_TILE * tiles[0]))
    return Choice("persistent", "by hand", f"lstm_persistent_{kernel}", tiles, blocks, 2, share)


@pytest.mark.parametrize(
    ("direction", "tiles"),
    [(FORWARD, (2, 1, 1)), (FORWARD, (2, 1, 4)), (FORWARD, (4, 1, 2)), (BACKWARD, (4, 1, 4))],
    ids=str,
)
def test_tiles(backend, direction, tiles):
    """Several passes over a block's sequences, of which the last one is not full; one or two gates for a thread."""
    share = planner.SEQUENCES_PER_TILE * tiles[2] + 3
    batch = share + 5
    lengths = lengths_for(np.random.default_rng(1), 3, batch)
    given = case(1, steps=3, batch=batch, hidden=12, lengths=lengths, **TOGETHER)
    choice = by_hand(direction, tiles, 12, share)
    with scheduled(backend, "persistent"), laid_out_by_hand(**{direction: choice}):
        check(backend, given, "training", "float32")
        if direction == FORWARD:
            check(backend, given, "inference", "float32")


class TestMasks:
    """Bit for bit those of `gpulstm.masks`. Gates are wide open or shut, so what comes out tells what was drawn."""

    STEPS, BATCH, HIDDEN = 10, 3, 36
    OPEN, SHUT = 100.0, -200.0  # pre-activations; the sigmoid is 1 and 0 to the bit

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_of_h(self, backend, schedule):
        """g is 1 where h_in is above 0, and so is h after one step."""
        y, _, mask = self.run(backend, schedule, {"recurrent_dropout": 0.3}, h0=1.0, g_of_h=self.OPEN)
        for t in range(self.STEPS):
            np.testing.assert_array_equal(y[t] > 0, mask(0).hidden > 0)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_of_the_candidate(self, backend, schedule):
        made = {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"}
        y, _, mask = self.run(backend, schedule, made, g=self.OPEN)
        for t in range(self.STEPS):
            np.testing.assert_array_equal(y[t] > 0, mask(t).candidate > 0)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_of_zoneout(self, backend, schedule):
        """c* is c + 1, so c is the number of steps that did not keep it, and h keeps what it was."""
        y, c, mask = self.run(backend, schedule, {"zoneout": (0.4, 0.5)}, g=self.OPEN, f=self.OPEN)
        counted, h = np.zeros_like(c), np.zeros_like(y[0])
        for t in range(self.STEPS):
            zones = mask(t)
            h = np.where(zones.zone_h == 1, h, np.tanh(counted + 1))
            np.testing.assert_allclose(y[t], h, rtol=1e-6)
            counted += 1 - zones.zone_c
        np.testing.assert_array_equal(c, counted)

    def run(self, backend, schedule, made, *, h0=0.0, g_of_h=0.0, g=0.0, f=SHUT):
        made, hidden = options.checked(**made), self.HIDDEN
        params = {"weight_ih_l0": np.zeros((4 * hidden, 2)), "weight_hh_l0": np.zeros((4 * hidden, hidden))}
        params["weight_hh_l0"][2 * hidden : 3 * hidden] = g_of_h * np.eye(hidden)
        params["bias_l0"] = np.repeat([self.OPEN, f, g, self.OPEN], hidden)
        params = backend.array({name: value.astype("float32") for name, value in params.items()})
        state = tuple(backend.array(np.full((1, self.BATCH, hidden), v, "float32")) for v in (h0, 0.0))
        x = backend.array(np.zeros((self.STEPS, self.BATCH, 2), "float32"))
        with scheduled(backend, schedule):
            y, final, _ = gl.lstm_forward(x, params, state, options=made, rng=SEED)
        draws, like = Draws(made, SEED), np.zeros(1, np.float32)
        masks = draws.steps(0, range(self.STEPS), self.BATCH, hidden, hidden, like)
        return y.get(), final.c.get()[0], masks


class TestOnTheCpu:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_same_bits_in_any_order_and_with_a_late_block(self, schedule):
        given = usual(steps=4, lengths=(4, 0, 3, 1, 2), **TOGETHER)
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

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_under_address_sanitizer(self, schedule):
        given = case(steps=3, batch=3, hidden=12 if schedule == "persistent" else 13, lengths=(3, 0, 1), **TOGETHER)
        with cupy_on_cpu("asan", thread_order="random", seed=1) as cupy:
            backend = Backend(backends.CUPY_ON_CPU, cupy)
            with scheduled(backend, schedule, 4):
                check(backend, given, "training", "float32")

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_same_bits_with_checkpoints(self, backend, schedule, monkeypatch):
        """A stretch draws from its own first step on, and adds to the peepholes' gradient of the one before."""
        monkeypatch.setattr(engines, "WINDOW", 4)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given = usual(bidirectional=True, **TOGETHER)
        a = backend.array({name: given.of("float32")[name] for name in ("x", "params", "state", "dy", "dstate")})
        found = []
        with scheduled(backend, schedule, 5):
            for every in (None, 4):
                made = {"lengths": LENGTHS, "options": given.options, "rng": SEED, "checkpoint_every": every}
                y, _, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **made)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
                found.append(backend.numpy({"y": y, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}))
        peepholes = [name for name in found[0] if "peephole" in name]
        for name in peepholes:  # which are added up stretch by stretch, and so in another order
            np.testing.assert_allclose(found[1].pop(name), found[0].pop(name), rtol=0, atol=1e-5)
        assert_same_bits(found[1], found[0])
        assert peepholes


@pytest.mark.parametrize("forward", ("loop", *SCHEDULES))
@pytest.mark.parametrize("backward", ("loop", *SCHEDULES))
def test_each_pass_takes_its_own_schedule(backend, forward, backward):
    """Forward and backward hand each other the same arrays, whichever schedule runs them."""
    with scheduled(backend, "persistent", 5), schedule_of_each(forward=forward, backward=backward):
        check(backend, usual(steps=4, lengths=(4, 0, 3, 1, 2), **TOGETHER), "training", "float32")


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestWhatIsLaunched:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_one_kernel_for_all_steps(self, backend, schedule):
        given, runs = usual(num_layers=2, bidirectional=True, peephole=True, zoneout=0.2), 4
        with scheduled(backend, schedule, 5), both_directions.ways("apart"):
            backend.xp.on_cpu.reset_counts()
            train(backend, given, "float32")
        passes = {f"lstm_{schedule}_forward": runs, f"lstm_{schedule}_backward": runs, "column_sum": 2 * runs}
        passes |= {"without_padding": 1}
        assert Counter(backend.xp.on_cpu.launches) == passes

    @pytest.mark.parametrize("run", RUNS)
    def test_what_one_launch_does_not_hold_takes_the_loop(self, backend, schedule, run):
        for not_held in ({"proj_size": 3}, {"layer_norm": True, "peephole": True}, {"cell_clip": 0.4}):
            given = usual(steps=2, lengths=None, zoneout=0.2, **not_held)
            with scheduled(backend, schedule, 5), planner.only("loop", schedule):
                backend.xp.on_cpu.reset_counts()
                RUNS[run](backend, given, "float32")
            assert backend.xp.on_cpu.launches["lstm_variant_cell_forward"] == 2


@pytest.mark.parametrize("schedule", ("loop", *SCHEDULES))
class TestNotANumber:
    def test_beyond_the_end_of_a_sequence(self, backend, schedule):
        """Neither the padding nor an empty sequence's state gets anywhere, nor a wrong weight to an empty sequence."""
        given = usual(bidirectional=True, **TOGETHER)
        x, dy, state = given.arrays["x"].copy(), given.arrays["dy"].copy(), given.arrays["state"]
        for array in (x, dy):
            array[:, 1], array[3:, 2] = np.nan, np.inf
        state = tuple(part.copy() for part in state)
        for part in state:
            part[:, 1] = np.nan
        weight = given.arrays["params"]["weight_hh_l0"] * np.float32(np.nan)
        wrong_weight = given.but(params=given.arrays["params"] | {"weight_hh_l0": weight})
        with scheduled(backend, schedule, 5):
            found, wanted = (train(backend, g, "float32") for g in (given.but(x=x, dy=dy, state=state), given))
            of_weight = train(backend, wrong_weight, "float32")
        for name in wanted:
            if name in ("h", "c"):
                assert np.isnan(found[name][:, 1]).all()
                found[name][:, 1] = wanted[name][:, 1]
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        for name, before in zip(("dh", "dc"), given.arrays["dstate"], strict=True):
            np.testing.assert_array_equal(of_weight[name][:, 1], before[:, 1])
            assert np.isnan(of_weight[name][0, 0]).any()

    def test_it_spreads_as_in_numpy(self, backend, schedule):
        given = usual(**TOGETHER)
        x, state = given.arrays["x"].copy(), tuple(part.copy() for part in given.arrays["state"])
        x[1, 0, 0], state[0][0, 2, 3] = np.nan, np.array(0xFFFFFFFF, np.uint32).view(np.float32)
        given = given.but(x=x, state=state)
        with scheduled(backend, schedule, 5):
            for run in RUNS.values():
                found, wanted = run(backend, given, "float32"), run(Backend(NUMPY, np), given, "float32")
                for name in wanted:
                    np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(wanted[name]), err_msg=name)

    def test_of_one_unit_at_the_last_step_stays_in_its_gates(self, backend, schedule):
        """A step that a sequence does not have reads zero, not that h: 0 * NaN would get into all rows of dW_hh."""
        given = usual(steps=3, batch=2, hidden=8, lengths=(1, 3), **MASKED)
        h, c = (part.copy() for part in given.arrays["state"])
        c[0, 0, 5] = np.nan
        given = given.but(state=(h, c))
        with scheduled(backend, schedule, 5):
            found = train(backend, given, "float32")["dweight_hh_l0"]
        wanted = train(Backend(NUMPY, np), given, "float32")["dweight_hh_l0"]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        assert not np.isnan(found).all() and np.isnan(found).any()


@pytest.mark.parametrize("schedule", ("loop", *SCHEDULES))
def test_gradients_of_inference(backend, schedule):
    """`functional.forward` without a seed: zoneout mixes, nothing is dropped, and everything is kept for backward."""
    given = usual(**{**TOGETHER, "recurrent_dropout_on": "hidden"})
    draws, found = Draws(given.options, None), []
    with scheduled(backend, schedule, 5):
        for each in (backend, Backend(NUMPY, np)):
            a = each.array({name: given.of("float32")[name] for name in ("x", "params", "state", "dy", "dstate")})
            y, final, cache = functional.forward(None, a["x"], a["params"], a["state"], LENGTHS, False, draws)
            dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
            found.append(each.numpy({"y": y, "h": final.h, "dx": dx, "dc": dinitial.c, **grads}))
    for name, wanted in found[1].items():
        np.testing.assert_allclose(found[0][name], wanted, rtol=0, atol=2e-5 * np.abs(wanted).max(), err_msg=name)
