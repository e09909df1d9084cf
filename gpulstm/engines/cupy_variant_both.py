"""Both directions of a layer with options side by side on CuPy arrays, where `gpulstm.cuda.both_directions` says so."""

from typing import Any

from ..cuda import both_directions, planner
from ..cuda.copies import copy
from ..cuda.gemm import matrix
from ..masks import Draws
from ..parameters import Weights
from . import cupy_engine, cupy_one_launch, cupy_one_launch_options, windows
from .cupy_engine import column_sum, empty
from .cupy_refusals import begun_again


class BothDirections:
    """What `gpulstm.engines.cupy_variant_engine` has for two directions, from what it has for one."""

    draws: Draws
    _call: Any
    _begin: Any

    def __init_subclass__(cls) -> None:
        """All passes, those of one direction too, begin again where a launch of theirs is refused."""
        for one in ("forward", "inference", "backward"):
            for name in (one, f"{one}_both"):
                setattr(cls, name, begun_again(getattr(cls, name)))

    def forward_both(self, x, weights, before, h, c, y, lanes, lengths) -> list | None:
        """`forward` of both directions side by side; None if nothing was done, since they run one after the other. h
        and c begin with the state ``before``."""
        calls = [self._call(x, w, lane, lengths, keep=True) for w, lane in zip(weights, lanes, strict=True)]
        choice = _choose(calls[0], planner.FORWARD, x)
        if choice is None:
            return None
        own = zip(calls, weights, h, c, strict=True)
        runs, hiddens = zip(*(self._begin(call, choice, x, *arrays) for call, *arrays in own), strict=True)
        for call, w, saved in zip(calls, weights, runs, strict=True):
            call.multiply_inputs(x, w, saved.gates)
        gates, cells = ([getattr(saved, name) for saved in runs] for name in ("gates", "cells"))
        dropped = [w._replace(recurrent=saved.recurrent) for w, saved in zip(weights, runs, strict=True)]
        cupy_one_launch_options.forward_steps_of_both(
            choice, self.draws, gates, dropped, h, hiddens, cells, y, lanes, lengths, True
        )
        for c_of, saved, lane in zip(c, runs, lanes, strict=True):
            copy(c_of, saved.cells[0 if lane.reverse else -1])
        return [*runs]

    def inference_both(self, x, weights, h, c, y, lanes, gates, lengths) -> bool:
        """`inference` of both directions side by side; False if nothing was done, since they run one after the other.
        The second one's gates are as large as ``gates``."""
        calls = [self._call(x, w, lane, lengths, keep=False) for w, lane in zip(weights, lanes, strict=True)]
        choice = _choose(calls[0], planner.FORWARD, x)
        if choice is None:
            return False
        all_gates, hiddens = (gates, empty(gates.shape, gates)), h
        if choice.schedule == "persistent":
            hiddens = [cupy_one_launch.history(choice, (len(x) + 1, *h_of.shape), x) for h_of in h]
        for call, w, room, history, h_of, lane in zip(calls, weights, all_gates, hiddens, h, lanes, strict=True):
            call.multiply_inputs(x, w, room)
            if history is not h_of:
                copy(history[-1 if lane.reverse else 0], h_of)
        cupy_one_launch_options.forward_steps_of_both(
            choice, self.draws, all_gates, weights, h, hiddens, c, y, lanes, lengths, False
        )
        return True

    def backward_both(self, runs, x, weights, dy, dh, dc, dx, lanes, lengths, gradients) -> bool:
        """`backward` of both directions side by side; False if nothing was done, since they run one after the other."""
        calls = [self._call(x, w, lane, lengths, keep=True) for w, lane in zip(weights, lanes, strict=True)]
        choice = _choose(calls[0], planner.BACKWARD, x)
        if choice is None:
            return False
        gates, cells = ([getattr(saved, name) for saved in runs] for name in ("gates", "cells"))
        dropped = [w._replace(recurrent=saved.recurrent) for w, saved in zip(weights, runs, strict=True)]
        peepholes = [gradient.peephole for gradient in gradients]
        cupy_one_launch_options.backward_steps_of_both(
            choice, self.draws, gates, cells, dropped, dy, dh, dc, peepholes, lanes, lengths
        )
        for call, saved, w, gradient in zip(calls, runs, weights, gradients, strict=True):
            multiply_gradients(call, saved, x, w, dx, call.lane.reverse, None, gradient)  # the second adds to dx
        return True


def _choose(call: Any, direction: str, x) -> planner.Choice | None:
    """The choice of both directions of the layer side by side, or None where they run one after the other."""
    if call.projected:
        return None
    asked = call.choose(direction, x), call.batch, call.hidden, cupy_one_launch.current_device()
    return both_directions.side_by_side(direction, *asked, options=True)[0]


def multiply_gradients(call: Any, saved: Any, x, weights: Weights, dx, add_to_dx: bool, dh_star, gradient: Any) -> None:
    """dx and the weights' gradient from those of the pre-activations, which ``saved.gates`` are by now."""
    total, gemm, adding = gradient.total, call.gemm, call.adding
    dp, dr = (saved.p, saved.r) if call.normed else (saved.gates, saved.gates)
    for window in windows(call.steps, cupy_engine.window(call.batch), call.lane.reverse):
        gemm(matrix(dp[window]), matrix(weights.input), matrix(dx[window]), accumulate=add_to_dx)
        products = [(total.input, dp, x), (total.recurrent, dr, saved.h_in)]
        products += [(total.projection, dh_star, saved.m)] if call.projected else []
        for out, d, given in products:  # sum over time and batch of d^T given
            adding(matrix(d[window]), matrix(given[window]), matrix(out), transpose_a=True, accumulate=True)
        if total.bias is not None:
            total.bias[...] += column_sum(saved.gates[window])
