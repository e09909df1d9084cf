"""Launches that the driver does not take: the call gives what the loop gives, and the schedule is not tried again.

The stand-in refuses what a GPU would: by what it says of itself, or, as where other processes share a device, by less.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import both_directions, modules, occupancy, packed, planner, stacked_layers
from gpulstm.engines import cupy_one_launch, cupy_refusals
from tests.cuda_on_cpu import cupy_on_cpu
from tests.schedule_cases import device

STEPS, BATCH, INPUTS, HIDDEN = 2, 2, 3, 16
TOO_MANY = {"blocks_at_once": 1}
REFUSED = r"the schedule '{0}' is given up on this device, since lstm_{0}.* cannot be launched: .*{1}.*the loop"


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """No kernel of another test's, which the driver may have taken; and layers and directions always together."""
    monkeypatch.setattr(modules, "_kernels", {})
    monkeypatch.setattr(packed, "_thread", packed._Thread())
    for module, name, value in ((stacked_layers, "FEWEST_STEPS", 1), (stacked_layers, "WORTH", 1000.0)):
        monkeypatch.setattr(module, name, value)
    stacked_layers._side_by_side.cache_clear()
    yield
    stacked_layers._side_by_side.cache_clear()


@contextmanager
def on_device(schedule: str = "persistent", **limits) -> Iterator:
    """A device that the planner takes for a larger one than it is."""
    with (
        cupy_on_cpu(schedules=("loop", schedule), **limits) as cupy,
        pytest.MonkeyPatch.context() as patch,
        stacked_layers.ways("any"),
        both_directions.ways("any"),
    ):
        patch.setattr(cupy_one_launch, "_described", lambda _: device(24))
        yield cupy


def layer(cupy, dtype: str = "float32", **options) -> tuple[gl.LSTM, dict]:
    lstm = gl.LSTM(INPUTS, HIDDEN, dtype=dtype, xp=cupy, rng=0, **options)
    rng, directions = np.random.default_rng(1), 1 + options.get("bidirectional", False)
    x, dy = (rng.normal(size=(STEPS, BATCH, width)) for width in (INPUTS, HIDDEN * directions))
    states = options.get("num_layers", 1) * directions
    state_of = tuple(rng.normal(size=(states, BATCH, HIDDEN)) for _ in range(2))
    return lstm, {"x": x, "dy": dy, "state": state_of}


def inference(cupy, lstm: gl.LSTM, given: dict, dtype: str = "float32") -> list[np.ndarray]:
    x, h, c = (cupy.asarray(a.astype(np.float32)).astype(dtype) for a in (given["x"], *given["state"]))
    y, state = lstm(x, (h, c), lengths=[STEPS, STEPS - 1])
    return [a.get() for a in (y, *state)]


def training(cupy, lstm: gl.LSTM, given: dict, dtype: str = "float32", between=lambda: None) -> list[np.ndarray]:
    arrays = (cupy.asarray(a.astype(np.float32)).astype(dtype) for a in (given["x"], *given["state"], given["dy"]))
    x, h, c, dy = arrays
    y, state, cache = lstm.forward(x, (h, c), lengths=[STEPS, STEPS - 1], rng=3)
    between()
    dx, grads, dstate = lstm.backward(cache, dy, (h, c))
    return [a.get() for a in (y, *state, dx, *grads.values(), *dstate)]


def same_bits(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def launched(cupy, run) -> set[str]:
    """The kernels with all time steps in one launch."""
    cupy.on_cpu.reset_counts()
    run()
    schedules = ("lstm_persistent", "lstm_cluster", "lstm_resident", "lstm_wide")
    return {name for name in cupy.on_cpu.launches if name.startswith(schedules)}


OPTIONS = {"zoneout": 0.2, "recurrent_dropout": 0.1, "peephole": True}
LAYERS = {  # name -> (schedule, dtype, the layer's options)
    "plain": ("persistent", "float32", {}),
    "TF32": ("persistent", "float32", {"tf32": True}),
    "float16, both directions": ("persistent", "float16", {"bidirectional": True}),
    "stacked layers": ("persistent", "float32", {"num_layers": 2}),
    "options, both directions": ("persistent", "float32", {"bidirectional": True, **OPTIONS}),
    "layer norm and options": ("persistent", "float32", {"layer_norm": True, "zoneout": 0.2}),
    "clusters": ("cluster", "float32", {}),
    "clusters in bfloat16": ("cluster", "bfloat16", {"num_layers": 2}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_call_gives_what_the_loop_gives(name):
    """And the forward pass of training, inference and the backward pass each notice it by themselves."""
    schedule, dtype, options = LAYERS[name]
    limits = TOO_MANY if schedule == "persistent" else {"clusters_at_once": 0}
    why = "TOO_LARGE" if schedule == "persistent" else "no room for a cluster of"
    with on_device(schedule) as cupy:
        lstm, given = layer(cupy, dtype, **options)
        with planner.only("loop"):
            inferred, trained = (how(cupy, lstm, given, dtype) for how in (inference, training))
        unlimited, limited = cupy.on_cpu.gpu, replace(cupy.on_cpu.gpu, **limits)
        for how, wanted in ((inference, inferred), (training, trained)):
            cupy_one_launch._devices.clear()
            cupy.on_cpu.gpu = limited
            with pytest.warns(RuntimeWarning, match=REFUSED.format(schedule, why)) as warned:
                same_bits(how(cupy, lstm, given, dtype), wanted)
            assert len(warned) == 1
            x = cupy.asarray(given["x"].astype(np.float32)).astype(dtype)
            for choice in lstm.plan(x)[:2]:
                assert choice.schedule == "loop"
                assert f"{schedule} is given up on this device, since lstm_{schedule}" in choice.reason
            cupy.on_cpu.gpu = unlimited
            assert not launched(cupy, lambda how=how: how(cupy, lstm, given, dtype)), "it is not tried again"
        cupy_one_launch._devices.clear()

        def now_it_is_shared() -> None:
            cupy.on_cpu.gpu = limited

        with pytest.warns(RuntimeWarning, match=REFUSED.format(schedule, why)):
            mixed = training(cupy, lstm, given, dtype, now_it_is_shared)
        tolerance = {"float32": 2e-3 if options.get("tf32") else 1e-5}.get(dtype, 2e-2)
        for a, b in zip(mixed, trained, strict=True):
            a, b = a.astype("float64"), b.astype("float64")
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("schedule", "limits", "why"),
    [
        (
            "persistent",
            {"multiprocessors": 1, "shared_memory_optin": 48 * 1024},
            "has no room for 4 blocks at the same time of 512 threads",
        ),
        ("persistent", {"shared_memory_optin": 20 * 1024}, "CUDA_ERROR_INVALID_VALUE: lstm_persistent_forward"),
        ("cluster", {"clusters_at_once": 0}, "by the driver it has no room for a cluster of 2 blocks of"),
    ],
)
def test_the_driver_is_asked_before_anything_is_launched(schedule, limits, why):
    with on_device(schedule, **limits) as cupy:
        lstm, given = layer(cupy)

        def run() -> None:
            with pytest.warns(RuntimeWarning, match=why):
                inference(cupy, lstm, given)

        assert not launched(cupy, run)


def test_where_only_such_launches_are_allowed_there_is_nothing_left():
    with on_device(**TOO_MANY) as cupy, planner.only("persistent"):
        lstm, given = layer(cupy)
        with (
            pytest.warns(RuntimeWarning),
            pytest.raises(ValueError, match="takes this layer: .*persistent is given up"),
        ):
            inference(cupy, lstm, given)


def test_a_launch_that_was_taken_before():
    """Part of the pass may have been computed, so it cannot begin again; the next call does without."""
    with on_device() as cupy:
        lstm, given = layer(cupy)
        wanted = inference(cupy, lstm, given)
        cupy.on_cpu.gpu = replace(cupy.on_cpu.gpu, **TOO_MANY)
        with pytest.raises(
            RuntimeError, match="lstm_persistent_forward could be launched before.* TOO_LARGE|call again"
        ):
            inference(cupy, lstm, given)
        for found, expected in zip(inference(cupy, lstm, given), wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_driver_is_asked_once(monkeypatch):
    with on_device() as cupy:
        asked, ask = [], occupancy.obstacle
        monkeypatch.setattr(occupancy, "obstacle", lambda *a, **more: asked.append(a[2]) or ask(*a, **more))
        lstm, given = layer(cupy)
        for _ in range(3):
            inference(cupy, lstm, given)
        assert len(asked) == 1
        lstm(cupy.asarray(np.repeat(given["x"], 3, axis=1).astype("float32")))
        assert len(asked) == 2 and asked[1] > asked[0], "more blocks"


def test_where_nobody_can_be_asked_the_launch_tells(monkeypatch):
    limits = {"clusters_at_once": 0}
    with on_device("cluster", **limits) as cupy, occupancy.asked_of(object()):
        lstm, given = layer(cupy)
        with pytest.warns(RuntimeWarning, match=REFUSED.format("cluster", "CUDA_ERROR_INVALID_CLUSTER_SIZE")):
            inference(cupy, lstm, given)
    monkeypatch.setattr(modules, "_kernels", {})
    with on_device(**TOO_MANY) as cupy:
        monkeypatch.delattr(cupy.cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor")
        with pytest.warns(RuntimeWarning, match=REFUSED.format("persistent", "TOO_LARGE")):
            inference(cupy, *layer(cupy))


def test_other_errors_stay_what_they_are(monkeypatch):
    with on_device() as cupy:
        error = cupy.cuda.driver.CUDADriverError

        def broken(*_):
            raise error("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")

        monkeypatch.setattr(cupy.cuda.driver, "launchCooperativeKernel", broken)
        lstm, given = layer(cupy)
        with pytest.raises(error, match="ILLEGAL_ADDRESS"):
            inference(cupy, lstm, given)
        assert not cupy_one_launch.current_device().given_up


def test_a_pass_begins_again_only_as_often_as_there_are_schedules():
    calls = []

    @cupy_refusals.begun_again
    def always_refused(value, *, more):
        calls.append((value, more))
        raise cupy_refusals.Refused("no")

    with pytest.raises(cupy_refusals.Refused, match="no"):
        always_refused(1, more=2)
    assert calls == [(1, 2)] * (len(planner.LAYOUTS) + 1)


def test_the_struct_has_the_layout_of_cuda_h():
    """CUlaunchConfig: seven unsigned int, CUstream, CUlaunchAttribute *, unsigned int."""
    offsets = [getattr(occupancy._Launch, name).offset for name, *_ in occupancy._Launch._fields_]
    assert offsets == [0, 4, 8, 12, 16, 20, 24, 32, 40, 48]
