"""Layers of float16 and bfloat16 on top of each other side by side in one launch: the kernels by themselves against
NumPy with the same roundings, and whole stacks against the NumPy engine."""

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpulstm.cuda import catalogue, half_layouts, stacked_layers
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import Lane, cupy_engine, cupy_layers, cupy_one_launch
from gpulstm.engines.cupy_engine import Saved
from gpulstm.parameters import Weights
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import DTYPES, half_problem, numpy_dtype
from tests.half_cases import check as check_results
from tests.half_recurrence import HalfCase, backward_in_numpy, check, choice_of, forward_in_numpy, half_case, rounded
from tests.problems import assert_same_bits, infer, solve
from tests.schedule_cases import goes_wrong, scheduled
from tests.test_half_precision import solve_with
from tests.test_kernel_sanitizers import without

DIRECTIONS = (FORWARD, BACKWARD)
KERNELS = {FORWARD: half_layouts.FORWARD, BACKWARD: half_layouts.BACKWARD}
ALL = [(d, tiles) for d in DIRECTIONS for tiles in half_layouts.TILES_OF_LAYERS[KERNELS[d]]]
PART = [  # in two row groups and in one; the second matrix in registers, in shared memory, and some of it in either
    (FORWARD, (4, 4, 2, 0, 1, 1)),
    (FORWARD, (16, 4, 4, 0, 1, 2)),
    (BACKWARD, (8, 2, 2, 0, 1, 1)),
    (BACKWARD, (16, 1, 16, 4, 1, 8)),
]
SMALL = {FORWARD: (16, 4, 2, 0, 1, 1), BACKWARD: (16, 1, 8, 0, 1, 4)}  # 16 hidden units in a block
LENGTHS = np.array([3, 0, 2, 1, 3])


@dataclass
class Stack:
    """Layers from below, and W_ih of all but the lowest. Only the lowest one has inputs, only the uppermost one dy."""

    layers: list[HalfCase]
    input_weights: list[np.ndarray]

    @property
    def dtype(self) -> str:
        return self.layers[0].dtype


def stack(dtype: str, steps: int, batch: int, hidden: int, count: int = 2, **settings) -> Stack:
    layers = [half_case(dtype, steps, batch, hidden, seed=seed, **settings) for seed in range(count)]
    rng = np.random.default_rng(count)
    of_inputs = [rounded(rng.standard_normal((4 * hidden, hidden)) * hidden**-0.5, dtype) for _ in layers[1:]]
    return Stack(layers, of_inputs)


def together(direction: str, tiles: tuple[int, ...], given: Stack, groups: int, share: int) -> Choice:
    choice = choice_of(direction, tiles, given.dtype, given.layers[0].sizes[2], groups, share)
    return choice._replace(layers=len(given.layers))


def forward_twin(given: Stack) -> list[dict[str, np.ndarray]]:
    """Layer by layer. What a layer takes from the one below is not rounded once more."""
    found: list[dict[str, np.ndarray]] = []
    for layer, case in enumerate(given.layers):
        if layer:
            case = replace(case, inputs=found[-1]["y"] @ given.input_weights[layer - 1].T.astype(np.float64))
        found.append(forward_in_numpy(case))
    return found


def backward_twin(given: Stack, forward: list[dict]) -> list[dict[str, np.ndarray]]:
    found: list[dict[str, np.ndarray]] = []
    for layer, case in [*enumerate(given.layers)][::-1]:
        if found:
            case = replace(case, dy=found[0]["gates"] @ given.input_weights[layer].astype(np.float64))
        found.insert(0, backward_in_numpy(case, forward[layer]["gates"], forward[layer]["cells"]))
    return found


def running(case: HalfCase) -> np.ndarray:
    """(steps, batch, 1)"""
    steps, batch, _ = case.sizes
    lengths = np.full(batch, steps) if case.lengths is None else case.lengths - case.first_time
    return (np.arange(steps)[:, None] < lengths)[..., None]


class Arrays:
    """Of a stack, on a GPU or what stands in for it."""

    def __init__(self, cupy, given: Stack) -> None:
        self.cupy, self.dtype, lowest = cupy, given.dtype, given.layers[0]
        weights = [(case.weight, case.bias) for case in given.layers]
        of_inputs = [None, *given.input_weights]
        self.weights = [Weights(*map(self.half, (i, *w))) for i, w in zip(of_inputs, weights, strict=True)]
        self.lengths = None if lowest.lengths is None else cupy.asarray(lowest.lengths.astype(np.int32))
        self.lane = Lane(0, lowest.sizes[2], lowest.reverse, 0)
        self.first_time = lowest.first_time

    def half(self, numbers):
        return None if numbers is None else self.cupy.asarray(numbers.astype(numpy_dtype(self.dtype)))


def run_forward(cupy, given: Stack, choice: Choice, keep: bool = True) -> list[dict[str, np.ndarray]]:
    """Layer by layer what the kernel makes; gates where a sequence runs, and zero elsewhere."""
    on, (steps, batch, hidden) = Arrays(cupy, given), given.layers[0].sizes
    first, top = steps if on.lane.reverse else 0, len(given.layers) - 1
    gates, cells, hiddens, outputs = [], [], [], []
    for layer, case in enumerate(given.layers):
        gates.append(on.half(case.inputs if layer == 0 else np.zeros_like(case.inputs)))
        hiddens.append(cupy_one_launch.history(choice, (steps + 1, batch, hidden), gates[0]))
        hiddens[-1][first] = on.half(case.h)
        cells.append(cupy.zeros((steps + 1, batch, hidden) if keep else (batch, hidden), np.float32))
        cells[-1][first if keep else ...] = cupy.asarray(case.c)
        outputs.append(on.half(np.full((steps, batch, hidden), 7.0)) if keep or layer == top else None)
    of_gates = gates if keep else [gates[0], *[None] * top]
    of_time = on.lengths, on.first_time
    cupy_layers._forward_steps(choice, of_gates, cells, hiddens, on.weights, outputs, on.lane, *of_time, keep)
    names, found = ("gates", "cells", "hiddens", "y"), []
    for arrays in zip(gates, cells, hiddens, outputs, strict=True):
        of_layer = {n: a.get().astype(np.float32) for n, a in zip(names, arrays, strict=True) if a is not None}
        found.append({**of_layer, "gates": of_layer["gates"] * running(given.layers[0])})
    return found


def run_backward(cupy, given: Stack, choice: Choice, forward: list[dict]) -> list[dict[str, np.ndarray]]:
    on = Arrays(cupy, given)
    runs = [Saved(on.half(f["gates"]), cupy.asarray(f["cells"].astype(np.float32)), None) for f in forward]
    dh, dc = ([cupy.asarray(getattr(case, name)) for case in given.layers] for name in ("dh", "dc"))
    dy = on.half(given.layers[-1].dy)
    cupy_layers._backward_steps(choice, runs, on.weights, dy, dh, dc, on.lane, on.lengths)
    arrays = zip([run.gates for run in runs], dh, dc, strict=True)
    return [dict(zip(("gates", "dh", "dc"), [a.get().astype(np.float32) for a in of], strict=True)) for of in arrays]


def run(direction: str, given: Stack, choice: Choice, mode: str = "fibers", **settings) -> tuple[list, list]:
    """(what the kernel made, what NumPy makes), layer by layer"""
    forward = forward_twin(given)
    with cupy_on_cpu(mode, **settings) as cupy:
        if direction == BACKWARD:
            return run_backward(cupy, given, choice, forward), backward_twin(given, forward)
        expected = [{**f, "gates": f["gates"] * running(given.layers[0])} for f in forward]
        return run_forward(cupy, given, choice), expected


def check_all(found: list[dict], expected: list[dict], dtype: str) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        check(ours, theirs, dtype)


def same_bits(found: list[dict], expected: list[dict], what: object = "") -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=f"{name}, {what}")


def usual(dtype: str, direction: str, count: int = 2, **settings) -> tuple[Stack, Choice]:
    """Two blocks of each layer, the last of them half full, and two groups, the last with fewer sequences."""
    given = stack(dtype, settings.pop("steps", 3), 5, 24, count, **settings)
    return given, together(direction, SMALL[direction], given, 2, 3)


@pytest.mark.parametrize(("direction", "tiles"), ALL if os.environ.get("GPULSTM_WHOLE_GATE") else PART, ids=str)
def test_choices_of_tiles(direction, tiles):
    """A part of them; the environment variable GPULSTM_WHOLE_GATE=1 makes it all. Several warps of a sum have columns,
    the last of them not all of theirs, and the last block is not full."""
    dtype = DTYPES[ALL.index((direction, tiles)) % 2]
    t, units = half_layouts.Tiles(*tiles), half_layouts.units(KERNELS[direction], tiles)
    of_a_part = 16 * t.depth_tiles if direction == FORWARD else 4 * t.depth_tiles
    hidden = min(max(of_a_part, units) + 8, half_layouts.largest_hidden(KERNELS[direction], tiles))
    given = stack(dtype, 2, 9, hidden, lengths=np.arange(9) % 3)
    check_all(*run(direction, given, together(direction, tiles, given, 1, 9)), dtype)


SETTINGS = {
    "three layers": {"count": 3},
    "reverse": {"reverse": True, "lengths": LENGTHS},
    "nothing that may be missing": {"bias": False, "dy": False},
    "one step": {"steps": 1},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_by_value(direction, setting):
    dtype = DTYPES[[*SETTINGS].index(setting) % 2]
    given, choice = usual(dtype, direction, **SETTINGS[setting])
    check_all(*run(direction, given, choice), dtype)
    if direction == FORWARD:
        kept, _ = run(direction, given, choice)
        with cupy_on_cpu() as cupy:
            found = run_forward(cupy, given, choice, keep=False)
        last = 0 if given.layers[0].reverse else -1
        for ours, theirs in zip(found, kept, strict=True):
            np.testing.assert_array_equal(ours["hiddens"], theirs["hiddens"])
            np.testing.assert_array_equal(ours["cells"], theirs["cells"][last])
        np.testing.assert_array_equal(found[-1]["y"], kept[-1]["y"])
        assert all("y" not in of_layer for of_layer in found[:-1])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_bits_in_any_order(direction):
    """Threads in several orders, and a block of each layer late."""
    given, choice = usual("float16", direction, lengths=LENGTHS)
    expected, reference = run(direction, given, choice)
    check_all(expected, reference, given.dtype)
    orders = [{"thread_order": "descending"}, {"thread_order": "random", "block_order": "descending", "seed": 1}]
    orders += [{"thread_order": "random", "seed": 2, "late_block": block} for block in (0, 5)]
    for settings in ({}, *orders):
        same_bits(run(direction, given, choice, **settings)[0], expected, settings)


class TestHandingOver:
    def goes_wrong(self, direction: str, **settings) -> bool:
        given, choice = usual("float16", direction)
        return goes_wrong(lambda: check_all(*run(direction, given, choice, spin_limit=100, **settings), "float16"))

    @pytest.mark.parametrize(("direction", "block"), [(FORWARD, 0), (BACKWARD, 4)])
    def test_not_waiting_for_the_neighbour(self, monkeypatch, direction, block):
        assert not self.goes_wrong(direction, late_block=block)
        file = f"lstm_persistent_half_{direction}.cu"
        without(monkeypatch, file, "bool missing = true; missing;", 1, "bool missing = false; missing;")
        assert self.goes_wrong(direction, late_block=block)

    @pytest.mark.parametrize(
        ("direction", "right", "wrong"),
        [
            (FORWARD, "below + (step + 1 - reverse) *", "below + (step + reverse) *"),
            (BACKWARD, "handed + ((long long)step *", "handed + ((long long)(step ^ 1) *"),
        ],
    )
    def test_another_step_of_the_neighbour(self, monkeypatch, direction, right, wrong):
        without(monkeypatch, f"lstm_persistent_half_{direction}.cu", right, 1, wrong)
        given, choice = usual("float16", direction, steps=2)
        assert goes_wrong(lambda: check_all(*run(direction, given, choice, spin_limit=100), "float16"))

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_a_layer_that_hands_nothing_on_is_reported(self, monkeypatch, direction):
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        file, given_and_choice = f"lstm_persistent_half_{direction}.cu", usual("float16", direction)
        without(monkeypatch, file, "#define SPINS 160000000", 1, "#define SPINS 60")
        silent = {
            FORWARD: ("if (gate == 0 && unit % 2 == 0) {", "if (gate == 0 && unit % 2 == 0 && layer) {"),
            BACKWARD: ("if (!owner) continue;\n", "if (!owner || layer) continue;\n"),
        }[direction]
        without(monkeypatch, file, silent[0], 1, silent[1])
        run(direction, *given_and_choice)  # comes to its end
        with pytest.raises(RuntimeError, match="waited for each other in vain"):
            run(direction, *given_and_choice)


class TestSanitizers:
    TILES = {FORWARD: (8, 2, 2, 1, 2, 2), BACKWARD: (16, 1, 2, 1, 2, 2)}  # as little code as shows everything

    @pytest.mark.parametrize(("direction", "mode", "hidden"), [(FORWARD, "asan", 24), (BACKWARD, "tsan", 16)])
    def test_clean(self, direction, mode, hidden):
        """An OS thread for each of a block's in tsan, so there a layer has one block."""
        given = stack("bfloat16", 2, 3, hidden, lengths=np.array([2, 0, 1]))
        choice = together(direction, self.TILES[direction], given, 1, 3)
        check_all(*run(direction, given, choice, mode, thread_order="random", seed=1), "bfloat16")


class TestWholeStacks:
    """From `gl.LSTM`'s arrays and back, three layers beside each other."""

    BACKENDS = backends.KERNELS
    KERNEL_NAMES = tuple(KERNELS.values())

    @pytest.fixture(autouse=True)
    def worth_it(self, monkeypatch):
        """Small layers, few steps: what it would cost on a GPU does not matter here."""
        monkeypatch.setattr(stacked_layers, "FEWEST_STEPS", 1)
        monkeypatch.setattr(stacked_layers, "WORTH", 1000.0)
        stacked_layers._side_by_side.cache_clear()
        yield
        stacked_layers._side_by_side.cache_clear()

    @contextmanager
    def laid_out(self, backend: Backend, way: str = "any"):
        with scheduled(backend, "persistent", 6), stacked_layers.ways(way):
            yield

    def given(self, dtype: str, **sizes):
        sizes = {"hidden": 16, "steps": 3, "batch": 2, "layers": 3, "lengths": [3, 1], **sizes}
        return half_problem(dtype, 8, **sizes)  # of two layers with seed 7, dx is off by 2.7 roundings one by one too

    def launches(self, backend: Backend, function) -> Counter:
        backend.xp.on_cpu.reset_counts()
        function()
        return Counter({name: n for name, n in backend.xp.on_cpu.launches.items() if name in self.KERNEL_NAMES})

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_results(self, backend, dtype):
        given = self.given(dtype)
        with self.laid_out(backend):
            found = solve(backend, given)
            check_results(found, given)
            assert_same_bits(solve(backend, given), found)
            assert_same_bits(infer(backend, given), {name: found[name] for name in ("y", "h", "c")})

    def test_what_may_be_missing_and_the_other_direction(self, backend):
        given = self.given("bfloat16", lengths=None, state=False, bias=False, layers=2).but(dy=None)
        with self.laid_out(backend):
            found = solve_with(backend, given, options={"reverse": True})
        with self.laid_out(backend, "apart"):
            apart = solve_with(backend, given, options={"reverse": True})
        for name, value in found.items():
            wanted = apart[name].astype("f4")
            assert np.linalg.norm(value.astype("f4") - wanted) <= 0.01 * np.linalg.norm(wanted), name

    def test_inference_in_parts(self, backend, monkeypatch):
        given = self.given("float16", steps=4, lengths=[4, 1], layers=2)
        with self.laid_out(backend):
            whole = infer(backend, given)
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", 3 * 2 * 4 * 16 * 2)  # three steps
            found = self.launches(backend, lambda: assert_same_bits(infer(backend, given), whole))
        assert found == {half_layouts.FORWARD: 2}

    def test_a_backward_pass_in_stretches(self, backend, monkeypatch):
        given = self.given("float16")
        with self.laid_out(backend):
            expected = solve(backend, given)
            monkeypatch.setattr(cupy_layers, "HANDED_BYTES", 2 * 3 * 4 * 2 * 2 * 16)  # two steps of three layers
            found = self.launches(backend, lambda: assert_same_bits(solve(backend, given), expected))
        assert found == {half_layouts.FORWARD: 1, half_layouts.BACKWARD: 2}

    def test_a_pass_may_run_side_by_side_alone(self, backend, monkeypatch):
        given, real = self.given("bfloat16", layers=2), stacked_layers.side_by_side
        for alone in DIRECTIONS:
            with monkeypatch.context() as patch, self.laid_out(backend):
                patch.setattr(
                    stacked_layers, "side_by_side", lambda d, *a, alone=alone: real(d, *a) if d == alone else (None, "")
                )
                found = self.launches(backend, lambda: check_results(solve(backend, given), given))
            assert found[KERNELS[alone]] == 1 and sum(found.values()) == 3


def test_shared_memory_fits():
    for direction, tiles in ALL:
        needed = half_layouts.shared_bytes(tiles, layers=True) + half_layouts.DRIVERS_SHARED_BYTES
        assert needed <= 227 * 1024, (direction, tiles)
    assert half_layouts.shared_bytes((16, 4, 4, 0, 1, 2), layers=True) == 4 * 4 * 8192 + 2 * 16 * 8 * 68 * 4
    assert half_layouts.shared_bytes((16, 1, 16, 4, 1, 8), layers=True) == (4 + 14) * 8192 + 2 * 16 * 8 * 20 * 4
    assert half_layouts.shared_bytes((16, 4, 2, 0, 1, 1), layers=True) == 2 * 16 * 8 * 68 * 4, "all in registers"


def test_kernels_of_layers_are_of_all_tiles_laid_out_for_them():
    for direction in DIRECTIONS:
        kernel = KERNELS[direction]
        of_layers = {s.tiles for s in catalogue.specialisations() if s.entry == kernel and s.features[2]}
        assert of_layers == {tiles for d, tiles in ALL if d == direction} == set(catalogue.LAYERS[kernel])
