"""The compile gate for the cluster kernels of 16 bits: without spills, and within what a block may have.

Each test run compiles, for every architecture, some of the choices of tiles that need most registers. The environment
variable GPULSTM_WHOLE_GATE=1 makes it all choices for all architectures.
"""

import os

import pytest

from gpulstm.cuda import catalogue, cluster_half_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_rounding import ptx

FORWARD, BACKWARD = cluster_half_layouts.KERNELS.values()
ARCHITECTURES = (90, 100, 120)
ALL = [s for s in catalogue.specialisations() if s.entry in cluster_half_layouts.TILES]
TIGHTEST = {
    90: [(FORWARD, "float16", (8, 512, 9, 2))],
    100: [(BACKWARD, "bfloat16", (16, 768, 6, 1))],
    120: [(FORWARD, "bfloat16", (8, 384, 0, 1))],
}


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return ALL
    return [Specialisation(entry, dtype, (), tiles) for entry, dtype, tiles in TIGHTEST[architecture]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry}, {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        direction = "forward" if one.entry == FORWARD else "backward"
        t = cluster_half_layouts.Tiles(*one.tiles)
        depth = t.width // 32 if direction == "forward" else t.units // 4
        assert 4 * t.row_tiles(direction) * (depth - t.in_shared) < usage.registers <= 255, (
            "the weights are in registers"
        )
        assert usage.stack == 0 and usage.shared <= 1024, name


def test_the_part_is_of_all_and_shared_memory_fits():
    for architecture in ARCHITECTURES:
        if not os.environ.get("GPULSTM_WHOLE_GATE"):
            assert set(compiled_for(architecture)) < set(ALL)
    assert len(ALL) == 2 * 21
    for one in ALL:
        direction = "forward" if one.entry == FORWARD else "backward"
        needed = cluster_half_layouts.shared_bytes(direction, one.tiles)
        assert needed + cluster_half_layouts.DRIVERS_SHARED_BYTES <= 227 * 1024, one


@pytest.mark.parametrize("entry", [FORWARD, BACKWARD])
def test_no_wait_is_for_ever(entry):
    one = Specialisation(entry, "float16", (), (4, 128, 0, 1))
    text = ptx(one.source, one.options)
    waits = text.count("mbarrier.try_wait")
    assert waits and text.count("trap;") == waits
