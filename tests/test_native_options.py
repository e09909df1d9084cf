"""The options in the LSTM compiled for the CPU: the NumPy engine's results and the same masks, whatever the sizes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.engines import native_calls, native_engine
from gpulstm.functional import lstm_inference
from gpulstm.masks import DROPOUT_STREAM, WHOLE_SEQUENCE, Draws
from gpulstm.native import library
from gpulstm.options import as_options
from tests import backends, native_library
from tests.backends import Backend
from tests.problems import Problem, assert_same_bits
from tests.schedule_cases import TOLERANCE, in_float64, lengths_for, small_problem

NUMPY = Backend(backends.NUMPY, np)
TOLERANCES = {"float32": TOLERANCE, "float64": 1e-12}
HIDDEN = (1, 3, 8, 16, 17, 31, 40)  # around the widths of vectors, and several of them
ALONE = {
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "recurrent dropout of the candidate": {"recurrent_dropout": 0.4, "recurrent_dropout_on": "candidate"},
    "zoneout": {"zoneout": (0.3, 0.5)},
    "zoneout of h": {"zoneout": (0.4, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.4)},
    "weight drop": {"weight_drop": 0.4},
    "coupled": {"coupled": True},
    "cell_clip": {"cell_clip": 0.5},
    "peephole": {},
    "dropout": {"dropout": 0.4},
    "gates hard_sigmoid": {"activations": (("hard_sigmoid", 0.3, 0.4), "tanh", "tanh")},
    "candidate affine, cell softsign": {"activations": ("sigmoid", ("affine", -0.8, 0.3), "softsign")},
    "gates softsign, candidate relu, cell sigmoid": {"activations": ("softsign", "relu", "sigmoid")},
}


@pytest.fixture
def native():
    with native_library.compiled() as loaded:
        loaded.threads = 2
        yield loaded


def with_peephole(given: Problem, number: int) -> Problem:
    rng = np.random.default_rng([32, number])
    more = {}
    for name, weight in given.params.items():
        if name.startswith("weight_hh"):
            peephole = rng.normal(size=3 * weight.shape[1]) / 2
            more[name.replace("weight_hh", "weight_peephole")] = peephole.astype(weight.dtype)
    return given.but(params=given.params | more)


def random_case(number: int, options: dict, peephole: bool) -> Problem:
    rng = np.random.default_rng([33, number])
    steps, batch = int(rng.integers(4, 9)), int(rng.integers(2, 10))
    given = small_problem(
        number,
        hidden=HIDDEN[number % len(HIDDEN)],
        inputs=int(rng.choice([1, 7, 19])),
        steps=steps,
        batch=batch,
        layers=2 if "dropout" in options else int(rng.integers(1, 3)),
        directions=int(rng.integers(1, 3)),
        bias=bool(rng.random() < 0.7),
        state=bool(rng.random() < 0.7),
        lengths=lengths_for(rng, steps, batch) if rng.random() < 0.6 else None,
    )
    given = with_peephole(given, number) if peephole else given
    return given.but(dy=None) if number % 5 == 3 else given


def some_options(number: int) -> dict:
    rng = np.random.default_rng([34, number])
    found = {}
    for options in ALONE.values():
        if rng.random() < 0.45:
            found |= options
    return found


def results(given: Problem, options: dict, seed: int = 2**63 + 12345, every: int | None = None) -> dict:
    how = {"lengths": given.lengths, "options": options}
    y, final, cache = gl.lstm_forward(given.x, given.params, given.state, rng=seed, checkpoint_every=every, **how)
    dx, grads, dinitial = gl.lstm_backward(cache, given.dy, given.dstate)
    inferred, last = lstm_inference(given.x, given.params, given.state, **how)
    found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    found |= {"d" + name: gradient for name, gradient in grads.items()}
    return found | {"inference y": inferred, "inference h": last.h, "inference c": last.c}


def assert_like_numpy(native: library.Library, given: Problem, options: dict) -> None:
    """As NumPy in float64, for the same numbers and masks, in both dtypes."""
    with native_library.without():
        expected = results(in_float64(given), options)
    for dtype, tolerance in TOLERANCES.items():
        calls = {}
        with native_library.counted(native, calls):
            found = results(in_float64(given) if dtype == "float64" else given, options)
        runs = len([name for name in given.params if name.startswith("weight_hh")])
        assert calls == {"forward": 2 * runs, "backward": runs}
        assert found.keys() == expected.keys()
        for name, wanted in expected.items():
            difference, size = np.linalg.norm(found[name] - wanted), np.linalg.norm(wanted)
            assert found[name].dtype == dtype and difference <= tolerance * size, (dtype, name, difference, size)


@pytest.mark.parametrize("name", ALONE)
def test_each_option_alone(native, name):
    number = list(ALONE).index(name)
    assert_like_numpy(native, random_case(number, ALONE[name], peephole=name == "peephole"), ALONE[name])


@pytest.mark.parametrize("number", range(20))
def test_options_together(native, number):
    native.threads = 1 + number % 4
    options = some_options(number)
    assert_like_numpy(native, random_case(100 + number, options, peephole=number % 3 == 0), options)


@pytest.mark.parametrize("machine", [m for m in native_library.MACHINES if m != "-march=native"])
def test_vectors_of_every_width(machine):
    if not native_library.can_run(machine):
        pytest.skip(f"this processor cannot run what {machine} makes")
    with native_library.compiled(machine) as loaded:
        loaded.threads = 2
        for number in range(4):
            options = ALONE["zoneout"] | ALONE["recurrent dropout of the candidate"] | some_options(number)
            assert_like_numpy(loaded, random_case(200 + number, options, peephole=True), options)


@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_from_the_end(native, reverse):
    options = {"zoneout": 0.3, "recurrent_dropout": 0.4, "reverse": reverse}
    given = small_problem(1, hidden=18, steps=7, batch=4, lengths=np.array([7, 0, 3, 1]))
    assert_like_numpy(native, given, options)


class TestMasks:
    """Bit by bit those of `gpulstm.masks`."""

    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 37), (130, 129)])
    def test_of_a_matrix(self, native, dtype, rows, columns):
        draws, like = Draws(as_options({"weight_drop": 0.3}), 2**64 - 3), np.ones(1, dtype)
        found = np.empty((rows, columns), dtype)
        native_calls.masked_copy(None, found, draws, 2**32 - 5, 0.3, batch=rows, first_time=WHOLE_SEQUENCE)
        wanted = draws.kept(2**32 - 5, WHOLE_SEQUENCE, rows, columns, 0.3, like)
        assert found.tobytes() == wanted.tobytes() and (rows * columns < 100 or 0.2 < np.mean(found == 0) < 0.4)

    @pytest.mark.parametrize("machine", [m for m in native_library.MACHINES if native_library.can_run(m)])
    @pytest.mark.parametrize("dtype", TOLERANCES)
    def test_recorded(self, machine, dtype):
        """What the second pass reads is what the first one drew."""
        draws, like = Draws(as_options({"weight_drop": 0.3}), 5), np.ones(1, dtype)
        source = np.random.default_rng(0).normal(size=(21, 37)).astype(dtype)
        found, again, record = np.empty_like(source), np.empty_like(source), np.full(source.shape, 9, np.uint8)
        wanted = source * np.concatenate([draws.kept(3, time, 10, 37, 0.3, like) for time in (4, 5, 6)])[:21]
        how = {"batch": 10, "first_time": 4, "record": record}
        with native_library.compiled(machine):
            native_calls.masked_copy(source, found, draws, 3, 0.3, **how)
            native_calls.masked_copy(source, again, draws, 3, 0.3, recorded=True, **how)
            np.testing.assert_array_equal(record, found == 0)
            record[:] = 0
            native_calls.masked_copy(None, wholes := np.empty_like(source), draws, 3, 0.3, recorded=True, **how)
        assert found.tobytes() == again.tobytes() == wanted.tobytes()
        assert np.all(wholes == source.dtype.type(1 / 0.7)), "it is read, and not drawn again"

    @pytest.mark.parametrize("dtype", TOLERANCES)
    def test_between_layers(self, native, dtype):
        draws = Draws(as_options({"dropout": 0.5}), 7)
        y = np.random.default_rng(0).normal(size=(6, 3, 21)).astype(dtype)
        mask = draws.between(1, y.shape, y)
        assert native_engine.dropped(y, draws, 1).tobytes() == (y * mask).tobytes()
        native_calls.masked_copy(y, y, draws, DROPOUT_STREAM + 1, 0.5, batch=3, first_time=0)
        assert np.count_nonzero(y) == np.count_nonzero(mask), "the array itself may be the target"
        assert native_engine.dropped(y, Draws(as_options({"dropout": 0.5}), None), 1) is y

    @pytest.mark.parametrize("dtype", TOLERANCES)
    def test_of_steps(self, native, dtype):
        """Of zoneout: every unit either keeps its state exactly, or does not."""
        given = small_problem(3, hidden=37, steps=9, batch=4)
        given = in_float64(given) if dtype == "float64" else given
        h = given.state[0][0]
        y, _, _ = gl.lstm_forward(given.x, given.params, given.state, options={"zoneout": (0.5, 0)}, rng=11)
        draws = Draws(as_options({"zoneout": (0.5, 0)}), 11)
        masks_at = draws.steps(0, range(9), 4, 37, 37, given.x)
        for time in range(9):
            before = y[time - 1] if time else h
            np.testing.assert_array_equal(y[time] == before, masks_at(time).zone_h == 1)


class TestBits:
    ALL = {"zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.2, "cell_clip": 1.5}

    @pytest.mark.parametrize(("batch", "hidden"), [(1, 40), (13, 33)])
    def test_do_not_depend_on_the_threads(self, native, batch, hidden):
        given = with_peephole(small_problem(3, steps=9, batch=batch, hidden=hidden, inputs=6), 0)
        found = []
        for threads in (1, 2, 3):
            native.threads = threads
            found.append(results(given, self.ALL))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    def test_inference_gives_those_of_training_where_nothing_is_drawn(self, native):
        given = with_peephole(small_problem(4, steps=150, batch=3, hidden=17, lengths=[150, 0, 77]), 0)
        found = results(given, {"coupled": True, "cell_clip": 0.7})
        for name in "yhc":
            assert found[name].tobytes() == found["inference " + name].tobytes()

    @pytest.mark.parametrize("directions", [1, 2])
    def test_stretches_of_a_long_sequence(self, native, directions):
        given = small_problem(5, steps=300, batch=2, hidden=9, directions=directions, lengths=[300, 131])
        given = with_peephole(given, 0)
        assert_same_bits(*(results(given, self.ALL, every=every) for every in (None, 1)))


class TestNumbersThatAreNone:
    OPTIONS = {"zoneout": 0.3, "recurrent_dropout": 0.3, "cell_clip": 2.0}

    def test_padding_is_never_read(self, native):
        given = with_peephole(small_problem(7, steps=5, batch=3, hidden=18, lengths=[5, 0, 2]), 0)
        x, dy = given.x.copy(), given.dy.copy()
        x[2:, 2] = dy[2:, 2] = np.nan
        assert_same_bits(results(given.but(x=x, dy=dy), self.OPTIONS), results(given, self.OPTIONS))

    def test_the_state_of_an_empty_sequence_passes_through(self, native):
        given = with_peephole(small_problem(8, steps=5, batch=3, hidden=18, lengths=[5, 0, 2]), 0)
        h, c = (part.copy() for part in given.state)
        h[0, 1] = c[0, 1] = np.nan
        found = results(given.but(state=(h, c)), self.OPTIONS)
        through = {name: value for name, value in found.items() if name[-2:] in ("h", "c", " h", " c")}
        assert all(np.isnan(through[name][0, 1]).all() for name in ("h", "c", "inference h", "inference c"))
        assert all(np.isfinite(value).all() for name, value in found.items() if name not in through)
        assert np.isfinite(found["dh"]).all() and np.isfinite(found["dc"]).all()


def test_too_small_a_call_goes_through_numpy(native):
    given = with_peephole(small_problem(9, steps=native_engine.ROWS_THAT_PAY - 1, batch=1, hidden=5), 0)
    options, calls = {"zoneout": 0.3, "weight_drop": 0.3}, {}
    with native_library.counted(native, calls):
        found = results(given, options)
    with native_library.without():
        assert_same_bits(found, results(given, options))
    assert calls == {}


def test_a_projection_that_is_not_folded_goes_through_numpy(native):
    lstm, calls = gl.LSTM(3, 6, rng=0, zoneout=0.1, proj_size=4), {}
    with native_library.counted(native, calls):
        y, _, cache = lstm.forward(np.ones((9, 4, 3), "float32"), rng=0)
        lstm.backward(cache, y)
    assert calls == {}
    assert "does not hold proj_size" in str(lstm.plan(np.ones((9, 4, 3), "float32")).forward)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("machine", native_library.MACHINES)
def test_no_compiler_warns(compiler, machine):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    wanted = [option for option in library.OPTIONS if option not in ("-march=native", "-shared")]
    sources = [Path(library.__file__).with_name(name) for name in library.COMPILED]
    command = [compiler, *wanted, machine, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *map(str, sources)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
