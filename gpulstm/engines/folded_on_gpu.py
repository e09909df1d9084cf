"""A projection folded into weight_hh on CuPy arrays: `gpulstm.engines.folded_projection` over the engines that run the
plain LSTM, and that with the options that are not about h, in all of their schedules.

Products of weights with each other are exact in float32, also where the others are allowed to be in TF32.
"""

from dataclasses import replace
from typing import Any

from ..arrays import dtype_name
from ..cuda.gemm import Gemm, Matrix, matrix, rows_of
from ..masks import Draws
from ..parameters import Weights
from . import Lane, cupy_engine
from .cupy_masks import with_weight_drop
from .cupy_padding import without_padding
from .cupy_storage import assign, is_half, moved, where
from .cupy_variant_engine import CupyVariantEngine
from .folded_projection import End, Ends, Folded, FoldedEngine


def folded_engine(draws: Draws, steps: int, *, plain: bool) -> FoldedEngine:
    """``plain`` says that nothing is left beside the projection and weight drop, which is this engine's own matter."""
    if plain:
        return FoldedOnGpu(cupy_engine.WithTF32() if draws.options.tf32 else cupy_engine, draws, steps)
    return FoldedOnGpu(CupyVariantEngine(without_weight_drop(draws), steps), draws, steps)


def without_weight_drop(draws: Draws) -> Draws:
    return draws._replace(options=replace(draws.options, weight_drop=0.0))


class FoldedOnGpu(FoldedEngine):
    def _part(self, h) -> int:
        return h.data.ptr

    def _started(self, folded: Folded, part: Any, x, h_first, ends: Ends) -> tuple[Any, Weights, dict]:
        if ends.first is None:
            return x, folded.plain, {}
        first = ends.first

        def begin(gates) -> None:
            """gates += W_hh h_0 at each sequence's first step."""
            steps, batch, _ = gates.shape
            if isinstance(first.rows, slice):
                rows = rows_of(matrix(gates), first.rows.start, batch, gates.itemsize)
                self._gemm(h_first)(matrix(h_first), matrix(folded.recurrent), rows, transpose_b=True, accumulate=True)
                return
            rows = self._at(gates, first)
            self._multiply(h_first, folded.recurrent, rows, transpose_b=True, accumulate=True)
            moved(gates.reshape(steps * batch, -1))[first.rows] = moved(rows)

        return x, folded.plain, {"begin": begin}

    def _own_ends(self, left, steps: int) -> End:
        import cupy

        last = cupy.minimum(cupy.maximum(left, 1), steps) - 1
        rows = last.astype("int64") * len(left) + cupy.arange(len(left))
        return End(rows, (left > 0) & (left <= steps))

    def _room(self, shape: tuple[int, ...], like) -> Any:
        return cupy_engine.empty(shape, like)

    def _give_back(self, *arrays) -> None:
        """CuPy's memory pool takes what nobody holds."""

    def _dropped(self, recurrent, lane: Lane) -> Any:
        return with_weight_drop(recurrent, self.draws, lane)

    def _gemm(self, a, out=None, *, exactly: bool = False) -> Gemm:
        import cupy

        wide = out is not None and is_half(a) and not is_half(out)
        return Gemm(cupy, dtype_name(a), wide=wide, tf32=self.draws.options.tf32 and not exactly)

    def _multiply(self, a, b, out, **how: bool) -> None:
        """``a`` may be what `_columns` gives."""
        self._gemm(b, out)(a if isinstance(a, Matrix) else matrix(a), matrix(b), matrix(out), **how)

    def _multiply_exactly(self, a, b, out, **how: bool) -> None:
        self._gemm(a, out, exactly=True)(matrix(a), matrix(b), matrix(out), **how)

    def _wide(self, weight) -> Any:
        if not is_half(weight):
            return weight
        found = cupy_engine.wide_empty(weight.shape, weight)
        assign(found, weight)
        return found

    def _columns(self, y, lane: Lane) -> Matrix:
        """The columns of one direction, all steps of all sequences one below the other."""
        width = y.shape[2]
        return Matrix(y.data.ptr + lane.first * y.itemsize, y.size // width, lane.width, width)

    def _project(self, m, projection, y, lane: Lane, left) -> None:
        gemm = self._gemm(m)
        if left is None:
            gemm(matrix(m), matrix(projection), self._columns(y, lane), transpose_b=True)
            return
        found = cupy_engine.empty((*m.shape[:2], lane.width), m)
        gemm(matrix(m), matrix(projection), matrix(found), transpose_b=True)
        assign(y[:, :, lane.columns], without_padding(found, left))  # zeros, whatever stands in the weights

    def _at(self, a, end: End) -> Any:
        rows = moved(a.reshape(a.shape[0] * a.shape[1], -1))[end.rows]
        return rows if rows.dtype == a.dtype else rows.view(a.dtype)

    def _inside(self, state, end: End) -> Any:
        return state.copy() if end.inside is None else where(end.inside[:, None], state)

    def _assign_inside(self, state, values, end: End) -> None:
        assign(state, values if end.inside is None else where(end.inside[:, None], values, state))
