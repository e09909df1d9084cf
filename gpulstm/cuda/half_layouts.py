"""How the persistent kernels of 16 bits can be laid out on a device, and how long a step takes then.

`kernels/handed_product.cuh` says what the tile sizes mean. The blocks are as large as registers and shared memory
allow: few of them hand numbers over faster than many, and each reads what all others have made.

**The predictions are derived, not measured.** benchmarks/results/notes.md has the rates of one H200 that they are made
of, and the lines fitted to the kernels of float32, whose structure these have.
"""

from math import log2
from typing import NamedTuple

DTYPES = ("float16", "bfloat16")
FORWARD, BACKWARD = "lstm_persistent_half_forward", "lstm_persistent_half_backward"
WARPS = 16
THREADS = 32 * WARPS
SEQUENCES_PER_TILE = 8
HIDDEN_MULTIPLE = 8  # numbers in 16 bytes, which is what a thread loads at a time
DRIVERS_SHARED_BYTES = 1024  # of each block

NAMES = ("SPLIT", "MTILES", "KTILES", "IN_SHARED", "NTILES", "AT_ONCE")
TILES: dict[str, tuple[tuple[int, ...], ...]] = {
    FORWARD: (
        (2, 2, 2, 0, 1, 1),  # 64 hidden units in a block, hidden up to 64
        (4, 4, 2, 0, 1, 1),  # 64, 128
        (2, 4, 4, 1, 1, 2),  # 128, 128
        (4, 4, 4, 0, 1, 2),  # 64, 256
        (8, 4, 4, 0, 1, 2),  # 32, 512
        (8, 4, 4, 2, 2, 4),
        (8, 4, 6, 2, 1, 3),  # 32, 768
        (16, 4, 4, 0, 1, 2),  # 16, 1024
        (16, 4, 4, 2, 2, 4),
        (8, 4, 8, 4, 1, 4),  # 32, 1024
        (16, 4, 8, 4, 1, 3),  # 16, 2048
    ),
    BACKWARD: (
        (8, 2, 2, 0, 1, 1),  # 64, 64
        (16, 4, 2, 0, 1, 1),  # 64, 128
        (8, 4, 4, 0, 1, 2),  # 128, 128
        (16, 4, 4, 0, 1, 2),  # 64, 256
        (16, 2, 8, 0, 1, 4),  # 32, 512
        (16, 2, 8, 4, 2, 4),
        (16, 2, 12, 6, 1, 6),  # 32, 768
        (16, 2, 12, 8, 2, 4),
        (16, 1, 16, 4, 1, 8),  # 16, 1024
        (16, 1, 16, 4, 2, 4),
        (16, 2, 16, 10, 1, 8),  # 32, 1024
        (16, 1, 32, 16, 1, 4),  # 16, 2048
        (16, 1, 32, 22, 2, 4),
    ),
}

# Of layers on top of each other in one launch, whose blocks have two matrices (`kernels/stacked_product.cuh`).
TILES_OF_LAYERS: dict[str, tuple[tuple[int, ...], ...]] = {
    FORWARD: (
        (2, 2, 2, 0, 1, 1),  # 64 hidden units in a block, hidden up to 64
        (4, 4, 2, 0, 1, 1),  # 64, 128
        (8, 4, 2, 0, 1, 1),  # 32, 256
        (8, 4, 4, 0, 1, 2),  # 32, 512
        (16, 4, 2, 0, 1, 1),  # 16, 512
        (16, 4, 4, 0, 1, 2),  # 16, 1024
    ),
    BACKWARD: (
        (8, 2, 2, 0, 1, 1),  # 64, 64
        (16, 4, 2, 0, 1, 1),  # 64, 128
        (16, 2, 4, 0, 1, 2),  # 32, 256
        (16, 2, 8, 0, 1, 4),  # 32, 512
        (16, 1, 8, 0, 1, 4),  # 16, 512
        (16, 1, 16, 4, 1, 8),  # 16, 1024
    ),
}


class Tiles(NamedTuple):
    """One of `TILES`, by the names of `NAMES`."""

    split: int  # warps that share out a sum; the others have other rows
    row_tiles: int  # of 16 rows of weights, of a warp
    depth_tiles: int  # of 16 columns, of a warp
    in_shared: int  # of those, that stand in shared memory
    sequence_tiles: int  # of 8 sequences at a time
    at_once: int  # loads on their way together

    @property
    def next_in_shared(self) -> int:
        """Tiles of columns of a second product's weights that stand in shared memory, with layers side by side."""
        room = (16 if self.at_once < 8 else 14) // self.row_tiles - (self.depth_tiles - self.in_shared)
        return self.depth_tiles - min(max(room, 0), self.depth_tiles)

    @property
    def rows(self) -> int:
        """Rows of weights of a block: four for each hidden unit forward, one backward."""
        return 16 * self.row_tiles * WARPS // self.split

    @property
    def columns(self) -> int:
        """Columns of weights that a block's warps have room for."""
        return 16 * self.split * self.depth_tiles


class HalfLayout(NamedTuple):
    """One way to run a pass. The numbers are those of `planner.Choice`."""

    tiles: tuple[int, ...]
    blocks: int
    groups: int
    share: int
    microseconds: float


def units(kernel: str, tiles: tuple[int, ...]) -> int:
    """Hidden units of a block."""
    rows = Tiles(*tiles).rows
    return rows // 4 if kernel == FORWARD else rows


def largest_hidden(kernel: str, tiles: tuple[int, ...]) -> int:
    """The hidden size for which a block has room for all columns of its rows."""
    columns = Tiles(*tiles).columns
    return columns if kernel == FORWARD else columns // 4


def shared_bytes(tiles: tuple[int, ...], *, layers: bool = False) -> int:
    """Dynamic shared memory of a block: some of the weights, with ``layers`` some of a second product's too, and two
    buffers of its warps' sums."""
    t = Tiles(*tiles)
    sums = 2 * t.split * SEQUENCES_PER_TILE * t.sequence_tiles * (t.rows + 4) * 4
    return 16 * (t.in_shared + layers * t.next_in_shared) * t.row_tiles * THREADS + sums


def exchange_shape(steps: int, batch: int, hidden: int) -> tuple[int, int, int]:
    """Of the 32-bit words through which the backward kernel's blocks hand each other their gradients."""
    return steps, batch, 2 * hidden


def layouts(
    kernel: str, batch: int, hidden: int, multiprocessors: int, shared_limit: int, *, layers: bool = False
) -> list[HalfLayout]:
    """Every layout that fits: all blocks at the same time, each on a multiprocessor of its own. With ``layers`` of one
    of several layers, which has so many multiprocessors; the time is that of a layer alone."""
    found = []
    for tiles in (TILES_OF_LAYERS if layers else TILES)[kernel]:
        t = Tiles(*tiles)
        blocks = _up(hidden, units(kernel, tiles))
        if hidden > largest_hidden(kernel, tiles) or blocks > multiprocessors:
            continue
        if shared_bytes(tiles, layers=layers) + DRIVERS_SHARED_BYTES > shared_limit:
            continue
        # A group's sequences fill its tiles, or are as few as can be.
        fewest = _up(batch, multiprocessors // blocks)
        for share in sorted({fewest, max(fewest, min(batch, SEQUENCES_PER_TILE * t.sequence_tiles))}):
            groups = _up(batch, share)
            found.append(HalfLayout(tiles, blocks, groups, share, microseconds(kernel, t, blocks, share, hidden)))
    return found


def microseconds(kernel: str, tiles: Tiles, blocks: int, share: int, hidden: int) -> float:
    """Derived time of a step, one term after the other.

    - Handing over from block to block: 0.27 us between two, 0.70 among 16 and 1.06 among 132 were measured, which is
      0.14 + 0.13 log2(blocks). Of a further pass over a block's sequences, the line fitted to float32 has 0.52.
    - 0.5 us for each 8 sequences are, in that line, the sums of 4 row tiles through shared memory and one output of
      each thread: half of it here for either. A gradient's output has four gates, and counts twice.
    - A product of all 16 warps, 16 x 4096 operations at 646 TFLOP/s over 132 multiprocessors, takes 0.0134 us; times
      1.8, by which the fitted line is above the same rate in float32.
    - Weights in shared memory: 8 KB for each tile and pass, at 128 bytes a clock of 1.98 GHz.
    - What the other blocks hand over: 2 bytes a number, for each group of rows, at 13 TB/s over 132 multiprocessors.
    """
    sequences = _up(share, SEQUENCES_PER_TILE)
    passes = _up(sequences, tiles.sequence_tiles)
    products = sequences * tiles.row_tiles * tiles.depth_tiles
    outputs = _up(share * tiles.rows, THREADS) * (1 if kernel == FORWARD else 2)
    return (
        max(0.27, 0.14 + 0.13 * log2(blocks))
        + 0.52 * (passes - 1)
        + 0.25 * sequences * tiles.row_tiles / 4
        + 0.25 * outputs
        + 0.024 * products
        + 0.032 * tiles.in_shared * tiles.row_tiles * passes
        + _microseconds_of_reading(kernel, tiles, share, hidden)
    )


def microseconds_of_layers(kernel: str, tiles: Tiles, share: int, hidden: int) -> float:
    """What the second product of a layer takes, as if none of it were done while a block waits: its arithmetic, those
    of its weights that stand in shared memory, and reading what the layer next to it hands over."""
    sequences = _up(share, SEQUENCES_PER_TILE)
    passes = _up(sequences, tiles.sequence_tiles)
    products = sequences * tiles.row_tiles * tiles.depth_tiles
    return (
        0.024 * products
        + 0.032 * tiles.next_in_shared * tiles.row_tiles * passes
        + _microseconds_of_reading(kernel, tiles, share, hidden)
    )


def _microseconds_of_reading(kernel: str, tiles: Tiles, share: int, hidden: int) -> float:
    numbers = share * hidden * (1 if kernel == FORWARD else 4) * WARPS // tiles.split
    return 2 * numbers / 98e3


def _up(a: int, b: int) -> int:
    return -(-a // b)
