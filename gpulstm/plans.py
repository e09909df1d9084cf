"""What would run a call's time steps, and why: one answer for every library's arrays."""

from typing import Any

from . import arrays, engine_choice
from .cuda import both_directions, planner, stacked_layers
from .engines import (
    cupy_engine,
    cupy_graph,
    cupy_layers,
    cupy_one_launch,
    cupy_one_launch_options,
    native_engine,
    native_variant_engine,
)
from .engines.folded_projection import FoldedEngine, obstacle
from .native import library

PROJECTION = "does not hold proj_size"  # said of what runs both directions
CHECKPOINTS = "does not hold checkpoints"  # said of both directions, and of layers


def of(call: Any, *, checkpoints: bool = False) -> planner.Plan:
    """The plan of `gpulstm.functional`'s checked call, whose draws are those of training."""
    if arrays.is_numpy(call.x):
        return _on_cpu(call)
    if not arrays.is_cupy(call.x):
        reason = f"{arrays.library(call.x)}'s own operations, so that its autograd and jit apply"
        return planner.both("equations", reason)
    with arrays.on_device_of(call.x):
        training = _of_passes(call, CHECKPOINTS if checkpoints else "")
        # Masks are drawn in training alone: what they keep a schedule from is no obstacle in inference.
        inference = _of_passes(call._replace(draws=call.draws._replace(seed=None)), "", inference=True)
        return training._replace(inference=inference.inference)


def _of_passes(call: Any, why_apart: str, *, inference: bool = False) -> planner.Plan:
    """The plan with both directions, or all layers. ``why_apart`` says what keeps these one after the other, if
    anything does. With ``inference`` it is asked for that pass."""
    found = cupy_graph.explained(_on_gpu(call))
    layout, (steps, batch, _), device = call.layout, call.x.shape, cupy_one_launch.current_device()
    if not layout.bidirectional:
        return found if layout.num_layers == 1 else _of_stack(call, found, steps, batch, device, why_apart)
    hidden, why_not = layout.hidden_size, PROJECTION if layout.proj_size else why_apart
    if inference and 8 * hidden * steps * batch * call.x.itemsize > cupy_engine.GATE_BUFFER_BYTES:
        why_not = why_not or "would need gates of both directions at a time, which is too much"
    return both_directions.explained(found, batch, hidden, device, why_not, options=not call.is_plain)


def _of_stack(
    call: Any, of_one: planner.Plan, steps: int, batch: int, device: planner.Device, why_apart: str
) -> planner.Plan:
    """The plan of layers on top of each other."""
    in_training, in_inference = (
        cupy_layers.why_not(call.layout, call.draws, is_plain=call.is_plain, training=training)
        for training in (True, False)
    )
    in_training = in_training or why_apart
    why_not = {"forward": in_training, "backward": in_training, "inference": in_inference}
    sizes = call.layout.num_layers, steps, batch, call.layout.hidden_size
    return stacked_layers.explained(of_one, why_not, *sizes, device)


def _on_gpu(call: Any) -> planner.Plan:
    layout, options, device = call.layout, call.draws.options, cupy_one_launch.current_device()
    steps, batch, _ = call.x.shape
    if layout.proj_size:
        training, inference = (_projected(call, device, backward=backward) for backward in (True, False))
        return planner.Plan(training.forward, training.backward, inference.forward)
    of_step = options.of_step(training=call.draws.training)
    has: dict[str, Any] = {"layer_norm": layout.layer_norm, "peephole": layout.peephole}
    not_held = cupy_one_launch_options.not_held(of_step, steps=steps, **has)
    not_plain = cupy_one_launch_options.not_plain(of_step, layer_norm=layout.layer_norm)
    not_plain = "" if call.is_plain else not_plain
    arithmetic = cupy_one_launch.arithmetic_of(call.x, tf32=options.tf32)
    return planner.plan(batch, layout.hidden_size, arithmetic, device, not_held, not_plain, steps=steps)


def _projected(call: Any, device: planner.Device, *, backward: bool) -> planner.Plan:
    """The plan of training, or of inference, for a layer with a projection."""
    layout, draws = call.layout, call.draws
    layer = engine_choice.folded_layer(layout, call.x, draws)
    if engine_choice.folds(layout, call.x, draws, backward=backward):
        asked = layer.batch, layer.hidden, layer.arithmetic, device, layer.not_held, layer.not_plain
        return planner.Plan(*(_named(choice) for choice in planner.plan(*asked)[:2]))
    of_step = draws.options.of_step(training=draws.training)
    why = obstacle(of_step, layer_norm=layout.layer_norm)
    why = f"not folded into weight_hh because of {why}" if why else "folded into weight_hh it would take longer"
    has: dict[str, Any] = {"layer_norm": layout.layer_norm, "peephole": layout.peephole, "projection": why}
    not_held = cupy_one_launch_options.not_held(of_step, steps=len(call.x), **has)
    not_plain = cupy_one_launch_options.not_plain(of_step, layer_norm=layout.layer_norm)
    return planner.plan(layer.batch, layer.hidden, layer.arithmetic, device, not_held, not_plain)


def _named(choice: planner.Choice) -> planner.Choice:
    return choice._replace(reason=f"{choice.reason}; weight_hr is folded into weight_hh")


def _on_cpu(call: Any) -> planner.Plan:
    engine = call.engine(backward=True)
    folded = isinstance(engine, FoldedEngine)
    also = "; weight_hr is folded into weight_hh" if folded else ""
    plain = engine.engine if folded else engine
    if plain is native_engine or isinstance(plain, native_variant_engine.NativeVariantEngine):
        return planner.both("native", f"compiled for this processor; what is too small for it goes through NumPy{also}")
    by_step = not (call.is_plain or folded)
    how = "step by step, as the equations stand" if by_step else "a matrix product and a few calls per step"
    why = library.why_not() if library.load() is None else "the compiled one does not hold proj_size"
    return planner.both("numpy", f"{how}; {why}{also}")
