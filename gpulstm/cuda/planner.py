"""Which schedule runs a layer's time steps on a GPU, and with which tiles. Pure arithmetic: no GPU is needed to ask.

- **loop**: one GEMM and one fused kernel per step (`gpulstm.engines.cupy_engine`). Takes everything.
- **resident**: one launch for all steps, the recurrent weights in the registers of every block, each of which runs a
  sequence for itself (`gpulstm.cuda.resident_layouts`), or in 16 bits a few of them on the tensor cores
  (`gpulstm.cuda.resident_tensor_layouts`). Takes small layers.
- **persistent**: one launch for all steps, the recurrent weights in the registers of many blocks, which hand the states
  to each other (`kernels/lstm_persistent_forward.cu`, `lstm_persistent_backward.cu`, and those of 16 bits, which
  `gpulstm.cuda.half_layouts` lays out). Takes what fits on the device, or nearly so (`gpulstm.cuda.wide_layouts`).
- **cluster**: one launch for all steps, the recurrent weights in the registers of a cluster of blocks, which hand the
  states to each other through distributed shared memory (`gpulstm.cuda.cluster_layouts`, and of 16 bits
  `gpulstm.cuda.cluster_half_layouts`). Compute capability 9.0.

The arithmetic, ``dtype``, is "float32", "tf32", "float16", "bfloat16" or "float64": arrays of float32 whose owner
allows products in TF32 are "tf32".

- **graph**: the loop's launches, captured once and replayed (`gpulstm.engines.cupy_graph`). Takes what the loop takes,
  where that is predicted to be faster (`gpulstm.cuda.graph_layouts`).
- **step**: a single step of few sequences in inference, both products included, in one launch
  (`kernels/lstm_one_step_forward.cu`).

Of all ways to lay a layer out on the device the planner takes the one whose predicted time per step is shortest. The
predictions are straight lines in the amounts of work, fitted to times measured on one H200; benchmarks/results/notes.md
says how well they fit. Those of 16 bits and TF32 are derived from them. A wrong prediction costs time, never
correctness.

A plan is made for one direction. The two of a bidirectional layer run side by side in one launch where
`gpulstm.cuda.both_directions` says so, else one after the other; layers of one direction on top of each other where
`gpulstm.cuda.stacked_layers` does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from . import (
    cluster_half_layouts,
    cluster_layouts,
    graph_layouts,
    half_layouts,
    layer_norm_layouts,
    loop_times,
    resident_layouts,
    resident_tensor_layouts,
    wide_layouts,
)
from .catalogue import REAL_OF_DTYPE, TILES
from .choices import Choice, Device, Plan

WARPS = 16  # of a block of a persistent kernel
UNITS_PER_TILE = 4  # 16 rows of W_hh: the four gates of four hidden units
SEQUENCES_PER_TILE = 8
STEP_SEQUENCES = 8  # in a single step, bound by bytes in TF32 too; with more, a product reads the weights less often
STATIC_SHARED_BYTES = 1024  # of the forward kernel, and what the driver keeps for itself, rounded up

FORWARD, BACKWARD = "forward", "backward"
LAYER_NORM, LAYER_NORM_AND_OPTIONS = graph_layouts.LAYER_NORM, graph_layouts.LAYER_NORM_AND_OPTIONS
SCHEDULES = ("loop", "resident", "persistent", "cluster", "graph", "step")

UNMEASURED = ("cluster", "graph")
"""Schedules that are taken only where `only` names them. What is predicted of them has not been compared with a GPU's
times yet, so a layer that is known to be fast would be given up for a guess. Once it has been, delete the entry."""


DOES_NOT_HOLD = {"cluster": ("options", LAYER_NORM, LAYER_NORM_AND_OPTIONS), "resident": (LAYER_NORM_AND_OPTIONS,)}
"""What a layer may have beyond the plain LSTM that a schedule with one launch has no kernels for."""

AUTOMATIC = tuple(schedule for schedule in SCHEDULES if schedule not in UNMEASURED)
"""Schedules that the planner chooses from unless `only` says otherwise."""

_allowed: ContextVar[tuple[str, ...]] = ContextVar("schedules", default=AUTOMATIC)


@contextmanager
def only(*schedules: str) -> Iterator[None]:
    """Within it, the planner considers these alone; to compare them. What fits none of them raises ValueError."""
    unknown = [name for name in schedules if name not in SCHEDULES]
    if unknown or not schedules:
        raise ValueError(f"schedules must be of {', '.join(SCHEDULES)}, got {', '.join(unknown) or 'none'}")
    token = _allowed.set(schedules)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> tuple[str, ...]:
    """The schedules that may be chosen: what `only` says, or `AUTOMATIC`."""
    return _allowed.get()


def plan(
    batch: int,
    hidden: int,
    dtype: str,
    device: Device,
    not_held: str = "",
    not_plain: str = "",
    *,
    steps: int = 0,
) -> Plan:
    """The schedules of an LSTM layer in one direction, forward and back; see `choose`. ``steps`` matters if it is 1."""
    asked = batch, hidden, dtype, device, not_held, not_plain
    forward, backward = (choose(direction, *asked) for direction in (FORWARD, BACKWARD))
    alone = one_step(batch, dtype) if steps == 1 and not not_plain else None
    return Plan(forward, backward, alone or forward)


def one_step(batch: int, dtype: str) -> Choice | None:
    """The choice of a single step of a plain layer in inference, or None where it runs as any number of steps does."""
    if 0 < batch <= STEP_SEQUENCES and dtype in (*REAL_OF_DTYPE, "tf32") and "step" in _allowed.get():
        return ONE_STEP
    return None


ONE_STEP = Choice("step", f"a single step of up to {STEP_SEQUENCES} sequences, in inference")


def both(schedule: str, reason: str) -> Plan:
    """A plan that is the same for every pass."""
    return Plan(*[Choice(schedule, reason)] * 3)


def choose(
    direction: str, batch: int, hidden: int, dtype: str, device: Device, not_held: str = "", not_plain: str = ""
) -> Choice:
    """The schedule of one pass, ``direction`` being `FORWARD` or `BACKWARD`.

    ``not_held`` says which of the layer's options the schedules with one launch do not hold, if there are any.
    ``not_plain`` says what it has beyond the plain LSTM, if anything, "options", `LAYER_NORM` or
    `LAYER_NORM_AND_OPTIONS`: not every schedule holds all of that (`DOES_NOT_HOLD`). With layer norm the kernels are
    others (`gpulstm.cuda.layer_norm_layouts`).
    """
    return _choose(direction, batch, hidden, dtype, device, not_held, not_plain, _allowed.get()).explained(device)


@lru_cache(maxsize=1024)  # the same few layers are asked about in every training step
def _choose(
    direction: str,
    batch: int,
    hidden: int,
    dtype: str,
    device: Device,
    not_held: str,
    not_plain: str,
    allowed: tuple[str, ...],
) -> Choice:
    found, obstacles = _in_one_launch(direction, batch, hidden, dtype, device, not_plain, allowed)
    products = 8.0 * batch * hidden * hidden
    loop = loop_times.microseconds(direction == BACKWARD, products, dtype)
    best = min(found, key=lambda choice: choice.microseconds, default=None)
    why_not = "; ".join(f"{schedule} {obstacle}" for schedule, obstacle in obstacles.items())
    if not_held:
        best, why_not = None, f"one launch for all steps does not hold {not_held}"
    if "graph" in allowed:
        of_graph = graph_layouts.obstacle(batch, hidden, dtype, not_plain)
        if not of_graph:
            line = loop_times.on_the_gpu(direction == BACKWARD, products, dtype)
            graph = graph_layouts.microseconds(line, direction == BACKWARD, batch, hidden, dtype, not_plain)
            if (best is None or graph < best.microseconds) and ("loop" not in allowed or graph < loop):
                reason = f"the loop's launches, captured once and replayed; {graph:.1f} {graph_layouts.PREDICTED}"
                return Choice("graph", reason, microseconds=graph)
            of_graph = f"copies more than it saves, {graph:.0f} us a step to {loop:.0f}"
        why_not += f"; graph {of_graph}"
    if "loop" not in allowed:
        if best is None:
            why_not += f"; step takes {ONE_STEP.reason}" if "step" in allowed else ""
            raise ValueError(f"no schedule that is allowed here takes this layer: {why_not}")
        return best
    if best is None:
        return Choice("loop", why_not, microseconds=loop)
    if loop < best.microseconds * (wide_layouts.WORTH if best.kernel in wide_layouts.TILES else 1):
        reason = f"{loop:.0f} us a step predicted, {best.schedule} {best.microseconds:.0f}"
        return Choice("loop", reason, microseconds=loop)
    return best


def _in_one_launch(
    direction: str, batch: int, hidden: int, dtype: str, device: Device, not_plain: str, allowed: tuple[str, ...]
) -> tuple[list[Choice], dict[str, str]]:
    """Every layout of the schedules with one launch for all steps; and why there is none, for schedules of which there
    is none."""
    obstacles: dict[str, str] = {}
    found: list[Choice] = []
    with_layer_norm = not_plain in (LAYER_NORM, LAYER_NORM_AND_OPTIONS)
    for schedule, layouts in LAYOUTS.items():
        kind = layer_norm_layouts.products(schedule, dtype) if with_layer_norm else dtype
        if schedule not in allowed:
            if schedule in UNMEASURED:
                continue
            obstacles[schedule] = "is not allowed here"
        elif not_plain in DOES_NOT_HOLD.get(schedule, ()):
            obstacles[schedule] = f"does not hold {not_plain}"
        elif obstacle := _obstacle(schedule, direction, batch, hidden, kind, device, not_plain):
            obstacles[schedule] = obstacle
        else:
            more = {"not_plain": not_plain} if schedule == "resident" else {}
            fitting = layouts(direction, batch, hidden, kind, device, **more)
            why_not = f"does not fit hidden_size {hidden} on {device.multiprocessors} multiprocessors"
            if schedule == "persistent" and not fitting:  # the rest of the weights may come from L2
                fitting = _wide(direction, batch, hidden, kind, device)
                if fitting and with_layer_norm:
                    fitting, why_not = [], f"{why_not} with {not_plain}"
            found += fitting
            obstacles |= {} if fitting else {schedule: why_not}
    if with_layer_norm:
        found = layer_norm_layouts.layouts(found, hidden, dtype, options=not_plain == LAYER_NORM_AND_OPTIONS)
    return found, obstacles


def shared_bytes_of(choice: Choice) -> int:
    """Dynamic shared memory of a persistent or a cluster kernel's block."""
    if choice.schedule == "cluster":
        direction = FORWARD if choice.kernel.endswith(FORWARD) else BACKWARD
        is_half = choice.kernel in cluster_half_layouts.TILES
        return cluster_half_layouts.shared_bytes(direction, choice.tiles) if is_half else 0
    if choice.kernel in half_layouts.TILES:
        return half_layouts.shared_bytes(choice.tiles, layers=choice.layers > 1)
    if choice.kernel in wide_layouts.TILES:
        return wide_layouts.shared_bytes(choice.kernel, choice.tiles)
    if choice.kernel == layer_norm_layouts.ONCE:
        return 0  # it has all of it without asking
    if choice.layers > 1 and choice.kernel.endswith(BACKWARD):
        return shared_bytes_of_layers(choice.tiles)
    return shared_bytes(choice.tiles) if choice.kernel.endswith(FORWARD) else 0


def shared_bytes(tiles: tuple[int, ...]) -> int:
    """Dynamic shared memory of the persistent forward kernel: two buffers of every warp's sums."""
    row_tiles, _, sequence_tiles = tiles
    return 2 * WARPS * SEQUENCES_PER_TILE * sequence_tiles * (16 * row_tiles + 4) * 4


def shared_bytes_of_layers(tiles: tuple[int, ...]) -> int:
    """The same of the backward kernel with LAYERS: the block's columns of the W_ih above, and every warp's sums."""
    row_tiles, depth, sequence_tiles = tiles
    units, columns = UNITS_PER_TILE * row_tiles, SEQUENCES_PER_TILE * sequence_tiles
    return 4 * WARPS * (64 * depth * units + columns * units)


def exchange_words(choice: Choice) -> int:
    """32-bit words through which the persistent backward kernel's blocks hand their contributions to each other."""
    units = wide_layouts.UNITS if choice.kernel in wide_layouts.TILES else UNITS_PER_TILE * choice.tiles[0]
    groups = choice.directions * choice.layers * choice.groups
    return 2 * groups * choice.blocks * choice.share * choice.blocks * units


def _obstacle(
    schedule: str, direction: str, batch: int, hidden: int, dtype: str, device: Device, not_plain: str = ""
) -> str:
    """Why a schedule cannot take this at all; empty if it might."""
    if given_up := device.why_not(schedule):
        return given_up
    in_half = dtype in half_layouts.DTYPES
    if dtype not in ("float32", "tf32") and not in_half:
        tf32 = " TF32," if schedule == "persistent" else ""
        return f"is for float32,{tf32} float16 and bfloat16, not {dtype}"
    if batch == 0:
        return "has no sequence to run"
    if schedule == "resident":
        if kernel := resident_tensor_layouts.kernel_of(direction, hidden, dtype, device.capability, not_plain):
            return resident_tensor_layouts.obstacle(kernel, batch, hidden)
        kernel = resident_layouts.kernel_of(direction, layer_norm=not_plain == LAYER_NORM)
        return resident_layouts.obstacle(kernel, batch, hidden)
    if schedule == "cluster":
        of_dtype = cluster_half_layouts if in_half else cluster_layouts
        return of_dtype.obstacle(hidden, device.capability, device.multiprocessors)
    if in_half and hidden % half_layouts.HIDDEN_MULTIPLE:
        return f"reads eight hidden units of {dtype} at a time, and {hidden} is not a multiple of 8"
    if hidden % 4:
        return f"reads four hidden units at a time, and {hidden} is not a multiple of 4"
    if device.capability < 80:
        return f"needs compute capability 8.0, and this device has {device.capability / 10:.1f}"
    if not device.cooperative:
        return "needs all blocks of a launch to run at the same time, which this device cannot promise"
    return ""


def _resident(
    direction: str, batch: int, hidden: int, dtype: str, device: Device, *, not_plain: str = ""
) -> list[Choice]:
    arithmetic, what = (dtype, dtype) if dtype in half_layouts.DTYPES else ("float32", "")  # no product is in TF32
    kernel = resident_tensor_layouts.kernel_of(direction, hidden, dtype, device.capability, not_plain)
    of_kernel, what = (resident_tensor_layouts, f"{what} on the tensor cores") if kernel else (resident_layouts, what)
    kernel = kernel or resident_layouts.kernel_of(direction, layer_norm=not_plain == LAYER_NORM)
    found = []
    more = {"options": not_plain == "options"} if kernel in resident_tensor_layouts.TILES else {}
    for tiles, share, cost in of_kernel.layouts(kernel, batch, hidden, device.multiprocessors, **more):
        groups = _up(batch, share)
        found.append(Choice("resident", _predicted(cost, what), kernel, tiles, 1, groups, share, cost, arithmetic))
    return found


def _persistent(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    if dtype in half_layouts.DTYPES:
        return _persistent_half(direction, batch, hidden, dtype, device)
    kernel = f"lstm_persistent_{direction}"
    found = []
    for tiles in TILES[kernel][1]:
        row_tiles, depth, sequence_tiles = tiles
        blocks = _up(hidden, UNITS_PER_TILE * row_tiles)
        if blocks > device.multiprocessors or not _covers(kernel, tiles, hidden, blocks):
            continue
        if direction == FORWARD and shared_bytes(tiles) + STATIC_SHARED_BYTES > device.shared_bytes:
            continue
        # One block has a multiprocessor to itself; a group's sequences fill its tiles, or are as few as can be.
        fewest = _up(batch, device.multiprocessors // blocks)
        for share in sorted({fewest, max(fewest, min(batch, SEQUENCES_PER_TILE * sequence_tiles // 2))}):
            groups = _up(batch, share)
            cost = _persistent_microseconds(direction, tiles, blocks, groups, share, hidden, dtype)
            reason = _predicted(cost, "" if dtype == "float32" else "products in TF32")
            found.append(Choice("persistent", reason, kernel, tiles, blocks, groups, share, cost, dtype))
    return found


def _persistent_half(
    direction: str, batch: int, hidden: int, dtype: str, device: Device, *, layers: bool = False
) -> list[Choice]:
    """With ``layers`` a layout of one of several layers that run in one launch, on its part of the device."""
    kernel = half_layouts.FORWARD if direction == FORWARD else half_layouts.BACKWARD
    size, found = (device.multiprocessors, device.shared_bytes), []
    for tiles, blocks, groups, share, cost in half_layouts.layouts(kernel, batch, hidden, *size, layers=layers):
        units = half_layouts.units(kernel, tiles)
        where = f", {tiles[3]} of {tiles[2]} tiles of weights in shared memory" if tiles[3] else ""
        reason = _predicted(cost, f"{dtype}, {units} hidden units a block{where}")
        found.append(Choice("persistent", reason, kernel, tiles, blocks, groups, share, cost, dtype))
    return found


def _wide(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    kernel, size = f"lstm_wide_{direction}", (device.multiprocessors, device.shared_bytes)
    found = wide_layouts.layouts(kernel, batch, hidden, *size) if dtype in ("float32", "tf32") else []
    reasons = [f"{layout.where}; {_predicted(layout.microseconds)} from floors, not measured" for layout in found]
    return [Choice("persistent", why, kernel, *of[:5], "float32") for why, of in zip(reasons, found, strict=True)]


def _cluster(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    if dtype in half_layouts.DTYPES:
        kernel, what, arithmetic = cluster_half_layouts.KERNELS[direction], dtype, dtype
        layouts = cluster_half_layouts.layouts(direction, batch, hidden, *device[:3])
    else:
        kernel, what, arithmetic = f"lstm_cluster_{direction}", "", "float32"
        layouts = cluster_layouts.layouts(direction, batch, hidden, device.multiprocessors)
    found = []
    for tiles, share, cost in layouts:
        reason, groups = f"{_predicted(cost, what)} from floors, not measured", _up(batch, share)
        found.append(Choice("cluster", reason, kernel, tiles, tiles[0], groups, share, cost, arithmetic))
    return found


LAYOUTS = {"resident": _resident, "persistent": _persistent, "cluster": _cluster}
"""All ways to run a pass of a layer that there is no obstacle to."""


def _covers(kernel: str, tiles: tuple[int, ...], hidden: int, blocks: int) -> bool:
    """Whether these are the smallest tiles whose weights cover the matrix."""
    row_tiles, depth, _ = tiles
    is_forward = kernel.endswith(FORWARD)
    wanted = _up(hidden, WARPS * 8) if is_forward else _up(blocks * UNITS_PER_TILE * row_tiles, WARPS * 16)
    depths = sorted({other[1] for other in TILES[kernel][1] if other[0] == row_tiles})
    return depth == next((d for d in depths if d >= wanted), None)


def _persistent_microseconds(
    direction: str, tiles: tuple[int, ...], blocks: int, groups: int, share: int, hidden: int, dtype: str
) -> float:
    """Predicted time per step: products, handing over, passes over the block's sequences, and traffic through L2."""
    # One product in TF32 instead of three and the splitting: 322 TFLOP/s were measured instead of 85. Not fitted.
    faster = 85 / 322 if dtype == "tf32" else 1.0
    row_tiles, depth, sequence_tiles = tiles
    sequences = _up(share, SEQUENCES_PER_TILE)
    passes = _up(sequences, sequence_tiles)
    products = sequences * row_tiles * depth
    if direction == FORWARD:
        return 0.29 + 0.0925 * faster * products + 0.5 * sequences + 0.52 * passes
    return 0.256 * faster * products + 1.49 * passes + 2.07e-6 * (groups * blocks * share * hidden)


def _predicted(microseconds: float, what: str = "") -> str:
    return f"{what}{'; ' if what else ''}{microseconds:.1f} us a step predicted"


def _up(a: int, b: int) -> int:
    return -(-a // b)
