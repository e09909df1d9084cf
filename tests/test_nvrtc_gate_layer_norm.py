"""The compile gate for the kernels with one launch for all steps and layer norm whose blocks run together: no spills.

Registers are shorter in them than in the plain ones. Each test run compiles one choice of tiles for every architecture,
of those that need the most registers. The environment variable GPULSTM_WHOLE_GATE=1 makes it all choices for all
architectures. Those of the resident schedule are compiled by tests/test_nvrtc_gate.py.
"""

import os

import pytest

from gpulstm.cuda import catalogue, planner
from gpulstm.cuda.catalogue import Specialisation
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_persistent import ARCHITECTURES

TIGHTEST = {  # a thread holds 64 registers of weights
    "lstm_persistent_layer_norm_once_forward": ((4, 4, 2), (2, 8, 1)),
    "lstm_persistent_layer_norm_forward": ((2, 8, 4), (4, 4, 2)),
    "lstm_persistent_layer_norm_backward": ((2, 4, 4), (4, 2, 1)),
}


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return [
            Specialisation(entry, "float32", (), tiles) for entry in TIGHTEST for tiles in catalogue.TILES[entry][1]
        ]
    number = ARCHITECTURES.index(architecture)
    entry = tuple(TIGHTEST)[number % len(TIGHTEST)]  # a pass each, in turn
    return [Specialisation(entry, "float32", (), TIGHTEST[entry][number // len(TIGHTEST)])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_with_layer_norm_compile_without_spills(architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    for one in compiled_for(architecture):
        name = f"{one.entry} {one.definitions}, sm_{architecture}"
        usage = check({one.entry}, compile_for(architecture, one.source, one.options, name), name)[one.entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start
        if one.entry == "lstm_persistent_layer_norm_forward":  # which has dynamic shared memory too
            assert usage.shared <= planner.STATIC_SHARED_BYTES, name


def test_a_part_of_the_gate_reaches_the_tightest_choices_once():
    for entry, tightest in TIGHTEST.items():
        assert set(tightest) < set(catalogue.TILES[entry][1])
    if not os.environ.get("GPULSTM_WHOLE_GATE"):
        parts = [(one.entry, one.tiles) for architecture in ARCHITECTURES for one in compiled_for(architecture)]
        assert sorted(parts) == sorted((entry, tiles) for entry, tightest in TIGHTEST.items() for tiles in tightest)
