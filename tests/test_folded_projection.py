"""A projection folded into weight_hh, against the step-by-step equations, PyTorch and the loop that does not fold it.

What folding may be off by: W_hh (W_hr m) and (W_hh W_hr) m are the same product of three factors, each off by at most
(proj + hidden) u |W_hh| |W_hr| |m| to first order in the rounding u. So what bounds the loop's errors bounds these, and
the tolerances are those of `test_variants`, `schedule_cases`, `half_cases` and `test_tf32`. In 16 bits W' and m are
rounded once each where the loop would have rounded h.
"""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import folding, planner
from gpulstm.engines import cupy_engine, cupy_graph, numpy_engine
from gpulstm.functional import lstm_inference
from tests import backends, half_cases, variant_cases
from tests.backends import NUMPY, Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.problems import assert_same_bits
from tests.schedule_cases import scheduled
from tests.test_variant_gradients import check_directions
from tests.test_variants import TOLERANCE, TOLERANCE_ALONE
from tests.test_variants import check as check_variant
from tests.variant_kernel_cases import RUNS, Case, case, check, error, train

LENGTHS = (6, 0, 3, 1, 5)
PROJECTED = (4, 5, 8, 10, 14, 23, 25, 38, 45, 133, 228, 246)
"""Numbers of combinations of options whose projection can be folded."""

UNDER_NUMPY = (8, 14, 47, 62, 122, 154, 206, 214, 220, 280)
"""Others, and two of them, that leave the plain LSTM, for which alone NumPy folds."""


@pytest.fixture(autouse=True)
def always_folded(request):
    """The stand-in says itself whether it folds, when it begins: so this comes after the fixture ``backend``."""
    if "backend" in request.fixturenames:
        request.getfixturevalue("backend")
    with folding.forced(True):
        yield


def usual(**changes) -> Case:
    """With 5 multiprocessors, several blocks in several groups; hidden makes three blocks, the last one half full."""
    return case(**{"steps": 6, "batch": 5, "hidden": 20, "lengths": LENGTHS, "proj_size": 7, **changes})


def not_folded(given: Case, run: str) -> dict[str, np.ndarray]:
    with folding.forced(False):
        return RUNS[run](Backend(NUMPY, np), given, "float64")


class TestAgainstTheEquations:
    """Values by `plain_loop`, gradients by automatic differentiation."""

    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("dtype", TOLERANCE)
    def test_alone(self, backend, dtype):
        expected = variant_cases.expected_alone("proj_size")
        check_variant(variant_cases.alone("proj_size"), expected, backend, dtype, TOLERANCE_ALONE[dtype])

    @pytest.mark.parametrize("number", range(len(PROJECTED)))
    def test_with_other_options(self, backend, number):
        seeds = UNDER_NUMPY if backend.name == NUMPY else PROJECTED
        seed = seeds[number % len(seeds)]
        given, expected = variant_cases.combination(seed), variant_cases.expected_combination(seed)
        check_variant(given, expected, backend, "float64", TOLERANCE["float64"])

    def test_against_finite_differences(self, backend):
        check_directions(backend, variant_cases.alone("proj_size", layers=1), 1)
        if backend.name == NUMPY:
            check_directions(backend, variant_cases.combination(UNDER_NUMPY[0]), 2)

    def test_there_are_cases_of_every_kind(self):
        for each in map(variant_cases.combination, {*PROJECTED, *UNDER_NUMPY}):
            assert each.proj_size and not any("norm" in name for name in each.params), each
            assert not each.options.get("zoneout") and each.options.get("recurrent_dropout_on") != "hidden", each
        for each in map(variant_cases.combination, UNDER_NUMPY):
            assert not set(each.options) - {"dropout", "weight_drop", "reverse"}, each
            assert "weight_peephole_l0" not in each.params, each
        cases = [variant_cases.combination(seed) for seed in PROJECTED]
        options = set().union(*(each.options for each in cases))
        assert {
            "coupled",
            "cell_clip",
            "activations",
            "dropout",
            "weight_drop",
            "recurrent_dropout",
            "reverse",
        } <= options
        assert any("weight_peephole_l0" in each.params for each in cases)
        assert any(each.lengths is not None and each.options.get("reverse") for each in cases)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
class TestAgainstPyTorch:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("sizes", [(4, 6, 3, 1, 1, False), (3, 5, 2, 2, 2, True)], ids=str)
    def test_all_results(self, backend, sizes):
        inputs, hidden, proj, layers, directions, batch_first = sizes
        torch.manual_seed(0)
        more = {"proj_size": proj, "bidirectional": directions == 2, "batch_first": batch_first}
        theirs = torch.nn.LSTM(inputs, hidden, layers, **more, dtype=torch.float64)
        ours = gl.LSTM.from_torch(theirs, xp=backend.xp)
        lanes = layers * directions
        shapes = ((5, 4, inputs), (lanes, 5 if batch_first else 4, proj), (lanes, 5 if batch_first else 4, hidden))
        x, h, c = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
        y, final = theirs(x, (h, c))
        weights = [torch.randn_like(out) for out in (y, *final)]
        torch.autograd.backward([y, *final], weights)
        given, *state = (backend.array(a.detach().numpy()) for a in (x, h, c))
        dy, *dstate = (backend.array(a.numpy()) for a in weights)
        found_y, found, cache = ours.forward(given, tuple(state))
        dx, grads, dinitial = ours.backward(cache, dy, tuple(dstate))
        named = dict(theirs.named_parameters())
        pairs = [(found_y, y), (found.h, final[0]), (found.c, final[1]), (dx, x.grad)]
        pairs += [(dinitial.h, h.grad), (dinitial.c, c.grad)]
        pairs += [(d, named[name.replace("bias", "bias_ih")].grad) for name, d in grads.items()]
        for value, wanted in pairs:
            np.testing.assert_allclose(backend.numpy(value), wanted.detach().numpy(), rtol=0, atol=1e-12)


MORE = {
    "alone": {},
    "two layers, dropout": {"num_layers": 2, "dropout": 0.2, "lengths": None, "bias": False},
    "weight drop": {"weight_drop": 0.3},
    "peephole, coupled": {"peephole": True, "coupled": True},
    "zoneout of c": {"zoneout": (0.0, 0.3)},
    "dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"},
}
MORE["together"] = {k: v for name in list(MORE)[2:] for k, v in MORE[name].items()}


class TestSchedules:
    """Against NumPy in float64, which does not fold here."""

    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize(
        ("schedule", "name"),
        [*(("resident", name) for name in MORE), *(("persistent", n) for n in ("alone", "together"))],
    )
    def test_in_one_launch(self, backend, name, schedule):
        given = usual(bidirectional=True, **MORE[name])
        with scheduled(backend, schedule, 5), folding.forced(False):  # there is no other way, forced or not
            for run in RUNS:
                check(backend, given, run, "float32")

    @pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "no lengths"])
    @pytest.mark.parametrize("schedule", ["cluster", "graph"])
    def test_of_the_plain_layer_alone(self, backend, schedule, lengths, monkeypatch):
        monkeypatch.setattr(cupy_graph, "_stages", type(cupy_graph._stages)())
        with scheduled(backend, schedule, 5), folding.forced(True):
            for run in RUNS:
                check(backend, usual(reverse=True, lengths=lengths), run, "float32")

    @pytest.mark.parametrize("sizes", [{"dy": False}, {"state": False, "reverse": True}, {"steps": 1, "lengths": None}])
    def test_what_may_be_missing(self, backend, sizes):
        with scheduled(backend, "resident", 5):
            check(backend, usual(**sizes), "training", "float32")

    @pytest.mark.parametrize("schedule", ["loop", "persistent"])
    @pytest.mark.parametrize("dtype", half_cases.DTYPES)
    def test_16_bits(self, backend, dtype, schedule):
        given = usual(bidirectional=True, hidden=40, proj_size=24)
        rounded = given.but(**{name: in_16_bits(given.arrays[name], dtype) for name in ARRAYS})
        for run in RUNS:
            wanted = not_folded(rounded, run)
            with scheduled(backend, schedule, 5):
                found = RUNS[run](backend, rounded, half_cases.numpy_dtype(dtype))
            assert found.keys() == wanted.keys()
            for name, value in found.items():
                assert value.dtype == half_cases.numpy_dtype(dtype) and value.shape == wanted[name].shape
                assert error(value, wanted[name]) <= half_cases.TOLERANCE * half_cases.ROUNDING[dtype], name

    @pytest.mark.parametrize("schedule", ["loop", "persistent"])
    def test_tf32(self, backend, schedule):
        given, tf32 = usual(bidirectional=True), usual(bidirectional=True, tf32=True)
        with scheduled(backend, schedule, 5):
            found = train(backend, tf32, "float32")
        for name, wanted in not_folded(given, "training").items():
            assert error(found[name], wanted) < 1e-3, name
        if backend.name != backends.GPU:
            assert error(found["y"], not_folded(given, "training")["y"]) > 2e-6


ARRAYS = ("x", "params", "state", "dy", "dstate")


def in_16_bits(value, dtype: str):
    """The values rounded to 16 bits, in float32."""
    if isinstance(value, dict):
        return {name: in_16_bits(item, dtype) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(in_16_bits(item, dtype) for item in value)
    return value.astype(half_cases.numpy_dtype(dtype)).astype("float32")


class TestStretches:
    """Bits do not hang on how time is cut, nor on the threads' order: what goes on from one to the next is m itself."""

    BACKENDS = (NUMPY, *backends.KERNELS)

    @pytest.mark.parametrize("sizes", [{"bidirectional": True}, {"lengths": None, "reverse": True}, {"lengths": None}])
    def test_checkpoints(self, backend, sizes, monkeypatch):
        monkeypatch.setattr(engines, "WINDOW", 2)
        monkeypatch.setattr(engines, "GPU_ROWS", 1)
        given, found = usual(num_layers=2, **sizes), []
        a = backend.array({name: given.of("float32")[name] for name in ARRAYS})
        with nullcontext() if backend.name == NUMPY else scheduled(backend, "resident"):
            for every in (None, 1, 4, 100):
                how = {"lengths": given.arrays["lengths"], "options": given.options, "checkpoint_every": every}
                y, final, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **how)
                dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
                results = {"y": y, "hn": final.h, "cn": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}
                found.append(backend.numpy(results))
        for other in found[1:]:
            assert_same_bits(other, found[0])

    @pytest.mark.parametrize("sizes", [{"bidirectional": True}, {"num_layers": 2}, {"lengths": None, "reverse": True}])
    def test_inference_in_tiles(self, backend, sizes, monkeypatch):
        given, engine = usual(**sizes), numpy_engine if backend.name == NUMPY else cupy_engine
        for steps, sequences in ((2, 5), (1, 3)):
            monkeypatch.setattr(engine, "GATE_BUFFER_BYTES", steps * sequences * 4 * 20 * 8)
            found, wanted = RUNS["inference"](backend, given, "float64"), not_folded(given, "inference")
            for name in wanted:
                np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-13)

    def test_the_final_state_is_the_last_output(self, backend):
        for sizes in ({}, {"lengths": None}, {"reverse": True}):
            given = usual(**sizes)
            lengths = given.arrays["lengths"]
            for run in RUNS.values():
                found = run(backend, given, "float32")
                for n in range(5):
                    count = 6 if lengths is None else lengths[n]
                    expected = found["y"][0 if "reverse" in sizes else count - 1, n]
                    expected = expected if count else given.of("float32")["state"][0][0, n]
                    np.testing.assert_array_equal(found["h"][0, n], expected)

    def test_in_any_order_and_with_a_late_block(self, backend):
        if backend.name != backends.CUPY_ON_CPU:
            return
        given, found = usual(steps=3, lengths=(3, 0, 2, 1, 2), reverse=True), []
        for settings in ({}, {"late_block": 1}, {"thread_order": "random", "seed": 1}):
            with cupy_on_cpu(**settings) as cupy, scheduled(backend, "persistent", 5):
                found.append(train(Backend(backends.CUPY_ON_CPU, cupy), given, "float32"))
        for other in found[1:]:
            assert_same_bits(other, found[0])


class TestNotANumber:
    BACKENDS = (NUMPY, *backends.KERNELS)

    @pytest.mark.parametrize("direction", [{"bidirectional": True}, {"reverse": True}], ids=str)
    def test_beyond_the_end_and_in_an_empty_sequence(self, backend, direction):
        given = usual(**direction)
        x, dy = given.arrays["x"].copy(), given.arrays["dy"].copy()
        state, dstate = (tuple(part.copy() for part in given.arrays[name]) for name in ("state", "dstate"))
        for array in (x, dy):
            array[:, 1], array[3:, 2] = np.nan, np.inf
        for part in (*state, *dstate):
            part[:, 1] = np.nan
        wrong = given.but(x=x, dy=dy, state=state, dstate=dstate)
        found, wanted = (train(backend, each, "float64") for each in (wrong, given))
        for name in wanted:
            if name in ("h", "c", "dh", "dc"):
                assert np.isnan(found[name][:, 1]).all()
                found[name][:, 1] = wanted[name][:, 1]
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)

    @pytest.mark.parametrize("name", ["weight_hh_l0", "weight_hr_l0"])
    def test_in_a_weight(self, backend, name):
        """It is nobody's business to an empty sequence, nor to what is beyond an end."""
        given = usual()
        params = given.arrays["params"] | {name: given.arrays["params"][name] * np.float32(np.nan)}
        found = train(backend, given.but(params=params), "float32")
        for key, before in zip(("dh", "dc"), given.arrays["dstate"], strict=True):
            np.testing.assert_array_equal(found[key][:, 1], before[:, 1])
            assert np.isnan(found[key][:, 0]).any()
        np.testing.assert_array_equal(found["h"][:, 1], given.arrays["state"][0][:, 1])
        assert np.isnan(found["y"][1:, 0]).all()
        for sequence, length in enumerate(LENGTHS):
            assert not found["y"][length:, sequence].any()

    def test_from_one_step_on(self, backend):
        given = usual(lengths=None)
        x = given.arrays["x"].copy()
        x[2, 1, 0] = np.nan
        found, wanted = (train(backend, each, "float64") for each in (given.but(x=x), given))
        assert np.isnan(found["y"][2:, 1]).all() and np.isfinite(found["y"][:2, 1]).all()
        for key in ("y", "h", "c", "dx", "dh", "dc"):
            np.testing.assert_array_equal(found[key][:, [0, 2]], wanted[key][:, [0, 2]], err_msg=key)


class TestWhatIsLaunched:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("schedule", ["resident", "persistent"])
    def test_one_kernel_for_all_steps(self, backend, schedule):
        given, runs = usual(num_layers=2, bidirectional=True), 4
        with scheduled(backend, schedule, 5):
            backend.xp.on_cpu.reset_counts()
            train(backend, given, "float32")
        found = Counter(backend.xp.on_cpu.launches)
        assert found[f"lstm_{schedule}_forward"] == found[f"lstm_{schedule}_backward"] == runs
        assert not any("step" in name or "variant" in name for name in found)
        # Forward W', W_ih x, W_hh h_0 and y. Backward dm of dy and of dh, dW_hr of each, dx, dW_ih and dW', h_0's two,
        # and dW' into both weights.
        assert sum(backend.xp.on_cpu.gemms.values()) == runs * (4 + 4 + 3 + 2 + 2)

    @pytest.mark.parametrize(
        "made", [{"zoneout": (0.1, 0.0)}, {"recurrent_dropout": 0.1}, {"layer_norm": True}], ids=str
    )
    def test_what_cannot_be_folded_takes_the_loop(self, backend, made):
        given = usual(steps=2, lengths=None, **made)
        with scheduled(backend, "resident", 5), planner.only("loop", "resident"):
            for run in ("training",) if "recurrent_dropout" in made else RUNS:
                backend.xp.on_cpu.reset_counts()
                RUNS[run](backend, given, "float32")
                assert backend.xp.on_cpu.launches["lstm_variant_output_forward"] == 2

    def test_recurrent_dropout_is_nothing_in_inference(self, backend):
        with scheduled(backend, "resident", 5):
            backend.xp.on_cpu.reset_counts()
            RUNS["inference"](backend, usual(recurrent_dropout=0.2), "float32")
        assert backend.xp.on_cpu.launches["lstm_resident_forward"] == 1


def test_a_single_step_in_16_bits():
    with cupy_on_cpu() as cupy:
        given = usual(steps=1, lengths=None)
        lstm = gl.LSTM(4, 20, proj_size=7, dtype="float16", xp=cupy, rng=0)
        y, state = lstm(cupy.asarray(given.arrays["x"], "float16"))
        wanted, _ = lstm_inference(
            given.arrays["x"], {name: p.get().astype("float32") for name, p in lstm.params.items()}
        )
        assert error(y.get(), wanted) < 1e-2 and (y.get()[0] == state.h.get()[0]).all()
