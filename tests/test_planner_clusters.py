"""What the planner says of clusters: which layers fit, on which devices, why others do not, and what a step costs."""

import itertools

import pytest

from gpulstm.cuda import catalogue, cluster_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice, Device, choose

H200 = Device(90, 132, 232448, True)
RTX = Device(120, 170, 101376, True)
SMALL = Device(90, 7, 232448, False)
DEVICES = {"H200": H200, "consumer": RTX, "seven multiprocessors": SMALL}
HIDDEN = (1, 3, 63, 64, 65, 100, 128, 129, 256, 257, 384)
BATCH = (1, 2, 5, 8, 9, 64, 128, 129, 1000)


def chosen(direction: str, batch: int, hidden: int, device: Device) -> Choice | None:
    try:
        with planner.only("cluster"):
            return choose(direction, batch, hidden, "float32", device)
    except ValueError as error:
        assert "cluster " in str(error)
        return None


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_chosen_covers_the_layer_and_fits_the_device(device):
    there, fits = DEVICES[device], set()
    for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, HIDDEN):
        choice = chosen(direction, batch, hidden, there)
        if choice is None:
            continue
        fits.add(hidden)
        size, quads, sequences = choice.tiles
        assert choice.kernel == f"lstm_cluster_{direction}" and choice.tiles in catalogue.TILES[choice.kernel][1]
        assert 64 * quads >= hidden and (quads == 1 or 64 * quads < 4 * hidden)
        assert size == choice.blocks <= min(there.multiprocessors, 16 if there.capability == 90 else 8)
        assert choice.share == sequences and choice.groups * sequences >= batch > (choice.groups - 1) * sequences
        blocks, threads = cluster_layouts.geometry(choice.tiles, choice.groups)
        assert blocks == choice.groups * size and threads % 32 == 0 and 0 < threads <= 512
        assert threads // 16 * size >= hidden, "sixteen threads for each hidden unit"
        assert choice.microseconds > 0
    assert max(fits) == {"H200": 384, "consumer": 256, "seven multiprocessors": 128}[device]
    assert fits == {hidden for hidden in HIDDEN if hidden <= max(fits)}


@pytest.mark.parametrize(("hidden", "batch", "size", "groups", "share"), [
    (64, 1, 2, 1, 1),
    (64, 66, 2, 66, 1),
    (64, 67, 2, 34, 2),  # a 67th cluster would have to wait
    (128, 33, 4, 33, 1),
    (128, 34, 4, 17, 2),
    (256, 16, 8, 16, 1),
    (256, 32, 8, 16, 2),
    (256, 128, 8, 16, 8),
    (384, 9, 16, 5, 2),
])  # fmt: skip
def test_the_batch_is_spread_over_the_device(hidden, batch, size, groups, share):
    for direction in (FORWARD, BACKWARD):
        choice = chosen(direction, batch, hidden, H200)
        assert (choice.blocks, choice.groups, choice.share) == (size, groups, share)


def test_how_a_layer_is_laid_out_depends_on_its_batch_in_one_tile_only():
    """So that an output has the same bits in any batch."""
    for hidden in HIDDEN:
        assert len({chosen(FORWARD, batch, hidden, H200).tiles[:2] for batch in BATCH}) == 1


@pytest.mark.parametrize(
    ("hidden", "device", "dtype", "why"),
    [
        (385, H200, "float32", "cluster is for hidden_size up to 384, not 385"),
        (64, Device(89, 128, 101376, True), "float32", "cluster needs compute capability 9.0, and this device has 8.9"),
        (300, RTX, "float32", "cluster needs clusters of 16 blocks for hidden_size 300, and this device has them of 8"),
        (
            200,
            SMALL,
            "float32",
            "cluster needs clusters of 8 blocks for hidden_size 200, and this device has them of 7",
        ),
        (64, H200, "float64", "cluster is for float32, float16 and bfloat16, not float64"),
    ],
)
def test_obstacles(hidden, device, dtype, why):
    with planner.only("cluster"), pytest.raises(ValueError, match="no schedule that is allowed here") as error:
        choose(FORWARD, 3, hidden, dtype, device)
    assert why in str(error.value)
    with planner.only("cluster", "loop"):
        choice = choose(FORWARD, 3, hidden, dtype, device)
        assert choice.schedule == "loop" and why in choice.reason


def test_it_is_not_taken_unasked_until_it_has_been_measured(monkeypatch):
    faster = [
        (hidden, batch)
        for hidden, batch in itertools.product(HIDDEN, BATCH)
        if chosen(FORWARD, batch, hidden, H200).microseconds
        < choose(FORWARD, batch, hidden, "float32", H200).microseconds
    ]
    assert (256, 1) in faster and (64, 1) not in faster  # for which the resident schedule is there
    for hidden, batch in faster:
        assert choose(FORWARD, batch, hidden, "float32", H200).schedule != "cluster"
        with planner.only(*planner.SCHEDULES):
            assert choose(FORWARD, batch, hidden, "float32", H200).schedule == "cluster"


def test_it_says_that_nothing_was_measured():
    assert str(chosen(FORWARD, 32, 256, H200)) == (
        "cluster: 16 x 8 blocks, 2 sequences each; 0.9 us a step predicted from floors, not measured"
    )


def test_the_cost_goes_through_the_floors_it_is_derived_from():
    """Handing over, all to all, as benchmarks/results/h200/floors.json has it: within a fifth of it."""
    for size, words, measured in ((8, 256, 0.31), (8, 8192, 1.40), (2, 256, 0.29), (16, 256, 0.36), (16, 8192, 2.31)):
        assert cluster_layouts.handing_over(size, words) == pytest.approx(measured, rel=0.2)
