"""The compile gate for the kernels that run layers on top of each other in one launch: no spills here either.

Each test run compiles one of the two kernels for each architecture in float32 with tiles that take turns, and the other
one in TF32. The environment variable GPULSTM_WHOLE_GATE=1 makes it every choice of tiles for every architecture.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

OF_LAYERS = [s for s in catalogue.specialisations() if s.definitions.get("LAYERS") == 1]


def compiled_for(architecture: int) -> list[catalogue.Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return OF_LAYERS
    number, found = ARCHITECTURES.index(architecture), []
    for i, entry in enumerate(catalogue.LAYERS):
        wanted = ("float32", "tf32")[(i + number) % 2]
        of_entry = [s for s in OF_LAYERS if (s.entry, s.dtype) == (entry, wanted)]
        found.append(of_entry[-1 - number * len(of_entry) // len(ARCHITECTURES)])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for each in compiled_for(architecture):
        name = f"{each.entry} {each.definitions}, sm_{architecture}"
        usage = check({each.entry}, compile_for(architecture, each.source, each.options, name), name)[each.entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start


def test_a_part_of_the_gate_reaches_both_kernels_with_many_tiles_in_both_arithmetics():
    parts = [each for architecture in ARCHITECTURES for each in compiled_for(architecture)]
    for entry, choices in catalogue.LAYERS.items():
        of_entry = [each for each in parts if each.entry == entry]
        assert len({each.tiles for each in of_entry}) >= 5 and {each.tiles for each in of_entry} <= set(choices)
        assert {each.dtype for each in of_entry} == {"float32", "tf32"}
    assert len(OF_LAYERS) == 2 * (13 + 9)
