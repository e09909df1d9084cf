"""Layer norm in the LSTM compiled for the CPU: the NumPy engine's results, alone and with the other options."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.engines import native_engine
from tests import native_library
from tests.problems import Problem, assert_same_bits
from tests.schedule_cases import TOLERANCE, in_float64, lengths_for, small_problem
from tests.test_native_options import results, some_options, with_peephole

HIDDEN = (4, 8, 15, 16, 17, 31, 40)  # around the widths of vectors; norms of one or two units are rounding, or signs
ALL = {"zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.2, "cell_clip": 1.5}
CLOSE_IN_FLOAT64 = 1e-11
"""Of the norm, as in `tests.test_native_options`, and ten times as much: a norm divides by the standard deviation,
which in rows of few units may be a tenth of the numbers themselves."""

AS_CLOSE_AS_NUMPY = 4
"""In float32 what the division adds to `TOLERANCE` depends on the numbers. NumPy does the same operations in another
order: what it is off by at most, of any result, tells how much that is. A wrong one is off by as much as itself."""


@pytest.fixture
def native():
    with native_library.compiled() as loaded:
        loaded.threads = 2
        yield loaded


def with_layer_norm(given: Problem, number: int = 0) -> Problem:
    rng = np.random.default_rng([35, number])
    more = {}
    for name, weight in given.params.items():
        if name.startswith("weight_hh"):
            suffix, hidden = name.removeprefix("weight_hh"), weight.shape[1]
            widths = {"weight_norm_ih": 4, "weight_norm_hh": 4, "weight_norm_c": 1, "bias_norm_c": 1, "bias": 4}
            for kind, width in widths.items():
                centre = float(kind.startswith("weight"))
                more[kind + suffix] = (centre + rng.normal(size=width * hidden) / 3).astype(weight.dtype)
    return given.but(params=given.params | more)


def random_case(number: int, options: dict, peephole: bool) -> Problem:
    rng = np.random.default_rng([36, number])
    steps, batch = int(rng.integers(4, 9)), int(rng.integers(2, 16))
    given = small_problem(
        number,
        hidden=HIDDEN[number % len(HIDDEN)],
        inputs=int(rng.choice([5, 7, 19])),  # of one, a norm leaves the sign alone, and dx would be rounding
        steps=steps,
        batch=batch,
        layers=2 if "dropout" in options else int(rng.integers(1, 3)),
        directions=int(rng.integers(1, 3)),
        state=bool(rng.random() < 0.7),
        lengths=lengths_for(rng, steps, batch) if rng.random() < 0.6 else None,
    )
    given = with_layer_norm(with_peephole(given, number) if peephole else given, number)
    return given.but(dy=None) if number % 5 == 3 else given


def assert_like_numpy(native, given: Problem, options: dict) -> None:
    """As NumPy in float64, in both dtypes."""
    in_double, calls = in_float64(given), {}
    with native_library.without():
        expected, by_numpy = results(in_double, options), results(given, options)
    with native_library.counted(native, calls):
        found = {"float64": results(in_double, options), "float32": results(given, options)}
    runs = len([name for name in given.params if name.startswith("weight_hh")])
    assert calls == {"forward": 4 * runs, "backward": 2 * runs}
    assert found["float32"].keys() == found["float64"].keys() == expected.keys()
    numpy_is_off = max(relative(by_numpy[name], wanted) for name, wanted in expected.items())
    allowed = {"float64": CLOSE_IN_FLOAT64, "float32": max(TOLERANCE, AS_CLOSE_AS_NUMPY * numpy_is_off)}
    assert allowed["float32"] < 1e-3, "the numbers of this case tell nothing"
    for name, wanted in expected.items():
        for dtype, most in allowed.items():
            assert found[dtype][name].dtype == dtype, name
            assert relative(found[dtype][name], wanted) <= most, (dtype, name, relative(found[dtype][name], wanted))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    size = np.linalg.norm(wanted)
    return float(np.linalg.norm(found - wanted) / size) if size else float(np.linalg.norm(found))


@pytest.mark.parametrize("number", range(len(HIDDEN)))
def test_alone(native, number):
    native.threads = 1 + number % 3
    assert_like_numpy(native, random_case(number, {}, peephole=False), {})


@pytest.mark.parametrize("number", range(24))
def test_with_other_options(native, number):
    native.threads = 1 + number % 4
    options = some_options(300 + number)
    assert_like_numpy(native, random_case(300 + number, options, peephole=number % 3 == 0), options)


@pytest.mark.parametrize("machine", [m for m in native_library.MACHINES if m != "-march=native"])
def test_vectors_of_every_width(machine):
    if not native_library.can_run(machine):
        pytest.skip(f"this processor cannot run what {machine} makes")
    with native_library.compiled(machine) as loaded:
        loaded.threads = 2
        for number in range(3):
            options = some_options(400 + number)
            assert_like_numpy(loaded, random_case(400 + number, options, peephole=True), options)


def test_one_direction_from_the_end(native):
    options = {"zoneout": 0.3, "recurrent_dropout": 0.4, "reverse": True}
    given = small_problem(1, hidden=18, inputs=5, steps=7, batch=4, lengths=np.array([7, 0, 3, 1]))
    assert_like_numpy(native, with_layer_norm(given), options)


def test_a_mean_far_above_the_deviation(native):
    """A sum of squares about zero would lose all digits of float32 here."""
    given = with_layer_norm(small_problem(2, hidden=24, inputs=5, steps=5, batch=4))
    weight = given.params["weight_ih_l0"]
    given = given.but(params=given.params | {"weight_ih_l0": weight + 300}, x=abs(given.x))
    with native_library.without():
        expected, by_numpy = (results(each, {})["y"] for each in (in_float64(given), given))
    found = results(given, {})["y"]
    assert relative(found, expected) <= AS_CLOSE_AS_NUMPY * relative(by_numpy, expected) < 1e-2


class TestBits:
    @pytest.mark.parametrize(("batch", "hidden"), [(1, 40), (13, 33), (2, 128)])
    def test_do_not_depend_on_the_threads(self, native, batch, hidden):
        """They share the units and then the sequences, or the sequences alone; some have none of either."""
        given = with_layer_norm(with_peephole(small_problem(3, steps=9, batch=batch, hidden=hidden, inputs=6), 0))
        found = []
        for threads in (1, 2, 3):
            native.threads = threads
            found.append(results(given, ALL))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    def test_inference_gives_those_of_training_where_nothing_is_drawn(self, native):
        given = small_problem(4, steps=150, batch=3, hidden=17, inputs=5, lengths=[150, 0, 77])
        found = results(with_layer_norm(with_peephole(given, 0)), {"coupled": True, "cell_clip": 0.7})
        for name in "yhc":
            assert found[name].tobytes() == found["inference " + name].tobytes()

    @pytest.mark.parametrize("directions", [1, 2])
    def test_stretches_of_a_long_sequence(self, native, directions):
        given = small_problem(5, steps=300, batch=2, hidden=9, inputs=5, directions=directions, lengths=[300, 131])
        given = with_layer_norm(with_peephole(given, 0))
        assert_same_bits(*(results(given, ALL, every=every) for every in (None, 1)))


class TestNumbersThatAreNone:
    OPTIONS = {"zoneout": 0.3, "recurrent_dropout": 0.3, "cell_clip": 2.0}

    def test_padding_is_never_read(self, native):
        given = with_layer_norm(small_problem(7, steps=5, batch=3, hidden=18, inputs=5, lengths=[5, 0, 2]))
        x, dy = given.x.copy(), given.dy.copy()
        x[2:, 2] = dy[2:, 2] = np.nan
        assert_same_bits(results(given.but(x=x, dy=dy), self.OPTIONS), results(given, self.OPTIONS))

    def test_a_sequence_keeps_its_own_to_itself(self, native):
        given = with_layer_norm(small_problem(6, steps=6, batch=7, hidden=20, inputs=5))
        x = given.x.copy()
        x[2, 3] = np.inf
        clean, dirty = (results(given.but(x=values), self.OPTIONS)["y"] for values in (given.x, x))
        others = [row for row in range(7) if row != 3]
        np.testing.assert_array_equal(dirty[:, others], clean[:, others])
        assert np.isnan(dirty[3:, 3]).any()

    def test_the_state_of_an_empty_sequence_passes_through(self, native):
        given = with_layer_norm(small_problem(8, steps=5, batch=3, hidden=18, inputs=5, lengths=[5, 0, 2]))
        h, c = (part.copy() for part in given.state)
        h[0, 1] = c[0, 1] = np.nan
        found = results(given.but(state=(h, c)), self.OPTIONS)
        through = {name: value for name, value in found.items() if name[-2:] in ("h", "c", " h", " c")}
        assert all(np.isnan(through[name][0, 1]).all() for name in ("h", "c", "inference h", "inference c"))
        assert all(np.isfinite(value).all() for name, value in found.items() if name not in through)


def test_too_small_a_call_goes_through_numpy(native):
    given = small_problem(9, steps=native_engine.ROWS_THAT_PAY - 1, batch=1, hidden=5, inputs=5)
    given, calls = with_layer_norm(given), {}
    with native_library.counted(native, calls):
        found = results(given, ALL)
    with native_library.without():
        assert_same_bits(found, results(given, ALL))
    assert calls == {}


def test_a_layer_says_so(native):
    lstm = gl.LSTM(3, 6, rng=0, layer_norm=True, zoneout=0.1, activations=("sigmoid", "relu", "tanh"))
    assert str(lstm.plan(np.ones((9, 4, 3), "float32")).forward).startswith("native: ")
