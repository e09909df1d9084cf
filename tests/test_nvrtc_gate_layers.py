"""The compile gate for the kernels that run layers on top of each other in one launch: no spills here either.

Each test run compiles some tiles in float32 and one in TF32 of each kernel for each architecture, which take turns. The
environment variable GPULSTM_WHOLE_GATE=1 makes it every choice of tiles for every architecture.
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
    for entry in catalogue.LAYERS:
        of_entry = [s for s in OF_LAYERS if s.entry == entry and s.dtype == "float32"]
        found += of_entry[number :: len(ARCHITECTURES)]
    in_tf32 = [s for s in OF_LAYERS if s.dtype == "tf32"]
    return [*found, in_tf32[-1 - number * len(in_tf32) // len(ARCHITECTURES)]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for each in compiled_for(architecture):
        name = f"{each.entry} {each.definitions}, sm_{architecture}"
        usage = check({each.entry}, compile_for(architecture, each.source, each.options, name), name)[each.entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start


def test_a_part_of_the_gate_reaches_every_choice_of_tiles():
    parts = [each for architecture in ARCHITECTURES for each in compiled_for(architecture)]
    for entry, choices in catalogue.LAYERS.items():
        assert {each.tiles for each in parts if each.entry == entry and each.dtype == "float32"} == set(choices)
        assert any(each.entry == entry and each.dtype == "tf32" for each in parts)
    assert len(OF_LAYERS) == 2 * (13 + 9)
