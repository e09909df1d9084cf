"""How a layer is laid out whose recurrent weights fit into the registers of a device no more. Pure arithmetic.

The kernels are `kernels/lstm_wide_forward.cu` and `lstm_wide_backward.cu`: a block keeps a part of its weights in
registers, a part in shared memory, and reads the rest from L2 in each pass over its sequences. They multiply in
float32, where TF32 is allowed too. With the switch OPTIONS they have the same tiles.

**The predictions are derived, not measured.** benchmarks/results/notes.md has the rates of one H200 that they are made
of, and the lines fitted to the persistent kernels of float32, whose structure these have. So the planner takes such a
layout unasked only where the loop is predicted to take `WORTH` times as long.
"""

from math import log2
from typing import Any, NamedTuple

FORWARD, BACKWARD = "lstm_wide_forward", "lstm_wide_backward"
UNITS = 16  # hidden units of a block, one for each of its warps forward
THREADS = 512
FRAGMENT_BYTES = 16 * THREADS  # four weights of each thread
MOST_BLOCKS = 128  # of a group: a thread of the backward kernel has four outputs
DRIVERS_SHARED_BYTES = 1024  # of each block
WORTH = 1.5

NAMES = ("QUADS", "KEPT", "PARKED", "SEQUENCES")
TILES: dict[str, tuple[tuple[int, ...], ...]] = {
    FORWARD: (
        *((12, 16, 27, 1), (12, 8, 24, 4)),  # hidden up to 1536, with 227 KB of shared memory
        *((12, 16, 11, 1), (12, 8, 8, 4)),  # with 99 KB
        *((16, 16, 27, 1), (16, 8, 24, 4), (16, 16, 11, 1), (16, 8, 8, 4)),  # hidden up to 2048
    ),
    BACKWARD: ((16, 15, 27, 1), (16, 11, 27, 4), (16, 15, 11, 1), (16, 10, 11, 4)),
}


class Tiles(NamedTuple):
    """One of `TILES`, by the names of `NAMES`."""

    quads: int  # of neighbouring columns of W_hh, for each gate, that a thread multiplies
    kept: int  # of its 4 * quads fragments, in registers
    parked: int  # in shared memory
    sequences: int  # at a time

    @property
    def streamed(self) -> int:
        """Fragments that are read from L2 in each pass."""
        return 4 * self.quads - self.kept - self.parked


class WideLayout(NamedTuple):
    """One way to run a pass. The numbers are those of `planner.Choice`."""

    tiles: tuple[int, ...]
    blocks: int
    groups: int
    share: int
    microseconds: float
    where: str  # the weights are


def shared_bytes(kernel: str, tiles: tuple[int, ...]) -> int:
    """Dynamic shared memory of a block: some of the weights, and forward the hidden states of its sequences."""
    t = Tiles(*tiles)
    states = 4 * 128 * t.quads * t.sequences if kernel == FORWARD else 0
    return FRAGMENT_BYTES * t.parked + states


def static_shared_bytes(kernel: str, tiles: tuple[int, ...]) -> int:
    """Of the backward kernel: a step's gradients of four gates, and sums of 32 threads each."""
    return 0 if kernel == FORWARD else 16 * UNITS * Tiles(*tiles).sequences + 4 * UNITS * THREADS // 32


def streamed_bytes(choice: Any) -> int:
    """Of weights, that all blocks of a `planner.Choice` read from L2 in each step; 0 for other kernels."""
    if choice.kernel not in TILES:
        return 0
    tiles = Tiles(*choice.tiles)
    return choice.groups * choice.blocks * _up(choice.share, tiles.sequences) * FRAGMENT_BYTES * tiles.streamed


def layouts(kernel: str, batch: int, hidden: int, multiprocessors: int, shared_limit: int) -> list[WideLayout]:
    """Every layout that fits: all blocks at the same time, each on a multiprocessor of its own."""
    blocks = _up(hidden, UNITS)
    if blocks > min(multiprocessors, MOST_BLOCKS):
        return []
    # Forward each of the 32 lanes of a warp has a quad of neighbouring columns in every 128.
    quads = min((tiles[0] for tiles in TILES[kernel] if 128 * tiles[0] >= hidden or kernel == BACKWARD), default=0)
    share = _up(batch, multiprocessors // blocks)
    found = []
    for tiles in (tiles for tiles in TILES[kernel] if tiles[0] == quads):
        if shared_bytes(kernel, tiles) + static_shared_bytes(kernel, tiles) + DRIVERS_SHARED_BYTES > shared_limit:
            continue
        groups = _up(batch, share)
        cost = microseconds(kernel, Tiles(*tiles), blocks, groups, share, hidden)
        found.append(WideLayout(tiles, blocks, groups, share, cost, _where(Tiles(*tiles), share, hidden)))
    return found


def microseconds(kernel: str, tiles: Tiles, blocks: int, groups: int, share: int, hidden: int) -> float:
    """Derived time of a step, one term after the other, as if no two of them overlapped.

    - Handing over from block to block: 0.27 us between two, 0.70 among 16 and 1.06 among 132 were measured, which is
      0.14 + 0.13 log2(blocks). For each pass, and for contributions, what the persistent kernels' lines have.
    - Products: 53 TFLOP/s in float32 on 132 multiprocessors, or what they read of shared memory, at 128 bytes a clock
      of 1.98 GHz, if that takes longer: the parked weights, and for each warp all states.
    - Weights from L2: 8.8 TB/s on 132 multiprocessors, measured with 30 MB of which each reads its own part.
    """
    passes = _up(share, tiles.sequences)
    products = 2 * 4 * UNITS * hidden * tiles.sequences / (53e6 / 132)
    states = 4 * 16 * (hidden if kernel == FORWARD else 32 * UNITS) * tiles.sequences  # bytes, 16 warps each
    reads = (FRAGMENT_BYTES * tiles.parked + states) / (128 * 1980)
    streams = FRAGMENT_BYTES * tiles.streamed / (8.8e6 / 132)
    a_pass = max(products, reads) + streams
    if kernel == FORWARD:
        return max(0.27, 0.14 + 0.13 * log2(blocks)) + passes * (0.52 + a_pass)
    return passes * (1.49 + a_pass) + 2.07e-6 * (groups * blocks * share * hidden)


def _where(tiles: Tiles, share: int, hidden: int) -> str:
    megabytes = 16 * hidden * hidden / 1e6
    streamed = megabytes * tiles.streamed / (4 * tiles.quads)
    times = _up(share, tiles.sequences)
    often = "" if times == 1 else f" {times} times"
    return (
        f"{megabytes - streamed:.0f} of {megabytes:.0f} MB of recurrent weights stay on the chip, "
        f"{streamed:.0f} MB are read from L2{often} in each step"
    )


def _up(a: int, b: int) -> int:
    return -(-a // b)
