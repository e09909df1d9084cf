"""The LSTM's time steps on CuPy arrays in one launch: the schedules "resident", "persistent" and "cluster".

`gpulstm.cuda.planner` says when they are used, which kernels they are and how these are laid out on the device. GEMMs
before and after are `gpulstm.engines.cupy_engine`'s.
"""

import threading
from typing import Any

import numpy as np

from ..arrays import dtype_name
from ..cuda import catalogue, cluster_layouts, half_layouts, planner
from ..cuda.copies import fill, to_host
from ..cuda.launch import Extent, int32s
from ..cuda.modules import kernel
from ..cuda.packed import Kernel
from ..parameters import Weights
from . import Lane, windows

NULL = np.uintp(0)  # stands for an array that there is none of
NOT_THERE = 0xFF  # in every byte of a hidden state that has not been written yet

_devices: dict = {}  # (cupy module, device id) -> planner.Device
_alarms: dict = {}  # (cupy module, device id) -> Alarm
_lock = threading.Lock()

EXCHANGE_BYTES = 64 * 2**20  # that a backward pass in 16 bits hands over in one launch; longer ones take several


class Alarm:
    """A word on the device that a kernel sets when its blocks have waited in vain, and a copy of it on the host.

    That cannot happen while all blocks of a launch run at the same time, which the driver promises; if it does, what
    the launch computed is wrong, and the next launch says so. Nothing waits for the device to find out.
    """

    def __init__(self, cupy) -> None:
        self.word = cupy.zeros(1, np.uint32)
        cupy.cuda.get_current_stream().synchronize()  # once: other streams must not find what was here
        pinned = cupy.cuda.alloc_pinned_memory(4)
        self.seen = np.frombuffer(pinned, np.uint32, 1)
        self._copied = pinned.ptr, self.word.data.ptr, self.word.nbytes
        self.seen[0] = 0

    def check(self) -> None:
        if self.seen[0]:
            self.word.fill(0)
            self.seen[0] = 0
            raise RuntimeError(
                "the blocks of an earlier launch waited for each other in vain, so what it computed is wrong: they did "
                "not all run at the same time. gpulstm.cuda.planner.only('loop') avoids such launches"
            )

    def look(self) -> None:
        """Copies the word to the host, some time after the launches before."""
        to_host(*self._copied)


def current_device() -> planner.Device:
    """The current device as the planner sees it."""
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice())
    found = _devices.get(key)
    if found is None:
        current = cupy.cuda.Device()
        attributes = current.attributes
        found = _devices[key] = planner.Device(
            int(current.compute_capability),
            attributes["MultiProcessorCount"],
            attributes["MaxSharedMemoryPerBlockOptin"],
            bool(attributes["CooperativeLaunch"]),
        )
    return found


def choose(direction: str, like, batch: int, hidden: int, *, tf32: bool = False) -> planner.Choice:
    """The planner's choice for arrays such as ``like``; ``direction`` is `planner.FORWARD` or `planner.BACKWARD`.

    With ``tf32`` products of float32 may be computed in TF32.
    """
    arithmetic = dtype_name(like)
    if tf32 and arithmetic == "float32":
        arithmetic = "tf32"
    return planner.choose(direction, batch, hidden, arithmetic, current_device(), "", "tf32" if tf32 else "")


def history(choice: planner.Choice, shape: tuple[int, int, int], like):
    """(steps + 1, batch, hidden) hidden states, of which none has been written yet, for any schedule."""
    import cupy

    hiddens = cupy.empty(shape, like.dtype)
    if choice.schedule == "persistent":
        _empty_words(hiddens)
    return hiddens


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
    arrays = (gates, weights.recurrent, weights.bias, cells, hiddens, y, lengths)
    sizes = (steps, batch, lane.width, y.shape[2], lane.first, keep, lane.reverse, first_time)
    _launch(choice, arrays, sizes)


def backward_steps(choice: planner.Choice, gates, cells, weights: Weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    import cupy

    if choice.kernel == half_layouts.BACKWARD:
        _backward_half(choice, gates, cells, weights, dy, dh, dc, lane, lengths)
        return
    steps, batch, _ = gates.shape
    arrays: tuple[Any, ...] = (gates, weights.recurrent, cells, dy, dh, dc, lengths)
    if choice.schedule == "persistent":
        arrays = (*arrays, cupy.zeros(planner.exchange_words(choice), np.uint32))
    sizes = (steps, batch, lane.width, 0 if dy is None else dy.shape[2], lane.first, lane.reverse)
    _launch(choice, arrays, sizes)


def _backward_half(choice: planner.Choice, gates, cells, weights: Weights, dy, dh, dc, lane: Lane, lengths) -> None:
    """In stretches of time, so that what the blocks hand each other is bounded; dh and dc go from one to the next."""
    import cupy

    steps, batch, _ = gates.shape
    a_step = 4 * int(np.prod(half_layouts.exchange_shape(1, batch, lane.width)))
    stretch = max(1, EXCHANGE_BYTES // a_step)
    exchange = cupy.empty(half_layouts.exchange_shape(min(steps, stretch), batch, lane.width), np.uint32)
    for part in windows(steps, stretch, lane.reverse):
        _empty_words(exchange)
        part_dy = None if dy is None else dy[part]
        arrays = (gates[part], weights.recurrent, cells[part.start : part.stop + 1], part_dy, dh, dc)
        numbers = (part.stop - part.start, batch, lane.width, 0 if dy is None else dy.shape[2])
        _launch(choice, (*arrays, lengths, exchange), (*numbers, lane.first, lane.reverse, part.start))


def _launch(choice: planner.Choice, arrays: tuple, sizes: tuple, of_options: tuple = ()) -> None:
    """``arrays`` may have None in it; ``of_options`` is what the kernel takes beside with the switch OPTIONS."""
    features = (bool(of_options),) if catalogue.KERNELS[choice.kernel][1] else ()
    if choice.schedule == "resident":
        function = kernel(choice.kernel, "float32", *features, tiles=choice.tiles)
        threads = 32 * -(-sizes[2] // 4)  # eight for each hidden unit
        _ask(function, (choice.groups, 1, 1), (threads, 1, 1), arrays, of_options, sizes)
        return
    if choice.schedule == "cluster":
        function = kernel(choice.kernel, "float32", tiles=choice.tiles)
        blocks, threads = cluster_layouts.geometry(choice.tiles, choice.groups)
        _ask(function, (blocks, 1, 1), (threads, 1, 1), arrays, (), sizes)
        return
    shared = planner.shared_bytes_of(choice)
    arithmetic = choice.arithmetic or "float32"
    function = kernel(choice.kernel, arithmetic, *features, tiles=choice.tiles, shared_bytes=shared)
    alarm = _alarm()
    alarm.check()
    grid, block = (choice.groups * choice.blocks, 1, 1), (32 * planner.WARPS, 1, 1)
    _ask(function, grid, block, (*arrays, alarm.word), of_options, (*sizes, choice.blocks, choice.share), shared)
    alarm.look()


def _ask(
    function: Kernel, grid: Extent, block: Extent, arrays: tuple, of_options: tuple, sizes: tuple, shared: int = 0
) -> None:
    """A launch with these arguments in a row."""
    if of_options:  # a struct among them
        typed = (*map(_or_null, arrays), *of_options, *int32s(*sizes))
        function(grid, block, typed, shared_mem=shared)
    else:
        function.launch(grid, block, arrays, sizes, shared)


def _alarm() -> Alarm:
    import cupy

    key = (cupy, cupy.cuda.runtime.getDevice())
    with _lock:
        found = _alarms.get(key)
        if found is None:
            found = _alarms[key] = Alarm(cupy)
    return found


def _or_null(array):
    return NULL if array is None else array
