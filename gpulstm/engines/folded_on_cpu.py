"""A projection folded into weight_hh on NumPy arrays: `gpulstm.engines.folded_projection` over the plain engines.

The plain engines add W_ih x and W' m in places of their own, one of them in compiled code. So the first step's
W_hh h_0 is given to them as part of W_ih x: x gets proj more columns, which are h_0 at a sequence's first step and else
zero, and W_ih those of W_hh.
"""

from typing import Any

import numpy as np

from ..masks import Draws
from ..parameters import Weights
from . import Lane, native_engine, native_memory, numpy_engine
from .folded_projection import End, Ends, Folded, FoldedEngine
from .native_product import product

FEWEST_STEPS = 16  # that make up for W', and for laying it out


def pays(x, hidden: int, *, backward: bool) -> bool:
    """Whether x (time, batch, inputs) goes through the layer faster so than step by step.

    Within these limits it was faster by a seventh at least wherever it was measured: benchmarks/results/notes.md.
    """
    steps, batch, _ = x.shape
    if steps < FEWEST_STEPS:
        return False
    if native_engine.takes(x) and (hidden <= 256 or hidden <= 512 and steps >= 2 * FEWEST_STEPS):
        return True
    return batch <= 32 if backward else batch <= 8 and hidden <= 256 and x.dtype == np.float32


def folded_engine(x, draws: Draws) -> FoldedEngine:
    """Over the compiled engine where it takes x (time, batch, inputs)."""
    return FoldedAndCompiled(draws, len(x)) if native_engine.takes(x) else FoldedOnCpu(numpy_engine, draws, len(x))


class FoldedOnCpu(FoldedEngine):
    @numpy_engine.quietly
    def forward(self, *arguments) -> Any:
        return super().forward(*arguments)

    @numpy_engine.quietly
    def inference(self, *arguments) -> None:
        super().inference(*arguments)

    @numpy_engine.quietly
    def backward(self, *arguments) -> None:
        super().backward(*arguments)

    @numpy_engine.quietly
    def finish_gradient(self, *arguments) -> Weights:
        return super().finish_gradient(*arguments)

    def _part(self, h) -> int:
        return h.ctypes.data

    def _begin(self, folded: Folded, part: Any, h, c) -> Any:
        if part not in folded.m:
            folded.from_zeros[part] = not h.any()
        return super()._begin(folded, part, h, c)

    def _started(self, folded: Folded, part: Any, x, h_first, ends: Ends) -> tuple[Any, Weights, dict]:
        """Every stretch of a part has the columns or none has, for the same bits."""
        if folded.from_zeros[part]:
            return x, folded.plain, {}
        steps, batch, inputs = x.shape
        wider = np.zeros((steps, batch, inputs + folded.recurrent.shape[1]), x.dtype)
        wider[:, :, :inputs] = x
        if ends.first is not None:
            wider.reshape(steps * batch, -1)[ends.first.rows, inputs:] = h_first
        both = np.concatenate([folded.plain.input, folded.recurrent], axis=1)
        return wider, folded.plain._replace(input=both), {}

    def _own_ends(self, left, steps: int) -> End:
        last = np.clip(left, 1, steps).astype(np.int64) - 1
        return End(last * len(left) + np.arange(len(left)), (left > 0) & (left <= steps))

    def _room(self, shape: tuple[int, ...], like) -> np.ndarray:
        return np.empty(shape, like.dtype)

    def _give_back(self, *arrays) -> None:
        """The system takes what nobody holds."""

    def _dropped(self, recurrent, lane: Lane) -> np.ndarray:
        mask = self.draws.weight(lane.stream, recurrent.shape, recurrent)
        return recurrent if mask is None else recurrent * mask

    def _multiply(self, a, b, out, *, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False):
        a, b, target = (array.reshape(-1, array.shape[-1]) for array in (a, b, out))
        a, b = a.T if transpose_a else a, b.T if transpose_b else b
        if accumulate:
            target += a @ b
        else:
            np.matmul(a, b, out=target)

    _multiply_exactly = _multiply

    def _wide(self, weight) -> np.ndarray:
        return weight

    def _columns(self, y, lane: Lane) -> np.ndarray:
        return y[:, :, lane.columns]

    def _project(self, m, projection, y, lane: Lane, left) -> None:
        out = y[:, :, lane.columns]
        self._put(m, projection, out)
        if left is not None:  # zeros, whatever stands in the weights
            out[np.arange(len(y))[:, None] >= left] = 0

    def _put(self, m, projection, out) -> None:
        """out = m W_hr^T, where out may be some columns of y."""
        out[...] = (m.reshape(-1, m.shape[2]) @ projection.T).reshape(out.shape)

    def _at(self, a, end: End) -> np.ndarray:
        return a.reshape(-1, a.shape[-1])[end.rows]

    def _inside(self, state, end: End) -> np.ndarray:
        return state.copy() if end.inside is None else np.where(end.inside[:, None], state, state.dtype.type(0))

    def _assign_inside(self, state, values, end: End) -> None:
        state[...] = values if end.inside is None else np.where(end.inside[:, None], values, state)


class FoldedAndCompiled(FoldedOnCpu):
    """Over the compiled engine, with its own products, in memory that it keeps."""

    def __init__(self, draws: Draws, steps: int) -> None:
        super().__init__(native_engine, draws, steps)

    def _multiply(self, a, b, out, **how: bool) -> None:
        product(a, b, out, **how)

    _multiply_exactly = _multiply

    def _put(self, m, projection, out) -> None:
        product(m, projection, out, transpose_b=True)

    def _room(self, shape: tuple[int, ...], like) -> np.ndarray:
        return native_memory.take(shape, like.dtype)

    def _give_back(self, *arrays) -> None:
        native_memory.give_back(*(array for array in arrays if array is not None))
