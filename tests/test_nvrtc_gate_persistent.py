"""The compile gate for the kernels whose blocks all run together: every choice of tiles, without spills.

A spill would put weights back into memory, and keeping them out of it is what these kernels are for.
"""

import pytest

from gpulstm.cuda import catalogue, planner
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip, programs

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
LARGEST_SHARED = 227 * 1024  # bytes of a block, on compute capability 9.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("entry", catalogue.COOPERATIVE)
def test_every_choice_of_tiles_compiles_without_spills(entry, architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    found = 0
    for (source, options), entries in programs(cooperative=True).items():
        if entries != {entry}:
            continue
        name = f"{entry} {' '.join(options)}"
        usage = check(entries, compile_for(architecture, source, options, name), f"{name}, sm_{architecture}")[entry]
        assert usage.registers <= 65536 // (32 * planner.WARPS), name  # or the block would not start
        found += 1
    assert found == len(catalogue.TILES[entry][1])


@pytest.mark.parametrize("tiles", catalogue.TILES["lstm_persistent_forward"][1], ids=str)
def test_shared_memory_fits(tiles):
    assert planner.shared_bytes(tiles) + planner.STATIC_SHARED_BYTES <= LARGEST_SHARED
