"""The compile gate for the kernels that read a part of the weights from L2 in each step: no spills, no stack.

Registers are full of weights in them. Each test run compiles, for every architecture, one or two choices of tiles that
a device of it may be given, with the switch OPTIONS or without. The environment variable GPULSTM_WHOLE_GATE=1 makes it
all choices for all architectures.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner, wide_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

FORWARD, BACKWARD = wide_layouts.FORWARD, wide_layouts.BACKWARD
ALL = [
    Specialisation(entry, "float32", (options,), tiles)
    for entry in wide_layouts.TILES
    for tiles in wide_layouts.TILES[entry]
    for options in (False, True)
]
USUAL = {
    80: ((BACKWARD, (16, 10, 11, 4), True),),
    86: ((FORWARD, (12, 8, 8, 4), False),),
    89: ((BACKWARD, (16, 15, 11, 1), False),),
    90: ((FORWARD, (16, 16, 27, 1), True), (BACKWARD, (16, 15, 27, 1), True)),
    100: ((FORWARD, (16, 8, 24, 4), True),),
    120: ((FORWARD, (16, 16, 11, 1), False),),
}


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return ALL
    return [Specialisation(entry, "float32", (options,), tiles) for entry, tiles, options in USUAL[architecture]]


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


def test_the_gate_compiles_what_there_is():
    parts = {one for architecture in ARCHITECTURES for one in compiled_for(architecture)}
    assert parts <= set(ALL) == {one for one in catalogue.specialisations() if one.entry in wide_layouts.TILES}
    assert {(one.entry, one.tiles[3]) for one in parts} == {(entry, s) for entry in (FORWARD, BACKWARD) for s in (1, 4)}
    assert {(one.entry, *one.features) for one in parts} == {(e, on) for e in (FORWARD, BACKWARD) for on in (0, 1)}
