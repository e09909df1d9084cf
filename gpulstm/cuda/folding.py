"""Whether a layer with a projection runs as the plain layer that `gpulstm.engines.folded_projection` makes of it.

Folded, it has every schedule of a plain layer, and in the loop one product and one kernel a step instead of two of
each. In return its product is as large as a plain layer's, hidden / proj times what it would be. So the planner
compares what both ways are predicted to take: folded, what it predicts of the plain layer; else the loop with two
launches more and smaller products. No layer with a projection has been timed. Pure arithmetic: no GPU is needed to ask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

from . import half_layouts, loop_times, planner
from .planner import BACKWARD, FORWARD, Device

LAUNCH = 7.0  # microseconds of the CPU, measured as 6 to 8
TERAFLOPS = 51.0  # of large products in float32, as measured
MORE_LAUNCHES = {FORWARD: 8, BACKWARD: 12}  # products, copies and kernels of a folded call beyond the other's, counted

_forced: ContextVar[bool | None] = ContextVar("folding", default=None)


@contextmanager
def forced(folded: bool | None) -> Iterator[None]:
    """Within it, projections that can be folded are, or are not; None compares predictions. To compare the two ways."""
    token = _forced.set(folded)
    try:
        yield
    finally:
        _forced.reset(token)


def is_forced() -> bool | None:
    """What `forced` says."""
    return _forced.get()


class Layer(NamedTuple):
    """What a decision hangs on, of one direction of a layer. The last three are for `planner.choose`, once folded."""

    steps: int
    batch: int
    hidden: int
    proj: int
    arithmetic: str
    not_held: str
    not_plain: str


def pays(layer: Layer, device: Device, *, backward: bool) -> bool:
    """Whether it is to be folded for a forward pass and, in training, the backward pass after it."""
    if not {"loop", "graph"} & set(planner.allowed()):
        return True  # there is no other way
    found = _forced.get()
    if found is None and layer.arithmetic in half_layouts.DTYPES:
        return True  # times of the other way are predicted from those of float32 alone
    return _predicted_to_pay(layer, device, backward, planner.allowed()) if found is None else found


@lru_cache(maxsize=1024)  # the same few layers are asked about in every training step
def _predicted_to_pay(layer: Layer, device: Device, backward: bool, allowed: tuple[str, ...]) -> bool:
    passes = (FORWARD, BACKWARD) if backward else (FORWARD,)
    folded = sum(folded_microseconds(each, layer, device) for each in passes)
    return folded < sum(loop_microseconds(each, layer) for each in passes)


def folded_microseconds(direction: str, layer: Layer, device: Device) -> float:
    """Predicted for all steps of a pass, folded."""
    steps, batch, hidden, proj, arithmetic, not_held, not_plain = layer
    a_step = planner.choose(direction, batch, hidden, arithmetic, device, not_held, not_plain).microseconds
    weights = 8.0 * hidden * hidden * proj * (1 if direction == FORWARD else 2)
    rows = 2.0 * batch * hidden * proj
    if direction == BACKWARD:  # dm, and dW' instead of dW_hh
        rows += 8.0 * batch * hidden * (hidden - proj)
    of_rows = loop_times.CUBLAS_TERAFLOPS.get(arithmetic, TERAFLOPS)  # those of weights are exact in TF32 too
    products = weights / (1e6 * TERAFLOPS) + steps * rows / (1e6 * of_rows)
    return steps * a_step + MORE_LAUNCHES[direction] * LAUNCH + products


def loop_microseconds(direction: str, layer: Layer) -> float:
    """The same for the loop with two products and two kernels a step."""
    products = 10.0 * layer.batch * layer.hidden * layer.proj
    return layer.steps * loop_times.microseconds(direction == planner.BACKWARD, products, layer.arithmetic, pairs=2)
