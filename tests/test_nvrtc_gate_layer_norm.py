"""The compile gate for the kernels with one launch for all steps and layer norm whose blocks run together: no spills.

Registers are shorter in them than in the plain ones. Each test run compiles, for every architecture, one choice of
tiles for each pass of those that need the most, which take turns. The environment variable GPULSTM_WHOLE_GATE=1 makes
it all of them for every architecture. Those of the resident schedule are compiled by tests/test_nvrtc_gate.py.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

ENTRIES = ("lstm_persistent_layer_norm_forward", "lstm_persistent_layer_norm_backward")
LARGEST_WEIGHTS = 16  # MTILES * KTILES forward, and twice MTILES * JTILES backward: 64 registers of a thread


def compiled_for(architecture: int) -> list[Specialisation]:
    every = [Specialisation(entry, "float32", (), tiles) for entry in ENTRIES for tiles in catalogue.TILES[entry][1]]
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return every
    found = []
    for entry in ENTRIES:
        worth = LARGEST_WEIGHTS if entry.endswith(planner.FORWARD) else LARGEST_WEIGHTS // 2
        largest = [each for each in every if each.entry == entry and each.tiles[0] * each.tiles[1] == worth]
        found.append(largest[ARCHITECTURES.index(architecture) % len(largest)])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_with_layer_norm_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry} {' '.join(one.options)}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start
        if one.entry.endswith(planner.FORWARD):
            assert usage.shared <= planner.STATIC_SHARED_BYTES, name


def test_a_part_of_the_gate_reaches_all_tiles_that_need_the_most_registers():
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return
    parts = {one for architecture in ARCHITECTURES for one in compiled_for(architecture)}
    tiles = {entry: {one.tiles for one in parts if one.entry == entry} for entry in ENTRIES}
    assert tiles[ENTRIES[0]] == {(2, 8, 1), (2, 8, 2), (2, 8, 4), (4, 4, 1), (4, 4, 2)}
    assert tiles[ENTRIES[1]] == {(2, 4, 1), (2, 4, 2), (2, 4, 4), (4, 2, 1), (4, 2, 2), (4, 2, 4)}
