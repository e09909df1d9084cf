"""The compile gate for the kernels with one launch for all steps, with the switch OPTIONS: no spills here either.

Every choice of tiles is compiled for one architecture, and the choices take turns, so that every kernel is compiled for
every architecture; all for all would take a minute. With the switch PEEPHOLES each is compiled for one of the types. In
16 bits, where blocks may have as much shared memory as they ask for, it is one of those choices that need the most
registers for each architecture, in one of the two types; and in TF32, where they are the same less two products of
three, it is one of all for every other architecture. The environment variable GPULSTM_WHOLE_GATE=1 makes these all.
"""

import os

import pytest

from gpulstm.cuda import catalogue, half_layouts, planner, resident_layouts
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

EVERYTHING = [
    s
    for s in catalogue.specialisations()
    if s.definitions.get("OPTIONS") == 1
    and not s.definitions.get("BIDIRECTIONAL")
    and "layer_norm" not in s.entry
    and s.entry not in (*catalogue.RESIDENT_TENSOR_TILES, *catalogue.WIDE_TILES)
]  # of both directions: tests/test_nvrtc_gate_directions.py, with layer norm: tests/test_nvrtc_gate_layer_norm.py
IN_TF32 = [s for s in EVERYTHING if s.dtype == "tf32"]
WITHOUT_PEEPHOLES = [
    s
    for s in EVERYTHING
    if s.entry not in catalogue.HALF_TILES and not s.definitions.get("PEEPHOLES") and s not in IN_TF32
]
WITH_PEEPHOLES = [
    Specialisation(entry, dtype, (True, False, True), tiles)
    for entry, dtypes in (
        ("lstm_resident_forward", ("bfloat16", "float32", "float16")),
        ("lstm_resident_backward", ("float16", "bfloat16", "float32")),
    )
    for dtype, tiles in zip(dtypes, catalogue.TILES[entry][1], strict=True)
]
WITH_OPTIONS = WITHOUT_PEEPHOLES + WITH_PEEPHOLES
IN_16_BITS = [s for s in EVERYTHING if s.entry in catalogue.HALF_TILES]
LARGEST_SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB of a block, by CUDA's programming guide

TIGHTEST = {
    80: (half_layouts.FORWARD, (2, 4, 4, 1, 1, 2)),
    86: (half_layouts.FORWARD, (4, 4, 4, 0, 1, 2)),
    89: (half_layouts.BACKWARD, (8, 4, 4, 0, 1, 2)),
    90: (half_layouts.FORWARD, (8, 4, 8, 4, 1, 4)),
    100: (half_layouts.BACKWARD, (16, 1, 32, 16, 1, 4)),
    120: (half_layouts.BACKWARD, (16, 4, 4, 0, 1, 2)),
}


def most_registers(one: catalogue.Specialisation) -> int:
    """Of a thread, so that a block starts, or as many as are to share a multiprocessor."""
    if "resident" not in one.entry:
        return min(255, 65536 // (32 * planner.WARPS))
    alone = one.definitions["PEEPHOLES"] and one.entry in resident_layouts.ALONE_WITH_PEEPHOLES and one.tiles[0] >= 4
    together = 1 if alone else resident_layouts.together(one.tiles)
    return min(255, 65536 // (resident_layouts.threads(resident_layouts.units(one.tiles)) * together) // 8 * 8)


def of(architecture: int) -> list[catalogue.Specialisation]:
    number = ARCHITECTURES.index(architecture)
    return WITH_OPTIONS[number :: len(ARCHITECTURES)] + in_tf32(number) + in_16_bits(architecture)


def in_tf32(number: int) -> list[catalogue.Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return IN_TF32
    return [] if number % 2 else [IN_TF32[number * len(IN_TF32) // len(ARCHITECTURES)]]


def starts(one: catalogue.Specialisation, architecture: int) -> bool:
    """Whether a block may have the shared memory that it needs. Where it may not, nobody asks for the kernel."""
    if one.entry not in catalogue.HALF_TILES:
        return True
    needed = half_layouts.shared_bytes(one.tiles) + half_layouts.DRIVERS_SHARED_BYTES
    return needed <= 1024 * LARGEST_SHARED[architecture]


def in_16_bits(architecture: int) -> list[catalogue.Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return [each for each in IN_16_BITS if starts(each, architecture)]
    entry, tiles = TIGHTEST[architecture]
    dtype = ("float16", "bfloat16")[ARCHITECTURES.index(architecture) % 2]
    return [each for each in IN_16_BITS if (each.entry, each.dtype, each.tiles) == (entry, dtype, tiles)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_with_options_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for each in of(architecture):
        name = f"{each.entry}, {each.definitions}"
        log = compile_for(architecture, each.source, each.options, name)
        usage = check({each.entry}, log, f"{name}, sm_{architecture}")[each.entry]
        assert usage.registers <= most_registers(each), name  # or the block would not start


def test_every_choice_of_tiles_is_compiled_once_and_every_kernel_for_every_architecture():
    everything = [each for architecture in ARCHITECTURES for each in of(architecture)]
    compiled = [each for each in everything if each not in IN_16_BITS and each not in IN_TF32]
    assert set(compiled) == set(WITH_OPTIONS) and len(compiled) == len(WITH_OPTIONS)
    assert set(WITH_PEEPHOLES) < set(EVERYTHING) and len({(s.entry, s.tiles) for s in WITH_PEEPHOLES}) == 6
    hold = [entry for entry in catalogue.TILES if "OPTIONS" in catalogue.KERNELS[entry][1] and "norm" not in entry]
    assert len(WITHOUT_PEEPHOLES) == sum(
        len(catalogue.TILES[entry][1]) * len(set(catalogue.dtypes_of(entry)) - {"tf32"}) for entry in hold
    )
    assert {each.entry for each in everything if each in IN_TF32} == set(catalogue.TF32) and len(IN_TF32) == 21 + 18
    for architecture in ARCHITECTURES:
        assert {each.entry for each in of(architecture)} >= set(catalogue.TF32)  # the resident ones have few tiles
        assert in_16_bits(architecture) and all(starts(each, architecture) for each in in_16_bits(architecture))
