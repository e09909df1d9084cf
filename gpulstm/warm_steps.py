"""Single steps on a GPU that run again: what cannot come out otherwise than before is not asked again.

A model that is asked for one step at a time, such as one that generates text, waits for the CPU. The checks of a
layer's parameters, the choice of a schedule and of a kernel, and most of what that takes are the same for every step.
So a call that `gpulstm.quick_checks` found right leaves a step here, and the next one with x of that shape asks only
for what may have changed since: whether the parameters are the very same arrays, which keep dtype, device and address
as long as they live, and have the same shapes; what x and the state are like; which device is the current one, and
which schedules are allowed.

None says that somebody has to look closer. No array is kept alive here.
"""

from collections.abc import Mapping
from typing import Any
from weakref import ref

from .arrays import Array, dtype_name
from .cuda import planner
from .engines import Lane
from .engines.cupy_one_step import repeated_step
from .parameters import State, Weights

Layers = list[tuple[tuple[int, ...], list[tuple[int, Lane | None, Weights]]]]
"""For each layer the shape of its output, () where nothing but the state comes out, and for each direction its number,
its lane and its weights."""


class WarmSteps:
    """Those of one layer, by the shape of x, of which there are few: a step has up to eight sequences."""

    __slots__ = ("kind", "steps")

    def __init__(self) -> None:
        self.kind: type | None = None  # of arrays: CuPy's, once there is a step
        self.steps: dict[tuple[int, ...], _Step] = {}

    def run(self, x: Array, state: Any, params: Any, owner: tuple) -> Any:
        """What the layer returns, or None. x is an array of this ``kind``; ``owner`` is all else that counts."""
        step = self.steps.get(x.shape)
        return None if step is None else step.run(x, state, params, owner)

    def keep(self, x: Array, of_state: tuple, params: Mapping[str, Array], owner: tuple, layers: Layers) -> None:
        """Leaves a step for such an x, on the current device. ``of_state`` are the shapes of h and c."""
        step = self.steps.get(x.shape)
        if step is not None and step.is_of(params, owner):
            return  # and something else is not as usual, such as a state that is not contiguous
        if all(array.flags.c_contiguous for array in params.values()):  # others are copied in every call
            self.steps[x.shape] = _Step(x, of_state, params, owner, layers)
            self.kind = type(x)

    def __reduce__(self) -> tuple:
        return WarmSteps, ()  # a copy begins anew: addresses are those of one process


class _Step:
    def __init__(self, x: Array, of_state: tuple, params: Mapping[str, Array], owner: tuple, layers: Layers) -> None:
        import cupy

        self.owner = owner
        self.params = [(name, ref(array), array.shape) for name, array in params.items()]
        self.kind, self.dtype, self.device = type(x), x.dtype, x.data.device_id
        self.of_x, (self.of_h, self.of_c) = x.shape, of_state
        self.ndarray, self.current_device = cupy.ndarray, cupy.cuda.runtime.getDevice
        self.code = x.dtype.char  # CuPy hashes what it gets, and a str's hash is at hand
        inputs = x.shape[-1]
        self.batch, self.dtype_name, self.layers = x.size // inputs, dtype_name(x), []
        for of_y, directions in layers:
            width = of_y[-1] if of_y else 0
            sizes = self.dtype_name, self.batch, inputs, self.of_c[-1], width
            repeated = [repeated_step(*sizes, lane, index, w) for index, lane, w in directions]
            self.layers.append((of_y, repeated))
            inputs = width
        self.kernel = self.layers[0][1][0].kernel  # the same for all layers and directions

    def run(self, x: Array, state: Any, params: Any, owner: tuple) -> Any:
        held = params.copy() if type(params) is dict else {}  # whatever another thread puts in their place meanwhile
        if not self.is_of(held, owner) or planner.one_step(self.batch, self.dtype_name) is None:
            return None
        if self.current_device() != self.device or not self.kernel.was_ready():
            return None
        source = self._address(x, self.of_x)
        if state is None:
            return None if source is None else self._launch(source, 0, 0)
        if not isinstance(state, tuple) or len(state) != 2:
            return None
        h, c = self._address(state[0], self.of_h), self._address(state[1], self.of_c)
        if source is None or h is None or c is None:
            return None
        return self._launch(source, h, c)

    def is_of(self, params: Mapping[str, Array], owner: tuple) -> bool:
        """Whether it has been left by a call with these parameters."""
        if owner != self.owner or len(params) != len(self.params):
            return False
        for name, known, shape in self.params:
            array: Any = params.get(name)
            if known() is not array or array is None or array.shape != shape:
                return False
        return True

    def _address(self, array: Any, shape: tuple[int, ...]) -> int | None:
        """Where an array begins that is as it must be, else None."""
        if type(array) is not self.kind or array.shape != shape or array.dtype is not self.dtype:
            return None
        data = array.data
        return data.ptr if data.device_id == self.device and array.flags.c_contiguous else None

    def _launch(self, source: int, h: int, c: int) -> Any:
        ndarray, code = self.ndarray, self.code
        after = State(ndarray(self.of_h, code), ndarray(self.of_c, code))
        new_h, new_c, y, target = after.h.data.ptr, after.c.data.ptr, None, 0
        for of_y, repeated in self.layers:
            below = y  # what this layer reads must live until it has been launched
            if of_y:
                y = ndarray(of_y, code)
                target = y.data.ptr
            for launch in repeated:
                launch(source, h, c, target, new_h, new_c)
            source = target
        del below
        return after if y is None else (y, after)
