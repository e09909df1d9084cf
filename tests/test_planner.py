"""gpulstm.cuda.planner: what it chooses covers the layer and fits the device, and it says why. No GPU takes part."""

import itertools
import threading
from functools import lru_cache

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.cuda import catalogue, planner, resident_layouts, wide_layouts
from gpulstm.cuda.planner import BACKWARD, FORWARD, Choice, Device, Plan, choose
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu

H200 = Device(90, 132, 232448, True)
DEVICES = {
    "H200": H200,
    "16 multiprocessors": Device(90, 16, 232448, True),
    "1 multiprocessor": Device(90, 1, 232448, True),
    "7 multiprocessors": Device(86, 7, 101376, True),
    "little shared memory": Device(80, 108, 48 * 1024, True),
    "hardly any shared memory": Device(80, 108, 24 * 1024, True),
    "capability 7.5": Device(75, 72, 65536, True),
    "not cooperative": Device(90, 132, 232448, False),
}
HIDDEN = (1, 3, 4, 31, 32, 33, 37, 60, 64, 65, 68, 100, 128, 132, 256, 260, 500, 512, 516, 768, 1000, 1024, 1056, 2048)
BATCH = (1, 2, 7, 8, 9, 33, 64, 131, 132, 133, 500, 4097)


@lru_cache
def choices(device: str) -> tuple:
    """(direction, batch, hidden, what was chosen among all, among one schedule and the loop) for all of the above."""
    found = []
    for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, HIDDEN):
        found.append((direction, batch, hidden, choose(direction, batch, hidden, "float32", DEVICES[device])))
        for schedule in ("resident", "persistent"):
            with planner.only(schedule, "loop"):
                found.append((direction, batch, hidden, choose(direction, batch, hidden, "float32", DEVICES[device])))
    return tuple(found)


def of(schedule: str, device: str) -> list:
    """But layers whose weights come from L2 in part: tests/test_planner_wide.py is about them."""
    found = [each for each in choices(device) if each[3].kernel not in wide_layouts.TILES]
    return [each for each in found if each[3].schedule == schedule]


@pytest.mark.parametrize("device", DEVICES)
class TestWhateverIsChosen:
    def test_resident_covers_the_layer(self, device):
        for direction, batch, hidden, choice in of("resident", device):
            assert choice.kernel == f"lstm_resident_{direction}"
            assert choice.tiles in catalogue.TILES[choice.kernel][1]
            assert (
                resident_layouts.units(choice.tiles) >= hidden
                and 32 > resident_layouts.threads(hidden) - 4 * hidden >= 0
            )
            assert (choice.blocks, choice.groups, choice.share) == (1, batch, 1)

    def test_persistent_covers_the_layer(self, device):
        for direction, batch, hidden, choice in of("persistent", device):
            row_tiles, depth, _ = choice.tiles
            units = choice.blocks * planner.UNITS_PER_TILE * row_tiles
            assert choice.kernel == f"lstm_persistent_{direction}"
            assert choice.tiles in catalogue.TILES[choice.kernel][1]
            assert units >= hidden > units - planner.UNITS_PER_TILE * row_tiles
            if direction == FORWARD:
                assert 128 * depth >= hidden
            else:
                assert 256 * depth >= units
            assert hidden % 4 == 0
            assert choice.groups * choice.share >= batch > (choice.groups - 1) * choice.share, "no group is empty"

    def test_persistent_fits_the_device(self, device):
        there = DEVICES[device]
        for direction, _, _, choice in of("persistent", device):
            assert choice.groups * choice.blocks <= there.multiprocessors
            assert there.cooperative and there.capability >= 80
            if direction == FORWARD:
                assert planner.shared_bytes(choice.tiles) + planner.STATIC_SHARED_BYTES <= there.shared_bytes

    def test_the_loop_says_why(self, device):
        for _, _, _, choice in of("loop", device):
            assert choice.reason and (choice.blocks, choice.groups, choice.share, choice.kernel) == (0, 0, 0, "")
            assert choice.microseconds > 0

    def test_it_is_predicted_to_be_no_slower_than_another_one(self, device):
        for direction, batch, hidden in itertools.product((FORWARD, BACKWARD), BATCH, HIDDEN):
            best = choose(direction, batch, hidden, "float32", DEVICES[device])
            for schedule in set(planner.SCHEDULES) - set(planner.UNMEASURED):
                try:
                    with planner.only(schedule):
                        other = choose(direction, batch, hidden, "float32", DEVICES[device])
                except ValueError:
                    continue
                assert other.schedule == schedule
                unmeasured = other.kernel in wide_layouts.TILES and best.schedule == "loop"
                assert best.microseconds <= other.microseconds * (wide_layouts.WORTH if unmeasured else 1)


def test_the_devices_show_what_they_are_for():
    """None of the checks above goes through an empty list only."""
    for device in DEVICES:
        assert len(of("resident", device)) > 50 and len(of("loop", device)) > 50
    takes_persistent = [device for device in DEVICES if of("persistent", device)]
    assert takes_persistent == [name for name in DEVICES if name not in ("capability 7.5", "not cooperative")]
    spacious, narrow = ({c.tiles for *_, c in of("persistent", name)} for name in ("H200", "hardly any shared memory"))
    assert max(planner.shared_bytes(tiles) for tiles in spacious if len(tiles) == 3) > 24 * 1024
    assert spacious - narrow
    assert {tiles[0] for tiles in spacious} == {2, 4} and {tiles[2] for tiles in spacious} == {1, 2, 4}
    assert {c.tiles for *_, c in of("resident", "H200")} == set(resident_layouts.TILES)
    assert any(c.groups > 1 for *_, c in of("persistent", "H200"))


class TestWhichOne:
    @pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
    @pytest.mark.parametrize(
        ("hidden", "batch", "schedule"),
        [
            (1, 1, "resident"),
            (37, 8, "resident"),
            (64, 64, "resident"),
            (66, 8, "resident"),
            (96, 300, "resident"),
            (98, 8, "loop"),
            (100, 8, "persistent"),
            (256, 64, "persistent"),
            (1024, 8, "persistent"),
            (1024, 4096, "loop"),
            (2112, 8, "loop"),
        ],
    )
    def test_on_an_h200(self, direction, hidden, batch, schedule):
        assert choose(direction, batch, hidden, "float32", H200).schedule == schedule

    @pytest.mark.parametrize("hidden", [8, 100, 2048])
    def test_float64_takes_the_loop(self, hidden):
        for choice in planner.plan(3, hidden, "float64", H200):
            assert choice.schedule == "loop"
            others = "float16 and bfloat16, not float64"
            assert choice.reason == f"resident is for float32, {others}; persistent is for float32, TF32, {others}"

    def test_an_empty_batch_takes_the_loop(self):
        for choice in planner.plan(0, 100, "float32", H200):
            assert choice.schedule == "loop"
            assert choice.reason == "resident has no sequence to run; persistent has no sequence to run"

    @pytest.mark.parametrize(("hidden", "together"), [(32, 4), (37, 2)])
    def test_resident_blocks_share_a_multiprocessor_when_there_is_none_left(self, hidden, together):
        def microseconds(batch: int) -> float:
            choice = choose(FORWARD, batch, hidden, "float32", H200)
            assert choice.schedule == "resident"
            return choice.microseconds

        alone, shared = microseconds(1), microseconds(132 * together)
        assert microseconds(132) == alone <= microseconds(133) < 1.5 * alone
        assert microseconds(133) <= shared < 1.5 * alone
        assert microseconds(132 * together + 1) == shared + alone

    def test_the_backward_pass_may_take_another_one_than_the_forward_pass(self):
        forward, backward, _ = planner.plan(512, 512, "float32", H200)
        assert (forward.schedule, backward.schedule) == ("persistent", "loop")


class TestReasons:
    @pytest.mark.parametrize(
        ("hidden", "device", "words"),
        [
            (97, "H200", "resident is for hidden_size up to 96, not 97"),
            (97, "H200", "persistent reads four hidden units at a time, and 97 is not a multiple of 4"),
            (100, "capability 7.5", "persistent needs compute capability 8.0, and this device has 7.5"),
            (100, "not cooperative", "persistent needs all blocks of a launch to run at the same time"),
            (2112, "H200", "hidden_size 2112"),
            (2112, "H200", "on 132 multiprocessors"),
            (100, "1 multiprocessor", "hidden_size 100"),
        ],
    )
    def test_of_the_loop(self, hidden, device, words):
        for choice in planner.plan(8, hidden, "float32", DEVICES[device]):
            assert choice.schedule == "loop" and words in choice.reason

    def test_of_a_loop_that_is_faster(self):
        choice = choose(BACKWARD, 512, 512, "float32", H200)
        assert choice.reason == f"{choice.microseconds:.0f} us a step predicted, persistent 56"

    def test_of_a_loop_where_others_are_not_allowed(self):
        with planner.only("loop"):
            choice = choose(FORWARD, 8, 37, "float32", H200)
        assert str(choice) == "loop: resident is not allowed here; persistent is not allowed here"

    def test_in_print(self):
        assert str(choose(FORWARD, 8, 37, "float32", H200)) == (
            "resident: 8 x 1 block, 1 sequence each; 0.2 us a step predicted"
        )
        assert str(choose(FORWARD, 64, 256, "float32", H200)) == (
            "persistent: 8 x 16 blocks, 8 sequences each; 2.0 us a step predicted"
        )
        assert str(planner.both("loop", "so it is")) == "forward  loop: so it is\nbackward loop: so it is"
        assert str(Plan(Choice("a", "b"), Choice("c", "d"))) == "forward  a: b\nbackward c: d"


class TestOnly:
    def schedule(self, hidden=37):
        return choose(FORWARD, 8, hidden, "float32", H200).schedule

    def test_it_restricts_until_its_end(self):
        assert self.schedule() == "resident"
        with planner.only("loop"):
            assert self.schedule() == "loop"
        with planner.only("loop", "persistent"):
            assert self.schedule() == "loop"  # 37 is not a multiple of 4
            assert self.schedule(36) == "persistent"
        assert self.schedule() == "resident"

    def test_one_within_another(self):
        with planner.only("loop"):
            with planner.only("resident"):
                assert self.schedule() == "resident"
            assert self.schedule() == "loop"

    def test_an_exception_ends_it_too(self):
        with pytest.raises(KeyError), planner.only("loop"):
            raise KeyError
        assert self.schedule() == "resident"

    @pytest.mark.parametrize("names", [("fast",), ("loop", "Resident"), ()], ids=str)
    def test_unknown_names(self, names):
        with pytest.raises(
            ValueError, match=f"schedules must be of {', '.join(planner.SCHEDULES)}, got (fast|Resident|none)"
        ):
            with planner.only(*names):
                raise AssertionError("went on")
        assert self.schedule() == "resident"

    @pytest.mark.parametrize(
        ("schedule", "hidden", "dtype", "why"),
        [
            ("resident", 97, "float32", "resident is for hidden_size up to 96, not 97; persistent is not allowed here"),
            ("persistent", 37, "float32", "resident is not allowed here; persistent reads four hidden units at a time"),
            ("persistent", 36, "float64", "persistent is for float32, TF32, float16 and bfloat16, not float64"),
            ("persistent", 2112, "float32", "132 multiprocessors"),
        ],
    )
    def test_nothing_left(self, schedule, hidden, dtype, why):
        with planner.only(schedule), pytest.raises(ValueError, match="no schedule that is allowed here") as error:
            choose(FORWARD, 8, hidden, dtype, H200)
        assert why in str(error.value)

    def test_threads_do_not_disturb_each_other(self):
        of_training = [schedule for schedule in planner.SCHEDULES if schedule != "step"]
        together, found = threading.Barrier(len(of_training), timeout=30), {}

        def ask(name):
            with planner.only(name):
                together.wait()
                found[name] = self.schedule(36)
                together.wait()

        threads = [threading.Thread(target=ask, args=(name,)) for name in of_training]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {name: name for name in of_training}
        assert self.schedule() == "resident"


class TestPlanOfALayer:
    """`LSTM.plan`"""

    X = np.zeros((5, 3, 2), np.float32)
    OPTIONS = {"zoneout": {"zoneout": 0.1}, "peephole": {"peephole": True}, "projection": {"proj_size": 2}}
    NOT_HELD = {
        "proj_size (not folded into weight_hh because of zoneout of h)": {"proj_size": 2},
        "layer_norm together with peephole": {"layer_norm": True, "peephole": True},
        "cell_clip": {"cell_clip": 1.0},
        "activations other than sigmoid, tanh, tanh": {"activations": ("sigmoid", "relu", "tanh")},
    }

    @pytest.fixture(autouse=True)
    def fresh_devices(self, monkeypatch):
        monkeypatch.setattr(cupy_one_launch, "_devices", {})

    @pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=str)
    def test_on_numpy(self, options):
        plan = gl.LSTM(2, 4, **options, rng=0).plan(self.X)
        assert {choice.schedule for choice in plan} == {"numpy"}
        assert str(plan).startswith("forward  numpy: ")

    @pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=str)
    def test_on_torch(self, options):
        plan = gl.LSTM(2, 4, **options, xp=torch, rng=0).plan(torch.from_numpy(self.X))
        assert {choice.schedule for choice in plan} == {"equations"}
        assert "torch" in str(plan)

    def test_on_cupy(self):
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC) as cupy:
            lstm = gl.LSTM(2, 100, xp=cupy, rng=0)
            assert lstm.plan(cupy.asarray(self.X)) == planner.plan(3, 100, "float32", H200)
            assert not cupy.on_cpu.launches
            with planner.only("loop"):
                assert lstm.plan(cupy.asarray(self.X)).forward.schedule == "loop"

    def test_it_counts_sequences_not_steps(self):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            x = cupy.asarray(self.X)
            assert gl.LSTM(2, 4, xp=cupy, rng=0).plan(x).forward.groups == 3
            assert gl.LSTM(2, 4, batch_first=True, xp=cupy, rng=0).plan(x).forward.groups == 5
            assert gl.LSTM(2, 4, xp=cupy, rng=0).plan(x[:, 0]).forward.groups == 1

    def test_it_asks_the_device_itself(self):
        for capability, multiprocessors, shared in (("86", 7, 101376), ("75", 72, 65536)):
            cupy_one_launch._devices.clear()
            settings = {"multiprocessors": multiprocessors, "shared_memory_optin": shared}
            with cupy_on_cpu(compute_capability=capability, schedules=planner.AUTOMATIC, **settings) as cupy:
                device = Device(int(capability), multiprocessors, shared, True)
                assert cupy_one_launch.current_device() == device
                plan = gl.LSTM(2, 100, xp=cupy, rng=0).plan(cupy.asarray(self.X))
                assert plan == planner.plan(3, 100, "float32", device)

    @pytest.mark.parametrize("hidden", [4, 100])
    def test_on_cupy_with_options_that_one_launch_holds(self, hidden):
        held = {"zoneout": 0.1, "recurrent_dropout": 0.2, "weight_drop": 0.1, "peephole": True, "coupled": True}
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC) as cupy:
            x = cupy.asarray(self.X)
            plain = gl.LSTM(2, hidden, xp=cupy, rng=0).plan(x)
            assert "loop" not in {choice.schedule for choice in plain}
            assert gl.LSTM(2, hidden, **held, xp=cupy, rng=0).plan(x) == plain

    @pytest.mark.parametrize("name", NOT_HELD)
    def test_on_cupy_with_options_that_one_launch_does_not_hold(self, name):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            lstm = gl.LSTM(2, 4, **self.NOT_HELD[name], zoneout=0.1, xp=cupy, rng=0)
            x = cupy.asarray(self.X)
            for choice in lstm.plan(x):
                assert str(choice) == f"loop: one launch for all steps does not hold {name}"
            with planner.only("resident"), pytest.raises(ValueError, match="no schedule that is allowed here") as error:
                lstm.plan(x)
            assert name in str(error.value)
            lstm(x)
            assert "lstm_variant_cell_forward" in cupy.on_cpu.launches

    def test_in_float64(self):
        with cupy_on_cpu(schedules=planner.AUTOMATIC) as cupy:
            plan = gl.LSTM(2, 4, dtype="float64", xp=cupy, rng=0).plan(cupy.asarray(self.X, "float64"))
        assert {choice.schedule for choice in plan} == {"loop"} and "float64" in str(plan)

    def test_a_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="x must"):
            gl.LSTM(2, 4, rng=0).plan(self.X[..., :1])
