"""The compile gate for the resident kernels on the tensor cores: without spills, and so that their blocks start.

Each test run compiles, for every architecture, one specialisation of those that need most registers. The environment
variable GPULSTM_WHOLE_GATE=1 makes it all of them for all architectures.
"""

import os

import pytest

from gpulstm.cuda import catalogue, resident_tensor_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
ALL = [s for s in catalogue.specialisations() if s.entry in catalogue.RESIDENT_TENSOR_TILES]


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return ALL
    number = ARCHITECTURES.index(architecture)
    dtype = resident_tensor_layouts.DTYPES[number % 2]
    found = []
    for entry in catalogue.RESIDENT_TENSOR_TILES:
        every = [s for s in ALL if s.entry == entry]
        found += [s for s in every if s.dtype == dtype][number // 2 :: 3]
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry}, {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        blocks = resident_tensor_layouts.together(one.tiles)
        threads = resident_tensor_layouts.threads(one.entry, resident_tensor_layouts.units(one.tiles))
        assert usage.registers <= min(255, 65536 // (threads * blocks) // 8 * 8), name
        assert usage.stack == 0 and usage.shared * blocks <= 48 * 1024, name


def test_a_part_of_the_gate_reaches_every_choice():
    parts = [one for architecture in ARCHITECTURES for one in compiled_for(architecture)]
    assert set(parts) == set(ALL) and {one.entry for one in ALL} == set(resident_tensor_layouts.TILES)
