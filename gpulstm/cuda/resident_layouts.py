"""How a small layer may be laid out where every block holds all of its recurrent weights, and runs for itself.

The kernels (`kernels/lstm_resident_forward.cu`, `lstm_resident_backward.cu`, and those with layer norm) have four lanes
for a hidden unit and one sequence for a block; as many blocks share a multiprocessor as its registers hold. Pure
arithmetic.

The predictions are counted, not measured. Of a step, in cycles, with QUADS float4 for each lane to read, and QUADS / 2
warps of a block for each of a multiprocessor's four schedulers:

- on the way of one block alone: shared memory and the barrier 70; forward six shuffles, three of which wait for each
  other, 75, two tanh 160 and 25 for what is left; back two such shuffles 50 and 30 for what is left; and the products,
  whose issuing all else waits for: 16 * QUADS instructions for each warp;
- with layer norm, forward, two sums over the block 485: two ways through shared memory with a barrier 140, six shuffles
  one after the other 150, the rest adding up and two square roots; back one such sum 255, with five shuffles;
- issued by a scheduler: these and, forward, 71 more for each warp, with layer norm 194, back 54, with layer norm 230.

Blocks that share a multiprocessor take the longer one of a block's way and of what is issued for all of them. In 16
bits a warp has some ten instructions more forward, which is not counted; nor are the 20 to 30 more that recurrent
dropout and zoneout have in either pass: most of them stand where a warp would wait.
"""

from collections.abc import Iterator

NAMES = ("QUADS",)
TILES = ((2,), (4,), (6,))
KERNELS = ("lstm_resident_forward", "lstm_resident_backward")
DTYPES = ("float32", "float16", "bfloat16")  # of the arrays that these take

LANES = 4  # of a hidden unit: one for each gate
LAYER_NORM_TILES = {
    "lstm_resident_layer_norm_forward": ((2,), (4,)),
    "lstm_resident_layer_norm_backward": ((2,), (4,)),
}

CYCLES_OF_A_STEP = {
    "lstm_resident_forward": (330, 71),
    "lstm_resident_backward": (150, 54),
    "lstm_resident_layer_norm_forward": (815, 194),
    "lstm_resident_layer_norm_backward": (405, 230),
}
"""Beside the products: that a block waits, and that a scheduler needs to issue a warp's instructions."""
CYCLES = 1900  # of a microsecond: a little less than the 1980 of an H200 that has nothing else to do
MOST_UNITS = 2**28  # of a step of all sequences: a kernel counts the bytes of its gates in 32 bits


def kernel_of(direction: str, *, layer_norm: bool = False) -> str:
    """The kernel of a pass, "forward" or "backward"."""
    return f"lstm_resident_{'layer_norm_' if layer_norm else ''}{direction}"


def tiles_of(kernel: str) -> tuple[tuple[int, ...], ...]:
    """Every choice of tiles that there is a kernel for."""
    return LAYER_NORM_TILES.get(kernel, TILES)


def threads(hidden: int) -> int:
    """Of a block: whole warps."""
    return 32 * -(-hidden * LANES // 32)


def units(tiles: tuple[int, ...]) -> int:
    """Hidden units that these tiles are for, at most."""
    return 16 * tiles[0]


def largest_hidden(kernel: str) -> int:
    """Hidden units for which there are tiles."""
    return max(units(tiles) for tiles in tiles_of(kernel))


def obstacle(kernel: str, batch: int, hidden: int) -> str:
    """Why there is no layout; empty if there is one."""
    if hidden > largest_hidden(kernel):
        return f"is for hidden_size up to {largest_hidden(kernel)}, not {hidden}"
    return "" if batch * hidden < MOST_UNITS else f"counts the bytes of a step in 32 bits, too few for batch {batch}"


def together(tiles: tuple[int, ...]) -> int:
    """Blocks of a kernel that share a multiprocessor: BLOCKS_TOGETHER of `kernels/quarter_products.cuh`."""
    (quads,) = tiles
    return max(1, 8 // quads)


ALONE_WITH_PEEPHOLES = ("lstm_resident_backward",)
"""Kernels whose blocks of 256 threads do not share a multiprocessor with the switch PEEPHOLES: a thread needs more
registers. Predictions are those of the plain kernels."""


def step_microseconds(kernel: str, tiles: tuple[int, ...], blocks: int) -> float:
    """Predicted, of a kernel with so many blocks on a multiprocessor."""
    (quads,) = tiles
    products, warps = 16 * quads, quads / 2
    waits, instructions = CYCLES_OF_A_STEP[kernel]
    return max(waits + products * warps, blocks * (instructions + products) * warps) / CYCLES


def layouts(kernel: str, batch: int, hidden: int, multiprocessors: int) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """(tiles, sequences of a block, predicted microseconds of a step of all sequences) of every layout whose tiles are
    the smallest ones that hold the layer."""
    fitting = [tiles for tiles in tiles_of(kernel) if units(tiles) >= hidden]
    for tiles in fitting[:1]:
        full, rest = divmod(-(-batch // multiprocessors), together(tiles))
        cost = full * step_microseconds(kernel, tiles, together(tiles))
        yield tiles, 1, cost + (step_microseconds(kernel, tiles, rest) if rest else 0.0)
