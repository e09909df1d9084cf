"""How a layer may be laid out in clusters of blocks, and what a time step then costs. Pure arithmetic.

A cluster holds the recurrent weights and runs one to eight sequences for itself: `kernels/lstm_cluster_forward.cu`,
`lstm_cluster_backward.cu`.

None of these kernels has run on a GPU yet. The times are derived from floors measured on one H200, which
benchmarks/results/notes.md lists, and from one assumption:

- handing over, all to all: 0.31 us for 256 words in a cluster of 8, 1.40 us for 8192; 0.36 and 2.31 us in one of 16
- products in float32: 53 TFLOP/s on 132 multiprocessors
- assumed: what a step does one thing after another (loads, shuffles, two tanh, a barrier of the block backward) takes
  `SERIAL` microseconds
"""

from collections.abc import Iterator

CLUSTER_TILES = tuple((*size, sequences) for size in ((2, 1), (4, 2), (8, 4), (16, 6)) for sequences in (1, 2, 4, 8))
"""Blocks of a cluster, `WIDTH` hidden units how many times, sequences of a cluster."""

LOWEST_CAPABILITY = 90
LARGEST = {90: 16, 100: 16}  # blocks of a cluster, by compute capability; all others have the portable size
PORTABLE = 8
WIDTH = 64  # hidden units that each of the second tile's units stands for
MEGAFLOPS = 53e6 / 132  # per microsecond, of one multiprocessor
SERIAL = {"forward": 0.25, "backward": 0.35}
WIDEST = max(WIDTH * quads for _, quads, _ in CLUSTER_TILES)


def obstacle(hidden: int, capability: int, multiprocessors: int) -> str:
    """Why a layer cannot be laid out in clusters; empty if it can."""
    if capability < LOWEST_CAPABILITY:
        return f"needs compute capability 9.0, and this device has {capability / 10:.1f}"
    if hidden > WIDEST:
        return f"is for hidden_size up to {WIDEST}, not {hidden}"
    size = _tiles(hidden)[0][0]
    largest = min(LARGEST.get(capability, PORTABLE), multiprocessors)
    if size > largest:
        return (
            f"needs clusters of {size} blocks for hidden_size {hidden}, and this device has them of {largest} at most"
        )
    return ""


def layouts(
    direction: str, batch: int, hidden: int, multiprocessors: int
) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """(tiles, sequences of a cluster, microseconds of a time step) of a layer that there is no obstacle to."""
    for tiles in _tiles(hidden):
        size, quads, sequences = tiles
        if sequences > 1 and sequences // 2 >= batch:
            continue  # half of them are enough
        together = multiprocessors // size * sequences  # the others wait until a cluster is done
        rounds = -(-batch // together)
        products = 8 * (WIDTH * quads) ** 2 / size * sequences / MEGAFLOPS
        yield tiles, sequences, rounds * (SERIAL[direction] + handing_over(size, sequences * hidden) + products)


def handing_over(size: int, words: float) -> float:
    """Microseconds until all ``size`` blocks of a cluster have ``words`` numbers of which each made a part."""
    return 0.28 + (0.13e-3 if size <= PORTABLE else 0.25e-3) * words


def geometry(tiles: tuple[int, ...], groups: int) -> tuple[int, int]:
    """(blocks of the grid, threads of a block): sixteen threads for each hidden unit that a block may have."""
    size, quads, _ = tiles
    return groups * size, 16 * WIDTH * quads // size


def _tiles(hidden: int) -> list[tuple[int, ...]]:
    """The smallest that hold the weights. How many sequences they take changes no bit of an output."""
    quads = min(quads for _, quads, _ in CLUSTER_TILES if WIDTH * quads >= hidden)
    return [tiles for tiles in CLUSTER_TILES if tiles[1] == quads]
