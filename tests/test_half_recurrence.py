"""The persistent kernels of float16 and bfloat16 by themselves, against NumPy with the same roundings.

The layouts are uneven wherever they can be, as in tests/test_schedule_tiles.py.
"""

import numpy as np
import pytest

from gpulstm.cuda import half_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import LaunchError, cupy_on_cpu
from tests.half_cases import DTYPES, numpy_dtype
from tests.half_recurrence import (
    HalfCase,
    backward_in_numpy,
    check,
    check_in_any_order,
    choice_of,
    forward_in_numpy,
    half_case,
    run,
    run_backward,
    run_forward,
)
from tests.schedule_cases import goes_wrong
from tests.test_kernel_sanitizers import without

ALL = [
    (FORWARD if kernel == half_layouts.FORWARD else BACKWARD, tiles)
    for kernel, choices in half_layouts.TILES.items()
    for tiles in choices
]
SMALL = {
    FORWARD: (16, 4, 4, 2, 2, 4),
    BACKWARD: (16, 1, 16, 4, 2, 4),
}  # 16 hidden units in a block, 16 sequences at a time
DIRECTIONS = (FORWARD, BACKWARD)
FILE = {direction: f"lstm_persistent_half_{direction}.cu" for direction in DIRECTIONS}


def laid_out(direction: str, tiles: tuple[int, ...], dtype: str) -> tuple[Choice, int, int]:
    """(a layout, how many hidden units, how many sequences)"""
    t = half_layouts.Tiles(*tiles)
    kernel = half_layouts.FORWARD if direction == FORWARD else half_layouts.BACKWARD
    units = half_layouts.units(kernel, tiles)
    # More columns than the warps of one part of the sum have, the last block not full, and one warp's words not either.
    of_a_part = 16 * t.depth_tiles if direction == FORWARD else 4 * t.depth_tiles
    hidden = max(8 * (of_a_part // 8) + 8, units + 8)
    hidden = min(hidden + 8 * (hidden % units == 0), half_layouts.largest_hidden(kernel, tiles))
    share = 8 * t.sequence_tiles + 3
    groups = 2 if 2 * -(-hidden // units) <= 16 else 1
    return choice_of(direction, tiles, dtype, hidden, groups, share), hidden, share + 5 * (groups - 1)


def usual(dtype: str, direction: str, **settings) -> tuple[HalfCase, Choice]:
    """Three blocks, the last of them half full, and two groups, the last with fewer sequences."""
    batch = settings.pop("batch", 5)
    case = half_case(dtype, settings.pop("steps", 4), batch, 40, **settings)
    return case, choice_of(direction, SMALL[direction], dtype, 40, 2, -(-batch // 2))


@pytest.mark.parametrize(("direction", "tiles"), ALL, ids=str)
def test_every_choice_of_tiles(direction, tiles):
    dtype = DTYPES[ALL.index((direction, tiles)) % 2]
    choice, hidden, batch = laid_out(direction, tiles, dtype)
    case = half_case(dtype, 3, batch, hidden, lengths=np.arange(batch) % 4)
    check(*run(direction, case, choice), dtype)


def test_the_layouts_are_what_they_claim():
    assert len(ALL) == len(set(ALL)) == 24
    for direction, tiles in ALL:
        choice, hidden, batch = laid_out(direction, tiles, "float16")
        t = half_layouts.Tiles(*tiles)
        units = half_layouts.units(choice.kernel, tiles)
        assert hidden % 8 == 0 and choice.blocks <= 16
        assert hidden == half_layouts.largest_hidden(choice.kernel, tiles) or choice.blocks * units > hidden
        assert choice.groups * choice.share > batch > (choice.groups - 1) * choice.share or choice.groups == 1
        assert 8 * t.sequence_tiles < choice.share < 16 * t.sequence_tiles, "two passes, the last not full"


SETTINGS = {
    "plain": {},
    "reverse": {"reverse": True, "lengths": np.array([4, 0, 2, 1, 3])},
    "later": {"first_time": 2, "lengths": np.array([6, 0, 3, 2, 5])},
    "nothing that may be missing": {"bias": False, "dy": False},
    "one step": {"steps": 1},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestByValue:
    def test_forward(self, dtype, setting):
        case, choice = usual(dtype, FORWARD, **SETTINGS[setting])
        expected = forward_in_numpy(case)
        with cupy_on_cpu() as cupy:
            kept = run_forward(cupy, case, choice, wider=3)
            check(kept, expected, dtype)
            found = run_forward(cupy, case, choice, keep=False)
        last = 0 if case.reverse else -1
        for name in ("hiddens", "y"):
            np.testing.assert_array_equal(found[name], kept[name])
        np.testing.assert_array_equal(found["cells"], kept["cells"][last])
        np.testing.assert_array_equal(found["gates"], case.inputs)

    def test_backward(self, dtype, setting):
        """Training begins at time 0; a stretch of it that begins later is tested below."""
        case, choice = usual(dtype, BACKWARD, **{**SETTINGS[setting], "first_time": 0})
        given = forward_in_numpy(case)
        with cupy_on_cpu() as cupy:
            found = run_backward(cupy, case, choice, given["gates"], given["cells"], wider=3)
        check(found, backward_in_numpy(case, given["gates"], given["cells"]), dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_stretches_of_the_backward_pass_have_the_bits_of_one(monkeypatch, reverse):
    lengths = np.array([7, 0, 5, 3, 6])
    case, choice = usual("bfloat16", BACKWARD, steps=7, reverse=reverse, lengths=lengths)
    expected, reference = run(BACKWARD, case, choice)
    check(expected, reference, "bfloat16")
    a_step = 4 * 5 * 2 * 40
    for stretch in (3 * a_step, 1):  # 3, 3 and 1 steps; one each
        monkeypatch.setattr(cupy_one_launch, "EXCHANGE_BYTES", stretch)
        found, _ = run(BACKWARD, case, choice)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_bits_in_any_order(direction):
    case, choice = usual("float16", direction, lengths=np.array([4, 0, 2, 1, 3]))
    check_in_any_order(direction, case, choice, late_blocks=(0, 1, 2))


class TestHandingOver:
    def goes_wrong(self, direction: str, **settings) -> bool:
        case, choice = usual("float16", direction)
        return goes_wrong(lambda: check(*run(direction, case, choice, spin_limit=100, **settings), "float16"))

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_not_waiting(self, monkeypatch, direction):
        assert not any(self.goes_wrong(direction, late_block=block) for block in (0, 1))
        right, wrong = "bool missing = arrive; missing;", "bool missing = false; missing;"
        without(monkeypatch, FILE[direction], right, 1, wrong)
        assert any(self.goes_wrong(direction, late_block=block) for block in (0, 1))

    def test_neighbours_that_are_not_told_apart(self, monkeypatch):
        without(monkeypatch, FILE[BACKWARD], "unit / 2 * 4 + 2 * odd", 1, "unit / 2 * 4")
        assert self.goes_wrong(BACKWARD)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_word_that_means_not_there_is_published(self, monkeypatch, dtype):
        """Two neighbouring NaNs of a caller's own, in a sequence that has ended."""
        case, choice = usual(dtype, FORWARD, steps=2, lengths=np.array([2, 0, 2, 1, 2]))
        case.h = case.h.astype(numpy_dtype(dtype))
        case.h.view(np.uint16)[1, 4:6] = 0xFFFF

        def found() -> np.ndarray:
            with cupy_on_cpu(spin_limit=100) as cupy:
                return run_forward(cupy, case, choice)["hiddens"]

        assert np.isnan(found()[:, 1, 4:6]).all()
        without(monkeypatch, FILE[FORWARD], "word == 0xFFFFFFFFu ? 0x7FFF7FFFu : word", 1, "word")
        with pytest.raises(LaunchError, match="deadlock"):
            found()

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_a_block_that_publishes_nothing_is_reported(self, monkeypatch, direction):
        monkeypatch.setattr(cupy_one_launch, "_alarms", {})
        without(monkeypatch, FILE[direction], "#define SPINS 160000000", 1, "#define SPINS 60")
        silent = {
            FORWARD: ("if (gate == 0 && unit % 2 == 0) {", "if (gate == 0 && unit % 2 == 0 && blockIdx.x != 1) {"),
            BACKWARD: ("if (!owner) continue;\n", "if (!owner || blockIdx.x == 1) continue;\n"),
        }[direction]
        without(monkeypatch, FILE[direction], silent[0], 1, silent[1])
        case, choice = usual("float16", direction)
        run(direction, case, choice)  # comes to its end
        with pytest.raises(RuntimeError, match="waited for each other in vain"):
            run(direction, case, choice)


class TestSanitizers:
    """512 threads in a block take their time there."""

    # Two blocks of 16 hidden units and as little code as shows everything: half of the weights in shared memory.
    TILES = {FORWARD: (8, 2, 2, 1, 2, 2), BACKWARD: (16, 1, 2, 1, 2, 2)}

    def few(self, direction: str) -> tuple[HalfCase, Choice]:
        case = half_case("bfloat16", 2, 3, 24, lengths=np.array([2, 0, 1]))
        return case, choice_of(direction, self.TILES[direction], "bfloat16", 24, 1, 3)

    @pytest.mark.parametrize("mode", ["asan", "tsan"])
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_clean(self, direction, mode):
        case, choice = self.few(direction)
        check(*run(direction, case, choice, mode, thread_order="random", seed=1), "bfloat16")


def test_shared_memory_fits():
    for _, tiles in ALL:
        assert half_layouts.shared_bytes(tiles) + half_layouts.DRIVERS_SHARED_BYTES <= 227 * 1024, tiles


def test_words_that_are_handed_over():
    choice = planner.choose(BACKWARD, 5, 136, "float16", planner.Device(90, 16, 232448, True))
    assert choice.kernel == half_layouts.BACKWARD
    assert half_layouts.exchange_shape(7, 5, 136) == (7, 5, 272)
