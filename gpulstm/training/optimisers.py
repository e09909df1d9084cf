"""What all optimisers share: the step over a model's parameters, and what a checkpoint keeps of an optimiser."""

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from . import fused, moments
from .nested import Nested
from .pairs import Pair, paired, parameters

BLOCK = 16384  # elements that NumPy works on at a time: they stay in the cache from one operation to the next


class Optimiser:
    """The part of an optimiser that does not depend on its formula.

    A formula says which running means it keeps for each parameter (``_moment_names``), the numbers of a step
    (``_numbers``), and the update three times: on NumPy arrays in place, on arrays that may be immutable, and as the
    name of a kernel.
    """

    _moment_names: tuple[str, ...] = ()
    _kernel = ""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.moments: dict[str, tuple[Array, ...]] = {}  # parameter -> its running means
        self._loaded: moments.Moments = {}  # the same from a checkpoint, until the parameters are known
        self._launch = fused.Launcher()
        self._scratch: dict[Any, np.ndarray] = {}

    @property
    def learning_rate(self) -> float:
        """The step's size; may be changed between steps, for example ``optimiser.learning_rate = schedule(step)``."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = not_negative("learning_rate", value)

    def step(self, params: Nested, grads: Nested) -> None:
        """Changes ``params``, a dict of arrays or of dicts of arrays, by ``grads``, which has the same keys and shapes.

        Arrays change in place where the library allows it; else new ones take their place in the dict. CuPy arrays are
        all changed by one kernel launch (see `fused`); their gradients are copied if their memory is not C-contiguous.
        Raises TypeError or ValueError where the two do not match, before anything has changed.
        """
        pairs = paired(params, grads)
        on_kernels = [pair for pair in pairs if arrays.is_cupy(pair.parameter)]
        named = [(f"params{pair.name}", pair.parameter) for pair in on_kernels]
        fused.require_contiguous(named)
        fused.require_own_memory(named)
        self._prepare_moments(pairs)
        self.steps += 1
        numbers = self._numbers()
        for pair in pairs:
            if arrays.is_numpy(pair.parameter):
                for p, g, *means in _blocks(pair.parameter, pair.gradient, *self.moments[pair.name]):
                    self._update_numpy(p, g, means, numbers)
            elif not arrays.is_cupy(pair.parameter):
                updated, *means = self._update(pair.parameter, pair.gradient, self.moments[pair.name], numbers)
                pair.holder[pair.key], self.moments[pair.name] = updated, tuple(means)
        if on_kernels:
            self._step_on_kernels(on_kernels, numbers)

    def state_dict(self) -> dict[str, Any]:
        """What training needs to go on from here with the same bits, for a checkpoint.

        ::

            {"steps": 3, "learning_rate": 0.001, "arrays": {"m['head']['weight']": array, ...}}

        A key of ``arrays`` is the name of a running mean and the parameter's place in ``params``: ``m['weight']`` for
        Adam's m of ``params["weight"]``. The arrays are copies, of the parameters' library and on their device. Betas
        and the like are not among it: they belong to the constructor's call.
        """
        kept = {
            f"{moment}{name}": moments.copied(array, array)
            for name, means in (self._loaded or self.moments).items()
            for moment, array in zip(self._moment_names, means, strict=True)
        }
        return {"steps": self.steps, "learning_rate": self.learning_rate, "arrays": kept}

    def load_state_dict(self, state: Mapping[str, Any], params: Nested | None = None) -> None:
        """Takes over what `state_dict` gave: copies, so that the next step gives the bits that it would have given.

        The arrays may be of any library, such as NumPy's from a file. They are put beside the parameters, that is into
        their library and onto their device: now, if ``params`` is given, else at the next step. Nothing is cast.

        Raises TypeError or ValueError where the state is not of this optimiser's kind or does not fit the parameters,
        and has changed nothing then; without ``params`` the next step says the latter.
        """
        steps, rate, loaded = moments.parse(state, self._moment_names)
        rate = not_negative("state['learning_rate']", rate)
        placed: moments.Moments = {}
        if params is not None:
            places = parameters(params)
            placed = moments.placed(loaded, {name: holder[key] for name, (holder, key) in places.items()})
            loaded = {}
        self.steps, self.learning_rate, self._loaded, self.moments = steps, rate, loaded, placed

    def _prepare_moments(self, pairs: list[Pair]) -> None:
        """Running means for every parameter: those of a checkpoint, those that there are, or zeros."""
        named = {pair.name: pair.parameter for pair in pairs}
        if self._loaded:
            self.moments = moments.placed(self._loaded, named)
            self._loaded = {}
        moments.check(self.moments, named, self._moment_names)
        for name, parameter in named.items():
            if name not in self.moments:
                with arrays.on_device_of(parameter):
                    xp = arrays.namespace(parameter)
                    self.moments[name] = tuple(xp.zeros_like(parameter) for _ in self._moment_names)

    def _step_on_kernels(self, pairs: list[Pair], numbers: Any) -> None:
        columns = {"target": [pair.parameter for pair in pairs], "gradient": [pair.gradient for pair in pairs]}
        for place, column in zip(range(len(self._moment_names)), ("first", "second"), strict=False):
            columns[column] = [self.moments[pair.name][place] for pair in pairs]
        self._launch(self._kernel, columns, lambda real: self._kernel_scalars(numbers, real))

    def _scratch_like(self, array: np.ndarray, name: str) -> np.ndarray:
        """Memory for an intermediate result on the NumPy path, kept from step to step; holds garbage."""
        key = name, array.dtype
        kept = self._scratch.get(key)
        if kept is None or kept.size < array.size:
            kept = self._scratch[key] = np.empty(max(array.size, BLOCK), array.dtype)
        return kept[: array.size].reshape(array.shape)

    def _numbers(self) -> Any:
        """The numbers of this step, as Python floats: NumPy's would turn float32 arrays into float64."""
        raise NotImplementedError

    def _update_numpy(self, p: np.ndarray, g: np.ndarray, means: list[np.ndarray], numbers: Any) -> None:
        """Changes p and the running means in place."""
        raise NotImplementedError

    def _update(self, p: Array, g: Array, means: tuple[Array, ...], numbers: Any) -> tuple[Array, ...]:
        """The new p and running means, in place or not."""
        raise NotImplementedError

    def _kernel_scalars(self, numbers: Any, real: type[np.floating]) -> tuple:
        """The kernel's arguments behind its table."""
        raise NotImplementedError


def _blocks(*same_shape: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Views of all arrays, a cache's worth at a time; whole arrays where their elements lie in different orders."""
    if not all(array.flags.c_contiguous for array in same_shape):
        yield list(same_shape)
        return
    flat = [array.reshape(-1) for array in same_shape]
    for first in range(0, flat[0].size, BLOCK):
        yield [array[first : first + BLOCK] for array in flat]


def not_negative(name: str, value: Any) -> float:
    """``value`` as a Python float. Raises TypeError or ValueError unless it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return number
