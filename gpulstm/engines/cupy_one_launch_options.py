"""The LSTM's options in the schedules with one launch for all time steps: which of them these hold, and launches.

The kernels are those of `gpulstm.engines.cupy_one_launch` with the switch OPTIONS; `kernels/persistent_options.cuh` has
the equations. The resident ones hold peepholes and coupled gates with the switch PEEPHOLES alone, and take no peepholes
without it. Weight drop is no matter of theirs: they are handed the weights with the mask on them.
"""

import numpy as np

from ..cuda import catalogue, planner
from ..cuda.launch import or_null
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

    Layer norm has kernels of its own, which hold no peepholes, and come with launches around them.
    ``projection`` says why there is one that is not folded into weight_hh.
    """
    found = []
    if layer_norm and steps == 1:
        found.append("a single step with layer_norm (which is fewer launches in the loop)")
    if layer_norm and peephole:
        found.append("layer_norm together with peephole")
    if projection:
        found.append(f"proj_size ({projection})")
    if options.cell_clip is not None:
        found.append("cell_clip")
    if options.activations != PLAIN.activations:
        found.append("activations other than sigmoid, tanh, tanh")
    return ", ".join(found)


def beside_layer_norm(options: Options) -> bool:
    """Whether the options of a time step change what the kernels with layer norm compute."""
    return bool(options.coupled or options.recurrent_dropout or any(options.zoneout))


def not_plain(options: Options, *, layer_norm: bool) -> str:
    """What a layer whose time steps have ``options`` has beyond the plain one, for the planner."""
    if not layer_norm:
        return "options"
    return planner.LAYER_NORM_AND_OPTIONS if beside_layer_norm(options) else planner.LAYER_NORM


def forward_steps(
    choice: Choice, draws: Draws, gates, weights: Weights, h, hiddens, cells, y, lane: Lane, lengths, first_time, keep
) -> None:
    """All steps. gates (steps, batch, 4*hidden) is W_ih x, and ``weights.recurrent`` has its mask on it.

    h (batch, hidden) becomes the final state. hiddens (steps + 1, batch, hidden) holds what the first step's product
    reads, and receives what those of the others read, both in `slots`; without ``keep`` the resident schedule leaves it
    alone. cells is as in `cupy_one_launch.forward_steps`.
    """
    steps, batch, _ = gates.shape
    first = cupy_one_launch._forward_arrays(gates, weights, cells, hiddens)
    switches, peephole = _beside_options(choice, draws, [(weights.peephole,)])
    more = (h, *peephole[0], arguments(draws, lane))
    sizes = (steps, batch, lane.width, y.shape[2], lane.first, keep, lane.reverse, first_time)
    cupy_one_launch._launch(choice, (*first, y, lengths), sizes, more, switches=switches)


def forward_steps_of_both(
    choice: Choice, draws: Draws, all_gates, all_weights, all_h, all_hiddens, all_cells, y, lanes, lengths, keep
) -> None:
    """`forward_steps` of both directions, of whose arrays there are pairs, but for y."""
    first, second = map(cupy_one_launch._forward_arrays, all_gates, all_weights, all_cells, all_hiddens)
    steps, batch, _ = all_gates[0].shape
    switches, of_each = _beside_options(choice, draws, [(w.peephole,) for w in all_weights])
    more = (all_h[0], *of_each[0], arguments(draws, lanes[0]), all_h[1], *of_each[1], np.uint32(lanes[1].stream))
    sizes = (steps, batch, lanes[0].width, y.shape[2], 0, keep, 0, 0)
    cupy_one_launch._launch(choice, (*first, y, lengths), sizes, more, second=second, switches=switches)


def backward_steps(
    choice: Choice, draws: Draws, gates, cells, weights: Weights, dy, dh, dc, d_peephole, lane: Lane, lengths
) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's;
    d_peephole (batch, 3*hidden) or None is added to."""
    switches, peephole = _beside_options(choice, draws, [(weights.peephole, d_peephole)])

    def more(first_time: int) -> tuple:
        own = lane._replace(first_time=lane.first_time + first_time)
        return *peephole[0], arguments(draws, own)

    directions = [(gates, weights.recurrent, cells, dh, dc)]
    cupy_one_launch._backward_steps(choice, directions, dy, lane, lengths, more, switches)


def backward_steps_of_both(
    choice: Choice, draws: Draws, all_gates, all_cells, all_weights, dy, dh, dc, d_peephole, lanes, lengths
) -> None:
    """`backward_steps` of both directions, of whose arrays there are pairs, but for dy."""
    of_each = [(w.peephole, d) for w, d in zip(all_weights, d_peephole, strict=True)]
    switches, of_each = _beside_options(choice, draws, of_each)

    def more(first_time: int) -> tuple:
        own = lanes[0]._replace(first_time=lanes[0].first_time + first_time)
        return *of_each[0], arguments(draws, own), *of_each[1], np.uint32(lanes[1].stream)

    recurrent = (weights.recurrent for weights in all_weights)
    directions = [*zip(all_gates, recurrent, all_cells, dh, dc, strict=True)]
    cupy_one_launch._backward_steps(choice, directions, dy, lanes[0], lengths, more, switches)


def _beside_options(choice: Choice, draws: Draws, of_each: list[tuple]) -> tuple[frozenset[str], list[tuple]]:
    """Which of `catalogue.BESIDE_OPTIONS` are on, and what the kernel takes of peepholes for each direction:
    ``of_each``, whose first one is their weights, or nothing where it has a switch for them and coupled gates."""
    options = draws.options
    needed = options.coupled or of_each[0][0] is not None
    of_candidate = draws.training and options.recurrent_dropout and options.recurrent_dropout_on != "hidden"
    each_step = needed or any(options.zoneout) or of_candidate
    on = dict(zip(catalogue.BESIDE_OPTIONS, (needed, each_step), strict=True))
    switches = frozenset(switch for switch, is_on in on.items() if is_on)
    if not needed and "PEEPHOLES" in catalogue.KERNELS[choice.kernel][1]:
        return switches, [() for _ in of_each]
    return switches, [tuple(map(or_null, arrays)) for arrays in of_each]


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
