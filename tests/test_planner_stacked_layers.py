"""gpulstm.cuda.stacked_layers: what runs side by side fits the device and is worth it, and the plan says so."""

import itertools

import pytest

import gpulstm as gl
from gpulstm.cuda import catalogue, half_layouts, planner, stacked_layers
from gpulstm.cuda.planner import BACKWARD, FORWARD, Device
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu

H200 = Device(90, 132, 232448, True)
DEVICES = (H200, Device(86, 40, 101376, True), Device(90, 3, 232448, True), Device(120, 170, 101376, True))
L40S = Device(89, 142, 101376, True)
SIZES = [*itertools.product((64, 68, 100, 128, 256, 512, 768), (1, 8, 9, 33, 128))]
STEPS = 1000


def of_all(direction, layers, batch, hidden, dtype="float32", device=H200, way="alike", steps=STEPS):
    """The choice of one layer, that of all of them or None, and why not."""
    with stacked_layers.ways(way):
        one = planner.choose(direction, batch, hidden, dtype, device)
        return one, *stacked_layers.side_by_side(direction, one, layers, steps, batch, hidden, device)


@pytest.mark.parametrize("way", ["alike", "any"])
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: f"{device.multiprocessors} multiprocessors")
def test_whatever_is_chosen_covers_the_layers_and_fits_the_device(device, way):
    found = 0
    everything = itertools.product(SIZES, (2, 3, 8), (FORWARD, BACKWARD), ("float32", "tf32", "float16"))
    for (hidden, batch), layers, direction, dtype in everything:
        one, together, why = of_all(direction, layers, batch, hidden, dtype, device, way)
        assert (together is None) == bool(why)
        if together is None:
            continue
        found += 1
        assert (together.layers, together.directions, together.arithmetic) == (layers, 1, dtype)
        assert layers * together.groups * together.blocks <= device.multiprocessors
        assert together.groups * together.share >= batch > (together.groups - 1) * together.share, "no group is empty"
        assert together.tiles in catalogue.LAYERS[together.kernel]
        assert planner.shared_bytes_of(together) < device.shared_bytes
        in_half = dtype == "float16"
        if in_half:
            most = half_layouts.largest_hidden(together.kernel, together.tiles)
            assert together.blocks * half_layouts.units(together.kernel, together.tiles) >= hidden <= most
        assert together.microseconds <= stacked_layers.WORTH * layers * one.microseconds
        assert f"{together.microseconds:.1f} us a step predicted" in together.reason
        if way == "alike":
            assert in_half or (together.tiles, together.blocks) == (one.tiles, one.blocks)
            assert -(-together.share // 8) <= -(-one.share // 8)
    assert (found > 20) == (device.multiprocessors > 3)


def test_on_an_h200():
    one, together, _ = of_all(FORWARD, 2, 1, 256)
    assert str(together).startswith("persistent: 2 layers x 1 x 32 blocks, 1 sequence each; 2.3 us a step predicted")
    products, reading = 2 * 2 * 0.0925, 0.39e-6 * 32 * 256  # of W_ih, and h of the layer below in 32 blocks
    assert together.microseconds == pytest.approx(one.microseconds + products + reading + 0.27)
    one, together, _ = of_all(BACKWARD, 2, 1, 128)
    words = 16 * 128
    more = 2 * 2 * 0.256 + 0.39e-6 * 4 * words + 2.07e-6 * words + 0.27  # and contributions of another layer
    assert together.microseconds == pytest.approx(one.microseconds + more)


def test_in_16_bits_on_an_h200():
    """Two layers of H = 512: both matrices in registers, of 16 hidden units in a block; H = 1024: one of them in shared
    memory, but for 2 of its 16 tiles back."""
    one, together, _ = of_all(FORWARD, 2, 8, 512, "float16")
    assert str(together).startswith("persistent: 2 layers x 2 x 32 blocks, 4 sequences each; float16, 16 hidden units")
    alone = half_layouts.microseconds(together.kernel, half_layouts.Tiles(*together.tiles), 32, 4, 512)
    products, reading = 0.024 * 4 * 2, 2 * 4 * 512 / 98e3
    assert together.microseconds == pytest.approx(alone + products + reading + 0.27) and together.tiles != one.tiles
    assert f"{together.microseconds:.1f} us a step predicted" in together.reason
    for direction, parked in ((FORWARD, 4 * 4), (BACKWARD, 14)):
        one, together, _ = of_all(direction, 2, 1, 1024, "float16")
        products, reading = 0.024 * 16, 2 * 1024 * (1 if direction == FORWARD else 4) / 98e3
        more = products + 0.032 * parked + reading + 0.27
        assert together.microseconds == pytest.approx(one.microseconds + more) and together.tiles == one.tiles


@pytest.mark.parametrize("kernel", half_layouts.TILES_OF_LAYERS)
def test_tiles_of_16_bits_are_each_the_best_somewhere(kernel):
    direction = FORWARD if kernel == half_layouts.FORWARD else BACKWARD
    sizes = itertools.product((64, 128, 256, 512, 768, 1024), (1, 8, 16, 32), (2, 4))
    with planner.only("persistent", "loop"):  # the resident schedule would take the small ones
        found = [of_all(direction, layers, batch, hidden, "float16")[1] for hidden, batch, layers in sizes]
    assert {choice.tiles for choice in found if choice} == set(half_layouts.TILES_OF_LAYERS[kernel])


@pytest.mark.parametrize(
    ("direction", "layers", "batch", "hidden", "more", "why"),
    [
        (FORWARD, 2, 1, 256, {"way": "apart"}, "is not allowed here"),
        (FORWARD, 2, 1, 256, {"steps": 15}, "is for 16 steps or more, not 15"),
        (FORWARD, 9, 1, 68, {}, "is for up to 8 layers, not 9"),
        (FORWARD, 2, 1, 64, {}, "resident in float32 has no kernel for it"),
        (FORWARD, 2, 64, 512, {"dtype": "float16"}, "1/2 of 132 multiprocessors is too little"),
        (FORWARD, 2, 32, 512, {"dtype": "float16"}, "3.3 us a step predicted, 3.3 one after the other"),
        (FORWARD, 2, 1, 1032, {"dtype": "bfloat16"}, "1/2 of 132 multiprocessors is too little"),
        (BACKWARD, 2, 1, 768, {"dtype": "float16", "device": L40S}, "101376 bytes of shared memory are too little"),
        (FORWARD, 2, 1, 2112, {}, "loop has no kernel for it"),
        (FORWARD, 3, 1, 512, {}, "1/3 of 132 multiprocessors is too little"),
        (FORWARD, 2, 32, 256, {}, "1/2 of 132 multiprocessors is too little"),
        (FORWARD, 2, 1, 528, {"device": Device(90, 200, 232448, True)}, "there is no kernel of these tiles for it"),
        (BACKWARD, 2, 8, 512, {}, "us a step predicted, 6.1 one after the other"),
    ],
)
def test_why_not(direction, layers, batch, hidden, more, why):
    _, together, found = of_all(direction, layers, batch, hidden, **more)
    assert together is None and why in found


def test_shared_memory_that_a_device_does_not_have():
    device = Device(86, 132, 101376, True)
    one = planner.Choice("persistent", "by hand", "lstm_persistent_backward", (4, 1, 4), 16, 4, 16, 9.0, "float32")
    for given, why in ((H200, ""), (device, "101376 bytes of shared memory are too little")):
        assert stacked_layers.side_by_side(BACKWARD, one, 2, STEPS, 64, 256, given)[1] == why
    assert planner.shared_bytes_of(one._replace(layers=2)) == 64 * 1024 + 16 * 32 * 16 * 4


def test_an_unknown_way():
    with pytest.raises(ValueError, match="way must be one of alike, any, apart, got 'all'"):
        with stacked_layers.ways("all"):
            raise AssertionError("went on")


class TestPlanOfAStack:
    def plan(self, monkeypatch, batch=3, steps=20, **settings):
        monkeypatch.setattr(cupy_one_launch, "_devices", {})
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC) as cupy:
            lstm = gl.LSTM(2, 128, num_layers=2, xp=cupy, rng=0, **settings)
            return lstm.plan(cupy.zeros((steps, batch, 2), lstm.params["weight_hh_l0"].dtype))

    def test_side_by_side(self, monkeypatch):
        plan = self.plan(monkeypatch)
        assert [choice.layers for choice in plan] == [2, 2, 2]
        assert str(plan) == (
            "forward  persistent: 2 layers x 3 x 16 blocks, 1 sequence each; 2.0 us a step predicted\n"
            "backward persistent: 2 layers x 3 x 16 blocks, 1 sequence each; 3.3 us a step predicted"
        )

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"zoneout": 0.1}, "does not hold options"),
            ({"proj_size": 8}, "does not hold options"),
            ({"steps": 3}, "is for 16 steps or more, not 3"),
            ({"batch": 500}, "1/2 of 132 multiprocessors is too little"),
            ({"dtype": "float16", "zoneout": 0.1}, "does not hold options"),
        ],
    )
    def test_one_after_the_other(self, settings, why, monkeypatch):
        for choice in self.plan(monkeypatch, **settings):
            assert choice.layers == 1
            assert f"; layers one after the other: side by side {why}" in str(choice) or not choice.blocks

    def test_dropout_between_layers_concerns_training_alone(self, monkeypatch):
        plan = self.plan(monkeypatch, dropout=0.5)
        assert [choice.layers for choice in plan] == [1, 1, 2]
        assert "side by side does not hold dropout between layers" in str(plan.forward)

    def test_two_directions_are_another_matter(self, monkeypatch):
        plan = self.plan(monkeypatch, bidirectional=True)
        assert all(choice.layers == 1 and "layers" not in str(choice) for choice in plan[:2])
