"""The LSTM's time steps on CuPy arrays in one launch: the schedules "resident", "persistent" and "cluster".

`gpulstm.cuda.planner` says when they are used, which kernels they are and how these are laid out on the device. GEMMs
before and after are `gpulstm.engines.cupy_engine`'s.

A launch runs one direction of a layer, or both side by side (`gpulstm.cuda.both_directions`), which then have layouts
and sizes in common, and arrays of their own.
"""

import atexit
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import dtype_name
from ..cuda import (
    both_directions,
    catalogue,
    cluster_half_layouts,
    cluster_layouts,
    half_layouts,
    layer_norm_layouts,
    occupancy,
    planner,
    resident_layouts,
    resident_tensor_layouts,
    wide_layouts,
)
from ..cuda.copies import copy_columns, fill
from ..cuda.launch import Extent, int32s, or_null
from ..cuda.modules import kernel
from ..cuda.packed import Kernel
from ..parameters import Weights
from . import Lane, cupy_alarm, windows
from .cupy_alarm import Alarm
from .cupy_refusals import Refused, reason

NOT_THERE = 0xFF  # in every byte of a hidden state that has not been written yet

_devices: dict = {}  # (cupy module, device id) -> planner.Device
_alarms: dict = {}  # (cupy module, device id) -> Alarm
_lock = threading.Lock()

EXCHANGE_BYTES = 64 * 2**20  # that a backward pass in 16 bits hands over in one launch; longer ones take several


def current_device() -> planner.Device:
    """The current device as the planner sees it."""
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice())
    found = _devices.get(key)
    if found is None:
        found = _devices[key] = _described(cupy)
    return found


def arithmetic_of(like, *, tf32: bool) -> str:
    """What products of arrays such as ``like`` are computed in, as the planner calls it."""
    dtype = dtype_name(like)
    return "tf32" if tf32 and dtype == "float32" else dtype


def _described(cupy) -> planner.Device:
    """What it says of itself."""
    current = cupy.cuda.Device()
    attributes = current.attributes
    return planner.Device(
        int(current.compute_capability),
        attributes["MultiProcessorCount"],
        attributes["MaxSharedMemoryPerBlockOptin"],
        bool(attributes["CooperativeLaunch"]),
    )


def give_up(schedule: str, why: str) -> None:
    """From now on the planner does not take ``schedule`` on the current device, in this process."""
    import cupy

    with _lock:
        device = current_device()
        if not device.why_not(schedule):
            given_up = (*device.given_up, (schedule, why))
            _devices[cupy, cupy.cuda.runtime.getDevice()] = device._replace(given_up=given_up)


def choose(direction: str, like, batch: int, hidden: int, *, tf32: bool = False) -> planner.Choice:
    """The planner's choice for arrays such as ``like``; ``direction`` is `planner.FORWARD` or `planner.BACKWARD`.

    With ``tf32`` products of float32 may be computed in TF32.
    """
    return planner.choose(direction, batch, hidden, arithmetic_of(like, tf32=tf32), current_device())


def choose_both(direction: str, like, batch: int, hidden: int, *, tf32: bool = False) -> planner.Choice | None:
    """The choice of both directions of a layer side by side, or None where they run one after the other."""
    one = choose(direction, like, batch, hidden, tf32=tf32)
    return both_directions.side_by_side(direction, one, batch, hidden, current_device())[0]


def history(choice: planner.Choice, shape: tuple[int, int, int], like):
    """(steps + 1, batch, hidden) hidden states, of which none has been written yet, for any schedule."""
    import cupy

    hiddens = cupy.ndarray(shape, like.dtype)
    if hands_over_h(choice):
        _empty_words(hiddens)
    return hiddens


def hands_over_h(choice: planner.Choice) -> bool:
    """Whether the hidden states cross between the blocks, through their history."""
    return choice.schedule == "persistent" and choice.kernel != layer_norm_layouts.ONCE


def _empty_words(array) -> None:
    """Fills an array with words that say that they have not been written yet."""
    fill(array.data.ptr, NOT_THERE, array.nbytes)


def forward_steps(
    choice: planner.Choice, gates, weights: Weights, hiddens, cells, y, lane: Lane, lengths, first_time: int, keep: bool
) -> None:
    """All steps. gates (steps, batch, 4*hidden) is W_ih x.

    With ``keep`` hiddens and cells are histories (steps + 1, batch, hidden) with the initial state in its slot;
    without, cells is the state (batch, hidden), and so is hiddens but for the persistent schedule.
    """
    steps, batch, _ = gates.shape
    sizes = (steps, batch, lane.width, y.shape[2], lane.first, keep, lane.reverse, first_time)
    _launch(choice, (*_forward_arrays(gates, weights, cells, hiddens), y, lengths), sizes)


def forward_steps_of_both(
    choice: planner.Choice, all_gates, all_weights, all_hiddens, all_cells, y, lengths, keep
) -> None:
    """`forward_steps` of both directions, pairs of whose arrays come first. The first one goes forward in time."""
    first, second = map(_forward_arrays, all_gates, all_weights, all_cells, all_hiddens)
    steps, batch, columns = all_gates[0].shape
    sizes = (steps, batch, columns // 4, y.shape[2], 0, keep, 0, 0)
    _launch(choice, (*first, y, lengths), sizes, second=second)


def _forward_arrays(gates, weights: Weights, cells, hiddens) -> tuple:
    return gates, weights.recurrent, weights.bias, cells, hiddens


def backward_steps(choice: planner.Choice, gates, cells, weights: Weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    _backward_steps(choice, [(gates, weights.recurrent, cells, dh, dc)], dy, lane, lengths)


def backward_steps_of_both(
    choice: planner.Choice, all_gates, all_cells, all_weights, dy, dh, dc, lanes, lengths
) -> None:
    """`backward_steps` of both directions, of whose arrays there are pairs, but for dy."""
    recurrent = (weights.recurrent for weights in all_weights)
    _backward_steps(choice, [*zip(all_gates, recurrent, all_cells, dh, dc, strict=True)], dy, lanes[0], lengths)


def _no_options(first_time: int) -> tuple:
    return ()


def _backward_steps(
    choice: planner.Choice,
    directions: list[tuple],
    dy,
    lane: Lane,
    lengths,
    of_options: Callable[[int], tuple] = _no_options,
    switches: frozenset[str] = frozenset(),
) -> None:
    """Of one direction or two, each (gates, recurrent weights, cells, dh, dc); ``lane`` is the first one's.
    ``of_options`` gives what `_launch` takes where a launch begins at a time, in the first direction."""
    import cupy

    if choice.kernel == half_layouts.BACKWARD:
        _backward_half(choice, directions, dy, lane, lengths, of_options)
        return
    (gates, recurrent, cells, dh, dc), *others = directions
    steps, batch, _ = gates.shape
    arrays: tuple[Any, ...] = (gates, recurrent, cells, dy, dh, dc, lengths)
    if choice.schedule == "persistent":
        arrays = (*arrays, cupy.zeros(planner.exchange_words(choice), np.uint32))
    sizes = (steps, batch, lane.width, 0 if dy is None else dy.shape[2], lane.first, lane.reverse)
    _launch(choice, arrays, sizes, of_options(0), second=others[0] if others else (), switches=switches)


def _backward_half(
    choice: planner.Choice,
    directions: list[tuple],
    dy,
    lane: Lane,
    lengths,
    of_options: Callable[[int], tuple],
) -> None:
    """In stretches of time, so that what the blocks hand each other is bounded; dh and dc go from one to the next. A
    second direction's stretches are as far from its end as the first one's are."""
    import cupy

    steps, batch, _ = directions[0][0].shape
    a_step = 4 * int(np.prod(half_layouts.exchange_shape(1, batch, lane.width)))
    stretch = max(1, EXCHANGE_BYTES // (a_step * len(directions)))
    shape = half_layouts.exchange_shape(min(steps, stretch), batch, lane.width)
    exchanges = [cupy.empty(shape, np.uint32) for _ in directions]
    dy_width = 0 if dy is None else dy.shape[2]
    for part in windows(steps, stretch, lane.reverse):
        all_arrays: list[tuple] = []
        parts = (part, slice(steps - part.stop, steps - part.start))
        for t, exchange, (gates, recurrent, cells, dh, dc) in zip(parts, exchanges, directions, strict=False):
            _empty_words(exchange)
            part_dy = None if dy is None else dy[t]
            all_arrays.append((gates[t], recurrent, cells[t.start : t.stop + 1], part_dy, dh, dc, exchange))
        (*first, exchange), *others = all_arrays
        sizes = (part.stop - part.start, batch, lane.width, dy_width, lane.first, lane.reverse, part.start)
        second, second_sizes = (others[0], (parts[1].start,)) if others else ((), ())
        more = of_options(part.start)
        _launch(choice, (*first, lengths, exchange), sizes, more, second=second, second_sizes=second_sizes)


def _launch(
    choice: planner.Choice,
    arrays: tuple,
    sizes: tuple,
    of_options: tuple = (),
    *,
    second: tuple = (),
    second_sizes: tuple = (),
    of_layers: tuple = (),
    switches: frozenset[str] = frozenset(),
) -> None:
    """``arrays`` may have None in it; ``of_options`` is what the kernel takes beside with the switch OPTIONS,
    ``second`` and ``second_sizes`` with BIDIRECTIONAL, ``of_layers`` and ``second_sizes`` with LAYERS. ``switches``
    are those of `catalogue.BESIDE_OPTIONS` that are on where a kernel has them."""
    on = {"OPTIONS": bool(of_options), "BIDIRECTIONAL": bool(second), "LAYERS": bool(of_layers)}
    on |= {switch: switch in switches for switch in catalogue.BESIDE_OPTIONS}
    features = [on[switch] for switch in catalogue.KERNELS[choice.kernel][1]]
    blocks = choice.directions * choice.layers * choice.groups * choice.blocks
    if choice.schedule == "resident":
        function = _compiled(choice, choice.arithmetic or "float32", features)
        of_kernel = resident_tensor_layouts if choice.kernel in resident_tensor_layouts.TILES else resident_layouts
        threads = of_kernel.threads(sizes[2], choice.kernel)
        if choice.kernel == resident_tensor_layouts.BACKWARD:  # it reads two numbers of weights and dy at a time
            arrays, second = _in_words(arrays), _in_words(second)
        _ask(choice, function, (blocks, 1, 1), (threads, 1, 1), (*arrays, *second), of_options, sizes)
        return
    if choice.kernel in wide_layouts.TILES and arrays[1].data.ptr % 16:  # it reads four weights at a time
        arrays = (arrays[0], arrays[1].copy(), *arrays[2:])
    shared = planner.shared_bytes_of(choice)
    arithmetic = choice.arithmetic or "float32"
    if choice.schedule == "cluster":
        in_half = choice.kernel in cluster_half_layouts.TILES
        function = _compiled(choice, arithmetic, [], shared)
        if choice.kernel == cluster_half_layouts.KERNELS[planner.FORWARD]:
            arrays = (arrays[0], _in_eights(arrays[1]), *arrays[2:])
        layouts = cluster_half_layouts if in_half else cluster_layouts
        blocks, threads = layouts.geometry(choice.tiles, choice.groups)
        numbers = (*sizes, choice.share) if in_half else sizes
        _ask(choice, function, (blocks, 1, 1), (threads, 1, 1), arrays, (), numbers, shared)
        return
    function = _compiled(choice, arithmetic, features, shared)
    alarm = _alarm()
    if alarm.is_heard():
        give_up(choice.schedule, cupy_alarm.SINCE)
        raise RuntimeError(cupy_alarm.IN_VAIN)
    grid, block = (blocks, 1, 1), (32 * planner.WARPS, 1, 1)
    numbers = (*second_sizes, *sizes, choice.blocks, choice.share)
    _ask(choice, function, grid, block, (*arrays, alarm.word, *second), of_options or of_layers, numbers, shared)
    alarm.look()


def _in_words(arrays: tuple) -> tuple:
    """These, and what begins between two words as a copy that does not."""
    return tuple(a.copy() if i in (1, 3) and a is not None and a.data.ptr % 4 else a for i, a in enumerate(arrays))


def _in_eights(weights):
    """W_hh (4*hidden, hidden), of which a kernel reads eight numbers of 16 bits at a time: in rows of a multiple of
    eight, the rest zeros."""
    import cupy

    rows, hidden = weights.shape
    if hidden % 8 == 0 and weights.data.ptr % 16 == 0:
        return weights
    padded = cupy.zeros((rows, -(-hidden // 8) * 8), weights.dtype)
    copy_columns(padded[None], 0, 0, weights[None], 0, 0, hidden, 1)
    return padded


def _compiled(choice: planner.Choice, arithmetic: str, features: list[bool], shared: int = 0) -> Kernel:
    try:
        return kernel(choice.kernel, arithmetic, *features, tiles=choice.tiles, shared_bytes=shared)
    except Exception as error:
        if why := reason(error):  # so much shared memory, or such a cluster, cannot be had
            raise _refused(choice, why) from error
        raise


def _ask(
    choice: planner.Choice,
    function: Kernel,
    grid: Extent,
    block: Extent,
    arrays: tuple,
    of_options: tuple,
    sizes: tuple,
    shared: int = 0,
) -> None:
    """A launch with these arguments in a row. Raises Refused where the device does not take it."""
    is_new = grid[0] not in function.taken
    if is_new and (why := _no_room(choice, function, grid[0], block[0], shared)):
        raise _refused(choice, why)
    try:
        if of_options:  # a struct among them
            typed = (*map(or_null, arrays), *of_options, *int32s(*sizes))
            function(grid, block, typed, shared_mem=shared)
        else:
            function.launch(grid, block, arrays, sizes, shared)
    except Exception as error:
        if why := reason(error):
            raise _refused(choice, why, begins=is_new) from error
        raise
    if is_new:
        function.taken.add(grid[0])


def _no_room(choice: planner.Choice, function: Kernel, blocks: int, threads: int, shared: int) -> str:
    """Why the device does not hold such a launch; empty if it does, as far as the driver knows."""
    import cupy

    together = blocks if choice.schedule == "persistent" else 1
    cluster = choice.blocks if choice.schedule == "cluster" else 1
    return occupancy.obstacle(cupy, function, blocks, threads, shared, together=together, cluster=cluster)


def _refused(choice: planner.Choice, why: str, *, begins: bool = True) -> RuntimeError:
    """What is to be raised where a launch is refused, now that its schedule is given up. ``begins`` says that no launch
    of this pass can have been taken before, since such a one has never been: who chose may choose again."""
    give_up(choice.schedule, f"{choice.kernel} cannot be launched: {why}")
    if begins:
        warnings.warn(
            f"the schedule {choice.schedule!r} is given up on this device, since {choice.kernel} cannot be launched: "
            f"{why}. What it would have run takes another one, most of it the loop: lstm.plan(x) says which",
            RuntimeWarning,
            stacklevel=2,
        )
        return Refused(why)
    return RuntimeError(
        f"{choice.kernel} could be launched before, and now the driver says {why}. What this call was to compute is "
        f"not complete. From now on the schedule {choice.schedule!r} is not taken on this device: call again"
    )


def _alarm() -> Alarm:
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice())
    with _lock:
        found = _alarms.get(key)
        if found is None:
            found = _alarms[key] = Alarm(cupy)
            # Once, and the last one to register comes first: before CuPy's own end of its use of the device.
            atexit.unregister(_report)
            atexit.register(_report)
    return found


def _report() -> None:
    cupy_alarm.report(_alarms.values())
