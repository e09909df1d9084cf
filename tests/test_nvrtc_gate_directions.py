"""The compile gate for the kernels that run both directions of a layer in one launch: no spills here either.

What tells the directions apart stands in registers, where the kernels of one direction find it among their arguments.
Each test run compiles a third of the kernels for each architecture, with tiles that take turns. The environment
variable GPULSTM_WHOLE_GATE=1 makes it every choice of tiles for every architecture.
"""

import os

import pytest

from gpulstm.cuda import catalogue
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_options import most_registers, starts
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

ENTRIES = [e for e in catalogue.BIDIRECTIONAL if e not in catalogue.RESIDENT_TENSOR_TILES]  # which have their own gate
OF_BOTH = [s for s in catalogue.specialisations() if s.definitions.get("BIDIRECTIONAL") == 1 and s.entry in ENTRIES]


def compiled_for(architecture: int) -> list[catalogue.Specialisation]:
    there = [s for s in OF_BOTH if not s.definitions["OPTIONS"] or starts(s, architecture)]
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return there
    number, found = ARCHITECTURES.index(architecture), []
    for i, entry in enumerate(ENTRIES):
        of_entry = [s for s in there if s.entry == entry]
        if (i + number) % 3 == 0:
            found.append(of_entry[-1 - number * len(of_entry) // len(ARCHITECTURES)])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for each in compiled_for(architecture):
        name = f"{each.entry} {each.definitions}, sm_{architecture}"
        usage = check({each.entry}, compile_for(architecture, each.source, each.options, name), name)[each.entry]
        assert usage.registers <= most_registers(each), name  # or the block would not start


def test_a_part_of_the_gate_reaches_every_kernel_in_several_arithmetics():
    parts = [each for architecture in ARCHITECTURES for each in compiled_for(architecture)]
    assert {each.dtype for each in parts} == {"float32", "tf32", "float16", "bfloat16"}
    assert {each.definitions["OPTIONS"] for each in parts} == {0, 1}
    for entry in ENTRIES:
        assert len({(each.dtype, each.tiles) for each in parts if each.entry == entry}) >= 2
    with_options = [each for each in OF_BOTH if each.definitions["OPTIONS"]]
    assert len(with_options) == 2 * (9 + 6) + 2 * (15 + 9) + 2 * (9 + 11)
    assert len(OF_BOTH) == len(with_options) + 2 * 9 + 2 * (15 + 9) + 2 * (10 + 11)
