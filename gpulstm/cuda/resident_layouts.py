"""How a small layer may be laid out where every block holds all of its recurrent weights, and runs for itself.

The kernels (`kernels/lstm_resident_forward.cu`, `lstm_resident_backward.cu`, and those with layer norm) have one
sequence for a block, and the plain ones four lanes for a hidden unit; as many blocks share a multiprocessor as its
registers hold. Pure arithmetic.

The plain kernels' predictions are counted, not measured. Of a step, in cycles, with QUADS float4 for each lane to read,
and QUADS / 2 warps of a block for each of a multiprocessor's four schedulers:

- on the way of one block alone: shared memory and the barrier 70; forward six shuffles, three of which wait for each
  other, 75, two tanh 160 and 25 for what is left; back two such shuffles 50 and 30 for what is left; and the products,
  whose issuing all else waits for: 16 * QUADS instructions for each warp;
- issued by a scheduler: these and, forward, 71 more for each warp, back 54.

Blocks that share a multiprocessor take the longer one of a block's way and of what is issued for all of them. In 16
bits a warp has some ten instructions more forward, which is not counted; nor are the 20 to 30 more that recurrent
dropout and zoneout have in either pass: most of them stand where a warp would wait.

Those with layer norm are what `benchmarks/cycles.py` gives, which runs their machine code on a model: it says a quarter
to a half more than counting does. They have blocks of four warps, with others beside them backward. In 16 bits it
says up to 7 in a hundred more forward and 4 back, which is left out.
"""

from collections.abc import Iterator

NAMES = ("QUADS",)
TILES = ((2,), (4,), (6,))
KERNELS = ("lstm_resident_forward", "lstm_resident_backward")
DTYPES = ("float32", "float16", "bfloat16")  # of the arrays that these take

LANES = 4  # of a hidden unit: one for each gate
CYCLES_WITH_LAYER_NORM: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {
    "lstm_resident_layer_norm_forward": {(2,): (687, 722, 868, 1013), (4,): (838, 1022)},
    "lstm_resident_layer_norm_backward": {(2,): (461, 614), (4,): (600,)},
}
"""Of a step with these tiles and one block on a multiprocessor, two and so on, as many as its registers hold."""
THREADS_WITH_LAYER_NORM = {"lstm_resident_layer_norm_forward": 128, "lstm_resident_layer_norm_backward": 256}
LAYER_NORM_TILES = {kernel: tuple(cycles) for kernel, cycles in CYCLES_WITH_LAYER_NORM.items()}

CYCLES_OF_A_STEP = {
    "lstm_resident_forward": (330, 71),
    "lstm_resident_backward": (150, 54),
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


def threads(hidden: int, kernel: str = "") -> int:
    """Of a block: whole warps, with layer norm one or two for each of a multiprocessor's schedulers."""
    return THREADS_WITH_LAYER_NORM[kernel] if kernel in LAYER_NORM_TILES else 32 * -(-hidden * LANES // 32)


def units(tiles: tuple[int, ...]) -> int:
    """Hidden units that these tiles are for, at most."""
    return 16 * tiles[0]


def largest_hidden(kernel: str) -> int:
    """Hidden units for which there are tiles."""
    return max(units(tiles) for tiles in tiles_of(kernel))


def obstacle(kernel: str, batch: int, hidden: int) -> str:
    """Why there is no layout; empty if there is one."""
    if kernel in LAYER_NORM_TILES and hidden == 1:
        return "with layer norm is for hidden_size from 2 on: of one unit nothing but rounding is left"
    if hidden > largest_hidden(kernel):
        return f"is for hidden_size up to {largest_hidden(kernel)}, not {hidden}"
    return "" if batch * hidden < MOST_UNITS else f"counts the bytes of a step in 32 bits, too few for batch {batch}"


def together(tiles: tuple[int, ...], kernel: str = "") -> int:
    """Blocks of a kernel that share a multiprocessor: BLOCKS_TOGETHER of `kernels/quarter_products.cuh`."""
    if kernel in CYCLES_WITH_LAYER_NORM:
        return len(CYCLES_WITH_LAYER_NORM[kernel][tiles])
    (quads,) = tiles
    return max(1, 8 // quads)


ALONE_WITH_PEEPHOLES = ("lstm_resident_backward",)
"""Kernels whose blocks of 256 threads do not share a multiprocessor with the switch PEEPHOLES: a thread needs more
registers. Predictions are those of the plain kernels."""


def step_microseconds(kernel: str, tiles: tuple[int, ...], blocks: int) -> float:
    """Predicted, of a kernel with so many blocks on a multiprocessor."""
    if kernel in CYCLES_WITH_LAYER_NORM:
        return CYCLES_WITH_LAYER_NORM[kernel][tiles][blocks - 1] / CYCLES
    (quads,) = tiles
    products, warps = 16 * quads, quads / 2
    waits, instructions = CYCLES_OF_A_STEP[kernel]
    return max(waits + products * warps, blocks * (instructions + products) * warps) / CYCLES


def layouts(kernel: str, batch: int, hidden: int, multiprocessors: int) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """(tiles, sequences of a block, predicted microseconds of a step of all sequences) of every layout whose tiles are
    the smallest ones that hold the layer."""
    fitting = [tiles for tiles in tiles_of(kernel) if units(tiles) >= hidden]
    for tiles in fitting[:1]:
        full, rest = divmod(-(-batch // multiprocessors), together(tiles, kernel))
        cost = full * step_microseconds(kernel, tiles, together(tiles, kernel))
        yield tiles, 1, cost + (step_microseconds(kernel, tiles, rest) if rest else 0.0)
