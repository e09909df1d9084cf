"""Options in the schedule "graph", against the loop that it captures: the same launches, so the same bits."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines, functional
from gpulstm.cuda import folding, graph_layouts, own_cublas, planner
from gpulstm.engines import cupy_graph
from gpulstm.engines.cupy_variant_engine import CupyVariantEngine
from gpulstm.masks import Draws
from tests import backends
from tests.half_cases import DTYPES, ROUNDING, numpy_dtype
from tests.problems import assert_close, assert_same_bits
from tests.test_half_options import IN_THE_LOOP, half
from tests.variant_kernel_cases import ALONE, RUNS, Case, case, infer, random_case, train

BACKENDS = backends.KERNELS
LENGTHS = (7, 0, 4)
MASKED = {"recurrent_dropout": 0.3, "zoneout": (0.2, 0.4)}
TOGETHER = {**MASKED, "peephole": True, "layer_norm": True, "proj_size": 3, "weight_drop": 0.2}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """No stage of another test's, and graphs of 3 steps, of which short sequences need several."""
    monkeypatch.setattr(cupy_graph, "_stages", type(cupy_graph._stages)())
    monkeypatch.setattr(cupy_graph, "_failures", {})
    monkeypatch.setattr(graph_layouts, "STEPS", 3)
    monkeypatch.setattr(graph_layouts, "FEWEST_STEPS", 1)
    planner._choose.cache_clear()
    yield
    planner._choose.cache_clear()


def usual(**changes) -> Case:
    return case(**{"steps": 7, "lengths": LENGTHS, **changes})


def both(backend, how, *arguments) -> tuple[dict, dict]:
    """The results in a graph, in which something must have been replayed, and in the loop."""
    with planner.only("loop"):
        expected = how(backend, *arguments)
    with planner.only("graph"), warnings.catch_warnings():
        warnings.simplefilter("error")  # the loop would run instead
        found = how(backend, *arguments)
    assert cupy_graph._stages
    return found, expected


def check(backend, how, *arguments) -> None:
    found, expected = both(backend, how, *arguments)
    if backend.name == backends.GPU:  # another handle may choose another algorithm for a product
        assert_close(found, expected, 1e-10)
    else:
        assert_same_bits(found, expected)


@pytest.mark.parametrize("name", ALONE)
def test_each_option_alone(backend, name):
    check(backend, train, usual(bidirectional=True, **ALONE[name]), "float64")
    check(backend, infer, usual(**ALONE[name]), "float64")


@pytest.mark.parametrize("number", range(16))
def test_combinations(backend, number):
    given = random_case(number)
    for run in RUNS.values():
        check(backend, run, given, "float64")


@pytest.mark.parametrize("run", RUNS)
def test_together_in_float32_and_tf32(backend, run):
    for tf32 in (False, True) if backend.name != backends.GPU else (False,):
        given = usual(bidirectional=True, tf32=tf32, **TOGETHER)
        found, expected = both(backend, RUNS[run], given, "float32")
        if backend.name == backends.GPU:
            assert_close(found, expected, 1e-4)
        else:
            assert_same_bits(found, expected)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["peephole", "projection and zoneout", "together", "layer norm together"])
def test_in_16_bits(backend, name, dtype, run):
    """What crosses from stretch to stretch is as wide as what crosses from step to step."""
    given = half(dtype, steps=7, batch=3, hidden=16, lengths=LENGTHS, **IN_THE_LOOP[name])
    kind = numpy_dtype(dtype)
    found, expected = both(backend, RUNS[run], given, kind)
    if backend.name == backends.GPU:
        wide = ({name: a.astype(np.float64) for name, a in results.items()} for results in (found, expected))
        assert_close(*wide, 64 * ROUNDING[kind.name])
    else:
        assert_same_bits(found, expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_any_number_of_steps(backend, steps):
    check(backend, train, usual(steps=steps, lengths=None, reverse=True, **TOGETHER), "float64")


def test_a_folded_projection_with_options(backend):
    given = usual(proj_size=3, peephole=True, coupled=True, zoneout=(0.0, 0.3), weight_drop=0.2, reverse=True)
    with folding.forced(True):
        for run in RUNS.values():
            check(backend, run, given, "float64")
    assert not any("dm" in stage.buffers and "dh_star" in stage.buffers for stage in cupy_graph._stages.values())


def test_no_gradient_of_y_and_no_initial_state(backend):
    check(backend, train, usual(dy=False, state=False, **TOGETHER), "float64")


def test_in_windows_and_with_checkpoints(backend, monkeypatch):
    """What is drawn does not depend on where a stretch begins, and inference goes through its gates in parts."""
    monkeypatch.setattr(engines, "WINDOW", 2)
    monkeypatch.setattr(engines, "GPU_ROWS", 1)
    given = usual(bidirectional=True, **TOGETHER)
    row = 4 * given.layout.hidden_size * 8
    monkeypatch.setattr(CupyVariantEngine, "GATE_BUFFER_BYTES", 4 * 3 * row)
    a = {name: backend.array(value) for name, value in given.of("float64").items() if name != "lengths"}

    def kept_sparsely(backend) -> dict:
        made = {"lengths": LENGTHS, "options": given.options, "rng": given.seed, "checkpoint_every": 4}
        y, _, cache = gl.lstm_forward(a["x"], a["params"], a["state"], **made)
        return backend.numpy({"y": y, **gl.lstm_backward(cache, a["dy"], a["dstate"])[1]})

    check(backend, kept_sparsely)
    check(backend, infer, given, "float64")


def test_gradients_of_inference(backend):
    """Nothing is drawn, zoneout mixes, and everything is kept for backward: no graph of training may run instead."""
    given = usual(zoneout=(0.2, 0.4), layer_norm=True)  # the same options with a seed and without
    a = {name: backend.array(value) for name, value in given.of("float64").items() if name != "lengths"}

    def without_a_seed(backend) -> dict:
        draws = Draws(given.options, None)
        y, _, cache = functional.forward(None, a["x"], a["params"], a["state"], LENGTHS, False, draws)
        dx, grads, dinitial = gl.lstm_backward(cache, a["dy"], a["dstate"])
        return backend.numpy({"y": y, "dx": dx, "dh": dinitial.h, **grads})

    check(backend, train, given, "float64")
    check(backend, without_a_seed)


def test_neither_padding_nor_an_empty_sequence_gets_anywhere(backend):
    given = usual(bidirectional=True, **MASKED, peephole=True)
    x, dy, (h, c) = (given.arrays[name] for name in ("x", "dy", "state"))
    x, dy, h, c = (array.copy() for array in (x, dy, h, c))
    for array in (x, dy):
        array[:, 1], array[4:, 2] = np.nan, np.inf
    h[:, 1] = c[:, 1] = np.nan
    found, expected = both(backend, train, given.but(x=x, dy=dy, state=(h, c)), "float64")
    for name, wanted in expected.items():
        np.testing.assert_allclose(
            found[name], wanted, rtol=0, atol=1e-10 * (backend.name == backends.GPU), err_msg=name
        )
        assert name in ("h", "c") or np.isfinite(wanted).all(), name


class TestCaptures:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def captures(self, backend, *arguments) -> int:
        backend.xp.on_cpu.reset_counts()
        with planner.only("graph"):
            train(backend, *arguments, "float64")
        return backend.xp.on_cpu.graphs["capture"]

    def test_other_seeds_layers_and_directions_share_them(self, backend):
        """A seed in a captured launch would be drawn from again."""
        given = usual(num_layers=2, dropout=0.2, **MASKED)
        assert self.captures(backend, given) == 4  # forward and back, of 3 steps and of 1
        other = replace(given, seed=given.seed // 3)
        assert self.captures(backend, other) == 0
        check(backend, train, other, "float64")
        found = [train(backend, each, "float64")["y"] for each in (given, other)]
        assert not np.array_equal(*found)
        backwards = usual(reverse=True, **MASKED)
        assert self.captures(backend, backwards) == 4 and len(cupy_graph._stages) == 4

    @pytest.mark.parametrize(
        "changed",
        [{"zoneout": (0.2, 0.1)}, {"cell_clip": 0.5}, {"coupled": True}, {"activations": ("sigmoid", "tanh", "relu")}],
        ids=str,
    )
    def test_other_arguments_of_a_launch_make_others(self, backend, changed):
        assert self.captures(backend, usual(**MASKED)) == 4
        given = usual(**{**MASKED, **changed})
        assert self.captures(backend, given) == 4
        check(backend, train, given, "float64")

    def test_dropout_of_weights_and_between_layers_make_none(self, backend):
        given = usual(num_layers=2, zoneout=0.2)
        assert self.captures(backend, given) == 4
        assert self.captures(backend, replace(given, options=replace(given.options, dropout=0.3, weight_drop=0.4))) == 0

    def test_what_is_launched(self, backend):
        given = usual(steps=6, lengths=None, **MASKED)
        self.captures(backend, given)
        assert self.captures(backend, given) == 0
        replays = {"lstm_variant_cell_forward": 6, "lstm_variant_cell_backward": 6}
        replays |= {"lstm_variant_first_input": 2, "lstm_variant_initial_gradient": 2, "replay_arguments": 4}
        assert dict(backend.xp.on_cpu.launches) == {**replays, "masked_copy": 1, "column_sum": 1}
        assert backend.xp.on_cpu.graphs["launch"] == 4

    def test_a_stage_has_the_room_that_the_planner_counts(self, backend, monkeypatch):
        """Of a projected layer with layer norm and zoneout, which has every buffer."""
        monkeypatch.setattr(graph_layouts, "STEPS", 32)
        batch, hidden = 3, 16
        self.captures(backend, usual(hidden=hidden, **{**TOGETHER, "proj_size": 15}))
        counted = graph_layouts._NUMBERS[planner.LAYER_NORM] * hidden * batch * 8
        for key, stage in cupy_graph._stages.items():
            of_steps = [a for name, a in stage.buffers.items() if len(a) >= 32 and name not in ("norms", "draw")]
            a_step = sum(array.nbytes / 32 for array in of_steps)
            assert 0.9 * counted < a_step < 1.04 * counted, key


class TestFailures:
    BACKENDS = (backends.CUPY_ON_CPU,)

    def test_without_graphs_the_loop_runs(self, backend, monkeypatch):
        given = usual(bidirectional=True, **TOGETHER)
        with planner.only("loop"):
            expected = {name: run(backend, given, "float64") for name, run in RUNS.items()}
        monkeypatch.setattr(own_cublas._library, "cublasDgemm_v2", lambda *arguments: 13, raising=False)
        with planner.only("graph"), pytest.warns(UserWarning, match="run in a loop, .* gave status 13"):
            for name, run in RUNS.items():
                assert_same_bits(run(backend, given, "float64"), expected[name])
