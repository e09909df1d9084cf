"""Every choice of tiles of the kernels with one launch for all time steps, laid out by hand, against the NumPy engine.

The layouts are uneven wherever they can be: the last block has fewer hidden units than the others, the last group fewer
sequences, and a block's sequences take more than one pass, the last of which is not full.
"""

import numpy as np
import pytest

from gpulstm.cuda import catalogue, planner, resident_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from tests import backends
from tests.problems import infer, solve
from tests.schedule_cases import check, laid_out_by_hand, lengths_for, scheduled, small_problem

BACKENDS = backends.KERNELS
PLAIN = {kernel: choices for kernel, (_, choices) in catalogue.TILES.items() if "layer_norm" not in kernel}
ALL = [(kernel, tiles) for kernel, choices in PLAIN.items() for tiles in choices]
MULTIPROCESSORS = 16  # that the tests may count on
STEPS = 6  # each of the two slots through which gradients are handed over is used three times


def laid_out(kernel: str, tiles: tuple[int, ...]) -> tuple[Choice, int, int]:
    """(a layout, how many hidden units, how many sequences)"""
    if "resident" in kernel:
        return Choice("resident", "by hand", kernel, tiles, 1, 3, 1), resident_layouts.units(tiles) - 3, 3
    if "cluster" in kernel:
        size, quads, share = tiles
        hidden = 64 * quads - 64 // size * quads - 3  # the last block has no unit at all, the one before it few
        groups = 2 if size < 8 else 1
        return Choice("cluster", "by hand", kernel, tiles, size, groups, share), hidden, groups * share - share // 2
    row_tiles, depth, sequence_tiles = tiles
    # More columns than the first warp has, or outputs; no multiple of a block's units.
    hidden = 8 * depth + 12 if kernel.endswith(FORWARD) else 16 * depth + 4
    units = planner.UNITS_PER_TILE * row_tiles
    hidden += 4 * (hidden % units == 0)
    share = planner.SEQUENCES_PER_TILE * sequence_tiles + 3
    blocks = -(-hidden // units)
    groups = 2 if 2 * blocks <= MULTIPROCESSORS else 1
    return Choice("persistent", "by hand", kernel, tiles, blocks, groups, share), hidden, share + 5 * (groups - 1)


@pytest.mark.parametrize(("kernel", "tiles"), ALL, ids=str)
def test_every_choice_of_tiles(backend, kernel, tiles):
    choice, hidden, batch = laid_out(kernel, tiles)
    direction = FORWARD if kernel.endswith(FORWARD) else BACKWARD
    rng = np.random.default_rng(batch)
    steps = STEPS if direction == BACKWARD and choice.schedule != "cluster" else 3
    given = small_problem(1, hidden=hidden, steps=steps, batch=batch, lengths=lengths_for(rng, steps, batch))
    everything = direction == BACKWARD or tiles[-1] == 1 or choice.schedule == "resident"
    with scheduled(backend, choice.schedule, MULTIPROCESSORS), laid_out_by_hand(**{direction: choice}):
        if everything:
            check(solve(backend, given), given)
        if direction == FORWARD:
            check(infer(backend, given), given, infer)


def test_the_layouts_are_what_they_claim():
    assert len(ALL) == len(set(ALL)) == 6 + 39 + 32
    for kernel, tiles in ALL:
        choice, hidden, batch = laid_out(kernel, tiles)
        assert choice.groups * choice.share >= batch > (choice.groups - 1) * choice.share
        if choice.schedule == "resident":
            units = resident_layouts.units(tiles)
            assert units // 2 < hidden <= units and hidden % 4 and choice.share == 1
            continue
        if choice.schedule == "cluster":
            units = 64 * tiles[1] // tiles[0]
            assert (tiles[0] - 2) * units < hidden < (tiles[0] - 1) * units and hidden % 2
            assert tiles[2] == 1 or batch % tiles[2] or batch == tiles[2] // 2
            continue
        row_tiles, depth, sequence_tiles = tiles
        units = planner.UNITS_PER_TILE * row_tiles
        assert choice.blocks * units > hidden > (choice.blocks - 1) * units and choice.blocks > 1
        assert choice.groups == 2 or 2 * choice.blocks > MULTIPROCESSORS
        assert 8 * sequence_tiles < choice.share < 16 * sequence_tiles
        of_a_warp = 8 * depth if kernel.endswith(FORWARD) else 16 * depth
        assert 16 * of_a_warp >= choice.blocks * units and hidden > of_a_warp
