"""Whether layers on top of each other run side by side, as parts of one launch, or one after the other.

Step t of a layer needs step t of the layer below and its own step t - 1. Side by side each layer has blocks of its own,
which take the states of the layer below as these arrive, so L layers need T + L - 1 steps, one after the other L T. A
step is longer, since a block has the layer's W_ih as well as W_hh; but the product of W_ih with all steps beforehand
and, in the backward pass, that with its transpose afterwards are left out.

All blocks have to fit on the device together, so each layer is laid out on its part of it. Which layouts are
considered there, `ways` says:

- **alike**, as the planner does unless told otherwise: the kernel, the tiles and the blocks of a group that it has
  chosen for a layer alone on the whole device, with no more tiles of 8 sequences in a block. So what a block does for
  its own layer stays what it was, and was measured; what is predicted is only what comes with the layer next to it.
- **any**: every layout that fits. That is a matter of predictions alone; only where asked for.
- **apart**: none. To compare.

What a step does more is counted as if none of it were done while a block waits anyway: the other product at the rate of
the first, the words that it reads, and one hand-over at its floor. Where that is predicted to take at most `WORTH` of
the time of one after the other, layers run side by side. None of it has been timed on a GPU.

In 16 bits layers have tiles of their own (`gpulstm.cuda.half_layouts`), of fewer hidden units for each block than a
layer alone has where the weights of both products are to stay in registers. Neither those nor a layer alone have been
timed, and both are predicted from the same rates; so "alike" asks there only that a block has no more tiles of 8
sequences.

Only the persistent schedule has kernels for it (the switch LAYERS), for the plain LSTM in one direction. With options,
projections, checkpoints or dropout between layers, and for fewer than `FEWEST_STEPS` steps, layers run one after the
other. Side by side the products with W_ih are added up in another order, so the results are not
the same bits; two runs give the same.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from . import half_layouts, planner
from .catalogue import LAYERS
from .planner import Choice, Device, Plan

MOST = 8  # layers of a launch, as MOST_ABOVE in kernels/stacked_rows.cuh and stacked_product.cuh
FEWEST_STEPS = 16
WAYS = ("alike", "any", "apart")
WORTH = 0.85  # of the time of one after the other
HAND_OVER = 0.27  # microseconds: one word between two blocks, measured
STATIC_SHARED_BYTES = 14 * 1024  # of the backward kernel at most, and what the driver keeps for itself
READING = 0.39e-6  # microseconds for a word: what 32 sequences of 1024 hidden units took more than one, all to all

_way: ContextVar[str] = ContextVar("way of stacked layers", default="alike")


@contextmanager
def ways(way: str) -> Iterator[None]:
    """Within it, layouts of stacked layers are chosen so: "alike", "any" or "apart"."""
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


def side_by_side(
    direction: str, one: Choice, layers: int, steps: int, batch: int, hidden: int, device: Device
) -> tuple[Choice | None, str]:
    """The choice of all layers together, or None and why not.

    ``one`` is what the planner has chosen for a layer alone on this device; ``direction`` is `planner.FORWARD` or
    `planner.BACKWARD`. Its predicted time is that of a step of all layers.
    """
    if steps < FEWEST_STEPS:
        return None, f"is for {FEWEST_STEPS} steps or more, not {steps}"
    return _side_by_side(direction, one, layers, batch, hidden, device, _way.get())


@lru_cache(maxsize=1024)
def _side_by_side(
    direction: str, one: Choice, layers: int, batch: int, hidden: int, device: Device, way: str
) -> tuple[Choice | None, str]:
    if way == "apart":
        return None, "is not allowed here"
    if layers > MOST:
        return None, f"is for up to {MOST} layers, not {layers}"
    if one.kernel not in LAYERS:
        return None, f"{one.schedule}{f' in {one.arithmetic}' if one.arithmetic else ''} has no kernel for it"
    part = device._replace(multiprocessors=device.multiprocessors // layers)
    found = _layouts(direction, one, batch, hidden, part, way) if part.multiprocessors else []
    if not found:
        return None, f"1/{layers} of {device.multiprocessors} multiprocessors is too little"
    found = [choice for choice in found if choice.tiles in LAYERS[choice.kernel]]
    if not found:
        return None, "there is no kernel of these tiles for it"
    found = [choice for choice in found if _shared_bytes(direction, choice) <= device.shared_bytes]
    if not found:
        return None, f"{device.shared_bytes} bytes of shared memory are too little"
    best = min((_of_all(direction, choice, layers, hidden) for choice in found), key=lambda c: c.microseconds)
    apart = layers * one.microseconds
    if best.microseconds > WORTH * apart:
        return None, f"{best.microseconds:.1f} us a step predicted, {apart:.1f} one after the other"
    return best, ""


def _layouts(direction: str, one: Choice, batch: int, hidden: int, part: Device, way: str) -> list[Choice]:
    """Those of one layer on its part of the device that may be taken for each of them."""
    if _in_half(one):
        roomy = part._replace(shared_bytes=sys.maxsize)  # who calls this says where that is too little
        found = planner._persistent_half(direction, batch, hidden, one.arithmetic, roomy, layers=True)
        return [choice for choice in found if way == "any" or _passes_alike(choice, one)]
    found = planner.LAYOUTS[one.schedule](direction, batch, hidden, one.arithmetic or "float32", part)
    return [choice for choice in found if way == "any" or (_is_alike(choice, one) and _passes_alike(choice, one))]


def _is_alike(choice: Choice, one: Choice) -> bool:
    return (choice.kernel, choice.tiles, choice.blocks) == (one.kernel, one.tiles, one.blocks)


def _passes_alike(choice: Choice, one: Choice) -> bool:
    """No more tiles of 8 sequences in a block."""
    in_choice, in_one = (planner._up(each.share, planner.SEQUENCES_PER_TILE) for each in (choice, one))
    return in_choice <= in_one


def _shared_bytes(direction: str, choice: Choice) -> int:
    """That a block with the weights of both products needs, with the driver's."""
    if _in_half(choice):
        beside = half_layouts.DRIVERS_SHARED_BYTES
    else:
        beside = STATIC_SHARED_BYTES if direction == planner.BACKWARD else planner.STATIC_SHARED_BYTES
    return planner.shared_bytes_of(choice._replace(layers=2)) + beside


def _in_half(choice: Choice) -> bool:
    return choice.kernel in half_layouts.TILES


def _of_all(direction: str, choice: Choice, layers: int, hidden: int) -> Choice:
    """A layout of one layer on its part of the device, for all of them."""
    if _in_half(choice):
        tiles = half_layouts.Tiles(*choice.tiles)
        more = half_layouts.microseconds_of_layers(choice.kernel, tiles, choice.share, hidden)
        return _predicted(choice, layers, choice.microseconds + more + HAND_OVER)
    row_tiles, depth, _ = choice.tiles
    faster = 85 / 322 if choice.arithmetic == "tf32" else 1.0  # as in the planner
    words = (layers - 1) * choice.groups * choice.blocks * choice.share * hidden  # of h that layers take from others
    sequences = planner._up(choice.share, planner.SEQUENCES_PER_TILE)
    layout = choice.tiles, choice.blocks, layers * choice.groups, choice.share, hidden
    microseconds = planner._persistent_microseconds(direction, *layout, choice.arithmetic) + HAND_OVER
    if direction == planner.FORWARD:
        microseconds += 0.0925 * faster * sequences * row_tiles * depth + READING * words
    else:  # da of the layer above, four words a unit, for 16 sequences at a time
        microseconds += 0.256 * faster * planner._up(sequences, 2) * 2 * row_tiles * depth + 4 * READING * words
    return _predicted(choice, layers, microseconds)


def _predicted(choice: Choice, layers: int, microseconds: float) -> Choice:
    of_one, of_all = (planner._predicted(number) for number in (choice.microseconds, microseconds))
    return choice._replace(layers=layers, microseconds=microseconds, reason=choice.reason.replace(of_one, of_all))


def explained(
    plan: Plan, why_not: dict[str, str], layers: int, steps: int, batch: int, hidden: int, device: Device
) -> Plan:
    """The plan of a stack from that of one layer. ``why_not`` says what keeps the layers apart whatever the layout, if
    anything does, for each pass: "forward", "backward" and "inference"."""
    changed = {}
    for name, one in plan._replace(inference=plan.inference or plan.forward)._asdict().items():
        direction = planner.BACKWARD if name == "backward" else planner.FORWARD
        together, why = None, why_not.get(name, "")
        if not why:
            together, why = side_by_side(direction, one, layers, steps, batch, hidden, device)
        apart = one._replace(reason=f"{one.reason}; layers one after the other: side by side {why}")
        changed[name] = together or (apart if one.blocks else one)
    return plan._replace(**changed)
