"""The compile gate for the kernels with one launch for all steps and layer norm whose blocks run together: no spills.

Registers are shorter in them than in the plain ones. Each test run compiles one choice of tiles for every architecture,
of those that need the most registers. With options the arithmetics take turns: but for float32 they have less to hold,
one product instead of three. The environment variable GPULSTM_WHOLE_GATE=1 makes it all choices for all architectures.
Those of the resident schedule are compiled by tests/test_nvrtc_gate.py.
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


TIGHTEST_WITH_OPTIONS = {
    **{entry: tiles for entry, tiles in TIGHTEST.items() if "once" not in entry},
    "lstm_persistent_layer_norm_once_forward": ((2, 6, 1), (4, 2, 4)),
}


ARITHMETICS = ("float16", "float32", "bfloat16", "tf32")


def compiled_for(architecture: int) -> list[Specialisation]:
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return [one for one in catalogue.specialisations() if one.entry in TIGHTEST]
    number = ARCHITECTURES.index(architecture)
    found = []
    for options, tightest in ((False, TIGHTEST), (True, TIGHTEST_WITH_OPTIONS)):
        entry = tuple(tightest)[number % len(tightest)]  # a pass each, in turn
        dtype = ARITHMETICS[number % len(ARITHMETICS)] if options else "float32"
        found.append(Specialisation(entry, dtype, (options,), tightest[entry][number // len(tightest)]))
    return found


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
    everything = [
        (entry, (options,), tiles)
        for options, tightest in ((False, TIGHTEST), (True, TIGHTEST_WITH_OPTIONS))
        for entry, several in tightest.items()
        for tiles in several
    ]
    if not os.environ.get("GPULSTM_WHOLE_GATE"):
        parts = [one for architecture in ARCHITECTURES for one in compiled_for(architecture)]
        assert set(parts) < set(catalogue.specialisations()) and {one.dtype for one in parts} == set(ARITHMETICS)
        reached = [(one.entry, one.features, one.tiles) for one in parts]
        assert set(reached) == set(everything) and len(reached) == len(everything)
