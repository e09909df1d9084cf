"""What would run a call's time steps, and why: one answer for every library's arrays."""

from typing import Any

from . import arrays
from .cuda import planner
from .engines import (
    cupy_engine,
    cupy_graph,
    cupy_one_launch,
    cupy_one_launch_options,
    native_engine,
    native_variant_engine,
)
from .native import library


def of(call: Any) -> planner.Plan:
    """The plan of `gpulstm.functional`'s checked call."""
    if arrays.is_numpy(call.x):
        return _on_cpu(call)
    if call.engine() is None:
        reason = f"{arrays.library(call.x)}'s own operations, so that its autograd and jit apply"
        return planner.both("equations", reason)
    layout, options = call.layout, call.draws.options
    of_step = options.of_step(training=call.draws.training)
    not_held = cupy_one_launch_options.not_held(of_step, layer_norm=layout.layer_norm, projection=layout.proj_size > 0)
    not_plain = cupy_engine.BESIDE_PLAIN[options.tf32] if call.is_plain else "options"
    arithmetic = "tf32" if options.tf32 and call.is_plain else arrays.dtype_name(call.x)
    steps, batch, _ = call.x.shape
    with arrays.on_device_of(call.x):
        device = cupy_one_launch.current_device()
        found = planner.plan(batch, layout.hidden_size, arithmetic, device, not_held, not_plain, steps=steps)
        return cupy_graph.explained(found)


def _on_cpu(call: Any) -> planner.Plan:
    engine = call.engine()
    if engine is native_engine or isinstance(engine, native_variant_engine.NativeVariantEngine):
        return planner.both("native", "compiled for this processor; what is too small for it goes through NumPy")
    how = "a matrix product and a few calls per step" if call.is_plain else "step by step, as the equations stand"
    layout, options = call.layout, call.draws.options
    not_held = native_variant_engine.not_held(options, layer_norm=layout.layer_norm, projection=layout.proj_size > 0)
    why = library.why_not() if library.load() is None else f"the compiled one does not hold {not_held}"
    return planner.both("numpy", f"{how}; {why}")
