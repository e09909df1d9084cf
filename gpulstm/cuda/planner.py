"""Which schedule runs a layer's time steps on a GPU, and with which tiles. Pure arithmetic: no GPU is needed to ask.

- **loop**: one GEMM and one fused kernel per step (`gpulstm.engines.cupy_engine`). Takes everything.
- **persistent**: one launch for all steps, the recurrent weights in registers
  (`kernels/lstm_persistent_forward.cu`, `lstm_persistent_backward.cu`). Takes what fits on the device at once.

Of all ways to lay a layer out on the device the planner takes the one whose predicted time per step is shortest. The
predictions are straight lines in the amounts of work, fitted to times measured on one H200; benchmarks/results/notes.md
says how well they fit. A wrong prediction costs time, never correctness.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

from .catalogue import TILES

WARPS = 16  # of a block of a persistent kernel
UNITS_PER_TILE = 4  # 16 rows of W_hh: the four gates of four hidden units
SEQUENCES_PER_TILE = 8
STATIC_SHARED_BYTES = 1024  # of the forward kernel, and what the driver keeps for itself, rounded up

FORWARD, BACKWARD = "lstm_persistent_forward", "lstm_persistent_backward"
SCHEDULES = ("loop", "persistent")


class Device(NamedTuple):
    """What the planner has to know of a GPU."""

    capability: int  # 90 for compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # that one block can have
    cooperative: bool  # whether all blocks of a launch can be made to run at the same time


class Choice(NamedTuple):
    """One pass's schedule, and why. The numbers are 0 for all schedules but the persistent one."""

    schedule: str
    reason: str
    tiles: tuple[int, int, int] = (0, 0, 0)  # as `catalogue.TILES` names them
    blocks: int = 0  # of a group
    groups: int = 0  # parts of the batch that do not wait for each other
    share: int = 0  # sequences of a group
    microseconds: float = 0.0  # predicted, per time step

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.schedule}: {self.reason}"
        return (
            f"{self.schedule}: {self.groups} x {self.blocks} blocks, {UNITS_PER_TILE * self.tiles[0]} hidden units and "
            f"{self.share} sequences each; {self.reason}"
        )


class Plan(NamedTuple):
    """How a layer runs forward, and back."""

    forward: Choice
    backward: Choice

    def __str__(self) -> str:
        return f"forward  {self.forward}\nbackward {self.backward}"


_allowed: ContextVar[tuple[str, ...]] = ContextVar("schedules", default=SCHEDULES)


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


def plan(batch: int, hidden: int, dtype: str, device: Device) -> Plan:
    """The schedules of a plain LSTM layer, without options, in one direction."""
    return Plan(choose(FORWARD, batch, hidden, dtype, device), choose(BACKWARD, batch, hidden, dtype, device))


def both(schedule: str, reason: str) -> Plan:
    """A plan that is the same forward and back."""
    return Plan(Choice(schedule, reason), Choice(schedule, reason))


def choose(kernel: str, batch: int, hidden: int, dtype: str, device: Device) -> Choice:
    """The schedule of one pass, ``kernel`` being `FORWARD` or `BACKWARD`."""
    return _choose(kernel, batch, hidden, dtype, device, _allowed.get())


@lru_cache(maxsize=1024)  # the same few layers are asked about in every training step
def _choose(kernel: str, batch: int, hidden: int, dtype: str, device: Device, allowed: tuple[str, ...]) -> Choice:
    obstacle = _obstacle(batch, hidden, dtype, device)
    found = [] if obstacle else list(_layouts(kernel, batch, hidden, device))
    if not obstacle and not found:
        obstacle = (
            f"the recurrent weights of hidden_size {hidden} do not fit into the registers of {device.multiprocessors} "
            "multiprocessors"
        )
    if "persistent" not in allowed:
        return Choice("loop", "nothing else is allowed here")
    if obstacle:
        if "loop" not in allowed:
            raise ValueError(f"the persistent schedule was asked for, but {obstacle}")
        return Choice("loop", obstacle)
    best = min(found, key=lambda choice: choice.microseconds)
    loop = _loop_microseconds(kernel, batch, hidden)
    if "loop" in allowed and loop < best.microseconds:
        reason = f"{loop:.0f} us a step predicted, against {best.microseconds:.0f} in one launch"
        return Choice("loop", reason, microseconds=loop)
    return best


def shared_bytes(tiles: tuple[int, int, int]) -> int:
    """Dynamic shared memory of the forward kernel: two buffers of every warp's sums."""
    row_tiles, _, sequence_tiles = tiles
    return 2 * WARPS * SEQUENCES_PER_TILE * sequence_tiles * (16 * row_tiles + 4) * 4


def exchange_words(choice: Choice) -> int:
    """32-bit words through which the backward kernel's blocks hand their contributions to each other."""
    return 2 * choice.groups * choice.blocks * choice.share * choice.blocks * UNITS_PER_TILE * choice.tiles[0]


def _obstacle(batch: int, hidden: int, dtype: str, device: Device) -> str:
    """Why no persistent kernel can take this at all; empty if one might."""
    if dtype != "float32":
        return f"the persistent kernels are for float32, not {dtype}"
    if hidden % 4:
        return f"the persistent kernels read four hidden units at a time, and {hidden} is not a multiple of 4"
    if device.capability < 80:
        return f"the persistent kernels need compute capability 8.0, and this device has {device.capability / 10:.1f}"
    if not device.cooperative:
        return "this device cannot make all blocks of a launch run at the same time"
    if batch == 0:
        return "there is no sequence"
    return ""


def _layouts(kernel: str, batch: int, hidden: int, device: Device) -> Iterator[Choice]:
    for tiles in TILES[kernel][1]:
        row_tiles, depth, sequence_tiles = tiles
        blocks = _up(hidden, UNITS_PER_TILE * row_tiles)
        if blocks > device.multiprocessors or not _covers(kernel, tiles, hidden, blocks):
            continue
        if kernel == FORWARD and shared_bytes(tiles) + STATIC_SHARED_BYTES > device.shared_bytes:
            continue
        # One block has a multiprocessor to itself, and a group's sequences should fill its tiles.
        share = max(_up(batch, device.multiprocessors // blocks), min(batch, SEQUENCES_PER_TILE * sequence_tiles // 2))
        for each in {share, _up(batch, device.multiprocessors // blocks)}:
            groups = _up(batch, each)
            cost = _microseconds(kernel, tiles, blocks, groups, each, hidden)
            reason = f"{cost:.1f} us a step predicted"
            yield Choice("persistent", reason, tiles, blocks, groups, each, cost)


def _covers(kernel: str, tiles: tuple[int, int, int], hidden: int, blocks: int) -> bool:
    """Whether these are the smallest tiles whose weights cover the matrix."""
    row_tiles, depth, _ = tiles
    width = WARPS * 8 if kernel == FORWARD else WARPS * 16
    wanted = _up(hidden if kernel == FORWARD else blocks * UNITS_PER_TILE * row_tiles, width)
    depths = sorted({other[1] for other in TILES[kernel][1] if other[0] == row_tiles})
    return depth == next((d for d in depths if d >= wanted), None)


def _microseconds(kernel: str, tiles: tuple[int, int, int], blocks: int, groups: int, share: int, hidden: int) -> float:
    """Predicted time per step. Products, handing over, passes over the block's sequences, and traffic through L2."""
    row_tiles, depth, sequence_tiles = tiles
    sequences = _up(share, SEQUENCES_PER_TILE)
    passes = _up(sequences, sequence_tiles)
    products = sequences * row_tiles * depth
    if kernel == FORWARD:
        return 0.29 + 0.0925 * products + 0.5 * sequences + 0.52 * passes
    return 0.256 * products + 1.49 * passes + 2.07e-6 * (groups * blocks * share * hidden)


def _loop_microseconds(kernel: str, batch: int, hidden: int) -> float:
    """A step of the loop: bound by the CPU that launches it, or by two launches and the GEMM's arithmetic."""
    launches, teraflops = (18.0, 45.0) if kernel == FORWARD else (15.0, 60.0)
    return max(22.0, launches + 8.0 * batch * hidden * hidden / (1e6 * teraflops))


def _up(a: int, b: int) -> int:
    return -(-a // b)
