"""The LSTM's time steps on CuPy arrays as a CUDA graph: the schedule "graph", the loop captured once and replayed.

A launch costs the CPU 7 microseconds, a product as much, and a step is one of each; a node of a graph costs it nothing
and the device one. So for layers whose weights do not fit on the chip, and for all that schedules with one launch do
not hold, the loop's own launches are captured, `graph_layouts.STEPS` of them, and replayed as often as a sequence is
long. Here are stages, and the plain LSTM; `gpulstm.engines.cupy_graph_options` has the options.

A graph holds addresses, so it works in buffers of its own, a `Stage`, and what a stretch of time needs is copied there
and back. That is little: of hidden 2048 and one sequence a step reads 67 MB of weights, and copies 0.2 MB. The
recurrent weights are copied once a call, which is what two steps read. Stages are kept, the last used ones, up to
`KEPT_BYTES`.

A graph holds its launches' arguments, too. Those that change are read from memory, which `kernels/replay_arguments.cu`
writes before each replay: a launch of its own, whose arguments the driver copies when it is asked for, so that nothing
waits for the host and no host memory has to outlive the call.

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
from ..cuda import graph_layouts
from ..cuda.copies import copy, copy_columns, copy_rows
from ..cuda.launch import int32s, one_thread_per, or_null
from ..cuda.modules import kernel
from ..cuda.own_cublas import OwnGemm, workspace_bytes
from ..cuda.packed import Series
from ..cuda.planner import Choice, Plan
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
    dtype: Any  # NumPy's, of the gates
    tf32: bool
    batch: int
    hidden: int
    reverse: bool
    backward: bool
    bias: bool
    lengths: bool
    keep: bool  # forward: activated gates and all states
    dy: bool  # backward: there is a gradient of y
    options: tuple = ()  # that launches have as arguments, or the kernels are chosen by


Shapes = dict[str, tuple[tuple[int, ...], Any]]
"""Buffers by name: shape and dtype."""


class Job(NamedTuple):
    """What is to be run in a stage."""

    key: Key
    most: int  # time steps of a graph
    weights: Weights  # that the steps read, of which a stage has copies
    shapes: Callable[[int], Shapes]  # of the buffers, by the number of steps
    body: "Body"


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
    """The buffers of one kind of graph by their names, and its graphs by their number of steps."""

    def __init__(self, job: Job) -> None:
        key, cupy = job.key, job.key.cupy
        self.cupy, self.key = cupy, key
        shapes = job.shapes(job.most)
        if key.lengths:
            shapes = shapes | {"lengths": ((key.batch,), np.int32)}
        self.buffers = {name: cupy.empty(*each) for name, each in shapes.items()}
        self.weights = Weights(*(None if w is None else cupy.empty(w.shape, w.dtype) for w in job.weights))
        self.capability = cupy_one_launch.current_device().capability
        self.workspace = cupy.empty((workspace_bytes(self.capability),), np.uint8)
        self.graphs: dict[int, Any] = {}
        self.stream = cupy.cuda.Stream(non_blocking=True)  # captures; what is captured runs on the caller's
        self.free = cupy.cuda.Event(disable_timing=True)  # after the last work in these buffers
        self.is_used = False

    def __getitem__(self, name: str) -> Any:
        return self.buffers[name]

    def get(self, name: str, steps: int | None = None) -> Any:
        """The buffer, or its first so many slots, or None where there is none of this name."""
        found = self.buffers.get(name)
        return found if found is None or steps is None else found[:steps]

    @property
    def nbytes(self) -> int:
        arrays = (*self.weights, *self.buffers.values(), self.workspace)
        return sum(array.nbytes for array in arrays if array is not None)

    def capture(self, steps: int, body: "Body") -> None:
        """Makes the graph of so many steps, unless it is there.

        What a capture does not allow (CUDA C++ Programming Guide, "Prohibited and Unhandled Operations") is done
        before: kernels and libraries are loaded, memory is allocated, and the handle has its stream and its workspace.
        Nothing in ``body`` allocates, waits, or copies to the host. CuPy captures in relaxed mode, in which other
        threads, and whatever the garbage collector finds in this one, may allocate and free memory meanwhile.
        """
        if steps in self.graphs:
            return
        if not self.graphs:
            # A first step as it is, on whatever the buffers hold.
            body(self, 1, self._gemm(self.cupy.cuda.get_current_stream().ptr))
        gemm = self._gemm(self.stream.ptr)
        with self.stream:
            self.stream.begin_capture()
            try:
                body(self, steps, gemm)
            except BaseException:
                with suppress(Exception):  # what went wrong first is what matters
                    self.stream.end_capture()
                raise
            self.graphs[steps] = self.stream.end_capture()

    def _gemm(self, stream: int) -> OwnGemm:
        """A step's product, which is added up wide where gradients have 16 bits."""
        key = self.key
        how: Any = {"wide": key.backward, "tf32": key.tf32, "capability": self.capability}
        return OwnGemm(key.device, dtype_name(self["gates"]), stream, self.workspace, **how)

    def bring_weights(self, weights: Weights) -> None:
        for own, given in zip(self.weights, weights, strict=True):
            if own is not None:
                copy(own, given)

    def arguments(self, lengths, draw: tuple = ()) -> Callable[[int, int], None]:
        """What writes the arguments that differ from replay to replay: call it with the first step of a stretch, in the
        time that ``lengths`` count, and in that of random words, for which ``draw`` has seed_low, seed_high and
        stream."""
        if lengths is None and not draw:
            return lambda first_step, first_draw: None
        batch, words = self.key.batch, self.get("draw")
        arrays = tuple(map(or_null, (words, self.get("lengths"), lengths)))
        more = (*int32s(batch), *(draw or np.zeros(3, np.uint32)))
        write = kernel("replay_arguments", "float32")
        return Series(write, *one_thread_per(batch), (*arrays, *int32s(0, 0), *more), len(arrays), 2)

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
    loop: Callable,
    weights: Weights,
    hiddens,
    cells,
    y,
    lane: Lane,
    gates,
    lengths,
    first_time: int,
    keep: bool,
    *,
    tf32: bool = False,
) -> None:
    """All steps, as ``loop`` runs them: `gpulstm.engines.cupy_engine._run`, whose arguments the others are."""
    key = key_of(gates, lane, weights, backward=False, lengths=lengths is not None, keep=keep, tf32=tf32)
    batch, hidden, reverse, inward = key.batch, key.hidden, lane.reverse, lane._replace(first=0)

    def shapes(steps: int) -> Shapes:
        slots = steps + 1 if keep else 1
        found: Shapes = {name: ((slots, batch, hidden), a.dtype) for name, a in histories.items()}
        return found | {"gates": ((steps, *gates.shape[1:]), gates.dtype), "y": ((steps, batch, hidden), y.dtype)}

    def body(stage: Stage, steps: int, gemm: OwnGemm) -> None:
        slots = steps + 1 if keep else 1
        states = stage.get("hiddens", slots), stage.get("cells", slots)
        rows, left = (stage.get("y", steps), inward, stage.get("gates", steps)), stage.get("lengths")
        loop(stage.weights, *states, *rows, left, 0, keep, gemm)

    histories = {"hiddens": hiddens, "cells": cells}
    job = Job(key, _most(key), weights._replace(input=None), shapes, body)
    stretches = stretches_of(len(gates), job.most, backwards=reverse)
    with staged(job, stretches) as stage:
        if stage is None:
            loop(weights, hiddens, cells, y, lane, gates, lengths, first_time, keep, tf32=tf32)
            return
        write = stage.arguments(lengths)
        for number, (first, steps) in enumerate(stretches):
            write(first_time + first, 0)
            copy_rows(stage["gates"], 0, gates, first, steps)
            for name, history in histories.items():
                if keep:  # where this stretch begins
                    copy_rows(stage[name], steps * reverse, history, first + steps * reverse, 1)
                elif number == 0:
                    copy(stage[name], history)
            stage.launch(steps)
            copy_columns(y, first, lane.first, stage["y"], 0, 0, lane.width, steps)
            if keep:
                copy_rows(gates, first, stage["gates"], 0, steps)
            for name, history in histories.items():
                if keep:
                    copy_rows(history, first + (not reverse), stage[name], int(not reverse), steps)
                elif number == len(stretches) - 1:
                    copy(history, stage[name])


def backward_steps(
    loop: Callable, gemm, gates, cells, weights: Weights, dy, dh, dc, lane: Lane, lengths, *, tf32: bool = False
) -> None:
    """All steps, as ``loop`` runs them: `_backward_steps` of the same module, whose arguments the others are."""
    recurrent = Weights(None, weights.recurrent, None)
    key = key_of(gates, lane, recurrent, backward=True, lengths=lengths is not None, dy=dy is not None, tf32=tf32)
    batch, hidden, inward = key.batch, key.hidden, lane._replace(first=0)

    def shapes(steps: int) -> Shapes:
        found: Shapes = {"gates": ((steps, *gates.shape[1:]), gates.dtype)}
        found |= {"cells": ((steps + 1, batch, hidden), cells.dtype)}
        found |= {name: ((batch, hidden), state.dtype) for name, state in states.items()}
        return found | ({} if dy is None else {"dy": ((steps, batch, hidden), dy.dtype)})

    def body(stage: Stage, steps: int, gemm: OwnGemm) -> None:
        histories = stage.get("gates", steps), stage.get("cells", steps + 1)
        into = stage.get("dy", steps), stage["dh"], stage["dc"]
        loop(gemm, *histories, stage.weights, *into, inward, stage.get("lengths"))

    states = {"dh": dh, "dc": dc}
    job = Job(key, _most(key), recurrent, shapes, body)
    stretches = stretches_of(len(gates), job.most, backwards=not lane.reverse)
    with staged(job, stretches) as stage:
        if stage is None:
            loop(gemm, gates, cells, weights, dy, dh, dc, lane, lengths)
            return
        write = stage.arguments(lengths)
        for name, state in states.items():
            copy(stage[name], state)
        for first, steps in stretches:
            write(first, 0)
            copy_rows(stage["gates"], 0, gates, first, steps)
            copy_rows(stage["cells"], 0, cells, first, steps + 1)
            if dy is not None:
                copy_columns(stage["dy"], 0, 0, dy, first, lane.first, lane.width, steps)
            stage.launch(steps)
            copy_rows(gates, first, stage["gates"], 0, steps)
        for name, state in states.items():
            copy(state, stage[name])


def key_of(
    gates,
    lane: Lane,
    weights: Weights,
    *,
    backward: bool,
    lengths: bool,
    keep: bool = False,
    dy: bool = False,
    tf32: bool = False,
    options: tuple = (),
) -> Key:
    import cupy

    _, batch, columns = gates.shape
    device = cupy.cuda.runtime.getDevice()
    switches = lane.reverse, backward, weights.bias is not None, lengths, keep, dy
    return Key(cupy, device, gates.dtype, tf32, batch, columns // 4, *switches, options)


def _most(key: Key) -> int:
    return graph_layouts.steps(key.batch, key.hidden, key.dtype.name)


def stretches_of(steps: int, most: int, *, backwards: bool) -> list[tuple[int, int]]:
    """(first step, steps) of each replay, in the order in which they are computed. The last in time may be short."""
    found = [(first, min(most, steps - first)) for first in range(0, steps, most)]
    return found[::-1] if backwards else found


@contextmanager
def staged(job: Job, stretches: list[tuple[int, int]]) -> Iterator[Stage | None]:
    """A stage that has copies of the weights, and the graphs that the stretches need, for as long as work is put into
    its buffers; or None."""
    with _lock:
        stage = _prepared(job, {steps for _, steps in stretches})
        if stage is None:
            yield None
            return
        try:
            stage.bring_weights(job.weights)
            yield stage
        finally:
            stage.end()


def _prepared(job: Job, counts: set[int]) -> Stage | None:
    key = job.key
    where = key.cupy, key.device
    if where in _failures:
        return None
    try:
        stage = _stages.get(key)
        if stage is None:
            stage = Stage(job)
        stage.begin()
        for steps in counts:
            stage.capture(steps, job.body)
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
