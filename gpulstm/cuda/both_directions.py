"""Whether the two directions of a layer run side by side, as groups of one launch, or one after the other.

No group waits for another one, so the groups of both directions can run at the same time if the device has room for
them: each direction is laid out on half of it. Which layouts are considered there, `ways` says:

- **alike**, as the planner does unless told otherwise: the kernel, the tiles and the blocks of a group that it has
  chosen for one direction on the whole device. Half of the device has half of the groups, so a group has up to twice as
  many sequences, and no more are allowed. So a block does at most twice the work in each step, the device moves twice
  as many bytes, and half as many steps follow each other: no worse than one after the other, even if no prediction
  held. What is won is all that does not grow with the sequences of a group: handing over, and products and sums for
  tiles of 8 sequences that were not full. Layers that fill less than half of the device keep their layout as it is.
  The results have the same bits as one after the other; tiles may differ where they have too
  (`resident_tensor_layouts.SAME_BITS`).
- **any**: every layout that fits half of the device. Which one is best is then a matter of predictions alone, and those
  have not been compared with the times of two directions on a GPU; so this is taken only where asked for.
- **apart**: none. To compare.

Side by side has to be predicted to take at most `WORTH` of the time of one after the other. The lines that predictions
are made of were fitted with an error of 11 % (root mean square), so a layer whose gain is small stays as it is.

Only the resident and the persistent schedule have kernels for it (the switch BIDIRECTIONAL), for the plain LSTM and for
the options that OPTIONS stands for: masks are each direction's own, and have the bits that they would have in a launch
of its own. With layer norm, with projections, with checkpoints, and in inference where the gates of both directions do
not fit into the buffer together, the directions run one after the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from . import planner, resident_tensor_layouts, wide_layouts
from .catalogue import BIDIRECTIONAL, BIDIRECTIONAL_OPTIONS, TF32
from .planner import Choice, Device, Plan

WAYS = ("alike", "any", "apart")
WORTH = 0.75  # of the time of one after the other

_way: ContextVar[str] = ContextVar("way of two directions", default="alike")


@contextmanager
def ways(way: str) -> Iterator[None]:
    """Within it, layouts of both directions are chosen so: "alike", "any" or "apart"."""
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


def side_by_side(
    direction: str, one: Choice, batch: int, hidden: int, device: Device, *, options: bool = False
) -> tuple[Choice | None, str]:
    """The choice of both directions together, or None and why not.

    ``one`` is what the planner has chosen for one of them on this device; ``direction`` is `planner.FORWARD` or
    `planner.BACKWARD`; ``options`` says whether the kernels need the switch OPTIONS. Its predicted time is that of a
    step of both.
    """
    return _side_by_side(direction, one, batch, hidden, device, _way.get(), options)


@lru_cache(maxsize=1024)
def _side_by_side(
    direction: str, one: Choice, batch: int, hidden: int, device: Device, way: str, options: bool
) -> tuple[Choice | None, str]:
    if way == "apart":
        return None, "is not allowed here"
    if one.kernel not in BIDIRECTIONAL:
        beside = " with weights from L2" if one.kernel in wide_layouts.TILES else ""
        beside = " with layer norm" if "layer_norm" in one.kernel else beside
        return None, f"{one.schedule}{beside} has no kernel for it"
    half = device._replace(multiprocessors=device.multiprocessors // 2)
    layouts = planner.LAYOUTS[one.schedule] if half.multiprocessors else lambda *_, **more: []
    more = {"not_plain": "options"} if options and one.schedule == "resident" else {}  # not every kernel holds them
    found = layouts(direction, batch, hidden, one.arithmetic or "float32", half, **more)
    found = [c for c in found if way == "any" or (_is_alike(c, one) and c.share <= 2 * one.share)]
    if not found:
        return None, f"half of {device.multiprocessors} multiprocessors is too little"
    of_both = BIDIRECTIONAL_OPTIONS if options else BIDIRECTIONAL
    found = [c for c in found if c.tiles in of_both[c.kernel]]
    if not found:
        return None, "there is no kernel of these tiles for it"
    best = min((_of_both(direction, c, hidden) for c in found), key=lambda c: c.microseconds)
    if best.microseconds > WORTH * 2 * one.microseconds:
        return None, f"{best.microseconds:.1f} us a step predicted, {2 * one.microseconds:.1f} one after the other"
    return best, ""


def _is_alike(choice: Choice, one: Choice) -> bool:
    if choice.kernel in resident_tensor_layouts.SAME_BITS and choice.tiles[0] == one.tiles[0]:
        return choice.kernel == one.kernel  # how many sequences a block has room for is not what is computed
    return (choice.kernel, choice.tiles, choice.blocks) == (one.kernel, one.tiles, one.blocks)


def _of_both(direction: str, choice: Choice, hidden: int) -> Choice:
    """A layout of one direction on half of the device, twice."""
    microseconds = choice.microseconds
    if choice.kernel in TF32:  # what the groups send through L2 adds up; nothing else is predicted for all together
        layout = choice.tiles, choice.blocks, 2 * choice.groups, choice.share, hidden
        microseconds = planner._persistent_microseconds(direction, *layout, choice.arithmetic)
    of_one, of_both = (planner._predicted(number) for number in (choice.microseconds, microseconds))
    return choice._replace(directions=2, microseconds=microseconds, reason=choice.reason.replace(of_one, of_both))


def explained(plan: Plan, batch: int, hidden: int, device: Device, why_not: str = "", *, options: bool = False) -> Plan:
    """The plan of a bidirectional layer from that of one direction. ``why_not`` says what keeps the directions apart
    whatever the layout, if anything does; ``options`` is `side_by_side`'s."""
    changed = {}
    for name, direction in (("forward", planner.FORWARD), ("backward", planner.BACKWARD)):
        one = getattr(plan, name)
        both, why = (None, why_not) if why_not else side_by_side(direction, one, batch, hidden, device, options=options)
        apart = one._replace(reason=f"{one.reason}; directions one after the other: side by side {why}")
        changed[name] = both or (apart if one.blocks else one)
    if plan.inference == plan.forward:
        changed["inference"] = changed["forward"]
    return plan._replace(**changed)
