"""How a small layer in float16 or bfloat16 may be laid out where every block holds all of its recurrent weights as
operands of the tensor cores, and runs a few sequences for itself. Pure arithmetic.

The kernels are `kernels/lstm_resident_tensor_forward.cu` and `lstm_resident_tensor_backward.cu`. Their blocks wait for
nobody, like those of `gpulstm.cuda.resident_layouts`. A warp has 8 hidden units forward, and 16 back, where a row of
products is four times as long: no sum crosses from warp to warp. The tensor cores make the products of up to eight
sequences for the price of one's, so a block takes several sequences before a multiprocessor takes a second block. How
many they are, the kernel learns from the number of blocks: it splits the batch evenly.

Where a pass may run in one of these, the kernels that multiply by FMA are left alone, whatever the batch: a sequence's
outputs have the same bits by itself as among others. From which `hidden_size` on that is so, `FROM` says.

The predictions are those of the model of benchmarks/cycles.py, which runs the machine code for compute capability 9.0
with products at the rate that one H200 was measured to have (646 TFLOP/s: one in 6.6 cycles for each of a
multiprocessor's schedulers). It gives the forward kernel that multiplies by FMA 436, 615 and 918 cycles a step with one
sequence, for up to 32, 64 and 96 hidden units. No kernel of these has run on a GPU yet.
"""

from collections.abc import Iterator

from .resident_layouts import CYCLES, MOST_UNITS

FORWARD, BACKWARD = "lstm_resident_tensor_forward", "lstm_resident_tensor_backward"
KERNELS = {"forward": FORWARD, "backward": BACKWARD}  # by direction
DTYPES = ("float16", "bfloat16")
LOWEST_CAPABILITY = 80

# kernel -> the names of its tile sizes, and every choice of them. The first one is a sixteenth of the largest hidden;
# the second one, times the number in `SEQUENCES`, is how many sequences a block has at most.
NAMES: dict[str, tuple[str, ...]] = {FORWARD: ("KTILES", "SEQUENCES"), BACKWARD: ("WARPS", "PAIRS")}
TILES: dict[str, tuple[tuple[int, ...], ...]] = {
    FORWARD: ((2, 1), (2, 4), (4, 1), (4, 4), (6, 1), (6, 4), (8, 1), (8, 4)),
    BACKWARD: ((2, 1), (4, 1), (6, 1), (6, 2), (8, 1), (8, 2)),
}
TILES_WITH_SWITCHES = TILES | {BACKWARD: ((2, 1), (4, 1), (6, 1), (8, 1))}
"""Those that leave registers for the switches OPTIONS and BIDIRECTIONAL."""
SEQUENCES = {FORWARD: 1, BACKWARD: 4}
UNITS_OF_A_WARP = {FORWARD: 8, BACKWARD: 16}
HIDDEN_MULTIPLE = {FORWARD: 1, BACKWARD: 2}  # units that a lane reads at a time
WITH_OPTIONS = (FORWARD, BACKWARD)
"""Kernels that there are with the switch OPTIONS."""

FROM = {FORWARD: 1, BACKWARD: 1}
"""Hidden units from which on the kernel is taken instead of the one that multiplies by FMA."""

SAME_BITS = (FORWARD,)
"""Kernels that give the same bits with tiles that differ in the sequences of a block alone."""

CYCLES_OF_A_STEP: dict[str, dict[tuple[int, ...], tuple[int, int]]] = {
    FORWARD: {
        **{(2, 1): (380, 55), (4, 1): (480, 155), (6, 1): (690, 690), (8, 1): (900, 900)},
        **{(2, 4): (390, 125), (4, 4): (525, 315), (6, 4): (775, 775), (8, 4): (960, 960)},
    },
    BACKWARD: {
        **{(2, 1): (272, 22), (4, 1): (347, 64), (6, 1): (630, 630), (6, 2): (839, 839)},
        **{(8, 1): (750, 750), (8, 2): (1062, 1062)},
    },
}
"""Of a block alone on its multiprocessor, and more for each further one."""


def sequences(kernel: str, tiles: tuple[int, ...]) -> int:
    """Of a block, at most."""
    return SEQUENCES[kernel] * tiles[1]


def units(tiles: tuple[int, ...]) -> int:
    """Hidden units that these tiles are for, at most."""
    return 16 * tiles[0]


def largest_hidden(kernel: str) -> int:
    """Hidden units for which there are tiles."""
    return max(units(tiles) for tiles in TILES[kernel])


def together(tiles: tuple[int, ...]) -> int:
    """Blocks that share a multiprocessor: as many as its registers hold, with 128 for each thread forward, and for
    those that go back 255."""
    return max(1, 8 // tiles[0])


def threads(hidden: int, kernel: str) -> int:
    """Of a block: whole warps."""
    return 32 * _up(hidden, UNITS_OF_A_WARP[kernel])


def kernel_of(direction: str, hidden: int, dtype: str, capability: int, not_plain: str = "") -> str:
    """The kernel of a pass, "forward" or "backward", where it is to be taken on such a device, whatever the batch; else
    nothing. ``not_plain`` is that of `gpulstm.cuda.planner.choose`."""
    kernel = KERNELS.get(direction, "")
    if not kernel or dtype not in DTYPES or capability < LOWEST_CAPABILITY or hidden < FROM[kernel]:
        return ""
    if hidden % HIDDEN_MULTIPLE[kernel]:
        return ""
    return kernel if not not_plain or (not_plain == "options" and kernel in WITH_OPTIONS) else ""


def obstacle(kernel: str, batch: int, hidden: int) -> str:
    """Why there is no layout; empty if there is one."""
    if hidden > largest_hidden(kernel):
        return f"is for hidden_size up to {largest_hidden(kernel)} in 16 bits, not {hidden}"
    return "" if batch * hidden < MOST_UNITS else f"counts the bytes of a step in 32 bits, too few for batch {batch}"


def layouts(
    kernel: str, batch: int, hidden: int, multiprocessors: int, *, options: bool = False
) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """(tiles, sequences of a block, predicted microseconds of a step of all sequences) of every layout whose tiles are
    the smallest ones that hold the layer. A block has as few sequences as can be. With ``options`` of the kernels with
    the switch OPTIONS."""
    fitting = [tiles for tiles in (TILES_WITH_SWITCHES if options else TILES)[kernel] if units(tiles) >= hidden]
    for tiles in fitting:
        if tiles[0] != fitting[0][0]:
            continue
        groups = _up(batch, min(sequences(kernel, tiles), _up(batch, multiprocessors)))
        full, rest = divmod(_up(groups, multiprocessors), together(tiles))
        cost = full * step_microseconds(kernel, tiles, together(tiles))
        yield tiles, _up(batch, groups), cost + (step_microseconds(kernel, tiles, rest) if rest else 0.0)


def step_microseconds(kernel: str, tiles: tuple[int, ...], blocks: int) -> float:
    """Predicted, with so many blocks on a multiprocessor."""
    alone, further = CYCLES_OF_A_STEP[kernel][tiles]
    return (alone + further * (blocks - 1)) / CYCLES


def _up(a: int, b: int) -> int:
    return -(-a // b)
