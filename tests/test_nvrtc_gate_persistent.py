"""The compile gate for the kernels whose blocks all run together: every choice of tiles, without spills.

Each test run compiles every choice of tiles in float32 for one architecture; they take turns, so that every kernel is
compiled for every architecture. In TF32, where they are the same less two products of three, and for the kernels of 16
bits, where the two types differ in the names of three instructions, it compiles a smaller part. The environment
variable GPULSTM_WHOLE_GATE=1 makes it all of them for every architecture.

A spill would put weights back into memory, and keeping them out of it is what these kernels are for.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip, parted, programs

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
LARGEST_SHARED = 227 * 1024  # bytes of a block, on compute capability 9.0


def in_float32(entry: str, architecture: int) -> list[tuple[str, tuple[str, ...]]]:
    """(source, options) of a kernel's choices of tiles that this test run compiles for an architecture."""
    everything = programs(cooperative=True).items()
    found = [program for program, entries in everything if entries == {entry} and "TF32 1" not in parted(program[0])[0]]
    assert len(found) == len(catalogue.TILES[entry][1])
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return found
    return found[ARCHITECTURES.index(architecture) :: len(ARCHITECTURES)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("entry", catalogue.TF32)
def test_choices_of_tiles_compile_without_spills(entry, architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for source, options in in_float32(entry, architecture):
        name = f"{entry}, {parted(source)[0]}"
        usage = check({entry}, compile_for(architecture, source, options, name), f"{name}, sm_{architecture}")[entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start


@pytest.mark.parametrize("entry", catalogue.TF32)
def test_a_part_of_the_gate_reaches_every_choice_of_tiles(entry):
    parts = [in_float32(entry, architecture) for architecture in ARCHITECTURES]
    assert all(parts) and len({source for part in parts for source, _ in part}) == len(catalogue.TILES[entry][1])


OTHERS = [
    specialisation
    for specialisation in catalogue.specialisations()
    if specialisation.is_cooperative
    and specialisation.dtype != "float32"
    and not any(specialisation.features)
    and specialisation.entry not in catalogue.LAYER_NORM  # tests/test_nvrtc_gate_layer_norm.py
]


def compiled_for(architecture: int) -> list[catalogue.Specialisation]:
    """Every choice of tiles of 16 bits once over all architectures, in one of the two types, and a sixth in TF32."""
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return OTHERS
    number = ARCHITECTURES.index(architecture)
    found = []
    for entry in catalogue.HALF_TILES:
        for i, tiles in enumerate(catalogue.HALF_TILES[entry][1]):
            if i % len(ARCHITECTURES) == number:
                dtype = ("float16", "bfloat16")[number % 2]
                found.append(catalogue.Specialisation(entry, dtype, (False,) * 3, tiles))
    in_tf32 = [s for s in OTHERS if s.dtype == "tf32"]
    return found + in_tf32[number :: len(ARCHITECTURES) ** 2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_choices_of_tiles_in_other_arithmetics_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry}, {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name


def test_a_part_of_the_gate_reaches_every_choice_of_tiles_of_16_bits():
    parts = [one for architecture in ARCHITECTURES for one in compiled_for(architecture)]
    for entry, (_, choices) in catalogue.HALF_TILES.items():
        assert {one.tiles for one in parts if one.entry == entry} == set(choices)
    assert {one.dtype for one in parts} == {"float16", "bfloat16", "tf32"}
    assert len(OTHERS) == 2 * (11 + 13) + 39


@pytest.mark.parametrize("tiles", catalogue.TILES["lstm_persistent_forward"][1], ids=str)
def test_shared_memory_fits(tiles):
    assert planner.shared_bytes(tiles) + planner.STATIC_SHARED_BYTES <= LARGEST_SHARED
