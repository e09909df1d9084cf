"""The LSTM's time steps on CuPy arrays as a CUDA graph: the schedule "graph", the loop captured once and replayed.

A launch costs the CPU 7 microseconds, a product as much, and a step is one of each; a node of a graph costs it nothing
and the device one. So for layers whose weights do not fit on the chip, and for float64, the loop's own launches are
captured, `planner.GRAPH_STEPS` of them, and replayed as often as a sequence is long.

A graph holds addresses, so it works in buffers of its own, a `Stage`, and what a stretch of time needs is copied there
and back. That is little: of hidden 2048 and one sequence a step reads 67 MB of weights, and copies 0.2 MB. The
recurrent weights are copied once a call, which is what two steps read. Stages are kept, the last used ones, up to
`KEPT_BYTES`.

Nothing here may fail a call: where cuBLAS is not found, or nothing can be captured, the loop runs, and `why_not` says
why.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from ..arrays import dtype_name
from ..cuda.copies import copy, copy_columns, copy_rows
from ..cuda.own_cublas import OwnGemm, workspace_bytes
from ..cuda.planner import Choice, Plan, graph_steps
from ..parameters import Weights
from . import Lane, cupy_one_launch

KEPT_BYTES = 1024 * 2**20  # of all stages together

_stages: "OrderedDict[tuple, Stage]" = OrderedDict()  # the last used one comes last
_failures: dict = {}  # (cupy module, device id) -> why there are no graphs
_lock = threading.RLock()  # of both, and of our cuBLAS handle


class Key(NamedTuple):
    """What a stage is made for. Everything that a launch says beside addresses follows from it."""

    cupy: Any
    device: int
    dtype: str
    batch: int
    hidden: int
    reverse: bool
    backward: bool
    bias: bool
    lengths: bool
    keep: bool  # forward: activated gates and all states
    dy: bool  # backward: there is a gradient of y


def explained(plan: Plan) -> Plan:
    """The plan, with the loop and the reason in place of graphs if the current device has shown to have none."""
    why = why_not()
    loop = Choice("loop", f"instead of graph, which failed: {why}")
    changed = {name: loop for name, choice in plan._asdict().items() if why and choice and choice.schedule == "graph"}
    return plan._replace(**changed)


def why_not() -> str:
    """Why there are no graphs on the current device; empty until one has failed."""
    import cupy

    return _failures.get((cupy, cupy.cuda.runtime.getDevice()), "")


class Stage:
    """The buffers of one kind of graph, and its graphs by their number of steps."""

    def __init__(self, key: Key) -> None:
        cupy = self.cupy = key.cupy
        self.key = key
        batch, hidden = key.batch, key.hidden
        steps = self.steps = graph_steps(batch, hidden, key.dtype)
        slots = steps + 1 if key.keep or key.backward else 1

        def empty(*shape: int):
            return cupy.empty(shape, key.dtype)

        self.weights = Weights(None, empty(4 * hidden, hidden), empty(4 * hidden) if key.bias else None)
        self.gates, self.cells = empty(steps, batch, 4 * hidden), empty(slots, batch, hidden)
        self.lengths = cupy.empty((batch,), np.int32) if key.lengths else None
        if key.backward:
            self.dh, self.dc = empty(batch, hidden), empty(batch, hidden)
            self.hiddens, self.y = None, empty(steps, batch, hidden) if key.dy else None
        else:
            self.hiddens, self.y = empty(slots, batch, hidden), empty(steps, batch, hidden)
        capability = cupy_one_launch.current_device().capability
        self.workspace = cupy.empty((workspace_bytes(capability),), np.uint8)
        self.graphs: dict[int, Any] = {}
        self.stream = cupy.cuda.Stream(non_blocking=True)  # captures; what is captured runs on the caller's
        self.free = cupy.cuda.Event(disable_timing=True)  # after the last work in these buffers
        self.is_used = False

    @property
    def nbytes(self) -> int:
        arrays = (*self.weights, self.gates, self.cells, self.lengths, self.hiddens, self.y, self.workspace)
        return sum(array.nbytes for array in arrays if array is not None)

    def capture(self, steps: int, body: "Body") -> None:
        """Makes the graph of so many steps, unless it is there."""
        if steps in self.graphs:
            return
        key = self.key
        if not self.graphs:
            # A first step as it is, on whatever the buffers hold: a capture may load no kernel, and no library.
            current = self.cupy.cuda.get_current_stream().ptr
            body(self, 1, OwnGemm(key.device, key.dtype, current, self.workspace))
        with self.stream:
            self.stream.begin_capture()
            try:
                body(self, steps, OwnGemm(key.device, key.dtype, self.stream.ptr, self.workspace))
            except BaseException:
                with suppress(Exception):  # what went wrong first is what matters
                    self.stream.end_capture()
                raise
            self.graphs[steps] = self.stream.end_capture()

    def bring_weights(self, weights: Weights) -> None:
        copy(self.weights.recurrent, weights.recurrent)
        if weights.bias is not None and self.weights.bias is not None:
            copy(self.weights.bias, weights.bias)

    def bring_lengths(self, lengths, first_time: int) -> None:
        """Counted from the first step of a stretch."""
        if lengths is not None:
            copy(self.lengths, lengths - np.int32(first_time))

    def begin(self) -> None:
        """Waits on the device for whoever used these buffers before, on whichever stream."""
        if self.is_used:
            self.cupy.cuda.get_current_stream().wait_event(self.free)
        self.is_used = True

    def end(self) -> None:
        self.free.record(self.cupy.cuda.get_current_stream())

    def launch(self, steps: int) -> None:
        self.graphs[steps].launch(self.cupy.cuda.get_current_stream())


Body = Callable[[Stage, int, OwnGemm], None]
"""Runs so many steps in a stage's buffers and touches nothing else."""


def forward_steps(
    loop: Callable, weights: Weights, hiddens, cells, y, lane: Lane, gates, lengths, first_time: int, keep: bool
) -> None:
    """All steps, as ``loop`` runs them: `gpulstm.engines.cupy_engine._run`, whose arguments the others are."""
    key = _key(gates, lane, backward=False, bias=weights.bias is not None, lengths=lengths is not None, keep=keep)
    reverse, inward = lane.reverse, lane._replace(first=0)

    def body(stage: Any, steps: int, gemm: OwnGemm) -> None:
        slots = steps + 1 if keep else 1
        states = stage.hiddens[:slots], stage.cells[:slots]
        loop(stage.weights, *states, stage.y[:steps], inward, stage.gates[:steps], stage.lengths, 0, keep, gemm)

    stretches = _stretches(len(gates), key, backwards=reverse)
    with _staged(key, stretches, body) as stage:
        if stage is None:
            loop(weights, hiddens, cells, y, lane, gates, lengths, first_time, keep)
            return
        stage.bring_weights(weights)
        histories = (hiddens, stage.hiddens), (cells, stage.cells)
        for number, (first, steps) in enumerate(stretches):
            stage.bring_lengths(lengths, first_time + first)
            copy_rows(stage.gates, 0, gates, first, steps)
            for history, staged in histories:
                if keep:  # where this stretch begins
                    copy_rows(staged, steps * reverse, history, first + steps * reverse, 1)
                elif number == 0:
                    copy(staged, history)
            stage.launch(steps)
            copy_columns(y, first, lane.first, stage.y, 0, 0, lane.width, steps)
            if keep:
                copy_rows(gates, first, stage.gates, 0, steps)
            for history, staged in histories:
                if keep:
                    copy_rows(history, first + (not reverse), staged, int(not reverse), steps)
                elif number == len(stretches) - 1:
                    copy(history, staged)


def backward_steps(loop: Callable, gemm, gates, cells, weights: Weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """All steps, as ``loop`` runs them: `_backward_steps` of the same module, whose arguments the others are."""
    key = _key(gates, lane, backward=True, lengths=lengths is not None, dy=dy is not None)
    inward = lane._replace(first=0)

    def body(stage: Any, steps: int, gemm: OwnGemm) -> None:
        of_y = None if dy is None else stage.y[:steps]
        histories = stage.gates[:steps], stage.cells[: steps + 1]
        loop(gemm, *histories, stage.weights, of_y, stage.dh, stage.dc, inward, stage.lengths)

    stretches = _stretches(len(gates), key, backwards=not lane.reverse)
    with _staged(key, stretches, body) as stage:
        if stage is None:
            loop(gemm, gates, cells, weights, dy, dh, dc, lane, lengths)
            return
        stage.bring_weights(weights._replace(bias=None))
        copy(stage.dh, dh)
        copy(stage.dc, dc)
        for first, steps in stretches:
            stage.bring_lengths(lengths, first)
            copy_rows(stage.gates, 0, gates, first, steps)
            copy_rows(stage.cells, 0, cells, first, steps + 1)
            if dy is not None:
                copy_columns(stage.y, 0, 0, dy, first, lane.first, lane.width, steps)
            stage.launch(steps)
            copy_rows(gates, first, stage.gates, 0, steps)
        copy(dh, stage.dh)
        copy(dc, stage.dc)


def _key(gates, lane: Lane, *, backward: bool, lengths: bool, bias: bool = False, keep: bool = False, dy: bool = False):
    import cupy

    batch = gates.shape[1]
    device = cupy.cuda.runtime.getDevice()
    switches = lane.reverse, backward, bias, lengths, keep, dy
    return Key(cupy, device, dtype_name(gates), batch, lane.width, *switches)


def _stretches(steps: int, key: Key, *, backwards: bool) -> list[tuple[int, int]]:
    """(first step, steps) of each replay, in the order in which they are computed. The first one may be short."""
    most = graph_steps(key.batch, key.hidden, key.dtype)
    found = [(first, min(most, steps - first)) for first in range(0, steps, most)]
    return found[::-1] if backwards else found


@contextmanager
def _staged(key: Key, stretches: list[tuple[int, int]], body: Body) -> Iterator[Stage | None]:
    """A stage with the graphs that the stretches need, for as long as work is put into its buffers; or None."""
    with _lock:
        stage = _prepared(key, {steps for _, steps in stretches}, body)
        if stage is None:
            yield None
            return
        try:
            yield stage
        finally:
            stage.end()


def _prepared(key: Key, counts: set[int], body: Body) -> Stage | None:
    where = key.cupy, key.device
    if where in _failures:
        return None
    try:
        stage = _stages.get(key)
        if stage is None:
            stage = Stage(key)
        stage.begin()
        for steps in counts:
            stage.capture(steps, body)
    except Exception as error:  # noqa: BLE001 - whatever it is, the loop does the same without a graph
        _stages.pop(key, None)
        if type(error).__name__ != "OutOfMemoryError":  # which the next call need not meet
            _failures[where] = f"{type(error).__name__}: {error}"
            warnings.warn(f"time steps run in a loop, since they could not be captured: {error}", stacklevel=2)
        return None
    _stages[key] = stage
    _stages.move_to_end(key)
    _forget_the_oldest()
    return stage


def _forget_the_oldest() -> None:
    while len(_stages) > 1 and sum(stage.nbytes for stage in _stages.values()) > KEPT_BYTES:
        _, oldest = _stages.popitem(last=False)
        oldest.free.synchronize()  # or its memory would be handed out while a graph still writes to it
