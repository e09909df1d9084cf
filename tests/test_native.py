"""The LSTM compiled for the CPU: the NumPy engine's results, whatever the sizes, threads and width of the vectors."""

import os
import subprocess
import sys

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import folding
from gpulstm.engines import native_engine
from gpulstm.engines.native_product import product
from tests import backends, native_library, variant_kernel_cases
from tests.backends import Backend
from tests.problems import Problem, assert_same_bits, infer, problem, solve
from tests.schedule_cases import TOLERANCE, in_float64, lengths_for, small_problem

NUMPY = Backend(backends.NUMPY, np)
TOLERANCES = {"float32": TOLERANCE, "float64": 1e-12}
THREADS = (1, 2, 3, 4)
HIDDEN = (1, 3, 8, 15, 16, 17, 31, 33, 40, 64)  # around the widths of vectors, and several of them


@pytest.fixture
def native():
    with native_library.compiled() as loaded:
        loaded.threads = 2
        yield loaded


def random_case(number: int) -> Problem:
    rng = np.random.default_rng([31, number])
    steps, batch = int(rng.integers(1, 14)), int(rng.integers(1, 21))
    steps = max(steps, -(-native_engine.ROWS_THAT_PAY // batch))
    given = small_problem(
        number,
        hidden=HIDDEN[number % len(HIDDEN)],
        inputs=int(rng.choice([1, 2, 7, 16, 19, 65])),
        steps=steps,
        batch=batch,
        layers=int(rng.integers(1, 3)),
        directions=int(rng.integers(1, 3)),
        bias=bool(rng.random() < 0.7),
        state=bool(rng.random() < 0.7),
        lengths=lengths_for(rng, steps, batch) if rng.random() < 0.5 else None,
    )
    if number % 5 == 3:
        given = given.but(dy=None)
    return given.but(dstate=None) if number % 5 == 4 else given


def assert_like_numpy(given: Problem, dtype: str) -> None:
    """As NumPy in float64, for the same numbers."""
    in_double = in_float64(given)
    found = solve(NUMPY, in_double if dtype == "float64" else given)
    with native_library.without():
        expected = solve(NUMPY, in_double)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        difference, size = np.linalg.norm(found[name] - wanted), np.linalg.norm(wanted)
        assert found[name].dtype == dtype and difference <= TOLERANCES[dtype] * size, (name, difference / size)


@pytest.mark.parametrize("number", range(40))
def test_it_agrees_with_numpy(native, number):
    native.threads = THREADS[number % len(THREADS)]
    given = random_case(number)
    calls = {}
    with native_library.counted(native, calls):
        assert_like_numpy(given, "float32")
    runs = len([name for name in given.params if name.startswith("weight_hh")])
    assert calls == {"forward": runs, "backward": runs}
    assert_like_numpy(given, "float64")


@pytest.mark.parametrize("machine", [m for m in native_library.MACHINES if m != "-march=native"])
@pytest.mark.parametrize("number", range(8))
def test_vectors_of_every_width(machine, number):
    if not native_library.can_run(machine):
        pytest.skip(f"this processor cannot run what {machine} makes")
    with native_library.compiled(machine):
        for dtype in TOLERANCES:
            assert_like_numpy(random_case(100 + number), dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_one_direction_from_the_end(native, reverse):
    rng = np.random.default_rng(5)
    x, lengths = rng.normal(size=(9, 4, 5)), [9, 0, 4, 1]

    def results(dtype):
        lstm = gl.LSTM(5, 18, reverse=reverse, dtype=dtype, rng=1)
        y, final, cache = lstm.forward(x.astype(dtype), lengths=lengths)
        dx, grads, _ = lstm.backward(cache, np.cos(y))
        return [y, *final, dx, *grads.values()]

    with native_library.without():
        expected = results("float64")
    for dtype, tolerance in TOLERANCES.items():
        for found, wanted in zip(results(dtype), expected, strict=True):
            assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("lengths", [None, [3, 0, 2] * 20], ids=["equal", "lengths"])
@pytest.mark.parametrize("hidden", [19, 128])
def test_many_sequences_agree_with_numpy(native, hidden, lengths):
    """Their groups of rows ask for the next weights in turn, and the later ones for none; 19 inputs are four at a time,
    and three."""
    for inputs in (19, 65):
        given = small_problem(2, hidden=hidden, inputs=inputs, steps=3, batch=60, directions=2, lengths=lengths)
        for dtype in TOLERANCES:
            assert_like_numpy(given, dtype)


class TestBits:
    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize(("batch", "hidden"), [(1, 40), (13, 33), (4, 100), (2, 128)])
    def test_do_not_depend_on_the_threads(self, native, batch, hidden, dtype):
        """Of 128 units one or two threads multiply wide backward, and three do not."""
        given = problem(3, steps=11, batch=batch, hidden=hidden, inputs=6, dtype=dtype)
        results = []
        for threads in (1, 2, 3, 3):
            native.threads = threads
            results.append(solve(NUMPY, given))
        for found in results[1:]:
            assert_same_bits(found, results[0])

    @pytest.mark.parametrize("dtype", TOLERANCES)
    def test_inference_gives_those_of_training(self, native, dtype):
        given = problem(4, steps=150, batch=3, hidden=17, inputs=6, lengths=[150, 0, 77], dtype=dtype)
        training, inference = solve(NUMPY, given), infer(NUMPY, given)
        assert_same_bits(inference, {name: training[name] for name in inference})

    def test_stretches_of_a_long_sequence(self, native):
        given = problem(5, steps=300, batch=2, hidden=9, inputs=4, lengths=[300, 131], dtype="float32")
        results = []
        for every in (None, 1):  # 1 is rounded up to the window of 128
            y, _, cache = gl.lstm_forward(
                given.x, given.params, given.state, lengths=given.lengths, checkpoint_every=every
            )
            dx, grads, dstate = gl.lstm_backward(cache, given.dy, given.dstate)
            results.append({"y": y, "dx": dx, "dh": dstate.h, "dc": dstate.c, **grads})
        assert_same_bits(*results)


class TestNumbersThatAreNone:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_sequence_keeps_its_own_to_itself(self, native, bad):
        given = problem(6, steps=6, batch=7, hidden=20, inputs=3, dtype="float32")
        x = given.x.copy()
        x[2, 3] = bad
        clean, dirty = infer(NUMPY, given), infer(NUMPY, given.but(x=x))
        others = [row for row in range(7) if row != 3]
        np.testing.assert_array_equal(dirty["y"][:, others], clean["y"][:, others])
        assert np.isnan(dirty["y"][2:, 3]).any() if np.isnan(bad) else not np.array_equal(dirty["y"], clean["y"])

    def test_padding_is_never_read(self, native):
        given = problem(7, steps=5, batch=3, hidden=18, inputs=3, lengths=[5, 0, 2], dtype="float32")
        x, dy = given.x.copy(), given.dy.copy()
        x[2:, 2] = dy[2:, 2] = np.nan
        assert_same_bits(solve(NUMPY, given.but(x=x, dy=dy)), solve(NUMPY, given))

    def test_the_state_of_an_empty_sequence_passes_through(self, native):
        given = problem(8, steps=5, batch=3, hidden=18, inputs=3, lengths=[5, 0, 2], dtype="float32")
        h, c = (part.copy() for part in given.state)
        h[0, 1] = c[0, 1] = np.nan
        found = solve(NUMPY, given.but(state=(h, c)))
        assert np.isnan(found["h"][0, 1]).all() and np.isnan(found["c"][0, 1]).all()
        assert all(np.isfinite(value).all() for name, value in found.items() if name not in ("h", "c"))

    def test_what_a_sequence_ends_with_is_no_input(self, native):
        """Of one step: its hidden state is NaN, and stands where steps past its end would start from."""
        given = problem(8, steps=5, batch=3, hidden=18, inputs=3, directions=2, lengths=[5, 1, 2], dtype="float32")
        h, c = (part.copy() for part in given.state)
        c[:, 1, 6] = np.nan
        found = solve(NUMPY, given.but(state=(h, c)))
        for name in ("dweight_hh_l0", "dweight_hh_l0_reverse"):
            by_unit = np.isnan(found[name]).reshape(4, 18, 18)
            assert by_unit[:, 6].all() and not np.delete(by_unit, 6, axis=1).any()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_tanh_is_exact_to_a_few_units_in_the_last_place(native, dtype):
    """With open input gates and nothing to remember, c is tanh(x)."""
    x = np.concatenate([np.linspace(-12, 12, 5001), 10.0 ** np.arange(-30, 3), [0.0, 8.99999, 9.00001, 19.1, 1e30]])
    x = np.concatenate([x, -x, np.linspace(-0.4, 0.4, 4001)]).astype(dtype)
    params = {
        "weight_ih_l0": np.array([[0], [0], [1], [0]], dtype),
        "weight_hh_l0": np.zeros((4, 1), dtype),
        "bias_l0": np.array([100, -100, 0, 0], dtype),
    }
    _, state, _ = gl.lstm_forward(x[None, :, None], params)
    found, wanted = state.c[0, :, 0], np.tanh(x.astype(np.longdouble))
    # Half a unit for each operation of which nothing cancels: two products behind the division, the division, what it
    # divides by, itself a product, and the ends of three polynomials.
    assert (np.abs(found - wanted) <= 6 * np.spacing(np.abs(wanted).astype(dtype))).all()
    assert (np.abs(found) <= 1).all() and (np.sign(found) == np.sign(x)).all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("what", ["cells", "gates"])
def test_what_is_saturated_passes_no_gradient_on(native, dtype, what):
    """tanh is 1 there and its slope 0: the last unit of a slope that is not would be multiplied by what is large."""
    given = problem(11, steps=9, batch=2, hidden=18, inputs=3, dtype=dtype).but(dstate=None)
    if what == "cells":
        h, c = given.state
        c[..., ::3], c[..., 1::3] = 1e30, -1e6
        given.x[4, 1], given.x[5, 1] = 1e9, np.inf
    else:
        given.params["weight_ih_l0"][36:54] *= 1e25  # of the candidate
    found = solve(NUMPY, given)
    with native_library.without():
        expected = solve(NUMPY, given)
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_too_small_a_call_goes_through_numpy(native):
    lstm = gl.LSTM(3, 5, rng=0)
    x = np.ones((native_engine.ROWS_THAT_PAY - 1, 1, 3), "float32")
    calls = {}
    with native_library.counted(native, calls):
        y, _, cache = lstm.forward(x)
        lstm.backward(cache, y)
        lstm(x)
        assert calls == {}
        lstm(np.ones((native_engine.ROWS_THAT_PAY, 1, 3), "float32"))
    assert calls == {"forward": 1}


class TestProduct:
    """Matrix products by the compiled LSTM's threads, with which projections are folded."""

    @pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 65, 33), (130, 17, 400), (97, 8, 5)], ids=str)
    @pytest.mark.parametrize("transpose_a", [False, True])
    @pytest.mark.parametrize("transpose_b", [False, True])
    def test_by_value(self, native, sizes, transpose_a, transpose_b):
        rng = np.random.default_rng(sum(sizes))
        rows, columns, depth = sizes
        a, b, before = (rng.normal(size=s).astype("f4") for s in ((rows, depth), (depth, columns), (rows, columns)))
        how = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        taken = [np.ascontiguousarray(m.T) if turned else m for m, turned in ((a, transpose_a), (b, transpose_b))]
        found = []
        for threads in (1, 2, 3):
            native.threads = threads
            out, added = np.full((rows, columns), np.nan, "f4"), before.copy()
            product(*taken, out, **how)
            product(*taken, added, **how, accumulate=True)
            found.append({"out": out, "added": added})
        exact = a.astype("f8") @ b
        np.testing.assert_allclose(found[0]["out"], exact, rtol=0, atol=1e-6 * depth)
        np.testing.assert_allclose(found[0]["added"], exact + before, rtol=0, atol=1e-6 * depth)
        for other in found[1:]:
            assert_same_bits(other, found[0])

    @pytest.mark.parametrize("batch", [1, 3])
    def test_of_some_columns(self, native, batch):
        rng = np.random.default_rng(0)
        m, weight, y = (rng.normal(size=s).astype("f4") for s in ((5, batch, 9), (4, 9), (5, batch, 8)))
        before, found = y.copy(), np.zeros((4, 9), "f4")
        product(y[:, :, 4:], m, found, transpose_a=True)
        np.testing.assert_allclose(found, y[:, :, 4:].reshape(-1, 4).T @ m.reshape(-1, 9), rtol=0, atol=1e-5)
        product(m, weight, y[:, :, 4:], transpose_b=True)
        np.testing.assert_allclose(y[:, :, 4:], m @ weight.T, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(y[:, :, :4], before[:, :, :4])


class TestProjections:
    """Folded into weight_hh: see `tests.test_folded_projection`."""

    SIZES = {"steps": 20, "batch": 3, "hidden": 20, "proj_size": 7, "num_layers": 2}

    @pytest.mark.parametrize(
        "options",
        [{"bidirectional": True, "lengths": (20, 0, 7), "weight_drop": 0.2}, {"reverse": True, "state": False}],
        ids=["both directions, lengths, weight drop", "reverse, no state"],
    )
    def test_all_results(self, native, options):
        given, calls = variant_kernel_cases.case(**self.SIZES, **options), {}
        for name, run in variant_kernel_cases.RUNS.items():
            with folding.forced(False):
                wanted = run(NUMPY, given, "float64")
            with native_library.counted(native, calls):
                found = run(NUMPY, given, "float32")
            for key in wanted:
                assert variant_kernel_cases.error(found[key], wanted[key]) <= TOLERANCE, (name, key)
        assert calls["forward"] == 2 * calls["backward"] and calls["backward"] in (2, 4)

    def test_the_same_bits_with_checkpoints(self, native, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 8)
        given, found = variant_kernel_cases.case(**self.SIZES, bidirectional=True, lengths=(20, 0, 9)), []
        a = given.of("float32")
        for every in (None, 8, 100):
            how = {"lengths": a["lengths"], "checkpoint_every": every}
            y, final, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **how)
            dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
            found.append({"y": y, "h": final.h, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads})
        for other in found[1:]:
            assert_same_bits(other, found[0])


FORK = """
import os, select, sys
import numpy as np
import gpulstm as gl

lstm, x = gl.LSTM(8, 96, rng=0), np.ones((20, 8, 8), "float32")
wanted, _ = lstm(x)  # with two threads
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, np.float32(lstm(x)[0].sum()).tobytes())
    os._exit(0)
ready, _, _ = select.select([reader], [], [], 30)
if not ready:
    os.kill(child, 9)
    sys.exit("the child hangs")
os.waitpid(child, 0)
print(str(lstm.plan(x).forward), np.frombuffer(os.read(reader, 4), np.float32)[0] == np.float32(wanted.sum()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_threads_that_stayed_behind(native):
    """In a process of its own: other libraries that the tests use do not like to be forked."""
    ran = subprocess.run(
        [sys.executable, "-c", FORK],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("native: ") and ran.stdout.endswith(" True\n")
