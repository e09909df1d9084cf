"""`LSTM.plan` on CuPy arrays says what is launched, pass by pass: in inference no mask acts, and nothing is kept."""

from collections import Counter

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.cuda import both_directions, planner, stacked_layers
from gpulstm.engines import cupy_engine, cupy_one_launch, cupy_variant_engine
from tests.cuda_on_cpu import cupy_on_cpu

IN_A_LOOP = {"lstm_forward_step", "lstm_backward_step", "lstm_variant_cell_forward", "lstm_variant_cell_backward"}
ON_H = {"recurrent_dropout": 0.3}
SCHEDULES = ("loop", "resident", "persistent", "step")


@pytest.fixture(autouse=True)
def fresh_devices(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(stacked_layers, "FEWEST_STEPS", 2)


def expected(choice: planner.Choice, layers: int) -> Counter:
    """Main kernels that a pass of one direction of each layer launches."""
    return Counter({choice.kernel: layers // (choice.directions * choice.layers)})


def check(cupy, lstm: gl.LSTM, steps: int, layers: int = 1) -> planner.Plan:
    x, launches, found = cupy.ones((steps, 3, 4), "float32"), cupy.on_cpu.launches, {}

    def record(name: str) -> None:
        main = ("lstm_resident", "lstm_persistent", "lstm_one_step")
        found[name] = Counter({n: count for n, count in launches.items() if n.startswith(main) or n in IN_A_LOOP})
        cupy.on_cpu.reset_counts()

    plan = lstm.plan(x)
    cupy.on_cpu.reset_counts()
    lstm(x)
    record("inference")
    y, _, cache = lstm.forward(x, rng=1)
    record("forward")
    lstm.backward(cache, y)
    record("backward")
    for name, launched in found.items():
        choice = getattr(plan, name)
        if choice.schedule == "loop":
            assert launched.keys() and launched.keys() <= IN_A_LOOP, name
        elif choice.schedule == "step":
            assert launched == {"lstm_one_step_forward": layers}, name
        else:
            kept = {n: count for n, count in launched.items() if name != "backward" or n.endswith(name)}
            assert kept == expected(choice, layers), name
    return plan


@pytest.mark.parametrize(
    ("options", "steps", "forward", "inference"),
    [
        ({**ON_H, "layer_norm": True}, 2, "loop", "resident"),
        ({**ON_H, "proj_size": 2}, 2, "loop", "resident"),
        ({**ON_H}, 1, "resident", "step"),
        ({**ON_H, "zoneout": 0.1}, 1, "resident", "resident"),
    ],
    ids=str,
)
def test_what_acts_in_training_alone(options, steps, forward, inference):
    folded = True if "proj_size" in options else None
    with cupy_on_cpu(schedules=SCHEDULES, folded=folded) as cupy:
        plan = check(cupy, gl.LSTM(4, 5, **options, xp=cupy, rng=0), steps)
        assert (plan.forward.schedule, plan.inference.schedule) == (forward, inference)
        assert "inference" in str(plan) or forward == inference


@pytest.mark.parametrize("shape", ["directions", "layers"])
def test_checkpoints_run_one_after_the_other(shape):
    schedule, sizes = ("resident", {"bidirectional": True}) if shape == "directions" else ("persistent", {})
    layers = 1 if sizes else 2
    with cupy_on_cpu(schedules=(schedule,)) as cupy, both_directions.ways("any"), stacked_layers.ways("any"):
        for every, together in ((None, 2), (9, 1)):
            lstm = gl.LSTM(4, 12, layers, **sizes, checkpoint_every=every, xp=cupy, rng=0)
            plan = check(cupy, lstm, 2, 2)
            assert [getattr(choice, shape) for choice in plan] == [together, together, 2]
        assert "one after the other: side by side does not hold checkpoints" in str(plan)


def test_gates_of_both_directions_that_are_too_much(monkeypatch):
    bytes_of_one = 2 * 3 * 4 * 5 * 4
    with cupy_on_cpu(schedules=("resident",)) as cupy:
        lstm = gl.LSTM(4, 5, bidirectional=True, xp=cupy, rng=0)
        for limit, directions in ((2 * bytes_of_one, 2), (2 * bytes_of_one - 1, 1)):
            monkeypatch.setattr(cupy_engine, "GATE_BUFFER_BYTES", limit)
            plan = check(cupy, lstm, 2, 2)
            assert [choice.directions for choice in plan] == [2, 2, directions]


def test_a_stretch_of_a_single_step_runs_as_the_others(monkeypatch):
    """With layer norm a call of one step takes the loop; what a longer one leaves over does not."""
    monkeypatch.setattr(engines, "WINDOW", 2)
    monkeypatch.setattr(engines, "GPU_ROWS", 1)
    found = []
    with cupy_on_cpu(schedules=("resident",)) as cupy:
        x = cupy.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32"))
        for every, limit in ((None, 10**6), (2, 2 * 2 * 4 * 5 * 4)):
            monkeypatch.setattr(cupy_variant_engine.CupyVariantEngine, "GATE_BUFFER_BYTES", limit)
            lstm = gl.LSTM(4, 5, layer_norm=True, checkpoint_every=every, xp=cupy, rng=0)
            inferred, _ = lstm(x)
            y, _, cache = lstm.forward(x)
            dx, grads, _ = lstm.backward(cache, y)
            found.append([a.get() for a in (inferred, y, dx, grads["weight_ih_l0"], grads["weight_hh_l0"])])
        assert cupy.on_cpu.launches["lstm_resident_layer_norm_forward"] == 1 + 1 + 2 + 2 + 2
    for whole, in_parts in zip(*found, strict=True):
        np.testing.assert_allclose(in_parts, whole, rtol=0, atol=2e-6)  # c's variance is of the step before's mean
