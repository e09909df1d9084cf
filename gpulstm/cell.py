"""One time step of an LSTM as a layer of its own."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays, functional, initialisers, quick_checks
from .arrays import Array
from .engines import cupy_engine
from .masks import Draws
from .options import PLAIN
from .parameters import KINDS, Layout, State, Weights, shape_problem
from .warm_steps import WarmSteps

PARAMETERS = KINDS[:3]  # weight_ih, weight_hh, bias
INFERENCE, TRAINING = Draws(PLAIN, None), Draws(PLAIN, 0)


@dataclass(frozen=True)
class CellCache:
    """What `LSTMCell.forward` hands to `LSTMCell.backward`."""

    inner: functional.Cache


class LSTMCell:
    """One step: ``h, c = cell(x, (h, c))``.

    Parameters are those of `gpulstm.LSTM` with one layer; ``params`` has ``weight_ih`` (4*hidden, input),
    ``weight_hh`` (4*hidden, hidden) and ``bias`` (4*hidden,), gate order i, f, g, o. ``init``, ``forget_bias`` and
    ``chrono`` say how they begin, as in `gpulstm.LSTM`.

    Raises TypeError or ValueError that names the argument, what was expected and what came. The equations are
    `gpulstm.equations.step` and `gpulstm.equations.step_backward`.

    >>> import numpy as np
    >>> import gpulstm as gl
    >>> cell = gl.LSTMCell(input_size=3, hidden_size=5, rng=0)
    >>> x = np.ones((4, 3), "float32")  # (batch, input)
    >>> h, c = cell(x)  # from zeros
    >>> h, c = cell(x, (h, c))
    >>> h.shape, c.shape
    ((4, 5), (4, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        init: str = "uniform",
        forget_bias: float | None = None,
        chrono: float | None = None,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        require = initialisers.require_size
        self.layout = Layout(require("input_size", input_size), require("hidden_size", hidden_size), bias=bool(bias))
        start = initialisers.started(init, forget_bias, chrono, bias=self.layout.bias, options=PLAIN)
        self.params = initialisers.of_lstm(self._shapes(), self.layout.hidden_size, start, dtype, xp, rng)
        self._warm_steps = WarmSteps()

    def __call__(self, x: Array, state: State | tuple[Array, Array] | None = None) -> State:
        """The next state: x (batch, inputs), h and c (batch, hidden), or all of them without the batch axis.

        Inference. ``state`` None is zeros.
        """
        warm = self._warm_steps
        if type(x) is warm.kind:
            found = warm.run(x, state, self.params, (self.layout,))
            if found is not None:
                return found
        if arrays.is_cupy(x) and quick_checks.step_holds(self.layout, x, self.params, state):
            if cupy_engine.takes_one_step(x, len(x) if x.ndim == 2 else 1):
                return self._step(x, state)
        self._check(x, state)
        final = functional.inference(
            self.layout, x[None, ...], self._params(), _with_layer(state), None, False, INFERENCE
        )[1]
        return State(final.h[0, ...], final.c[0, ...])

    def forward(self, x: Array, state: State | tuple[Array, Array] | None = None) -> tuple[State, CellCache]:
        """Training: the next state, and a cache for one `backward`. Arguments are those of a call."""
        self._check(x, state)
        _, final, cache = functional.forward(
            self.layout, x[None, ...], self._params(), _with_layer(state), None, False, TRAINING
        )
        return State(final.h[0, ...], final.c[0, ...]), CellCache(cache)

    def backward(
        self, cache: CellCache, dstate: State | tuple[Array | None, Array | None]
    ) -> tuple[Array, dict[str, Array], State]:
        """Gradients of x, of the parameters and of the state before, from those of the state after.

        All have the shapes of what they are gradients of. Either half of ``dstate`` may be None. A cache serves once.
        """
        if not isinstance(cache, CellCache):
            raise TypeError(f"cache must be that of state, cache = LSTMCell.forward(x), got {type(cache).__name__}")
        x = cache.inner.x[0, ...] if cache.inner.batched else cache.inner.x[0, 0, ...]
        self._check_pair("dstate", dstate, x)
        dx, grads, dinitial = functional.lstm_backward(cache.inner, None, _with_layer(dstate))
        named = {name.removesuffix("_l0"): gradient for name, gradient in grads.items()}
        return dx[0, ...], named, State(dinitial.h[0, ...], dinitial.c[0, ...])

    def _step(self, x: Array, state: Any) -> State:
        """The next state on a GPU, where a view takes the CPU longer than a check: no axes come and go here."""
        with arrays.on_device_of(x):
            params, contiguous = self.params, cupy_engine.contiguous
            weights = Weights(*[None if p is None else contiguous(p) for p in map(params.get, PARAMETERS)])
            shape = (*x.shape[:-1], self.layout.hidden_size)
            after = State(cupy_engine.empty(shape, x), cupy_engine.empty(shape, x))
            before = None if state is None else State(*map(contiguous, state))
            cupy_engine.one_step(contiguous(x), weights, before, 0, None, None, after)
            self._warm_steps.keep(x, (shape, shape), params, (self.layout,), [((), [(0, None, weights)])])
        return after

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name.removesuffix("_l0"): shape for name, shape in self.layout.shapes().items()}

    def _params(self) -> dict[str, Array]:
        """The parameters under the names of a layer. What is wrong with them is said under their own names."""
        of_layer = {f"{name}_l0": array for name, array in self.params.items()}
        if quick_checks.shapes_hold(of_layer, self.layout.checklist):
            return of_layer
        shapes = self._shapes()
        problems = [f"missing {name} {shape}" for name, shape in shapes.items() if name not in self.params]
        problems += [f"unexpected {name}" for name in self.params if name not in shapes]
        for name in shapes.keys() & self.params.keys():
            arrays.require_array(name, self.params[name])
            problem = shape_problem(name, self.params[name], shapes[name])
            problems += [problem] if problem else []
        if problems:
            raise ValueError(f"params do not fit: {'; '.join(problems)}")
        return of_layer

    def _check(self, x: Array, state: Any) -> None:
        """What a sequence's checks would say in words that a cell does not have: time, layers, directions."""
        arrays.require_array("x", x)
        arrays.check_library(x, self.params)
        if x.ndim not in (1, 2):
            raise ValueError(f"x must have shape (batch, inputs), or (inputs,) without a batch, got {tuple(x.shape)}")
        if x.shape[-1] != self.layout.input_size:
            raise ValueError(
                f"x must have inputs = {self.layout.input_size} on its last axis, got shape {tuple(x.shape)}"
            )
        self._check_pair("state", state, x)

    def _check_pair(self, name: str, pair: Any, x: Array) -> None:
        if pair is None:
            return
        shape = (*tuple(x.shape)[:-1], self.layout.hidden_size)
        words = "(batch, hidden)" if x.ndim == 2 else "(hidden,)"
        for part, array in zip("hc", functional.pair(name, pair), strict=True):
            if array is None:
                continue  # half a gradient is fine; half a state is refused further on
            arrays.require_array(f"{name}.{part}", array)
            if tuple(array.shape) != shape:
                raise ValueError(f"{name}.{part} must have shape {words} = {shape}, got {tuple(array.shape)}")

    def __repr__(self) -> str:
        bias = "" if self.layout.bias else ", bias=False"
        dtype = arrays.dtype_name(self.params["weight_hh"])
        return f"LSTMCell({self.layout.input_size}, {self.layout.hidden_size}{bias}, dtype={dtype!r})"


def _with_layer(pair: Any) -> Any:
    """The pair with a layer axis of length one."""
    return None if pair is None else tuple(None if a is None else a[None, ...] for a in pair)
