"""What would run a call's time steps, and why: one answer for every library's arrays."""

from typing import Any

from . import arrays
from .cuda import both_directions, planner
from .engines import cupy_engine, cupy_graph, cupy_one_launch, cupy_one_launch_options, native_engine
from .native import library

OPTIONS = "does not hold options"  # said of what runs both directions


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
        found = cupy_graph.explained(found)
        if not layout.bidirectional:
            return found
        return both_directions.explained(found, batch, layout.hidden_size, device, "" if call.is_plain else OPTIONS)


def _on_cpu(call: Any) -> planner.Plan:
    if not call.is_plain:
        return planner.both("numpy", "with options, and in layers that have projections, peepholes or layer norm")
    if call.engine() is native_engine:
        return planner.both("native", "compiled for this processor; what is too small for it goes through NumPy")
    dtype = arrays.dtype_name(call.x)
    why = library.why_not() if dtype == "float32" else f"the compiled one is for float32, not {dtype}"
    return planner.both("numpy", f"a matrix product and a few calls per step; {why}")
