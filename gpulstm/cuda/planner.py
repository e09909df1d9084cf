"""Which schedule runs a layer's time steps on a GPU, and with which tiles. Pure arithmetic: no GPU is needed to ask.

- **loop**: one GEMM and one fused kernel per step (`gpulstm.engines.cupy_engine`). Takes everything.
- **resident**: one launch for all steps, the recurrent weights in the registers of every block, each of which runs one
  or two sequences for itself (`kernels/lstm_resident_forward.cu`, `lstm_resident_backward.cu`). Takes small layers.
- **persistent**: one launch for all steps, the recurrent weights in the registers of many blocks, which hand the states
  to each other (`kernels/lstm_persistent_forward.cu`, `lstm_persistent_backward.cu`, and those of 16 bits, which
  `gpulstm.cuda.half_layouts` lays out). Takes what fits on the device.
- **cluster**: one launch for all steps, the recurrent weights in the registers of a cluster of blocks, which hand the
  states to each other through distributed shared memory (`gpulstm.cuda.cluster_layouts`). Compute capability 9.0.

The arithmetic, ``dtype``, is "float32", "tf32", "float16", "bfloat16" or "float64": arrays of float32 whose owner
allows products in TF32 are "tf32".

- **graph**: the loop's launches, captured once and replayed (`gpulstm.engines.cupy_graph`). Takes what the loop takes.
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
from typing import NamedTuple

from . import cluster_layouts, half_layouts, layer_norm_layouts
from .catalogue import REAL_OF_DTYPE, TILES

RESIDENT_HIDDEN = 64  # more weights than one block's registers hold beside everything else
WARPS = 16  # of a block of a persistent kernel
UNITS_PER_TILE = 4  # 16 rows of W_hh: the four gates of four hidden units
SEQUENCES_PER_TILE = 8
STEP_SEQUENCES = 8  # in a single step; with more, a product reads the weights less often
GRAPH_STEPS, FEWEST_GRAPH_STEPS = 32, 4  # what comes on top of a graph, some ten copies, is little for each of 32 steps
GRAPH_BYTES = 256 * 2**20  # of the buffers that a graph works in; steps so large that 4 do not fit keep the CPU waiting
STATIC_SHARED_BYTES = 1024  # of the forward kernel, and what the driver keeps for itself, rounded up

FORWARD, BACKWARD = "forward", "backward"
LAYER_NORM = "layer norm"
SCHEDULES = ("loop", "resident", "persistent", "cluster", "graph", "step")

UNMEASURED = ("cluster", "graph")
"""Schedules that are taken only where `only` names them. What is predicted of them has not been compared with a GPU's
times yet, so a layer that is known to be fast would be given up for a guess. Once it has been, delete the entry."""


class Device(NamedTuple):
    """What the planner has to know of a GPU."""

    capability: int  # 90 for compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # that one block can have
    cooperative: bool  # whether all blocks of a launch can be made to run at the same time


class Choice(NamedTuple):
    """One pass's schedule, and why. The numbers are 0 for schedules that are not one launch for all steps."""

    schedule: str
    reason: str
    kernel: str = ""
    tiles: tuple[int, ...] = ()  # as `catalogue.TILES` names them
    blocks: int = 0  # of a group
    groups: int = 0  # parts of the batch that do not wait for each other
    share: int = 0  # sequences of a group
    microseconds: float = 0.0  # predicted, per time step
    arithmetic: str = ""  # that the kernel is compiled for
    directions: int = 1  # that a launch runs side by side, each of them in that many groups
    layers: int = 1  # the same of layers on top of each other

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.schedule}: {self.reason}"
        blocks = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        sequences = "1 sequence" if self.share == 1 else f"{self.share} sequences"
        directions = "" if self.directions == 1 else f"{self.directions} directions x "
        directions += "" if self.layers == 1 else f"{self.layers} layers x "
        return f"{self.schedule}: {directions}{self.groups} x {blocks}, {sequences} each; {self.reason}"


class Plan(NamedTuple):
    """How a layer runs forward, and back; and forward in inference, which differs for a single step alone."""

    forward: Choice
    backward: Choice
    inference: Choice | None = None  # None as forward

    def __str__(self) -> str:
        lines = f"forward  {self.forward}\nbackward {self.backward}"
        return lines if self.inference in (None, self.forward) else f"{lines}\ninference {self.inference}"


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
    if 0 < batch <= STEP_SEQUENCES and dtype in REAL_OF_DTYPE and "step" in _allowed.get():
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
    ``not_plain`` says what it has beyond the plain LSTM with full products, if anything, "options", `LAYER_NORM` or
    "tf32": a graph holds none of that, and a cluster no options. With layer norm the kernels are others
    (`gpulstm.cuda.layer_norm_layouts`).
    """
    return _choose(direction, batch, hidden, dtype, device, not_held, not_plain, _allowed.get())


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
    obstacles: dict[str, str] = {}
    found: list[Choice] = []
    for schedule, layouts in LAYOUTS.items():
        if schedule not in allowed:
            if schedule in UNMEASURED:
                continue
            obstacles[schedule] = "is not allowed here"
        elif schedule == "cluster" and not_plain in ("options", LAYER_NORM):
            obstacles[schedule] = f"does not hold {not_plain}"
        elif obstacle := _obstacle(schedule, batch, hidden, dtype, device):
            obstacles[schedule] = obstacle
        else:
            found += layouts(direction, batch, hidden, dtype, device)
            if not any(choice.schedule == schedule for choice in found):
                obstacles[schedule] = f"does not fit hidden_size {hidden} on {device.multiprocessors} multiprocessors"
    if not_plain == LAYER_NORM:
        found = [layer_norm_layouts.with_layer_norm(choice) for choice in found]
    loop = loop_microseconds(direction, 8.0 * batch * hidden * hidden, dtype)
    best = min(found, key=lambda choice: choice.microseconds, default=None)
    why_not = "; ".join(f"{schedule} {obstacle}" for schedule, obstacle in obstacles.items())
    if not_held:
        best, why_not = None, f"one launch for all steps does not hold {not_held}"
    of_graph = _graph_obstacle(batch, hidden, dtype, not_plain)
    if "graph" in allowed and not of_graph and (best is None or loop < best.microseconds):
        return Choice("graph", "the loop's launches, captured once and replayed", microseconds=loop)
    if "loop" not in allowed:
        if best is None:
            why_not += f"; graph {of_graph}" if "graph" in allowed else ""
            why_not += f"; step takes {ONE_STEP.reason}" if "step" in allowed else ""
            raise ValueError(f"no schedule that is allowed here takes this layer: {why_not}")
        return best
    if best is None:
        return Choice("loop", why_not, microseconds=loop)
    if loop < best.microseconds:
        reason = f"{loop:.0f} us a step predicted, {best.schedule} {best.microseconds:.0f}"
        return Choice("loop", reason, microseconds=loop)
    return best


def shared_bytes_of(choice: Choice) -> int:
    """Dynamic shared memory of a persistent kernel's block."""
    if choice.kernel in half_layouts.TILES:
        return half_layouts.shared_bytes(choice.tiles)
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
    groups = choice.directions * choice.layers * choice.groups
    return 2 * groups * choice.blocks * choice.share * choice.blocks * UNITS_PER_TILE * choice.tiles[0]


def _obstacle(schedule: str, batch: int, hidden: int, dtype: str, device: Device) -> str:
    """Why a schedule cannot take this at all; empty if it might."""
    in_half = dtype in half_layouts.DTYPES
    if schedule != "persistent" and in_half:
        return f"is for float32, not {dtype}"
    if dtype not in ("float32", "tf32") and not in_half:
        others = "" if schedule != "persistent" else ", TF32, float16 and bfloat16"
        return f"is for float32{others}, not {dtype}"
    if batch == 0:
        return "has no sequence to run"
    if schedule == "resident":
        return "" if hidden <= RESIDENT_HIDDEN else f"is for hidden_size up to {RESIDENT_HIDDEN}, not {hidden}"
    if schedule == "cluster":
        return cluster_layouts.obstacle(hidden, device.capability, device.multiprocessors)
    if in_half and hidden % half_layouts.HIDDEN_MULTIPLE:
        return f"reads eight hidden units of {dtype} at a time, and {hidden} is not a multiple of 8"
    if hidden % 4:
        return f"reads four hidden units at a time, and {hidden} is not a multiple of 4"
    if device.capability < 80:
        return f"needs compute capability 8.0, and this device has {device.capability / 10:.1f}"
    if not device.cooperative:
        return "needs all blocks of a launch to run at the same time, which this device cannot promise"
    return ""


def graph_steps(batch: int, hidden: int, dtype: str) -> int:
    """Time steps that one graph of this layer runs."""
    row = 7 * hidden * (4 if dtype == "float32" else 8)  # gates, c, h and y of one sequence
    return min(GRAPH_STEPS, GRAPH_BYTES // max(1, batch * row))


def _graph_obstacle(batch: int, hidden: int, dtype: str, not_plain: str) -> str:
    if not_plain:
        return f"does not hold {not_plain}"
    if dtype not in REAL_OF_DTYPE:
        return f"is for {' and '.join(REAL_OF_DTYPE)}, not {dtype}"
    if batch == 0:
        return "has no sequence to run"
    if graph_steps(batch, hidden, dtype) < FEWEST_GRAPH_STEPS:
        return "is for steps whose launches take longer than their arithmetic"
    return ""


def _resident(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    kernel = f"lstm_resident_{direction}"
    quads = min(quads for quads, _ in TILES[kernel][1] if 8 * quads >= hidden)
    found = []
    for _, share in (tiles for tiles in TILES[kernel][1] if tiles[0] == quads):
        groups = _up(batch, share)
        rounds = _up(groups, device.multiprocessors)  # a block has a multiprocessor to itself
        cost = rounds * (0.2 + 0.1 * share)
        found.append(Choice("resident", _predicted(cost), kernel, (quads, share), 1, groups, share, cost, "float32"))
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


def _persistent_half(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    kernel = half_layouts.FORWARD if direction == FORWARD else half_layouts.BACKWARD
    found = []
    for layout in half_layouts.layouts(kernel, batch, hidden, device.multiprocessors, device.shared_bytes):
        tiles, blocks, groups, share, cost = layout
        units = half_layouts.units(kernel, tiles)
        where = f", {tiles[3]} of {tiles[2]} tiles of weights in shared memory" if tiles[3] else ""
        reason = _predicted(cost, f"{dtype}, {units} hidden units a block{where}")
        found.append(Choice("persistent", reason, kernel, tiles, blocks, groups, share, cost, dtype))
    return found


def _cluster(direction: str, batch: int, hidden: int, dtype: str, device: Device) -> list[Choice]:
    found = []
    for tiles, cost in cluster_layouts.layouts(direction, batch, hidden, device.multiprocessors):
        size, _, share = tiles
        reason = f"{_predicted(cost)} from floors, not measured"
        found.append(
            Choice(
                "cluster", reason, f"lstm_cluster_{direction}", tiles, size, _up(batch, share), share, cost, "float32"
            )
        )
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


CUBLAS_TERAFLOPS = {"tf32": 417, "float16": 772, "bfloat16": 806}  # where it was measured to do 51 in float32


def loop_microseconds(direction: str, products: float, dtype: str, pairs: int = 1) -> float:
    """A step of the loop: bound by the CPU that launches it, or by launches and the products' arithmetic.

    ``products`` are floating-point operations; ``pairs`` of a product and a kernel make a step.
    """
    launches, teraflops = (18.0, 45.0) if direction == FORWARD else (15.0, 60.0)
    teraflops *= CUBLAS_TERAFLOPS.get(dtype, 51) / 51
    return max(22.0 * pairs, launches * pairs + products / (1e6 * teraflops))


def _up(a: int, b: int) -> int:
    return -(-a // b)
