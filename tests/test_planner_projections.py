"""Which layers with a projection run folded, and what `LSTM.plan` says of them."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import folding, planner
from gpulstm.cuda.folding import Layer, folded_microseconds, loop_microseconds, pays
from gpulstm.cuda.planner import BACKWARD, FORWARD
from gpulstm.engines import cupy_one_launch, folded_on_cpu
from gpulstm.engines.folded_projection import obstacle
from gpulstm.options import checked
from tests.cuda_on_cpu import cupy_on_cpu
from tests.test_planner import H200


def layer(steps=128, batch=32, hidden=256, proj=64, arithmetic="float32", not_held="", not_plain="") -> Layer:
    return Layer(steps, batch, hidden, proj, arithmetic, not_held, not_plain)


class TestWhatPays:
    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize(
        ("given", "folded"),
        [
            (layer(), True),
            (layer(batch=1, hidden=32, proj=8), True),
            (layer(batch=32, hidden=1024, proj=128), True),  # eight times the product, and no launch in a step
            (layer(steps=1), False),  # W' costs more than the launches that it saves
            (layer(batch=1, hidden=2048, proj=512), True),  # the loop, with half the launches
            (layer(batch=256, hidden=2048, proj=256), False),  # the loop, with eight times the product
            (layer(arithmetic="float64"), True),
            (layer(not_held="cell_clip", not_plain="options"), True),
            (layer(batch=256, hidden=2048, proj=256, arithmetic="bfloat16"), True),  # nothing else is in 16 bits
        ],
    )
    def test_on_an_h200(self, given, folded, backward):
        assert pays(given, H200, backward=backward) == folded

    def test_predictions_are_the_planners(self):
        given = layer(batch=8, hidden=2048, proj=512, steps=1000)
        for direction in (FORWARD, BACKWARD):
            with planner.only("loop"):
                a_step = planner.choose(direction, 8, 2048, "float32", H200).microseconds
                folded = folded_microseconds(direction, given, H200)
            assert a_step < folded / 1000 < a_step + 8
            assert loop_microseconds(direction, given) == 1000 * 44  # four launches, where the plain loop has two
        assert loop_microseconds(FORWARD, layer(1, 4096, 2048, 512)) == pytest.approx(
            36 + 10 * 4096 * 2048 * 512 / 45e6
        )

    def test_products_of_rows_may_be_in_tf32_and_those_of_weights_are_not(self):
        given, found = layer(batch=256, hidden=2048, proj=512, steps=10), []
        for arithmetic in ("float32", "tf32"):
            a_step = planner.choose(FORWARD, 256, 2048, arithmetic, H200).microseconds
            found.append(folded_microseconds(FORWARD, given._replace(arithmetic=arithmetic), H200) - 10 * a_step)
        assert found[0] - found[1] == pytest.approx(10 * 2 * 256 * 2048 * 512 * (1 / 51e6 - 1 / 417e6))

    def test_where_the_loop_is_not_allowed(self):
        with planner.only("persistent"), folding.forced(False):
            assert pays(layer(steps=1), H200, backward=False)
        with planner.only("graph"), folding.forced(False):  # which is the loop
            assert not pays(layer(steps=1), H200, backward=False)

    def test_forced(self):
        for wanted in (True, False):
            with folding.forced(wanted):
                assert pays(layer(steps=1), H200, backward=True) == pays(layer(), H200, backward=True) == wanted
        assert folding.is_forced() is None


class TestOnACpu:
    """Limits that were measured."""

    @pytest.mark.parametrize(
        ("steps", "batch", "hidden", "dtype", "forward", "training"),
        [
            (15, 1, 64, "float32", False, False),
            (16, 1, 64, "float32", True, True),
            (128, 8, 256, "float64", False, True),
            (128, 9, 256, "float32", False, True),
            (128, 33, 256, "float32", False, False),
            (128, 1, 512, "float32", False, True),
        ],
    )
    def test_without_the_compiled_lstm(self, steps, batch, hidden, dtype, forward, training):
        x = np.zeros((steps, batch, 2), dtype)
        assert folded_on_cpu.pays(x, hidden, backward=False) == forward
        assert folded_on_cpu.pays(x, hidden, backward=True) == training

    def test_with_it(self, monkeypatch):
        monkeypatch.setattr(folded_on_cpu.native_engine, "takes", lambda x: True)
        x = np.zeros((16, 100, 2), np.float32)
        for backward in (False, True):
            assert folded_on_cpu.pays(x, 256, backward=backward) and not folded_on_cpu.pays(x, 257, backward=backward)
            assert folded_on_cpu.pays(np.concatenate([x, x]), 512, backward=backward)

    def test_plan(self):
        long, short = np.zeros((20, 3, 2), np.float32), np.zeros((5, 3, 2), np.float32)
        lstm = gl.LSTM(2, 6, proj_size=3, rng=0)
        assert "weight_hr is folded into weight_hh" in str(lstm.plan(long))
        with_peepholes = gl.LSTM(2, 6, proj_size=3, peephole=True, rng=0)
        for layer, x in ((lstm, short), (with_peepholes, long)):
            plan = str(layer.plan(x))
            assert "step by step" in plan and "folded" not in plan


class TestPlanOfALayer:
    @pytest.fixture(autouse=True)
    def fresh_devices(self, monkeypatch):
        monkeypatch.setattr(cupy_one_launch, "_devices", {})

    @pytest.mark.parametrize("options", [{}, {"peephole": True, "coupled": True}], ids=str)
    @pytest.mark.parametrize("hidden", [16, 100])
    def test_it_is_the_plain_layers(self, hidden, options):
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC, folded=None) as cupy:
            x = cupy.zeros((50, 3, 2), "float32")
            plain = gl.LSTM(2, hidden, **options, xp=cupy, rng=0).plan(x)
            found = gl.LSTM(2, hidden, proj_size=8, **options, xp=cupy, rng=0).plan(x)
            assert found.inference == found.forward
            for choice, wanted in zip(found, (plain.forward, plain.backward, plain.forward), strict=True):
                assert choice == wanted._replace(reason=wanted.reason + "; weight_hr is folded into weight_hh")
                assert choice.schedule == ("resident" if hidden == 16 else "persistent")

    def test_tf32_and_16_bits(self):
        with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC, folded=None) as cupy:
            for made, arithmetic in (({"tf32": True}, "tf32"), ({"dtype": "float16"}, "float16")):
                lstm = gl.LSTM(2, 104, proj_size=8, **made, xp=cupy, rng=0)
                x = cupy.zeros((50, 3, 2), lstm.params["weight_hh_l0"].dtype)
                assert {choice.arithmetic for choice in lstm.plan(x)} == {arithmetic}

    def test_a_single_step_takes_the_loop(self):
        with cupy_on_cpu(schedules=planner.AUTOMATIC, folded=None) as cupy:
            lstm = gl.LSTM(2, 16, proj_size=8, xp=cupy, rng=0)
            x = cupy.zeros((1, 3, 2), "float32")
            not_held = "proj_size (folded into weight_hh it would take longer)"
            for choice in lstm.plan(x):
                assert str(choice) == f"loop: one launch for all steps does not hold {not_held}"
            lstm(x)
            assert cupy.on_cpu.launches["lstm_variant_output_forward"] == 1
            lstm(cupy.zeros((50, 3, 2), "float32"))
            assert cupy.on_cpu.launches["lstm_resident_forward"] == 1

    def test_why_one_is_not_folded(self):
        of_h = checked(recurrent_dropout=0.1, zoneout=0.1)
        assert obstacle(of_h.of_step(training=True), layer_norm=True) == (
            "layer_norm and recurrent_dropout of h and zoneout of h"
        )
        assert obstacle(of_h.of_step(training=False), layer_norm=False) == "zoneout of h"
        others = checked(recurrent_dropout=0.1, recurrent_dropout_on="candidate", zoneout=(0.0, 0.1), weight_drop=0.1)
        assert obstacle(others.of_step(training=True), layer_norm=False) == ""
