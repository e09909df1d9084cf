"""What the planner says of clusters in float16 and bfloat16: which layers fit on which devices, and what it costs."""

import itertools

import pytest

from gpulstm.cuda import cluster_half_layouts, half_layouts, planner
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice, Device, choose
from tests.test_planner_clusters import BATCH, DEVICES, H200, RTX, SMALL

DIRECTIONS = (FORWARD, BACKWARD)
HIDDEN = (1, 3, 64, 128, 129, 256, 257, 384, 385, 512, 513, 768)


def chosen(direction: str, batch: int, hidden: int, device: Device, dtype: str = "float16") -> Choice | None:
    try:
        with planner.only("cluster"):
            return choose(direction, batch, hidden, dtype, device)
    except ValueError as error:
        assert "cluster " in str(error)
        return None


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_chosen_covers_the_layer_and_fits_the_device(device):
    there, fits = DEVICES[device], set()
    for direction, batch, hidden in itertools.product(DIRECTIONS, BATCH, HIDDEN):
        choice = chosen(direction, batch, hidden, there)
        if choice is None:
            continue
        fits.add(hidden)
        assert choice.kernel == cluster_half_layouts.KERNELS[direction] and choice.arithmetic == "float16"
        assert choice.tiles in cluster_half_layouts.TILES[choice.kernel]
        size, width, _, sequence_tiles = choice.tiles
        assert width >= hidden and (width == 128 or width < 2 * hidden)
        assert size == choice.blocks <= min(there.multiprocessors, 16 if there.capability == 90 else 8)
        assert choice.share <= 8 * sequence_tiles and choice.groups * choice.share >= batch
        assert batch > (choice.groups - 1) * choice.share, "no cluster is empty"
        assert cluster_half_layouts.geometry(choice.tiles, choice.groups) == (choice.groups * size, 256)
        assert 0 < planner.shared_bytes_of(choice) + 2048 <= there.shared_bytes
        assert choice.microseconds > 0
    assert max(fits) == {"H200": 768, "consumer": 384, "seven multiprocessors": 128}[device]
    assert fits == {hidden for hidden in HIDDEN if hidden <= max(fits)}


@pytest.mark.parametrize(("hidden", "batch", "size", "groups", "share"), [
    (128, 1, 4, 1, 1),
    (128, 64, 4, 32, 2),
    (256, 16, 8, 16, 1),
    (256, 128, 8, 16, 8),
    (256, 129, 8, 15, 9),
    (256, 500, 8, 32, 16),  # in two rounds
    (256, 400, 8, 31, 13),
    (768, 64, 16, 8, 8),
])  # fmt: skip
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_batch_is_spread_over_the_device(direction, hidden, batch, size, groups, share):
    choice = chosen(direction, batch, hidden, H200)
    assert (choice.blocks, choice.groups, choice.share) == (size, groups, share)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_choice_of_tiles_is_the_best_one_somewhere(direction):
    best = {chosen(direction, batch, hidden, H200).tiles for hidden in HIDDEN for batch in (*BATCH, 240, 500)}
    assert best == set(cluster_half_layouts.TILES[cluster_half_layouts.KERNELS[direction]])


def test_an_output_has_the_same_bits_in_any_batch():
    """In what order a sum is made, the width alone says."""
    for hidden in HIDDEN:
        assert len({chosen(FORWARD, batch, hidden, H200).tiles[1] for batch in BATCH}) == 1


@pytest.mark.parametrize("dtype", half_layouts.DTYPES)
@pytest.mark.parametrize(
    ("hidden", "batch", "device", "why"),
    [
        (769, 3, H200, "cluster is for hidden_size up to 768 in 16 bits, not 769"),
        (64, 0, H200, "cluster has no sequence to run"),
        (64, 3, Device(89, 128, 101376, True), "cluster needs compute capability 9.0, and this device has 8.9"),
        (513, 3, RTX, "cluster needs clusters of 16 blocks for hidden_size 513, and this device has them of 8 at most"),
        (
            200,
            3,
            SMALL,
            "cluster needs clusters of 8 blocks for hidden_size 200, and this device has them of 7 at most",
        ),
        (512, 3, RTX, "cluster does not fit hidden_size 512 on 170 multiprocessors"),
    ],
)
def test_obstacles(dtype, hidden, batch, device, why):
    with planner.only("cluster"), pytest.raises(ValueError, match="no schedule that is allowed here") as error:
        choose(FORWARD, batch, hidden, dtype, device)
    assert why in str(error.value)


def test_it_is_not_taken_unasked_until_it_has_been_measured():
    assert chosen(FORWARD, 8, 256, H200).microseconds < choose(FORWARD, 8, 256, "float16", H200).microseconds
    assert choose(FORWARD, 8, 256, "float16", H200).schedule == "persistent"
    with planner.only("cluster", "loop"):
        assert "cluster does not hold options" in choose(FORWARD, 8, 256, "float16", H200, "", "options").reason


def test_it_says_that_nothing_was_measured():
    assert str(chosen(FORWARD, 32, 256, H200, "bfloat16")) == (
        "cluster: 16 x 8 blocks, 2 sequences each; bfloat16; 0.9 us a step predicted from floors, not measured"
    )


def test_the_predictions_add_up():
    """H = 512, N = 64 in clusters of 8, by hand."""
    forward, backward = (cluster_half_layouts.Tiles(8, 512, 6, 1) for _ in DIRECTIONS)
    products = 8 * 512 * 512 * 8 / 8 / (646e6 / 132)
    parked = 6 * 4 * 256 * 16
    found = cluster_half_layouts.microseconds(FORWARD, forward, 4, 512)
    moved = 8 * 8 * 512 + 2 * 2 * 8 * 260 * 4 + parked  # h to 8 warps, half of it each; sums; weights
    assert found == pytest.approx(0.35 + 0.25 + 0.28 + 0.13e-3 * 4 * 256 + products + moved / 128 / 1980)
    found = cluster_half_layouts.microseconds(BACKWARD, backward, 4, 512)
    moved = 8 * 8 * 2 * 256 + 512 * 8 * 4 + parked  # da to 8 warps; contributions; weights
    assert found == pytest.approx(0.35 + 0.25 + 0.28 + 0.13e-3 * 4 * 512 + products + moved / 128 / 1980)
