"""How a layer with layer norm may be laid out where all its time steps run in one launch. Pure arithmetic.

A layer is laid out as the plain one is, in kernels of its own (`kernels/lstm_persistent_layer_norm_forward.cu` and its
neighbours), but for small ones (`gpulstm.cuda.resident_layouts`). Each step's norms are sums over all hidden units,
that of the cell state after that of the products:

- in a block of its own (resident) the first costs a barrier, and the second none, since every warp has all cell states;
  in many blocks each costs a hand-over: two more than without layer norm forward. Backward one is enough, since what
  the second one adds to the first is known beforehand;
- few sequences do with the one hand-over that there is without layer norm, forward (`ONCE`): all that comes after the
  products is then made in every block for all hidden units.

Arrays of 16 bits have the tiles of float32, with one product of TF32 instead of three: their numbers are numbers of
TF32. So has float32 where its products may be in TF32.

None of these kernels has run on a GPU yet. What is predicted is the plain layer's time and what comes on top: for
hand-overs, floors measured on one H200, which benchmarks/results/notes.md lists (0.70 us all to all with 16 blocks,
1.06 with 132); for a sum in a block and for what every block makes, counted instructions. The planner takes them all
the same, because the loop is bound to be slower: it launches a product and a kernel in each step, forward and again
backward, and each launch was measured to take 4.9 to 6.8 us.
"""

from typing import Any

from . import resident_layouts

ONCE = "lstm_persistent_layer_norm_once_forward"
"""The forward kernel whose blocks hand over once a step."""

SEQUENCES_PER_TILE = 8
IN_TEAMS = 0.2  # microseconds of a barrier, seven shuffles one after the other and a square root: some 380 cycles
ALL_TO_ALL = (0.64, 0.0032)  # microseconds, and more for each block: 0.70 with 16, 1.06 with 132
UNITS_OF_A_WARP = 8  # whose sums are handed over together, forward

ONCE_NAMES = ("MTILES", "KTILES", "SEQUENCES")
# A thread has KTILES * SEQUENCES / 4 hidden units, rounded up. With more than two, hand-overs are predicted to be
# faster.
ONCE_TILES = tuple(
    (rows, depth, sequences)
    for rows, depths in ((2, (1, 2, 4, 6, 8)), (4, (1, 2, 4)))
    for depth in depths
    for sequences in (1, 2, 4, 8)
    if depth * sequences <= 8
)
ONCE_TILES_WITH_OPTIONS = tuple(tiles for tiles in ONCE_TILES if tiles not in ((2, 8, 1), (4, 4, 2)))
"""Registers are too short for options in those with most weights and two hidden units for a thread."""
TOO_TIGHT_IN_TF32 = {"lstm_persistent_layer_norm_forward": ((2, 8, 4),)}
"""Likewise with options, where h is rounded to TF32: numbers of 16 bits need not be."""
FOR_ALL_UNITS = 0.3  # microseconds, for one unit of each thread: some 140 instructions of 16 warps, four in a cycle
L2_BYTES = 14e6  # a microsecond, all multiprocessors together, measured


def products(schedule: str, dtype: str) -> str:
    """The arithmetic that arrays of ``dtype`` are laid out for."""
    return "tf32" if schedule == "persistent" and dtype in resident_layouts.DTYPES[1:] else dtype


def layouts(plain: list[Any], hidden: int, dtype: str, *, options: bool = False) -> list[Any]:
    """`planner.Choice`s of the plain layer as those of the layer with layer norm, and with other ``options`` too. The
    arrays have ``dtype``, or products are in it."""
    tiles = ONCE_TILES_WITH_OPTIONS if options else ONCE_TILES
    plain = [_of_arrays(choice, dtype) for choice in plain]
    found = [with_layer_norm(choice) for choice in plain]
    if options and dtype == "tf32":
        found = [choice for choice in found if choice.tiles not in TOO_TIGHT_IN_TF32.get(choice.kernel, ())]
    return found + [once(choice, hidden) for choice in plain if _fits_once(choice, tiles)]


def _of_arrays(choice: Any, dtype: str) -> Any:
    return choice._replace(arithmetic=dtype) if choice.schedule == "persistent" else choice


def hand_overs(kernel: str) -> int:
    """How often the blocks of a persistent kernel with layer norm wait for each other in a step."""
    return 1 if kernel == ONCE else 2 if kernel.endswith("backward") else 3


def with_layer_norm(choice: Any) -> Any:
    """A choice of the plain layer as one of the layer with layer norm, with hand-overs of sums."""
    kernel = choice.kernel.replace("persistent", "persistent_layer_norm")  # the resident ones have layouts of their own
    counted = kernel in resident_layouts.CYCLES_WITH_LAYER_NORM  # with its sums
    more = 0.0 if counted else (hand_overs(kernel) - 1) * _microseconds_of_a_sum(choice)
    return _changed(choice, kernel, choice.tiles, more)


def once(choice: Any, hidden: int) -> Any:
    """A choice of the plain layer, forward, as one of the layer with layer norm that hands over once a step."""
    tiles = (*choice.tiles[:2], _power_of_two(choice.share))
    units_of_a_thread = -(-tiles[1] * tiles[2] // 4)
    crossing = 16 * choice.groups * choice.blocks * choice.share * hidden / L2_BYTES
    return _changed(choice, ONCE, tiles, 2 * IN_TEAMS + FOR_ALL_UNITS * units_of_a_thread + crossing)


def _fits_once(choice: Any, among: tuple[tuple[int, ...], ...]) -> bool:
    """Whether there is such a kernel. Layouts that differ in their tiles of sequences alone become the same one."""
    if choice.kernel != "lstm_persistent_forward" or choice.tiles[2] != 1:
        return False
    return (*choice.tiles[:2], _power_of_two(choice.share)) in among


def _changed(choice: Any, kernel: str, tiles: tuple[int, ...], more: float) -> Any:
    cost = choice.microseconds + more
    what = "" if choice.arithmetic in ("", "float32", "tf32") else f"{choice.arithmetic}; "
    what += "products in TF32; " if choice.schedule == "persistent" and choice.arithmetic not in ("", "float32") else ""
    reason = f"{what}{cost:.1f} us a step predicted with layer norm, from floors, not measured"
    return choice._replace(kernel=kernel, tiles=tiles, microseconds=cost, reason=reason)


def _power_of_two(count: int) -> int:
    """The next one from ``count`` on."""
    return 1 << (count - 1).bit_length()


def _microseconds_of_a_sum(choice: Any) -> float:
    passes = -(-choice.share // (SEQUENCES_PER_TILE * choice.tiles[2]))
    return passes * (ALL_TO_ALL[0] + ALL_TO_ALL[1] * choice.blocks)


def forward_words(steps: int, batch: int, hidden: int) -> tuple[int, ...]:
    """Shape of the 32-bit words through which the persistent forward kernel's blocks hand each other their sums: of r's
    squares one for each warp, and two of c, each padded to a multiple of four words."""
    return steps, batch, 3 * padded(-(-hidden // UNITS_OF_A_WARP))


def backward_words(choice: Any, steps: int, batch: int) -> tuple[int, ...]:
    """The same of the backward kernel: four for each block."""
    return steps, batch, choice.blocks, 4


def padded(words: int) -> int:
    """They are loaded four at a time."""
    return -(-words // 4) * 4
