"""gpulstm.cuda.both_directions: what runs side by side fits the device and is worth it, and the plan says so."""

import itertools
import threading

import pytest

import gpulstm as gl
from gpulstm.cuda import both_directions, catalogue, planner, resident_tensor_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, Device
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu

H200 = Device(90, 132, 232448, True)
DEVICES = (H200, Device(86, 7, 101376, True), Device(90, 1, 232448, True), Device(120, 170, 101376, True))
SIZES = [*itertools.product((1, 33, 64, 68, 100, 128, 256, 512, 768, 1024, 2048), (1, 2, 8, 9, 33, 64, 131, 500))]
DTYPES = ("float32", "tf32", "float16")


def of_both(direction: str, batch: int, hidden: int, dtype: str = "float32", device: Device = H200, way: str = "alike"):
    """The choice of one direction, that of both or None, and why not."""
    with both_directions.ways(way):
        one = planner.choose(direction, batch, hidden, dtype, device)
        return one, *both_directions.side_by_side(direction, one, batch, hidden, device)


@pytest.mark.parametrize("way", ["alike", "any"])
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: f"{device.multiprocessors} multiprocessors")
def test_whatever_is_chosen_covers_the_layer_and_fits_the_device(device, way):
    found = 0
    for (hidden, batch), direction, dtype in itertools.product(SIZES, (FORWARD, BACKWARD), DTYPES):
        one, both, why = of_both(direction, batch, hidden, dtype, device, way)
        assert (both is None) == bool(why)
        if both is None:
            continue
        found += 1
        assert (both.schedule, both.kernel, both.arithmetic) == (one.schedule, one.kernel, one.arithmetic)
        assert both.directions == 2 and one.directions == 1
        assert both.groups * both.share >= batch > (both.groups - 1) * both.share, "no group is empty"
        assert both.tiles in catalogue.BIDIRECTIONAL[both.kernel]
        assert both.microseconds <= both_directions.WORTH * 2 * one.microseconds
        assert f"{both.microseconds:.1f} us a step predicted" in both.reason
        if both.schedule == "persistent":
            assert 2 * both.groups * both.blocks <= device.multiprocessors
        if way == "alike":
            same_bits = one.kernel in resident_tensor_layouts.SAME_BITS and both.tiles[0] == one.tiles[0]
            assert (same_bits or both.tiles == one.tiles) and both.blocks == one.blocks
            assert both.share <= 2 * one.share
    assert (found > 20) == (device.multiprocessors > 1)


def test_any_layout_is_no_worse_and_sometimes_better():
    better = 0
    for (hidden, batch), direction in itertools.product(SIZES, (FORWARD, BACKWARD)):
        alike, free = (of_both(direction, batch, hidden, way=way)[1] for way in ("alike", "any"))
        if alike is not None:
            assert free.microseconds <= alike.microseconds
        better += free is not None and (alike is None or free.microseconds < alike.microseconds)
    assert better >= 3


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
@pytest.mark.parametrize(
    ("batch", "hidden", "dtype", "groups", "share"),
    [
        (1, 256, "float32", 1, 1),  # fills a quarter of the device
        (8, 128, "float32", 4, 2),
        (64, 37, "float32", 64, 1),
        (8, 1024, "float16", 1, 8),
    ],
)
def test_on_an_h200(direction, batch, hidden, dtype, groups, share):
    one, both, _ = of_both(direction, batch, hidden, dtype)
    assert (both.groups, both.share) == (groups, share)
    words = "1 sequence" if share == 1 else f"{share} sequences"
    blocks = "1 block" if one.blocks == 1 else f"{one.blocks} blocks"
    assert str(both).startswith(f"{one.schedule}: 2 directions x {groups} x {blocks}, {words} each; ")


@pytest.mark.parametrize(
    ("batch", "hidden", "way", "why"),
    [
        (8, 1024, "alike", "half of 132 multiprocessors is too little"),
        (64, 1024, "any", "half of 132 multiprocessors is too little"),
        (264, 37, "alike", "0.6 us a step predicted, 0.6 one after the other"),
        (8, 37, "apart", "is not allowed here"),
        (2000, 100, "alike", "one after the other"),
        (32, 512, "any", "one after the other"),
    ],
)
def test_why_not(batch, hidden, way, why):
    one, both, found = of_both(FORWARD, batch, hidden, way=way)
    assert both is None and why in found and one.blocks


def test_a_loop_has_no_kernel_for_it():
    one, both, why = of_both(FORWARD, 8, 2112)
    assert both is None and why == "loop has no kernel for it" and one.schedule == "loop"
    with planner.only("cluster"):
        assert of_both(FORWARD, 8, 128)[2] == "cluster has no kernel for it"
    assert of_both(FORWARD, 1, 2048)[2] == "persistent with weights from L2 has no kernel for it"


def test_tiles_without_a_kernel():
    one = planner.Choice("persistent", "by hand", "lstm_persistent_backward", (4, 2, 1), 32, 4, 1, 9.0, "float32")
    assert both_directions.side_by_side(BACKWARD, one, 4, 512, H200)[1] == "there is no kernel of these tiles for it"


def test_what_all_groups_send_together_counts():
    """Backward in float32, where the contributions of both directions go through L2 at the same time."""
    one, both, _ = of_both(BACKWARD, 1, 512)
    assert (both.groups, both.share) == (one.groups, one.share)
    assert both.microseconds == pytest.approx(one.microseconds + 2.07e-6 * one.blocks * 512)


class TestWays:
    @pytest.mark.parametrize("way", ["both", ""])
    def test_unknown(self, way):
        with pytest.raises(ValueError, match=f"way must be one of alike, any, apart, got '{way}'"):
            with both_directions.ways(way):
                raise AssertionError("went on")

    def test_an_exception_ends_it(self):
        with pytest.raises(KeyError), both_directions.ways("apart"):
            raise KeyError
        one = planner.choose(FORWARD, 1, 37, "float32", H200)
        assert both_directions.side_by_side(FORWARD, one, 1, 37, H200)[0]

    def test_other_threads_are_not_concerned(self):
        found, one = [], planner.choose(FORWARD, 1, 37, "float32", H200)
        ask = threading.Thread(target=lambda: found.append(both_directions.side_by_side(FORWARD, one, 1, 37, H200)[0]))
        with both_directions.ways("apart"):
            ask.start()
            ask.join()
        assert found[0]


class TestPlanOfALayer:
    def plan(self, monkeypatch, batch=3, hidden=37, **settings):
        monkeypatch.setattr(cupy_one_launch, "_devices", {})
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC) as cupy:
            lstm = gl.LSTM(2, hidden, bidirectional=True, xp=cupy, rng=0, **settings)
            return lstm.plan(cupy.zeros((5, batch, 2), lstm.params["weight_hh_l0"].dtype))

    def test_side_by_side(self, monkeypatch):
        assert str(self.plan(monkeypatch)) == (
            "forward  resident: 2 directions x 3 x 1 block, 1 sequence each; 0.2 us a step predicted\n"
            "backward resident: 2 directions x 3 x 1 block, 1 sequence each; 0.1 us a step predicted"
        )

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"batch": 500, "hidden": 128}, "predicted, "),
            ({"hidden": 532}, "half of 132 multiprocessors is too little"),
        ],
    )
    def test_one_after_the_other(self, settings, why, monkeypatch):
        plan = self.plan(monkeypatch, **settings)
        for choice in plan:
            assert choice.directions == 1
            assert "predicted; directions one after the other: side by side " in str(choice)
        assert why in str(next(iter(plan)))  # of the forward pass

    @pytest.mark.parametrize("settings", [{}, {"hidden": 256}, {"hidden": 64, "dtype": "bfloat16"}], ids=str)
    def test_with_options(self, settings, monkeypatch):
        plan = self.plan(monkeypatch, zoneout=0.1, recurrent_dropout=0.2, peephole=True, **settings)
        for choice in plan:
            assert choice.directions == 2 and ": 2 directions x " in str(choice)

    def test_the_loop_says_nothing_of_it(self, monkeypatch):
        plan = self.plan(monkeypatch, hidden=38 + 64)
        assert all(choice.schedule == "loop" and "directions" not in str(choice) for choice in plan)
