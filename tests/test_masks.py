"""The random masks: the generator's known answers, how much they keep, what they depend on and what not.

`Revealing` LSTMs show a mask in their output: gates that are always one, a candidate that is one, a cell that shows
itself. So what is counted is what acts, on every array path, and it is compared bit by bit with the counters that
`gpulstm.masks` documents.
"""

from functools import partial

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import options as options_module
from gpulstm import philox
from gpulstm.functional import lstm_inference
from gpulstm.masks import DROPOUT_STREAM, WHOLE_SEQUENCE, Draws
from tests import backends, variant_cases
from tests.plain_loop import Masks

ONE, SHOW = ("affine", 0.0, 1.0), "affine"
SEED = 0x0123_4567_89AB_CDEF
UNITS = 32  # so many that no two masks are the same by chance


class TestPhilox:
    """The known answers that come with Salmon et al.'s Random123."""

    @pytest.mark.parametrize(
        "counter, key, answer",
        [
            ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
            ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
            ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
        ],
    )
    def test_known_answers(self, counter, key, answer):
        key0, key1 = (int(word, 16) for word in key.split())
        found = philox.words(key0 | key1 << 32, tuple(int(word, 16) for word in counter.split()))
        assert " ".join(f"{int(word):08x}" for word in found) == answer

    def test_counters_broadcast(self):
        together = philox.words(SEED, (np.arange(4), np.arange(3)[:, None], 7, 2**31))
        for row in range(3):
            for column in range(4):
                alone = philox.words(SEED, (column, row, 7, 2**31))
                assert [int(word[row, column]) for word in together] == [int(word) for word in alone]

    def test_each_counter_counts_to_its_end(self):
        """A counter that lost its high bits would repeat its masks after so many steps, sequences or units."""
        places = [0, 1, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
        counters = [tuple(place if k == which else 5 for k in range(4)) for which in range(4) for place in places]
        words = {tuple(int(word) for word in philox.words(SEED, counter)) for counter in counters}
        assert len(words) == len(counters)

    def test_both_halves_of_the_seed_count(self):
        found = {int(philox.words(seed, (0, 0, 0, 0))[0]) for seed in (0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1)}
        assert len(found) == 7

    def test_the_threshold_never_reaches_one(self):
        assert [philox.threshold(p) for p in (0.0, 0.25, 0.5)] == [0, 2**30, 2**31]
        assert philox.threshold(np.nextafter(1, 0)) == 2**32 - 1


def weights(inputs: int, hidden: int, *, of_input: float = 0.0, of_hidden: float = 0.0, suffix: str = "_l0") -> dict:
    """Only the candidate sees anything: a multiple of x, unit by unit, or of h."""
    found = {"weight_ih" + suffix: np.zeros((4, hidden, inputs)), "weight_hh" + suffix: np.zeros((4, hidden, hidden))}
    found["weight_ih" + suffix][2] = of_input * np.eye(hidden, inputs)
    found["weight_hh" + suffix][2] = of_hidden * np.eye(hidden)
    return {name: value.reshape(4 * hidden, -1) for name, value in found.items()}


def run(backend, params: dict, options: dict, steps: int, batch: int, *, rng=SEED, state=None, inputs: int = 1):
    """y (time, batch, hidden) in training."""
    x = np.ones((steps, batch, inputs))
    x, params, state = (backend.array(value) for value in (x, params, state))
    return backend.numpy(gl.lstm_forward(x, params, state, options=options, rng=rng)[0])


COUNTING = {"activations": (ONE, ONE, SHOW)}
"""c grows by one each step, whatever comes: i = f = g = o = 1."""

COPYING = {"activations": (ONE, SHOW, SHOW), "coupled": True}
"""h is what the candidate sees: i = o = 1, f = 0."""


class Revealing:
    """Each function: (backend, probability, size) -> a mask of about size x size x UNITS draws as it acted, and the
    same by the documented counters. Dropout masks are 0 or 1 / (1 - p); zoneout's are 1 where a state was kept."""

    @staticmethod
    def candidate(backend, p: float, size: int):
        options = {"recurrent_dropout": p, "recurrent_dropout_on": "candidate"}
        y = run(backend, weights(1, UNITS), COUNTING | options, size, size)
        added = np.diff(y, axis=0, prepend=0)
        return added, tables(options, lambda m, n, t: m.candidate(0, n, t, UNITS), size, size)

    @staticmethod
    def zoneout_of_c(backend, p: float, size: int):
        """y[t] = c[t-1] + 1, and c[t-1] moved on to that unless it was kept."""
        y = run(backend, weights(1, UNITS), COUNTING | {"zoneout": (0.0, p)}, size + 1, size)
        kept = 1 - np.diff(y, axis=0)
        return kept, tables({"zoneout": (0.0, p)}, lambda m, n, t: m.keeps_c(0, n, t, UNITS), size, size)

    @staticmethod
    def zoneout_of_h(backend, p: float, size: int):
        """h is the step's number, or what it was."""
        y = run(backend, weights(1, UNITS), COUNTING | {"zoneout": (p, 0.0)}, size, size)
        kept = (np.diff(y, axis=0, prepend=0) == 0).astype(float)
        return kept, tables({"zoneout": (p, 0.0)}, lambda m, n, t: m.keeps_h(0, n, t, UNITS), size, size)

    @staticmethod
    def hidden(backend, p: float, size: int):
        options, batch = {"recurrent_dropout": p}, size * size
        state = (np.ones((1, batch, UNITS)), np.zeros((1, batch, UNITS)))
        y = run(backend, weights(1, UNITS, of_hidden=1.0), COPYING | options, 1, batch, state=state)
        return y[0], tables(options, lambda m, n, t: m.hidden(0, n, UNITS), 1, batch)[0]

    @staticmethod
    def between(backend, p: float, size: int):
        """The first layer's output is one, the second one's what it is shown."""
        params = weights(1, UNITS) | {"bias_l0": np.repeat([0.0, 0, 1, 0], UNITS), "bias_l1": np.zeros(4 * UNITS)}
        params |= weights(UNITS, UNITS, of_input=1.0, suffix="_l1")
        y = run(backend, params, COPYING | {"dropout": p}, size, size)
        return y, tables({"dropout": p}, lambda m, n, t: m.between(0, n, t, UNITS), size, size)

    @staticmethod
    def weight(backend, p: float, size: int):
        """Sequence n begins with a one in unit n of h alone, and so shows column n of the candidate's rows."""
        hidden = int((size * size * UNITS) ** 0.5)
        params = weights(1, hidden)
        params["weight_hh_l0"][2 * hidden : 3 * hidden] = 1.0
        state = (np.eye(hidden)[None], np.zeros((1, hidden, hidden)))
        y = run(backend, params, COPYING | {"weight_drop": p}, 1, hidden, state=state)
        return y[0].T, weight_table(p, hidden)


def tables(options: dict, of, steps: int, batch: int) -> np.ndarray:
    """A mask (time, batch, units) by its counters."""
    masks = Masks(options, SEED)
    return np.array([[of(masks, n, t) for n in range(batch)] for t in range(steps)], dtype=float)


def weight_table(p: float, hidden: int) -> np.ndarray:
    """The mask of the candidate's rows of weight_hh by its counters."""
    masks = Masks({"weight_drop": p}, SEED)
    return np.array([masks.weight(0, row, hidden) for row in range(2 * hidden, 3 * hidden)])


KINDS = ("candidate", "zoneout_of_c", "zoneout_of_h", "hidden", "between", "weight")


class TestBits:
    """Every array path, the kernels among them, draws what the counters say."""

    @pytest.mark.parametrize("p", [0.1, 0.5, 0.83])
    @pytest.mark.parametrize("kind", KINDS)
    def test_masks_are_those_of_the_counters(self, backend, kind, p):
        found, expected = getattr(Revealing, kind)(backend, p, 6)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


class TestKept:
    """Over 10^6 draws: the fraction is off by less than five standard deviations of the binomial distribution, which
    happens by chance once in two million seeds, and this seed is fixed."""

    BACKENDS = (backends.NUMPY,)

    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("kind", KINDS)
    def test_fraction_and_scaling(self, backend, kind, p, monkeypatch):
        for tables in ("tables", "weight_table"):  # a number at a time, which is slow
            monkeypatch.setattr(f"{__name__}.{tables}", lambda *_: [None])
        found, _ = getattr(Revealing, kind)(backend, p, 177)
        draws = found.size
        assert draws > 1e6
        chosen = np.count_nonzero(found) / draws
        expected = p if kind.startswith("zoneout") else 1 - p
        assert abs(chosen - expected) < 5 * (p * (1 - p) / draws) ** 0.5
        scale = 1.0 if kind.startswith("zoneout") else 1 / (1 - p)
        np.testing.assert_allclose(found[found != 0], scale, rtol=1e-9)  # y counts up to 177, and differences round

    @pytest.mark.parametrize("p", [1e-6, 1 - 1e-6])
    def test_rare(self, p):
        """1e-6 of 2^32 is 4295: the threshold's rounding is a ten-thousandth of that."""
        words = philox.words(SEED, (np.arange(4_000_000), 0, 0, 0))
        low = sum(np.count_nonzero(word < philox.threshold(p)) for word in words)
        assert abs(low / 16e6 - p) < 5 * (p * (1 - p) / 16e6) ** 0.5


class TestWhatAMaskDependsOn:
    def hidden_masks(self, backend, rng=SEED):
        """Recurrent dropout of h (time, batch, lanes, units) of two layers in two directions: h0 = 1 is handed on, so
        after k steps it is the mask to the power of k."""
        lanes, batch, units, steps = 4, 5, UNITS, 3
        params = {}
        for suffix, inputs in {"_l0": 1, "_l0_reverse": 1, "_l1": 2 * UNITS, "_l1_reverse": 2 * UNITS}.items():
            params |= weights(inputs, units, of_hidden=0.5, suffix=suffix)
        x, state = np.zeros((steps, batch, 1)), (np.ones((lanes, batch, units)), np.zeros((lanes, batch, units)))
        options = COPYING | {"recurrent_dropout": 0.5}
        outputs = []
        for lengths in range(1, steps + 1):
            _, final, _ = gl.lstm_forward(*(backend.array(a) for a in (x, params, state)), options=options, rng=rng,
                                          lengths=np.full(batch, lengths))  # fmt: skip
            outputs.append(backend.numpy(final.h))
        return np.array(outputs)

    def test_recurrent_dropout_is_one_mask_along_a_sequence(self, backend):
        steps = self.hidden_masks(backend)
        assert set(np.unique(steps)) == {0.0, 1.0}, "0.5 * (0 or 2), to the power of the steps"
        assert (steps == steps[0]).all()

    def test_recurrent_dropout_differs_between_sequences_layers_and_directions(self, backend):
        masks = self.hidden_masks(backend)[0].reshape(-1, UNITS)  # one row for each lane and sequence
        assert len(np.unique(masks, axis=0)) == len(masks) == 20

    @pytest.mark.parametrize("kind", ["candidate", "zoneout_of_c", "zoneout_of_h", "between"])
    def test_the_others_differ_in_time_and_between_sequences(self, backend, kind):
        mask, _ = getattr(Revealing, kind)(backend, 0.5, 6)
        assert len(np.unique(mask.reshape(-1, UNITS), axis=0)) == 36

    @pytest.mark.parametrize("kind", KINDS)
    def test_not_on_the_sizes_of_the_rest(self, kind):
        """A unit's mask is its own: more steps, sequences or units beside it change nothing."""
        few, many = (Draws(options_of(kind, 0.5), SEED) for _ in range(2))
        like = np.zeros(1)
        small, large = (masks_of(kind, draws, like, *sizes) for draws, sizes in ((few, (3, 5)), (many, (7, 9))))
        np.testing.assert_array_equal(small, large[:3, :5])

    def test_zoneout_of_more_units_than_the_projection_has(self):
        """h has fewer units than c; each is still counted from zero."""
        draws = Draws(options_of("zoneout_of_c", 0.5), SEED)
        step, wide = (step_masks(draws, 3, 4, output, 5, np.zeros(1)) for output in (2, 5))
        np.testing.assert_array_equal(step.zone_c, wide.zone_c)

    def test_late_steps_have_masks_of_their_own(self):
        draws = Draws(options_module.checked(zoneout=0.5, recurrent_dropout=0.5), SEED)
        times = [0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 2]
        masks = [step_masks(draws, time, 3, 16, 16, np.zeros(1)) for time in times]
        for part in ("zone_h", "zone_c"):
            assert len({getattr(mask, part).tobytes() for mask in masks}) == len(times)
        assert len({mask.hidden.tobytes() for mask in masks}) == 1
        whole = draws.kept(0, WHOLE_SEQUENCE, 3, 16, 0.5, np.zeros(1))
        np.testing.assert_array_equal(masks[0].hidden, whole)

    def test_kinds_streams_and_times_are_independent(self):
        """Fair coins correlate by 0 with a deviation of 1/sqrt(n); 5.5 deviations, for there are 2000 pairs of them."""
        n = 20_000
        coins = {}
        for stream in (0, 1, 2, 2**30, 2**30 + 1, 2**31, 2**31 + 1):
            for time in (0, 1, WHOLE_SEQUENCE):
                words = philox.words(SEED, (np.arange(n // 100), np.arange(100)[:, None], time, stream))
                for index, word in enumerate(words[:3]):
                    coins[stream, time, index] = (word < 2**31).ravel() * 2.0 - 1
        table = np.array(list(coins.values()))
        correlation = table @ table.T / n
        off_diagonal = correlation - np.eye(len(table))
        assert np.abs(off_diagonal).max() < 5.5 / n**0.5
        for shift in (1, n // 100):  # neighbouring units, neighbouring sequences
            assert np.abs((table[:, shift:] * table[:, :-shift]).mean(axis=1)).max() < 5.5 / n**0.5


def step_masks(draws: Draws, time: int, *sizes_and_like):
    """The masks of one step of stream 0."""
    return draws.steps(0, range(time, time + 1), *sizes_and_like)(time)


def options_of(kind: str, p: float):
    given = {
        "candidate": {"recurrent_dropout": p, "recurrent_dropout_on": "candidate"},
        "hidden": {"recurrent_dropout": p},
        "zoneout_of_c": {"zoneout": (0.0, p)},
        "zoneout_of_h": {"zoneout": (p, 0.0)},
        "between": {"dropout": p},
        "weight": {"weight_drop": p},
    }[kind]
    return options_module.checked(**given)


def masks_of(kind: str, draws: Draws, like, rows: int, columns: int):
    if kind == "weight":
        return draws.weight(0, (rows, columns), like)
    if kind == "between":
        return draws.between(0, (2, rows, columns), like)[1]
    step = step_masks(draws, 1, rows, columns, columns, like)
    field = {"candidate": "candidate", "hidden": "hidden", "zoneout_of_c": "zone_c", "zoneout_of_h": "zone_h"}[kind]
    return getattr(step, field)


RANDOM = {name: case for name, case in variant_cases.ALONE.items() if "drop" in name or "zone" in name}


@pytest.mark.parametrize("name", RANDOM)
class TestSeeds:
    def forward(self, backend, name, rng):
        case = variant_cases.alone(name)
        x, params = backend.array(case.x), backend.array(case.params)
        return backend.numpy(gl.lstm_forward(x, params, options=case.options, rng=rng)[0])

    def test_the_same_seed_gives_the_same_bits_and_another_one_others(self, backend, name):
        forward = partial(self.forward, backend, name)
        assert forward(7).tobytes() == forward(7).tobytes() == forward(np.int64(7)).tobytes()
        different = {forward(seed).tobytes() for seed in (0, 7, 8, 2**32 + 7, 2**64 - 1)}
        assert len(different) == 5

    def test_generators_and_fresh_entropy(self, backend, name):
        forward = partial(self.forward, backend, name)
        assert forward(np.random.default_rng(3)).tobytes() == forward(np.random.default_rng(3)).tobytes()
        generator = np.random.default_rng(3)
        assert forward(generator).tobytes() != forward(generator).tobytes(), "it goes on where it was"
        assert forward(None).tobytes() != forward(None).tobytes()

    def test_inference_is_deterministic_and_unscaled(self, backend, name):
        """Dropout is gone; zoneout, which is no scaling, mixes by its probability: `test_variants` has the values."""
        case = variant_cases.alone(name)
        x, params = backend.array(case.x), backend.array(case.params)
        first, again = (backend.numpy(lstm_inference(x, params, options=case.options)[0]) for _ in range(2))
        assert first.tobytes() == again.tobytes()
        if "zoneout" not in case.options:
            assert first.tobytes() == backend.numpy(lstm_inference(x, params)[0]).tobytes()


@pytest.mark.parametrize("shape", [(40, 8, 64), (3, 5, 2**13), (2, 3, 4), (0, 3, 4), (4, 0, 3)], ids=str)
def test_dropout_between_layers_is_drawn_in_blocks_as_in_one_piece(shape):
    draws = Draws(options_module.Options(dropout=0.3), 11)
    mask = draws.between(1, shape, np.ones(1))
    assert mask.shape == shape and mask.dtype == np.float64
    for time in range(shape[0]):
        words = philox.words(11, (np.arange(shape[2]), np.arange(shape[1])[:, None], time, DROPOUT_STREAM + 1))
        kept = words[0] >= np.uint32(philox.threshold(0.3))
        np.testing.assert_array_equal(mask[time], np.where(kept, 1 / 0.7, 0.0))


@pytest.mark.parametrize("batch, output, hidden", [(3, 50, 100), (2, 4, 4), (3, 5, 2**13), (0, 3, 4)])
@pytest.mark.parametrize("backwards", [False, True])
def test_steps_are_drawn_in_blocks_as_one_by_one(batch, output, hidden, backwards):
    options = options_module.checked(zoneout=(0.3, 0.4), recurrent_dropout=0.2, recurrent_dropout_on="candidate")
    draws, times, like = Draws(options, 11), range(2, 122), np.ones(1, np.float32)
    masks_at = draws.steps(5, times, batch, output, hidden, like)
    for time in times[::-7] if backwards else times[::7]:
        found = masks_at(time)
        w = philox.words(11, (np.arange(hidden), np.arange(batch)[:, None], time, 5))
        low = [word < np.uint32(philox.threshold(p)) for word, p in zip(w[:3], (0.3, 0.4, 0.2), strict=True)]
        np.testing.assert_array_equal(found.zone_h, low[0][:, :output].astype(np.float32), strict=True)
        np.testing.assert_array_equal(found.zone_c, low[1].astype(np.float32), strict=True)
        np.testing.assert_array_equal(found.candidate, np.where(low[2], 0, 1 / 0.8).astype(np.float32), strict=True)
        assert found.hidden is None
