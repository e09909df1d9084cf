"""The compile gate for the resident kernels on the tensor cores: without spills, and so that their blocks start.

Each test run compiles, for every architecture, one specialisation of those that need most registers. The environment
variable GPULSTM_WHOLE_GATE=1 makes it all of them for all architectures.
"""

import os

import pytest

from gpulstm.cuda import catalogue, resident_tensor_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip

FORWARD, BACKWARD = resident_tensor_layouts.FORWARD, resident_tensor_layouts.BACKWARD
ALL = [s for s in catalogue.specialisations() if s.entry in catalogue.RESIDENT_TENSOR_TILES]

# Compute capability -> (kernel, dtype, switches, tiles), of those that need most registers.
TIGHTEST = {
    80: [(FORWARD, "float16", (True, False), (8, 4)), (BACKWARD, "bfloat16", (True, True, True), (8, 1))],
    86: [(FORWARD, "bfloat16", (False, False), (8, 4)), (BACKWARD, "float16", (False, False, False), (8, 2))],
    89: [(FORWARD, "bfloat16", (True, True), (8, 4))],
    90: [(FORWARD, "float16", (True, True), (8, 1))],
    100: [(FORWARD, "bfloat16", (True, True), (2, 4)), (BACKWARD, "float16", (True, False, False), (8, 1))],
    120: [(FORWARD, "float16", (True, True), (4, 4)), (BACKWARD, "bfloat16", (False, False, False), (8, 2))],
}


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return ALL
    return [Specialisation(*one) for one in TIGHTEST[architecture]]


@pytest.mark.parametrize("architecture", TIGHTEST)
def test_tiles_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry}, {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        blocks = resident_tensor_layouts.together(one.tiles)
        threads = resident_tensor_layouts.threads(resident_tensor_layouts.units(one.tiles), one.entry)
        assert usage.registers <= min(255, 65536 // (threads * blocks) // 8 * 8), name
        assert usage.stack == 0 and usage.shared * blocks <= 48 * 1024, name


def test_the_part_is_of_all():
    parts = [one for architecture in TIGHTEST for one in compiled_for(architecture)]
    assert set(parts) <= set(ALL) and {one.entry for one in parts} == set(resident_tensor_layouts.TILES)
