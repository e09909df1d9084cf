"""How a layer in float16 or bfloat16 may be laid out in clusters of blocks, and what a time step then costs. Pure
arithmetic.

A cluster holds the recurrent weights, in registers and shared memory, and runs up to sixteen sequences for itself:
`kernels/lstm_cluster_half_forward.cu`, `lstm_cluster_half_backward.cu`, `cluster_product.cuh`. Which devices have
clusters of which size, `gpulstm.cuda.cluster_layouts` says, and what handing over costs in them.

None of these kernels has run on a GPU yet. The times are derived from floors measured on one H200, which
benchmarks/results/notes.md lists, and from assumptions.
"""

from collections.abc import Iterator
from typing import NamedTuple

from . import cluster_layouts

KERNELS = {"forward": "lstm_cluster_half_forward", "backward": "lstm_cluster_half_backward"}  # by direction
WARPS = 8
THREADS = 32 * WARPS
SEQUENCES_PER_TILE = 8
DRIVERS_SHARED_BYTES = 2048  # of each block, and its mbarriers, rounded up

# As many fragments in shared memory as leave registers for everything else (tests/test_nvrtc_gate_clusters_half.py).
NAMES = ("CLUSTER", "WIDTH", "IN_SHARED", "NTILES")
TILES: dict[str, tuple[tuple[int, ...], ...]] = {
    "lstm_cluster_half_forward": (
        *((4, 128, 0, 1), (4, 128, 0, 2)),
        *((8, 256, 0, 1), (8, 256, 0, 2)),
        *((8, 384, 0, 1), (8, 384, 2, 2)),
        *((8, 512, 6, 1), (8, 512, 9, 2)),
        (16, 512, 0, 1),  # of 16 sequences, clusters of 8 blocks take as many at the same time
        *((16, 768, 11, 1), (16, 768, 12, 2)),
    ),
    "lstm_cluster_half_backward": (
        *((4, 128, 0, 1), (4, 128, 0, 2)),
        *((8, 256, 0, 1), (8, 256, 0, 2)),
        *((8, 384, 0, 1), (8, 384, 2, 2)),
        *((8, 512, 6, 1), (8, 512, 8, 2)),
        (16, 512, 0, 1),  # of 16 sequences, clusters of 8 blocks take as many at the same time
        (16, 768, 6, 1),  # the contributions to 16 sequences leave too little shared memory
    ),
}
WIDEST = max(width for _, width, _, _ in TILES["lstm_cluster_half_backward"])

OPERATIONS = 646e6 / 132  # per microsecond, of one multiprocessor's tensor cores
SHARED_RATE = 128 * 1980  # bytes of shared memory per microsecond: 128 in a clock
SERIAL = {"forward": 0.35, "backward": 0.35}  # assumed: waits, a barrier of the block, shuffles, tanh
FURTHER_CELL = 0.25  # assumed: for each further cell that a thread finishes


class Tiles(NamedTuple):
    """One of `TILES`, by the names of `NAMES`."""

    size: int  # blocks of a cluster
    width: int  # the largest number of hidden units
    in_shared: int  # tiles of 16 columns of a warp's weights that stand in shared memory
    sequence_tiles: int  # of 8 sequences

    @property
    def sequences(self) -> int:
        return SEQUENCES_PER_TILE * self.sequence_tiles

    @property
    def units(self) -> int:
        """Hidden units of a block."""
        return self.width // self.size

    def row_tiles(self, direction: str) -> int:
        """Tiles of 16 rows of a warp's weights: two warps have the same rows forward."""
        return self.units // 16 if direction == "forward" else self.width // 128

    def row_bytes(self, direction: str) -> int:
        """What is multiplied by the weights, of one sequence, and the space behind it."""
        return 2 * (self.width if direction == "forward" else 4 * self.units) + 64

    def handed_on(self, direction: str) -> int:
        """Bytes of sums between warps forward, and of contributions from block to block backward."""
        if direction == "forward":
            return 2 * self.sequences * (4 * self.units + 4) * 4
        return 2 * self.width * self.sequences * 4


def shared_bytes(direction: str, tiles: tuple[int, ...]) -> int:
    """Dynamic shared memory of a block: weights, two copies of what is multiplied, and what is handed on."""
    t = Tiles(*tiles)
    parked = 16 * t.in_shared * t.row_tiles(direction) * THREADS
    return parked + 2 * t.sequences * t.row_bytes(direction) + t.handed_on(direction)


def obstacle(hidden: int, capability: int, multiprocessors: int) -> str:
    """Why a layer cannot be laid out in clusters; empty if it might, where shared memory is large enough."""
    if capability < cluster_layouts.LOWEST_CAPABILITY:
        return f"needs compute capability 9.0, and this device has {capability / 10:.1f}"
    if hidden > WIDEST:
        return f"is for hidden_size up to {WIDEST} in 16 bits, not {hidden}"
    size, largest = min(tiles[0] for tiles in _tiles("backward", hidden)), _largest(capability, multiprocessors)
    if size > largest:
        return (
            f"needs clusters of {size} blocks for hidden_size {hidden}, and this device has them of {largest} at most"
        )
    return ""


def layouts(
    direction: str, batch: int, hidden: int, capability: int, multiprocessors: int, shared_limit: int
) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """(tiles, sequences of a cluster, microseconds of a time step) of a layer that there is no obstacle to."""
    for tiles in _tiles(direction, hidden):
        t = Tiles(*tiles)
        clusters = multiprocessors // t.size  # at the same time; the others wait until one is done
        fits = shared_bytes(direction, tiles) + DRIVERS_SHARED_BYTES <= shared_limit
        if not fits or t.size > _largest(capability, multiprocessors):
            continue
        if t.sequence_tiles > 1 and batch <= clusters * SEQUENCES_PER_TILE:
            continue  # half of them are enough
        rounds = _up(batch, clusters * t.sequences)
        share = _up(batch, rounds * clusters)
        yield tiles, share, rounds * microseconds(direction, t, share, hidden)


def microseconds(direction: str, t: Tiles, share: int, hidden: int) -> float:
    """Derived time of a step of one cluster, one term after the other.

    - Handing over, all to all, by the words that come to a block: measured with a word in each message, where these
      kernels send four. h has half a word for each unit and sequence, contributions have one.
    - Products at the rate of the tensor cores from registers.
    - What is read of shared memory, and written by the block itself, at its full rate.
    """
    forward = direction == "forward"
    words = share * hidden / 2 if forward else _up(share, 4) * 4 * hidden
    products = 2 * 4 * t.width * t.units * t.sequences
    multiplied = WARPS * t.sequences * (t.row_bytes(direction) - 64) // (2 if forward else 1)
    passed_on = t.handed_on(direction) * (2 if forward else 0.5)  # written and read; the half of two places read
    parked = 16 * t.in_shared * t.row_tiles(direction) * THREADS
    further = _up(t.units * t.sequences, THREADS) - 1
    return (
        SERIAL[direction]
        + FURTHER_CELL * further
        + cluster_layouts.handing_over(t.size, words)
        + products / OPERATIONS
        + (multiplied + passed_on + parked) / SHARED_RATE
    )


def geometry(tiles: tuple[int, ...], groups: int) -> tuple[int, int]:
    """(blocks of the grid, threads of a block)."""
    return groups * tiles[0], THREADS


def _largest(capability: int, multiprocessors: int) -> int:
    """Blocks of a cluster."""
    return min(cluster_layouts.LARGEST.get(capability, cluster_layouts.PORTABLE), multiprocessors)


def _tiles(direction: str, hidden: int) -> list[tuple[int, ...]]:
    """Those of the smallest width that holds the weights. Which of them is taken changes no bit of an output: in what
    order a sum is made depends on the width alone."""
    tiles = TILES[KERNELS[direction]]
    width = min(tile[1] for tile in tiles if tile[1] >= hidden)
    return [tile for tile in tiles if tile[1] == width]


def _up(a: int, b: int) -> int:
    return -(-a // b)
