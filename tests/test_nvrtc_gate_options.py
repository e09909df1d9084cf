"""The compile gate for the kernels with one launch for all steps, with the switch OPTIONS: no spills here either.

Every choice of tiles is compiled for one architecture, and the choices take turns, so that every kernel is compiled for
every architecture; all for all would take a minute.
"""

import pytest

from gpulstm.cuda import catalogue, planner
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

WITH_OPTIONS = [
    specialisation
    for specialisation in catalogue.specialisations()
    if specialisation.definitions.get("OPTIONS") == 1 and "layer_norm" not in specialisation.entry
]  # tests/test_nvrtc_gate_layer_norm.py has those with layer norm


def of(architecture: int) -> list[catalogue.Specialisation]:
    return WITH_OPTIONS[ARCHITECTURES.index(architecture) :: len(ARCHITECTURES)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_with_options_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for each in of(architecture):
        name = f"{each.entry}, {each.definitions}"
        log = compile_for(architecture, each.source, each.options, name)
        usage = check({each.entry}, log, f"{name}, sm_{architecture}")[each.entry]
        threads = 64 * each.tiles[0] if "resident" in each.entry else 32 * planner.WARPS
        assert usage.registers <= min(255, 65536 // threads), name  # or the block would not start


def test_every_choice_of_tiles_is_compiled_once_and_every_kernel_for_every_architecture():
    compiled = [each for architecture in ARCHITECTURES for each in of(architecture)]
    assert set(compiled) == set(WITH_OPTIONS) and len(compiled) == len(WITH_OPTIONS)
    hold = [entry for entry in catalogue.TILES if "OPTIONS" in catalogue.KERNELS[entry][1] and "norm" not in entry]
    assert len(WITH_OPTIONS) == sum(len(catalogue.TILES[entry][1]) for entry in hold)
    for architecture in ARCHITECTURES:
        assert {each.entry for each in of(architecture)} >= set(catalogue.TF32)  # the resident ones have few tiles
