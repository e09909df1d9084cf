"""What gpulstm.cuda.planner chooses in float16, bfloat16 and TF32 covers the layer, fits the device, and says why."""

import itertools
from functools import lru_cache

import pytest

from gpulstm.cuda import catalogue, half_layouts, planner, resident_tensor_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, choose
from tests.test_planner import BATCH, DEVICES, H200

HIDDEN = (1, 4, 8, 36, 64, 72, 100, 128, 136, 256, 264, 512, 768, 776, 1000, 1024, 1032, 2040, 2048, 2056)
KERNELS = {FORWARD: half_layouts.FORWARD, BACKWARD: half_layouts.BACKWARD}


@lru_cache
def choices(device: str, dtype: str = "float16") -> tuple:
    """(direction, batch, hidden, choice) of what runs in one launch."""
    found = []
    for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, HIDDEN):
        with planner.only("persistent", "loop"):
            choice = choose(direction, batch, hidden, dtype, DEVICES[device])
        if choice.schedule == "persistent":
            found.append((direction, batch, hidden, choice))
    return tuple(found)


@pytest.mark.parametrize("device", DEVICES)
class TestWhateverIsChosen:
    def test_covers_the_layer(self, device):
        for direction, batch, hidden, choice in choices(device):
            tiles = half_layouts.Tiles(*choice.tiles)
            assert choice.kernel == KERNELS[direction] and choice.arithmetic == "float16"
            assert choice.tiles in half_layouts.TILES[choice.kernel]
            units = tiles.rows // (4 if direction == FORWARD else 1)
            assert choice.blocks * units >= hidden > (choice.blocks - 1) * units
            assert tiles.columns >= hidden * (1 if direction == FORWARD else 4)
            assert hidden % 8 == 0
            assert choice.groups * choice.share >= batch > (choice.groups - 1) * choice.share, "no group is empty"

    def test_fits_the_device(self, device):
        there = DEVICES[device]
        for _, _, _, choice in choices(device):
            assert choice.groups * choice.blocks <= there.multiprocessors
            assert there.cooperative and there.capability >= 80
            assert half_layouts.shared_bytes(choice.tiles) + 1024 <= there.shared_bytes


def test_the_devices_show_what_they_are_for():
    found = {device: len(choices(device)) for device in DEVICES}
    assert [d for d in DEVICES if not found[d]] == ["hardly any shared memory", "capability 7.5", "not cooperative"]
    assert found["H200"] > 250 and found["little shared memory"] < 150
    assert {c.kernel for *_, c in choices("little shared memory")} == set(KERNELS.values()), "some in 48 KB"


def test_every_choice_of_tiles_is_the_best_one_somewhere():
    """On an H200 or on a device with less shared memory; or nobody would need it."""
    l40s, a100 = planner.Device(89, 128, 101376, True), planner.Device(80, 108, 166912, True)
    devices = (H200, DEVICES["7 multiprocessors"], DEVICES["little shared memory"], l40s, a100)
    hidden, batches = (64, 128, 256, 512, 768, 1024, 2048), (1, 8, 32, 96, 256, 1024)
    for direction, kernel in KERNELS.items():
        best = set()
        for there, size, batch in itertools.product(devices, hidden, batches):
            found = half_layouts.layouts(kernel, batch, size, there.multiprocessors, there.shared_bytes)
            best |= {min(found, key=lambda layout: layout.microseconds).tiles} if found else set()
        assert not set(half_layouts.TILES[kernel]) - best, direction


@pytest.mark.parametrize("dtype", half_layouts.DTYPES)
@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
class TestWhichOne:
    @pytest.mark.parametrize(
        ("hidden", "batch", "blocks"),
        [(256, 64, 4), (512, 64, 16), (1024, 32, 32), (2048, 8, 128)],
    )
    def test_on_an_h200(self, direction, dtype, hidden, batch, blocks):
        choice = choose(direction, batch, hidden, dtype, H200)
        assert (choice.schedule, choice.blocks, choice.arithmetic) == ("persistent", blocks, dtype)

    @pytest.mark.parametrize(
        ("hidden", "batch", "why"),
        [
            (60, 8, "persistent reads eight hidden units of {} at a time, and 60 is not a multiple of 8"),
            (2056, 8, "persistent does not fit hidden_size 2056 on 132 multiprocessors"),
            (64, 0, "persistent has no sequence to run"),
            (136, 8, "resident is for hidden_size up to "),
        ],
    )
    def test_why_not(self, direction, dtype, hidden, batch, why):
        with planner.only("resident", "loop") if "resident" in why else planner.only("persistent", "loop"):
            choice = choose(direction, batch, hidden, dtype, H200)
        assert choice.schedule == "loop" and why.format(dtype) in choice.reason

    def test_small_layers_are_resident(self, direction, dtype):
        for hidden, batch in ((5, 1), (64, 8), (96, 8), (60, 300)):
            choice = choose(direction, batch, hidden, dtype, H200)
            assert (choice.schedule, choice.arithmetic) == ("resident", dtype)
            on_tensor_cores = resident_tensor_layouts.kernel_of(direction, hidden, dtype, 90)
            assert choice.kernel == on_tensor_cores or (f"lstm_resident_{direction}", hidden) == (choice.kernel, 5)
            assert f"; {dtype}" in str(choice)

    def test_a_device_that_is_too_old(self, direction, dtype):
        choice = choose(direction, 8, 128, dtype, DEVICES["capability 7.5"])
        assert choice.schedule == "loop" and "needs compute capability 8.0" in choice.reason


class TestTF32:
    @pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
    def test_it_is_float32_with_cheaper_products(self, direction):
        for batch, hidden in itertools.product((1, 32, 128), (68, 256, 1024)):
            with planner.only("persistent"):
                rough, exact = (choose(direction, batch, hidden, dtype, H200) for dtype in ("tf32", "float32"))
            assert rough.kernel == exact.kernel and rough.tiles in catalogue.TILES[rough.kernel][1]
            assert (rough.arithmetic, exact.arithmetic) == ("tf32", "float32")
            assert rough.microseconds < exact.microseconds and "products in TF32" in rough.reason

    def test_the_resident_schedule_takes_it_and_stays_exact(self):
        choice = choose(FORWARD, 8, 64, "tf32", H200)
        assert (choice.schedule, choice.arithmetic) == ("resident", "float32")


def test_the_prediction_adds_up():
    """H = 1024, N = 32 on 32 blocks with 8 sequences each, by hand."""
    tiles = half_layouts.Tiles(8, 4, 8, 4, 1, 4)
    found = half_layouts.microseconds(half_layouts.FORWARD, tiles, 32, 8, 1024)
    hand_over, sums, outputs, products, parked = 0.14 + 0.13 * 5, 0.25, 0.25 * 2, 0.024 * 4 * 8, 0.032 * 4 * 4
    crossing = 2 * 8 * 1024 * 2 / 98e3
    assert found == pytest.approx(hand_over + sums + outputs + products + parked + crossing)
