"""The persistent kernels of 16 bits, run by themselves, and their twins in NumPy: in float64, with roundings where the
kernels round."""

from dataclasses import dataclass

import numpy as np

from gpulstm.cuda import half_layouts
from gpulstm.cuda.planner import FORWARD, Choice
from gpulstm.engines import Lane, cupy_one_launch
from gpulstm.parameters import Weights
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import ROUNDING, numpy_dtype


def rounded(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest numbers of 16 bits, as float32."""
    return np.asarray(numbers, np.float32).astype(numpy_dtype(dtype)).astype(np.float32)


@dataclass
class HalfCase:
    """One layer's recurrence in one direction. All arrays hold numbers of 16 bits but c, dh and dc."""

    dtype: str
    inputs: np.ndarray  # (steps, batch, 4*hidden) W_ih x
    weight: np.ndarray  # (4*hidden, hidden)
    bias: np.ndarray | None  # (4*hidden,)
    h: np.ndarray  # (batch, hidden)
    c: np.ndarray
    dy: np.ndarray | None  # (steps, batch, hidden)
    dh: np.ndarray  # (batch, hidden)
    dc: np.ndarray
    lengths: np.ndarray | None = None
    reverse: bool = False
    first_time: int = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        steps, batch, rows = self.inputs.shape
        return steps, batch, rows // 4


def half_case(dtype: str, steps: int, batch: int, hidden: int, *, seed=0, bias=True, dy=True, **settings) -> HalfCase:
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return rounded(scale * rng.standard_normal(shape), dtype)

    return HalfCase(
        dtype,
        normal(steps, batch, 4 * hidden),
        normal(4 * hidden, hidden, scale=hidden**-0.5),
        normal(4 * hidden) if bias else None,
        normal(batch, hidden, scale=0.5),
        normal(batch, hidden),
        normal(steps, batch, hidden) if dy else None,
        normal(batch, hidden),
        normal(batch, hidden),
        **settings,
    )


def choice_of(direction: str, tiles: tuple[int, ...], dtype: str, hidden: int, groups: int, share: int) -> Choice:
    kernel = half_layouts.FORWARD if direction == FORWARD else half_layouts.BACKWARD
    blocks = -(-hidden // half_layouts.units(kernel, tiles))
    return Choice("persistent", "by hand", kernel, tiles, blocks, groups, share, arithmetic=dtype)


def _order(case: HalfCase) -> range:
    return range(case.sizes[0])[:: -1 if case.reverse else 1]


def _runs(case: HalfCase, step: int) -> np.ndarray:
    """(batch, 1)"""
    batch = case.sizes[1]
    if case.lengths is None:
        return np.ones((batch, 1), bool)
    return (case.first_time + step < case.lengths)[:, None]


def forward_in_numpy(case: HalfCase) -> dict[str, np.ndarray]:
    """gates, cells, hiddens, y in float64, with h rounded from step to step."""
    steps, batch, hidden = case.sizes
    gates = case.inputs.astype(np.float64)
    cells, hiddens = np.zeros((2, steps + 1, batch, hidden))
    y = np.zeros((steps, batch, hidden))
    start = steps if case.reverse else 0
    cells[start], hiddens[start] = case.c, case.h
    for t in _order(case):
        before, after = (t + 1, t) if case.reverse else (t, t + 1)
        a = case.inputs[t] + hiddens[before] @ case.weight.T.astype(np.float64)
        a = a + (0 if case.bias is None else case.bias)
        i, f, g, o = np.split(a, 4, axis=1)
        i, f, g, o = (1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-f)), np.tanh(g), 1 / (1 + np.exp(-o)))
        c = f * cells[before] + i * g
        h = rounded(o * np.tanh(c), case.dtype)
        runs = _runs(case, t)
        cells[after], hiddens[after] = np.where(runs, c, cells[before]), np.where(runs, h, hiddens[before])
        y[t] = np.where(runs, h, 0)
        gates[t] = np.where(runs, rounded(np.concatenate([i, f, g, o], axis=1), case.dtype), gates[t])
    return {"gates": gates, "cells": cells, "hiddens": hiddens, "y": y}


def backward_in_numpy(case: HalfCase, gates: np.ndarray, cells: np.ndarray) -> dict[str, np.ndarray]:
    """gates (gradients), dh, dc in float64, with the gradients rounded from step to step."""
    gates = gates.astype(np.float64)
    dh, dc = case.dh.astype(np.float64), case.dc.astype(np.float64)
    for t in _order(case)[::-1]:
        before, after = (t + 1, t) if case.reverse else (t, t + 1)
        runs = _runs(case, t)
        i, f, g, o = np.split(gates[t].copy(), 4, axis=1)
        d_h = dh + (0 if case.dy is None else case.dy[t])
        tanh_c = np.tanh(cells[after])
        d_c = dc + d_h * o * (1 - tanh_c**2)
        parts = [d_c * g * i * (1 - i), d_c * cells[before] * f * (1 - f), d_c * i * (1 - g**2)]
        da = rounded(np.concatenate([*parts, d_h * tanh_c * o * (1 - o)], axis=1), case.dtype)
        gates[t] = np.where(runs, da, 0)
        dh = np.where(runs, 0, dh) + gates[t] @ case.weight.astype(np.float64)
        dc = np.where(runs, d_c * f, dc)
    return {"gates": gates, "dh": dh, "dc": dc}


def _array(cupy, numbers, dtype: str):
    if numbers is None or numbers.dtype == numpy_dtype(dtype):
        return None if numbers is None else cupy.asarray(numbers)
    return cupy.asarray(np.asarray(numbers, np.float32).astype(numpy_dtype(dtype)))


def _weights(cupy, case: HalfCase) -> Weights:
    return Weights(None, _array(cupy, case.weight, case.dtype), _array(cupy, case.bias, case.dtype))


def _lengths(cupy, case: HalfCase):
    return None if case.lengths is None else cupy.asarray(case.lengths.astype(np.int32))


def run_forward(cupy, case: HalfCase, choice: Choice, keep: bool = True, wider: int = 0) -> dict[str, np.ndarray]:
    """What the kernel makes; ``wider``: columns of y on either side, which belong to others."""
    steps, batch, hidden = case.sizes
    first = steps if case.reverse else 0
    gates = _array(cupy, case.inputs, case.dtype)
    hiddens = cupy_one_launch.history(choice, (steps + 1, batch, hidden), gates)
    if keep or choice.schedule == "persistent":
        hiddens[first] = _array(cupy, case.h, case.dtype)
    else:  # the state alone
        hiddens = _array(cupy, case.h, case.dtype)
    cells = cupy.zeros((steps + 1, batch, hidden) if keep else (batch, hidden), np.float32)
    cells[first if keep else ...] = cupy.asarray(case.c)
    y = _array(cupy, np.full((steps, batch, hidden + 2 * wider), 7.0), case.dtype)
    lane = Lane(wider, hidden, case.reverse, 0)
    lengths = _lengths(cupy, case)
    cupy_one_launch.forward_steps(
        choice, gates, _weights(cupy, case), hiddens, cells, y, lane, lengths, case.first_time, keep
    )
    found = {name: a.get().astype(np.float32) for name, a in (("gates", gates), ("hiddens", hiddens), ("y", y))}
    y = found["y"]
    assert (y[..., :wider] == 7).all() and (y[..., wider + hidden :] == 7).all(), "wrote beside its columns"
    return {**found, "y": y[..., wider : wider + hidden], "cells": cells.get()}


def run_backward(cupy, case: HalfCase, choice: Choice, gates, cells, wider: int = 0) -> dict[str, np.ndarray]:
    """What the kernel makes of activated gates and cells."""
    there = _array(cupy, gates, case.dtype)
    around = ((0, 0), (0, 0), (wider, wider))
    dy = None if case.dy is None else _array(cupy, np.pad(case.dy, around, constant_values=7), case.dtype)
    dh, dc = cupy.asarray(case.dh), cupy.asarray(case.dc)
    lane = Lane(wider, case.sizes[2], case.reverse, 0)
    cells = cupy.asarray(cells.astype(np.float32))
    cupy_one_launch.backward_steps(choice, there, cells, _weights(cupy, case), dy, dh, dc, lane, _lengths(cupy, case))
    return {"gates": there.get().astype(np.float32), "dh": dh.get(), "dc": dc.get()}


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> None:
    """Both round alike, so they differ only where float32 and float64 fall on two sides of a boundary: by twice the
    rounding error then, of a few numbers in a thousand, which is one of the largest at worst. Rounding another way
    would do it to every other one, and be off by 1.2 rounding errors of the norm."""
    for name, value in found.items():
        norm = np.linalg.norm(expected[name])
        error = np.linalg.norm(value - expected[name]) / (norm if norm else 1)
        assert error <= ROUNDING[dtype] / 2, f"{name} is off by {error:.2g}"


def run(direction: str, case: HalfCase, choice: Choice, mode: str = "fibers", **settings) -> tuple[dict, dict]:
    """(what the kernel made, what NumPy makes)"""
    forward = forward_in_numpy(case)
    with cupy_on_cpu(mode, **settings) as cupy:
        if direction == FORWARD:
            return run_forward(cupy, case, choice), forward
        given = forward["gates"], forward["cells"]
        return run_backward(cupy, case, choice, *given), backward_in_numpy(case, *given)


def check_in_any_order(direction: str, case: HalfCase, choice: Choice, late_blocks: tuple[int, ...]) -> None:
    """The same bits in whichever order threads run, and with each of some blocks late."""
    expected, reference = run(direction, case, choice)
    check(expected, reference, case.dtype)
    orders = [{"thread_order": "descending"}, {"thread_order": "random", "seed": 1}]
    orders += [{"thread_order": "random", "seed": 2, "late_block": block} for block in late_blocks]
    for settings in ({}, *orders):
        found, _ = run(direction, case, choice, **settings)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name}, {settings}")
