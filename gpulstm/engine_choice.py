"""Which engine runs a call on NumPy or CuPy arrays."""

from dataclasses import replace
from typing import Any

from . import arrays
from .arrays import Array
from .cuda import folding
from .engines import (
    cupy_engine,
    cupy_layers,
    cupy_one_launch,
    cupy_one_launch_options,
    native_engine,
    native_variant_engine,
    numpy_engine,
)
from .engines.folded_projection import obstacle
from .masks import Draws
from .options import PLAIN
from .parameters import Layout


def is_plain(layout: Layout, draws: Draws) -> bool:
    """Whether every step is the plain LSTM's."""
    return layout.is_plain and draws.options.plain_steps[draws.training]


def engine_for(layout: Layout, x: Array, draws: Draws, *, backward: bool) -> Any:
    """The engine for x (time, batch, inputs), which is not empty; ``backward`` says whether a backward pass follows."""
    if is_plain(layout, draws):
        return _plain_engine(layout, x, draws)
    if folds(layout, x, draws, backward=backward):
        return _folded_engine(layout, x, draws)
    return _variant_engine(layout, x, draws)


def folds(layout: Layout, x: Array, draws: Draws, *, backward: bool) -> bool:
    """Whether there is a projection that is folded into weight_hh: `gpulstm.engines.folded_projection`."""
    of_step = draws.options.of_step(training=draws.training)
    if not layout.proj_size or obstacle(of_step, layer_norm=layout.layer_norm):
        return False
    if arrays.is_numpy(x):
        if not _plain_once_folded(layout, draws) or folding.is_forced() is False:
            return False
        from .engines import folded_on_cpu

        return bool(folding.is_forced()) or folded_on_cpu.pays(x, layout.hidden_size, backward=backward)
    return folding.pays(folded_layer(layout, x, draws), cupy_one_launch.current_device(), backward=backward)


def folded_layer(layout: Layout, x: Array, draws: Draws) -> folding.Layer:
    """What the planner is asked about on a GPU where the projection is folded."""
    options, (steps, batch, _) = draws.options, x.shape
    arithmetic = cupy_one_launch.arithmetic_of(x, tf32=options.tf32)
    of_step = options.of_step(training=draws.training)
    has: dict[str, Any] = {"layer_norm": layout.layer_norm, "peephole": layout.peephole}
    not_held = cupy_one_launch_options.not_held(of_step, steps=steps, **has)
    not_plain = "" if _plain_once_folded(layout, draws) else "options"
    return folding.Layer(steps, batch, layout.hidden_size, layout.proj_size, arithmetic, not_held, not_plain)


def _plain_once_folded(layout: Layout, draws: Draws) -> bool:
    """Weight drop is a matter of the weights that a plain layer is given."""
    rest = replace(draws.options.of_step(training=draws.training), weight_drop=0.0)
    return rest == PLAIN and not (layout.peephole or layout.layer_norm)


def _plain_engine(layout: Layout, x: Array, draws: Draws) -> Any:
    if arrays.is_numpy(x):
        return native_engine if native_engine.takes(x) else numpy_engine
    plain = cupy_engine.WithTF32() if draws.options.tf32 else cupy_engine
    return cupy_layers.engine_for(layout, draws, plain)


def _folded_engine(layout: Layout, x: Array, draws: Draws) -> Any:
    if arrays.is_numpy(x):
        from .engines import folded_on_cpu

        return folded_on_cpu.folded_engine(x, draws)
    from .engines import folded_on_gpu

    return folded_on_gpu.folded_engine(draws, len(x), plain=_plain_once_folded(layout, draws))


def _variant_engine(layout: Layout, x: Array, draws: Draws) -> Any:
    if arrays.is_numpy(x):
        if native_engine.takes(x) and not layout.proj_size:
            return native_variant_engine.NativeVariantEngine(draws)
        from .engines.numpy_variant_engine import NumpyVariantEngine

        return NumpyVariantEngine(draws)
    from .engines.cupy_variant_engine import CupyVariantEngine

    return CupyVariantEngine(draws, len(x))
