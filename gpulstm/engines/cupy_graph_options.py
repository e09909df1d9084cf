"""The LSTM's options in the schedule "graph": the loop of `gpulstm.engines.cupy_variant_engine`, captured and replayed.

`gpulstm.engines.cupy_graph` has stages and how a graph is made. Probabilities, limits and activations are arguments of
the captured launches, so other ones make another stage. Whose random words are drawn is read from memory, by the
kernels with the switch REPLAYED: the seed is another one in each call, and a stretch of time begins where the one
before it ended. So all calls and all stretches share a graph, and draw the bits that the loop draws.

A stretch is run as the loop runs a sequence that is cut for checkpoints: forward it begins with what its first
product reads, h with its mask, and back it ends with what its first step asks of that h.
"""

from collections.abc import Callable
from copy import copy as copied
from dataclasses import replace
from typing import Any

import numpy as np

from ..cuda import graph_layouts
from ..cuda.copies import copy, copy_columns, copy_rows
from ..cuda.launch import or_null
from ..cuda.modules import kernel
from ..cuda.own_cublas import OwnGemm
from ..parameters import Weights
from .cupy_engine import empty
from .cupy_graph import Job, Key, Shapes, Stage, key_of, staged, stretches_of

HISTORIES = ("gates", "cells", "c_star", "h_in", "m", "p", "r", "norms")
"""What the loop keeps of each step, as `gpulstm.engines.cupy_variant_engine.Saved` names it."""


class Staged:
    """A call whose steps may run in a stage, where a graph's launches find what they work on."""

    stage: Stage | None = None
    dtype: str

    def kernel(self, entry: str, *features: bool):
        """For a graph the one that reads from memory where its random words come from."""
        return kernel(entry, self.dtype, *features, self.stage is not None)

    def room(self, name: str, shape: tuple[int, ...], like) -> Any:
        """An array for what is needed within a step."""
        return empty(shape, like) if self.stage is None else self.stage[name]


def forward_steps(loop: Callable, call: Any, weights: Weights, at: Any, h, y, first_time: int) -> None:
    """All steps, as ``loop`` runs them: `_steps` of `gpulstm.engines.cupy_variant_engine`, whose arguments the others
    are."""
    steps, reverse, keep = call.steps, call.lane.reverse, call.keep
    inputs = "p" if call.normed and keep else "gates"
    kept = _kept(at, keep)
    key = _key(call, at, weights, keep=keep)

    def shapes(count: int) -> Shapes:
        found: Shapes = {"h": (h.shape, h.dtype), "y": ((count, *h.shape), y.dtype), "draw": ((4,), np.uint32)}
        found |= {name: ((_slots(name, count, keep), *a.shape[1:]), a.dtype) for name, a in kept.items()}
        return found | ({"h_star": (h.shape, h.dtype)} if call.projected else {})

    def body(stage: Stage, count: int, gemm: OwnGemm) -> None:
        inward = _in_stage(call, stage, count, gemm)
        inside = _at_of(at, stage, count, keep)
        if keep:
            first = count - 1 if reverse else 0
            arrays = (stage["h"], stage["h_in"], or_null(inward.lengths), np.int32(first), *call.sizes(h.shape[-1]))
            begin = inward.kernel("lstm_variant_first_input")
            begin(*call.output_geometry, (*arrays, *inward.draw, *call.dropout))
        loop(inward, stage.weights, inside, stage["h"], stage.get("y", count), 0)

    job = Job(key, _most(call), _read_by_steps(weights, at.recurrent), shapes, body)
    stretches = stretches_of(steps, job.most, backwards=reverse)
    with staged(job, stretches) as stage:
        if stage is None:
            loop(call, weights, at, h, y, first_time)
            return
        write = stage.arguments(call.lengths, call.draw[:3])
        copy(stage["h"], h)
        if not keep:
            copy(stage["cells"], at.cells)
        for first, count in stretches:
            write(first_time + first, call.lane.first_time + first)
            copy_rows(stage[inputs], 0, kept[inputs], first, count)
            if keep:  # where this stretch begins
                copy_rows(stage["cells"], count * reverse, at.cells, first + count * reverse, 1)
            stage.launch(count)
            copy_columns(y, first, call.lane.first, stage["y"], 0, 0, call.lane.width, count)
            if keep:
                for name, history in kept.items():
                    if name == "cells":
                        copy_rows(history, first + (not reverse), stage[name], int(not reverse), count)
                    else:
                        copy_rows(history, first, stage[name], 0, count)
        copy(h, stage["h"])
        if not keep:
            copy(at.cells, stage["cells"])


def backward_steps(
    loop: Callable, call: Any, saved: Any, weights: Weights, dy, dh, dc, dh_star, d_peephole, d_norm
) -> None:
    """All steps, as ``loop`` runs them: `_run_backward` of the same module, whose arguments the others are."""
    states = {"dh": dh, "dc": dc, "d_peephole": d_peephole, "d_norm": d_norm}
    states = {name: state for name, state in states.items() if state is not None}
    kept = {name: a for name, a in _kept(saved, True).items() if name not in ("h_in", "m")}
    replaced = [name for name in ("gates", "p", "r") if name in kept]
    key = _key(call, saved, weights, backward=True, dy=dy is not None)
    rows = call.batch, call.hidden

    def shapes(count: int) -> Shapes:
        found: Shapes = {name: (state.shape, state.dtype) for name, state in states.items()}
        found |= {name: ((_slots(name, count, True), *a.shape[1:]), a.dtype) for name, a in kept.items()}
        found |= {"draw": ((4,), np.uint32), "product": (dh.shape, dh.dtype), "dm": (rows, dh.dtype)}
        found |= {} if dh_star is None else {"dh_star": ((count, *dh_star.shape[1:]), dh_star.dtype)}
        return found | ({} if dy is None else {"dy": ((count, *dh.shape), dy.dtype)})

    def body(stage: Stage, count: int, gemm: OwnGemm) -> None:
        inward, inside = _in_stage(call, stage, count, gemm), _at_of(saved, stage, count, True)
        into = stage["dh"], stage["dc"], stage.get("dh_star", count), stage.get("d_peephole"), stage.get("d_norm")
        loop(inward, inside, stage.weights, stage.get("dy", count), *into)

    job = Job(key, _most(call), _read_by_steps(weights, saved.recurrent), shapes, body)
    stretches = stretches_of(call.steps, job.most, backwards=not call.lane.reverse)
    with staged(job, stretches) as stage:
        if stage is None:
            loop(call, saved, weights, dy, dh, dc, dh_star, d_peephole, d_norm)
            return
        write = stage.arguments(call.lengths, call.draw[:3])
        for name, state in states.items():
            copy(stage[name], state)
        for first, count in stretches:
            write(first, call.lane.first_time + first)
            for name, history in kept.items():
                copy_rows(stage[name], 0, history, first, _slots(name, count, True))
            if dy is not None:
                copy_columns(stage["dy"], 0, 0, dy, first, call.lane.first, call.lane.width, count)
            stage.launch(count)
            for name in replaced:
                copy_rows(kept[name], first, stage[name], 0, count)
            if dh_star is not None:
                copy_rows(dh_star, first, stage["dh_star"], 0, count)
        for name, state in states.items():
            copy(state, stage[name])


def _kept(at: Any, keep: bool) -> dict[str, Any]:
    """The histories that there are by name, each once: in inference several stand in the same memory."""
    found = {name: getattr(at, name) for name in HISTORIES if getattr(at, name) is not None}
    return found if keep else {name: a for name, a in found.items() if name == "gates" or a is not at.gates}


def _slots(name: str, steps: int, keep: bool) -> int:
    if name == "cells":
        return steps + 1 if keep else 1
    return 1 if name in ("r", "c_star") and not keep else steps


def _at_of(at: Any, stage: Stage, steps: int, keep: bool) -> Any:
    """``at`` with what a stage has of it, and the stage's weights."""
    inside = {name: stage.get(name, _slots(name, steps, keep)) for name in HISTORIES}
    if not keep:  # what stands in the same memory does so here, too
        inside |= {name: inside["gates"] for name in HISTORIES if getattr(at, name) is at.gates}
    return at._replace(**inside, recurrent=stage.weights.recurrent)


def _in_stage(call: Any, stage: Stage, steps: int, gemm: OwnGemm) -> Any:
    """The call with all that its launches get in a graph."""
    inward = copied(call)
    inward.stage, inward.steps = stage, steps
    inward.gemm = inward.adding = gemm
    inward.lane, inward.lengths, inward.draw = call.lane._replace(first=0), stage.get("lengths"), (stage["draw"],)
    inward.weights = tuple(or_null(weight) for weight in stage.weights[-len(call.weights) :])
    return inward


def _read_by_steps(weights: Weights, recurrent) -> Weights:
    return weights._replace(input=None, recurrent=recurrent)


def _most(call: Any) -> int:
    beside = graph_layouts.LAYER_NORM if call.normed else graph_layouts.OPTIONS
    return graph_layouts.steps(call.batch, call.hidden, call.dtype, beside)


def _key(call: Any, at: Any, weights: Weights, *, backward: bool = False, keep: bool = False, dy: bool = False) -> Key:
    """Options that a captured launch holds: not those that act outside of the steps."""
    options, training = call.draws.options, call.draws.training
    of_step = replace(options.of_step(training=training), weight_drop=0.0)
    shapes = tuple(None if weight is None else weight.shape for weight in weights[1:])
    kind: Any = {"backward": backward, "lengths": call.lengths is not None, "keep": keep, "dy": dy}
    return key_of(at.gates, call.lane, weights, **kind, tf32=options.tf32, options=(training, of_step, shapes))
