"""The CuPy engine on CuPy's own arrays, where there is no GPU: CuPy without a device makes no array, but takes memory
that is handed to it. Here that is the stand-in's, and the stand-in does what the engine asks of the device.

So what arrays say of themselves is CuPy's own word: the addresses of views, what is contiguous, dtypes of 16 bits. The
results have the bits that they have on the stand-in's arrays. What CuPy computes itself needs a GPU and is left out.
"""

from contextlib import contextmanager

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.cuda import modules, occupancy, own_cublas, planner
from gpulstm.engines import cupy_graph, cupy_one_launch
from tests.backends import CUPY_ON_CPU, Backend
from tests.cuda_on_cpu import cublas, cupy_on_cpu, device, driver, memory, ndarray, raw, state
from tests.half_cases import half_problem
from tests.problems import assert_same_bits
from tests.schedule_cases import small_problem
from tests.test_nvrtc_gate import nvrtc_or_skip


class OnHostMemory:
    """CuPy's arrays in the stand-in's memory, and ways there and back."""

    def __init__(self, cupy) -> None:
        self.cupy = cupy

    def allocated(self, size: int):
        """What CuPy's allocators give."""
        allocation = memory.Allocation(max(1, size))
        allocation.bytes[...] = 0xA5
        held = self.cupy.cuda.UnownedMemory(allocation.address, allocation.nbytes, allocation, 0)
        return self.cupy.cuda.MemoryPointer(held, 0)

    def zeros(self, shape, dtype):
        made = self.cupy.ndarray(shape, dtype)
        self.values(made)[...] = 0
        return made

    def values(self, array) -> np.ndarray:
        """The memory itself."""
        held = memory.holder(array.data.ptr)
        return np.ndarray(array.shape, array.dtype, held.bytes, array.data.ptr - held.address, array.strides)

    def array(self, value):
        if isinstance(value, dict):
            return {name: self.array(item) for name, item in value.items()}
        if value is None or isinstance(value, tuple):
            return value and tuple(map(self.array, value))
        made = self.cupy.ndarray(value.shape, value.dtype)
        self.values(made)[...] = value
        return made

    def as_the_stand_ins(self, argument):
        if not isinstance(argument, self.cupy.ndarray):
            return argument
        return ndarray.ndarray.__new__(ndarray.ndarray)._hold(self.values(argument), memory.holder(argument.data.ptr))

    def raw_module(self, code=None, *, options=(), enable_cooperative_groups=False):
        """The stand-in's, whose kernels take CuPy's arrays."""
        convert = self.as_the_stand_ins

        class Kernel(raw.RawKernel):
            def __call__(self, grid, block, args, **settings):
                super().__call__(grid, block, tuple(map(convert, args)), **settings)

        class Module:
            def get_function(self, name):
                return Kernel(code, name, options, enable_cooperative_groups=enable_cooperative_groups)

        return Module()


@contextmanager
def real_cupy(*schedules: str):
    """`OnHostMemory` within which CuPy asks the stand-in instead of a device."""
    nvrtc_or_skip()
    import cupy

    on_host, cuda = OnHostMemory(cupy), cupy.cuda
    state.push(state.State("fibers", "ascending", "ascending", 0, None, 10_000, state.Gpu(16, 227 * 1024, "90")))
    replaced = {
        cupy: {"zeros": on_host.zeros, "RawModule": on_host.raw_module},
        cuda: {
            name: getattr(device, name)
            for name in ("Device", "Stream", "Event", "get_current_stream", "alloc_pinned_memory")
        },
        cuda.device: {"get_cublas_handle": device.get_cublas_handle},
        cuda.driver: {
            name: getattr(driver, name)
            for name in (
                *("funcSetAttribute", "launchKernel", "launchCooperativeKernel"),
                "occupancyMaxActiveBlocksPerMultiprocessor",
            )
        },
        cuda.cublas: {name: getattr(cublas, name) for name in ("sgemm", "gemmEx", "getMathMode", "setMathMode")},
        cuda.runtime: {
            "getDevice": device.get_device,
            "memGetInfo": device.mem_get_info,
            "memsetAsync": device.memset_async,
            "memcpyAsync": device.memcpy_async,
            "memcpy2DAsync": device.memcpy_2d_async,
        },
        modules: {"_kernels": {}},
        cupy_one_launch: {"_alarms": {}, "_devices": {}},
        cupy_graph: {"_stages": type(cupy_graph._stages)(), "_failures": {}},
    }
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            planner.only(*schedules),
            own_cublas.loaded_as(cublas.Library()),
            occupancy.asked_of(driver.Library()),
            cuda.using_allocator(on_host.allocated),
        ):
            for where, names in replaced.items():
                for name, value in names.items():
                    assert hasattr(where, name), f"{where.__name__} has no {name}"
                    patch.setattr(where, name, value)
            yield on_host
    finally:
        state.pop()


def train(array, given, options) -> dict:
    y, final, cache = gl.lstm_forward(
        array(given.x), array(given.params), array(given.state), lengths=given.lengths, options=options
    )
    dx, grads, dinitial = gl.lstm_backward(cache, array(given.dy))
    return {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c, **grads}


def infer(array, given, options) -> dict:
    y, final = gl.functional.lstm_inference(array(given.x), array(given.params), options=options)
    return {"y": y, "h": final.h, "c": final.c}


CASES = {
    "loop": (train, "loop", small_problem(1, hidden=6, steps=3, batch=2, directions=2), {}),
    "loop, tf32": (train, "loop", small_problem(1, hidden=6, steps=3, batch=2), {"tf32": True}),
    "loop, bfloat16": (train, "loop", half_problem("bfloat16", hidden=6, steps=3, batch=2, layers=2), {}),
    "graph": (train, "graph", small_problem(1, hidden=6, steps=3, batch=2, directions=2), {}),
    "graph, bfloat16": (train, "graph", half_problem("bfloat16", hidden=6, steps=3, batch=2), {}),
    "graph, tf32": (train, "graph", small_problem(1, hidden=6, steps=3, batch=2), {"tf32": True}),
    "resident": (train, "resident", small_problem(1, hidden=6, steps=3, batch=3, directions=2), {}),
    "persistent": (train, "persistent", small_problem(1, hidden=12, steps=3, batch=3), {}),
    "persistent, tf32": (train, "persistent", small_problem(1, hidden=12, steps=3, batch=3), {"tf32": True}),
    "persistent, float16": (train, "persistent", half_problem("float16", hidden=24, steps=3, batch=3), {}),
    "cluster": (train, "cluster", small_problem(1, hidden=12, steps=3, batch=3), {}),
    "cluster, bfloat16": (train, "cluster", half_problem("bfloat16", hidden=21, steps=3, batch=3), {}),
    "step": (infer, "step", small_problem(1, hidden=12, steps=1, batch=3, layers=2), {}),
    "inference": (infer, "persistent", half_problem("bfloat16", hidden=24, steps=3, batch=3), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_as_on_the_stand_ins_arrays(name):
    run, schedule, given, options = CASES[name]
    with cupy_on_cpu(schedules=(schedule,)) as stand_in:
        backend = Backend(CUPY_ON_CPU, stand_in)
        expected = backend.numpy(run(backend.array, given, options))
    with real_cupy(schedule) as on_host:
        found = {name: on_host.values(array).copy() for name, array in run(on_host.array, given, options).items()}
        assert schedule != "graph" or not cupy_graph.why_not()
    assert_same_bits(found, expected)


@pytest.mark.parametrize("kind", [gl.LSTM, gl.LSTMCell])
def test_a_step_that_runs_again(kind):
    """What `gpulstm.warm_steps` relies on: weak references to CuPy's arrays, and that a shape may change in place."""
    twin, rng = kind(6, 7, rng=0), np.random.default_rng(1)
    axes = (1,) if kind is gl.LSTM else ()
    with real_cupy("step") as on_host:
        ours = kind(6, 7, rng=0)
        ours.params = on_host.array(ours.params)
        counts = state.current()
        for again in range(4):
            x, h, c = (rng.normal(size=(*axes, 2, width)).astype("float32") for width in (6, 7, 7))
            counts.reset_counts()
            found, wanted = ours(on_host.array(x), on_host.array((h, c))), twin(x, (h, c))
            assert sum(counts.packed.values()) == (again > 0) and bool(ours._warm_steps.steps)
            for array, expected in zip(*(each if axes == () else each[1] for each in (found, wanted)), strict=True):
                assert array.flags.c_contiguous and array.dtype == expected.dtype
                np.testing.assert_allclose(on_host.values(array), expected, rtol=0, atol=1e-6)
        name = next(name for name in ours.params if name.startswith("weight_hh"))
        ours.params[name].shape = ours.params[name].shape[::-1]
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            ours(on_host.array(x))
