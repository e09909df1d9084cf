"""What the planner says of layers whose weights come from L2 in part: which fit, what a step costs, which it takes."""

import itertools

import pytest

from gpulstm.cuda import loop_times, planner, wide_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, LAYER_NORM, LAYER_NORM_AND_OPTIONS, Choice, Device, choose

H200 = Device(90, 132, 232448, True)
RTX = Device(89, 128, 101376, True)  # little shared memory
HALF = Device(90, 66, 232448, True)  # where weights of smaller layers do not fit otherwise
DEVICES = {"H200": H200, "little shared memory": RTX, "half an H200": HALF}
HIDDEN = (516, 1000, 1024, 1028, 1060, 1280, 1536, 1540, 1792, 2000, 2044, 2048, 2052)
BATCH = (1, 2, 4, 5, 8, 32, 64, 133, 1000)


def chosen(direction: str, batch: int, hidden: int, device: Device = H200, *more: str) -> Choice | None:
    try:
        with planner.only("persistent"):
            return choose(direction, batch, hidden, "float32", device, *more)
    except ValueError:
        return None


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_chosen_covers_the_layer_and_fits_the_device(device):
    there, wide = DEVICES[device], set()
    for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, HIDDEN):
        choice = chosen(direction, batch, hidden, there)
        if choice is None or choice.kernel not in wide_layouts.TILES:
            continue
        wide.add(hidden)
        tiles = wide_layouts.Tiles(*choice.tiles)
        assert choice.tiles in wide_layouts.TILES[choice.kernel] and choice.kernel == f"lstm_wide_{direction}"
        assert (choice.schedule, choice.arithmetic) == ("persistent", "float32")
        assert choice.blocks * 16 >= hidden > (choice.blocks - 1) * 16
        assert choice.blocks * choice.groups <= there.multiprocessors
        assert choice.groups * choice.share >= batch > (choice.groups - 1) * choice.share, "no group is empty"
        if direction == FORWARD:
            assert 128 * tiles.quads >= hidden
        else:
            assert tiles.quads == 16 and 4 * 512 >= 16 * choice.blocks, "each thread has four outputs"
        shared = planner.shared_bytes_of(choice) + wide_layouts.static_shared_bytes(choice.kernel, choice.tiles)
        assert shared + 1024 <= there.shared_bytes
        assert 0 <= tiles.streamed < 4 * tiles.quads
        words = planner.exchange_words(choice)
        assert words == 2 * choice.groups * choice.blocks**2 * choice.share * 16
    in_l2 = {"H200": (1028, 2048), "little shared memory": (1028, 2048), "half an H200": (1000, 1028)}
    assert (min(wide), max(wide)) == in_l2[device]


def test_every_choice_of_tiles_is_the_best_one_somewhere():
    best = {direction: set() for direction in (FORWARD, BACKWARD)}
    for device, hidden, batch in itertools.product((H200, RTX), (1280, 2048), (1, 2, 8)):
        for direction in best:
            best[direction].add(chosen(direction, batch, hidden, device).tiles)
    assert best == {direction: set(wide_layouts.TILES[f"lstm_wide_{direction}"]) for direction in best}


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_it_is_taken_where_the_loop_is_predicted_to_take_half_as_long_again(dtype):
    taken = set()
    for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, (1028, 1280, 2048)):
        choice = choose(direction, batch, hidden, dtype, H200)
        with planner.only("persistent"):
            wide = choose(direction, batch, hidden, dtype, H200)
        loop = loop_times.microseconds(direction == planner.BACKWARD, 8.0 * batch * hidden * hidden, dtype)
        assert wide.arithmetic == "float32", "it multiplies so where TF32 is allowed too"
        assert (choice == wide) == (loop >= wide_layouts.WORTH * wide.microseconds)
        if choice == wide:
            taken.add((direction, batch, hidden))
        else:
            assert choice.schedule == "loop" and f"persistent {wide.microseconds:.0f}" in choice.reason
    assert {(FORWARD, 1, 2048), (BACKWARD, 1, 2048), (FORWARD, 4, 2048), (BACKWARD, 4, 1280)} <= taken
    assert not taken & {(BACKWARD, 64, 2048), (FORWARD, 64, 2048), (BACKWARD, 32, 1280)}


def test_it_holds_options():
    for direction, batch in itertools.product((FORWARD, BACKWARD), BATCH):
        assert chosen(direction, batch, 2048, H200, "", "options") == chosen(direction, batch, 2048)


@pytest.mark.parametrize("not_plain", [LAYER_NORM, LAYER_NORM_AND_OPTIONS])
def test_it_does_not_hold_layer_norm(not_plain):
    with planner.only("persistent", "loop"):
        choice = choose(FORWARD, 1, 2048, "float32", H200, "", not_plain)
    assert choice.schedule == "loop"
    assert f"persistent does not fit hidden_size 2048 on 132 multiprocessors with {not_plain}" in choice.reason
    assert chosen(FORWARD, 1, 2048, H200, "", not_plain) is None


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_it_is_for_float32(dtype):
    with planner.only("persistent", "loop"):
        assert choose(FORWARD, 1, 2056, dtype, H200).schedule == "loop"
    assert choose(FORWARD, 1, 1024, "float32", H200).kernel == "lstm_persistent_forward", "what fits stays as it is"


def test_it_says_where_the_weights_are():
    text = (
        "1 x 128 blocks, {}; {} of 67 MB of recurrent weights stay on the chip, {} MB are read from L2{} in each step; "
    )
    for batch, share, here, there, often in (
        (1, "1 sequence each", 45, 22, ""),
        (8, "8 sequences each", 34, 34, " 2 times"),
    ):
        assert text.format(share, here, there, often) in str(chosen(FORWARD, batch, 2048))
    assert str(chosen(FORWARD, 1, 2048)).endswith("us a step predicted from floors, not measured")


def test_the_prediction_adds_up():
    """H = 2048, N = 5 on 128 blocks, by hand."""
    hand_over, passes, products = 0.14 + 0.13 * 7, 2, 2 * 64 * 2048 * 4 / (53e6 / 132)
    streams = 512 * 16 * (64 - 32) / (8.8e6 / 132)
    parked, states = 24 * 512 * 16 / (128 * 1980), 16 * 4 * 2048 * 4 / (128 * 1980)
    found = chosen(FORWARD, 5, 2048)
    assert found.tiles == (16, 8, 24, 4)
    assert found.microseconds == pytest.approx(hand_over + passes * (0.52 + max(products, parked + states) + streams))
    back = chosen(BACKWARD, 1, 2048)
    products, parked = 2 * 64 * 2048 / (53e6 / 132), (27 * 512 * 16 + 16 * 4 * 512) / (128 * 1980)
    streams = 512 * 16 * (64 - 42) / (8.8e6 / 132)
    contributions = 2.07e-6 * 128 * 2048
    assert back.microseconds == pytest.approx(1.49 + max(products, parked) + streams + contributions)
