"""As many arguments as a kernel's machine code takes, and each as long: a launch does not say it, and the driver reads
whatever lies there. The stand-in for CuPy compares with a kernel's text, as a host compiler lays out its structs.
"""

from contextlib import ExitStack

import pytest

import gpulstm as gl
from gpulstm.cuda import both_directions, modules, planner, stacked_layers
from gpulstm.cuda.catalogue import Specialisation
from gpulstm.training import Adam
from tests.cuda_on_cpu import cupy_on_cpu
from tests.cuda_on_cpu import nvrtc as nvrtc_on_cpu
from tests.machine_code_parameters import Recorded, sizes_of
from tests.test_nvrtc_gate import nvrtc_or_skip

ARCHITECTURE = 90
OF_LAYER_NORM = "lstm_draw_options", "lstm_layer_norm_slope_sums"

CASES = {
    "resident": ({"zoneout": 0.1, "bidirectional": True}, "float32"),
    "persistent": ({"recurrent_dropout": 0.1, "bidirectional": True}, "float32"),
    "layers": ({"num_layers": 3}, "float32"),
    "layers in 16 bits": ({"num_layers": 2}, "float16"),
    "persistent in 16 bits": ({"zoneout": 0.1, "bidirectional": True}, "float16"),
    "persistent with layer norm": ({"layer_norm": True, "zoneout": 0.1}, "float32"),
}


def machine_code(one: Specialisation) -> bytes:
    nvrtc = nvrtc_or_skip()
    program = nvrtc.createProgram(one.source, one.file, (), ())
    try:
        options = (f"--gpu-architecture=sm_{ARCHITECTURE}", *nvrtc_on_cpu.AS_CUPY_DOES, *one.options)
        nvrtc.compileProgram(program, (*options, *nvrtc_on_cpu.include_options()))
        return nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)


def launches(monkeypatch, name: str) -> dict[Specialisation, set[tuple[int, ...]]]:
    """Of a training step, and of one of an optimiser: each kernel's arguments, by their lengths."""
    (options, dtype), found = CASES[name], {}
    monkeypatch.setattr(modules, "_kernels", {})
    monkeypatch.setattr(modules, "_compile", lambda cupy, one, shared_bytes: Recorded(one, found))
    schedule = name.split()[0]
    with cupy_on_cpu() as cupy, ExitStack() as stack:
        for way in (both_directions.ways("any"), stacked_layers.ways("any")):
            stack.enter_context(way)
        stack.enter_context(planner.only("persistent" if schedule == "layers" else schedule))
        lstm = gl.LSTM(8, 16, **options, dtype=dtype, xp=cupy, rng=0)
        x = cupy.ones((stacked_layers.FEWEST_STEPS, 2, 8), dtype)
        y, _, cache = lstm.forward(x, rng=0, lengths=None if schedule == "layers" else [16, 3])
        _, gradients, _ = lstm.backward(cache, y)
        if schedule == "resident":
            Adam().step(lstm.params, gradients)
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_argument_is_as_long_as_the_kernel_takes_it(monkeypatch, name):
    found = launches(monkeypatch, name)
    in_one_launch = [one for one in found if one.tiles]
    assert [any(one.features) for one in in_one_launch] == [True, True], "of both passes"
    for one, lengths in found.items():
        if one.tiles or one.entry in OF_LAYER_NORM or name == "resident":
            (length,) = lengths
            assert list(length) == sizes_of(machine_code(one), one.entry), one
