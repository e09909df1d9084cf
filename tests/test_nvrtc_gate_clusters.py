"""The compile gate for the kernels whose blocks come in clusters: without spills, and within what a block may have.

For compute capability 9.0 all weights with the fewest or the most sequences, for the later architectures those that
need most registers.
"""

import pytest

from gpulstm.cuda import catalogue, cluster_layouts
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip
from tests.test_nvrtc_gate_rounding import ptx

USUAL_SHARED = 48 * 1024  # bytes, which static shared memory cannot exceed
ENTRIES = [entry for entry in catalogue.CLUSTERED if entry in catalogue.TILES]  # of float32
MOST_SEQUENCES = max(sequences for _, _, sequences in catalogue.CLUSTER_TILES)


@pytest.mark.parametrize("architecture", (90, 100, 120))
@pytest.mark.parametrize("entry", ENTRIES)
def test_tiles_compile_without_spills(entry, architecture):
    if architecture not in nvrtc_or_skip().getSupportedArchs():
        pytest.skip(f"sm_{architecture} was left out: this NVRTC does not support it")
    found = 0
    for specialisation in catalogue.specialisations():
        size, quads, sequences = specialisation.tiles if specialisation.entry == entry else (0, 0, 0)
        most = sequences == MOST_SEQUENCES
        wide, on_90 = quads >= 4, architecture == 90
        if not size or not (most and (wide or on_90) or on_90 and wide and sequences == 1):
            continue
        found += 1
        name = f"{entry}, {specialisation.definitions}, sm_{architecture}"
        log = compile_for(architecture, specialisation.source, specialisation.options, name)
        usage = check({entry}, log, name)[entry]
        _, threads = cluster_layouts.geometry(specialisation.tiles, 1)
        warps_of_a_quarter = -(-threads // 128)  # registers are given to warps, in eights for each thread
        assert warps_of_a_quarter * 32 * -(-usage.registers // 8) * 8 <= 65536 // 4, name  # or it would not start
        assert usage.shared <= USUAL_SHARED and usage.stack == 0, name
        assert usage.registers > 16 * quads, "the weights are not in registers"
    assert found == (6 if architecture == 90 else 2)


@pytest.mark.parametrize("tiles", [(2, 1, 1), (8, 4, 8)])
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_wait_is_for_ever(entry, tiles):
    """What the stand-in sees by counting; on a GPU only a clock can end it."""
    one = catalogue.Specialisation(entry, "float32", (), tiles)
    text = ptx(one.source, one.options)
    waits = text.count("mbarrier.try_wait")
    assert waits and text.count("trap;") == waits


def test_clusters_need_compute_capability_9():
    specialisation = next(s for s in catalogue.specialisations() if s.entry in catalogue.CLUSTERED)
    with pytest.raises(AssertionError, match="lstm_cluster"):
        check({specialisation.entry}, compile_for(89, specialisation.source, specialisation.options, "old"), "old")
