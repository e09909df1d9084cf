"""The LSTM's options in the schedules with one launch for all time steps: which of them these hold, and launches.

The kernels are those of `gpulstm.engines.cupy_one_launch` with the switch OPTIONS; `kernels/persistent_options.cuh` has
the equations. Weight drop is no matter of theirs: they are handed the weights with the mask on them.
"""

from typing import Any

import numpy as np

from ..cuda import half_layouts, planner
from ..cuda.planner import Choice
from ..masks import Draws
from ..options import PLAIN, Options
from ..parameters import Weights
from . import Lane, cupy_one_launch
from .cupy_masks import draw_arguments, dropout_arguments, zoneout_arguments

_OPTIONS = np.dtype(
    [
        *((name, np.uint32) for name in ("seed_low", "seed_high", "stream", "first_draw")),
        *(("hidden_threshold", np.uint32), ("hidden_scale", np.float32)),
        *(("candidate_threshold", np.uint32), ("candidate_scale", np.float32)),
        *(("zone_h_threshold", np.uint32), ("zone_h_share", np.float32)),
        *(("zone_c_threshold", np.uint32), ("zone_c_share", np.float32)),
        ("coupled", np.int32),
    ],
    align=True,
)  # as the compiler lays out the struct Options: the tests compare


def not_held(options: Options, *, steps: int, layer_norm: bool, peephole: bool, projection: str = "") -> str:
    """Which of a layer's options no schedule with one launch holds, and why, in words; empty if there is none.

    Layer norm has kernels of its own, which hold no other option but weight drop, and come with launches around them.
    ``projection`` says why there is one that is not folded into weight_hh.
    """
    found = []
    if layer_norm and steps == 1:
        found.append("a single step with layer_norm (which is fewer launches in the loop)")
    if layer_norm and (others := _beside_layer_norm(options, peephole)):
        found.append(f"layer_norm together with {' and '.join(others)}")
    if projection:
        found.append(f"proj_size ({projection})")
    if options.cell_clip is not None:
        found.append("cell_clip")
    if options.activations != PLAIN.activations:
        found.append("activations other than sigmoid, tanh, tanh")
    return ", ".join(found)


def _beside_layer_norm(options: Options, peephole: bool) -> list[str]:
    found = ["peephole"] if peephole else []
    found += [name for name in ("coupled", "recurrent_dropout") if getattr(options, name)]
    return [*found, "zoneout"] if any(options.zoneout) else found


def not_plain(*, layer_norm: bool) -> str:
    """What a layer with options has beyond the plain one, for the planner."""
    return planner.LAYER_NORM if layer_norm else "options"


def forward_steps(
    choice: Choice, draws: Draws, gates, weights: Weights, h, hiddens, cells, y, lane: Lane, lengths, first_time, keep
) -> None:
    """All steps. gates (steps, batch, 4*hidden) is W_ih x, and ``weights.recurrent`` has its mask on it.

    h (batch, hidden) becomes the final state. hiddens (steps + 1, batch, hidden) holds what the first step's product
    reads, and receives what those of the others read, both in `slots`; without ``keep`` the resident schedule leaves it
    alone. cells is as in `cupy_one_launch.forward_steps`.
    """
    steps, batch, _ = gates.shape
    null = cupy_one_launch._or_null
    arrays = (gates, weights.recurrent, weights.bias, cells, hiddens, y, lengths)
    more = (h, null(weights.peephole), arguments(draws, lane))
    sizes = (steps, batch, lane.width, y.shape[2], lane.first, keep, lane.reverse, first_time)
    cupy_one_launch._launch(choice, arrays, sizes, more)


def backward_steps(
    choice: Choice, draws: Draws, gates, cells, weights: Weights, dy, dh, dc, d_peephole, lane: Lane, lengths
) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's;
    d_peephole (batch, 3*hidden) or None is added to."""
    import cupy

    steps, batch, _ = gates.shape
    null = cupy_one_launch._or_null

    def more(first_time: int) -> tuple:
        own = lane._replace(first_time=lane.first_time + first_time)
        return null(weights.peephole), null(d_peephole), arguments(draws, own)

    if choice.kernel == half_layouts.BACKWARD:
        directions = [(gates, weights.recurrent, cells, dh, dc)]
        cupy_one_launch._backward_half(choice, directions, dy, lane, lengths, more)
        return
    arrays: tuple[Any, ...] = (gates, weights.recurrent, cells, dy, dh, dc, lengths)
    if choice.schedule == "persistent":
        arrays = (*arrays, cupy.zeros(planner.exchange_words(choice), np.uint32))
    sizes = (steps, batch, lane.width, 0 if dy is None else dy.shape[2], lane.first, lane.reverse)
    cupy_one_launch._launch(choice, arrays, sizes, more(0))


def arguments(draws: Draws, lane: Lane) -> np.ndarray:
    """The struct Options of one call and one direction of a layer."""
    options, training, real = draws.options, draws.training, np.float32
    on_hidden = options.recurrent_dropout_on == "hidden"
    dropout = options.recurrent_dropout if training else 0.0
    zones = (zoneout_arguments(z, real, training=training) for z in options.zoneout)
    values = (
        *draw_arguments(draws, lane.stream, lane.first_time),
        *dropout_arguments(dropout if on_hidden else 0.0, real),
        *dropout_arguments(0.0 if on_hidden else dropout, real),
        *(value for zone in zones for value in zone),
        options.coupled,
    )
    return np.array(values, _OPTIONS)
