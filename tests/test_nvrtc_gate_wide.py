"""The compile gate for the kernels that read a part of the weights from L2 in each step: no spills, no stack.

Registers are full of weights in them. Each test run compiles, for every architecture, kernels that a device of it may
be given, by its shared memory: all choices of tiles once, over the architectures. The environment variable
GPULSTM_WHOLE_GATE=1 makes it all choices for all architectures.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner, wide_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

LITTLE_SHARED = 16  # parked fragments that no device with 99 KB for a block has room for
ALL = [
    Specialisation(entry, "float32", (), tiles) for entry in wide_layouts.TILES for tiles in wide_layouts.TILES[entry]
]


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return ALL
    alike = (90, 100) if architecture in (90, 100) else tuple(a for a in ARCHITECTURES if a not in (90, 100))
    fitting = [one for one in ALL if (one.tiles[2] > LITTLE_SHARED) == (architecture in (90, 100))]
    return fitting[alike.index(architecture) :: len(alike)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wide_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry} {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        assert usage.stack == 0, f"{name}: weights are in memory"
        assert 4 * one.tiles[1] < usage.registers <= 65536 // (32 * planner.WARPS), name  # or it would not start
        static = wide_layouts.static_shared_bytes(one.entry, one.tiles)
        assert usage.shared - 1024 <= static <= usage.shared, name  # some architectures keep 1 KB for themselves


def test_a_part_of_the_gate_reaches_every_choice_of_tiles():
    parts = [one for architecture in ARCHITECTURES for one in compiled_for(architecture)]
    assert set(parts) == set(ALL) == {one for one in catalogue.specialisations() if one.entry in wide_layouts.TILES}
    assert len(ALL) == 12 and (len(parts) == 12 or os.environ.get("GPULSTM_WHOLE_GATE"))
