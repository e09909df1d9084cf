"""The compile gate for the kernels that run layers on top of each other in one launch: no spills here either.

Each test run compiles one of the two kernels for each architecture in float32 with tiles that take turns, and the other
one in TF32; of 16 bits those tiles that need the most registers, each for one architecture. The environment variable
GPULSTM_WHOLE_GATE=1 makes it every choice of tiles for every architecture.
"""

import os

import pytest

from gpulstm.cuda import catalogue, half_layouts, planner
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES
from tests.test_nvrtc_gate_rounding import ptx

OF_LAYERS = [s for s in catalogue.specialisations() if s.definitions.get("LAYERS") == 1]
IN_FLOAT32 = [entry for entry in catalogue.LAYERS if entry in catalogue.TILES]
IN_16_BITS = [s for s in OF_LAYERS if s.entry in catalogue.HALF_TILES]
LARGEST_SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB of a block, by CUDA's programming guide
TIGHTEST = {
    80: (half_layouts.BACKWARD, (16, 4, 2, 0, 1, 1)),
    86: (half_layouts.FORWARD, (4, 4, 2, 0, 1, 1)),
    89: (half_layouts.BACKWARD, (16, 1, 8, 0, 1, 4)),
    90: (half_layouts.FORWARD, (16, 4, 4, 0, 1, 2)),
    100: (half_layouts.BACKWARD, (16, 1, 16, 4, 1, 8)),
    120: (half_layouts.FORWARD, (16, 4, 2, 0, 1, 1)),
}


def compiled_for(architecture: int) -> list[catalogue.Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return [each for each in OF_LAYERS if starts(each, architecture)]
    number = ARCHITECTURES.index(architecture)
    found = [
        each
        for each in IN_16_BITS
        if (each.entry, each.tiles) == TIGHTEST[architecture] and each.dtype == ("float16", "bfloat16")[number // 2 % 2]
    ]
    for i, entry in enumerate(IN_FLOAT32):
        wanted = ("float32", "tf32")[(i + number) % 2]
        of_entry = [s for s in OF_LAYERS if (s.entry, s.dtype) == (entry, wanted)]
        found.append(of_entry[-1 - number * len(of_entry) // len(ARCHITECTURES)])
    return found


def starts(one: catalogue.Specialisation, architecture: int) -> bool:
    """Whether a block may have the shared memory that it needs. Where it may not, nobody asks for the kernel."""
    if one not in IN_16_BITS:
        return True
    needed = half_layouts.shared_bytes(one.tiles, layers=True) + half_layouts.DRIVERS_SHARED_BYTES
    return needed <= 1024 * LARGEST_SHARED[architecture]


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
    for entry in IN_FLOAT32:
        of_entry, choices = [each for each in parts if each.entry == entry], catalogue.LAYERS[entry]
        assert len({each.tiles for each in of_entry}) >= 5 and {each.tiles for each in of_entry} <= set(choices)
        assert {each.dtype for each in of_entry} == {"float32", "tf32"}
    in_16_bits = [each for each in parts if each in IN_16_BITS]
    assert {(each.entry, each.dtype) for each in in_16_bits} == {
        (e, d) for e in half_layouts.TILES for d in half_layouts.DTYPES
    }
    assert all(starts(each, a) for a in ARCHITECTURES for each in compiled_for(a))
    if not os.environ.get("GPULSTM_WHOLE_GATE"):
        assert len(in_16_bits) == 6
    assert len(OF_LAYERS) == 2 * (13 + 9) + 2 * (6 + 6)


@pytest.mark.parametrize("kernel", half_layouts.TILES)
def test_without_the_switch_nothing_of_a_second_product_is_compiled(kernel):
    """No other parameters, and no more products of tiles than one matrix has."""
    tiles = half_layouts.TILES_OF_LAYERS[kernel][0]
    t, one = half_layouts.Tiles(*tiles), catalogue.Specialisation(kernel, "float16", (False,) * 3, tiles)
    text = ptx(one.source, one.options)
    assert text.count("mma.sync") == t.row_tiles * t.depth_tiles * t.sequence_tiles
    assert ".param .align 8 .b8" not in text
