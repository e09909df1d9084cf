"""One time step in inference on CuPy arrays, in one launch for each layer and direction: the schedule "step".

A model that is asked for one step at a time, such as one that generates text, waits for the CPU: here are no buffers,
no products and no copies of states, only three arrays and a launch. `gpulstm.warm_steps` makes that of most steps.
"""

from ..arrays import dtype_name
from ..cuda import planner
from ..cuda.launch import Extent
from ..cuda.modules import kernel
from ..cuda.packed import Kernel, Repeated
from ..parameters import State, Weights
from . import Lane

WARPS = 4  # of a block, one for each hidden unit
SEQUENCES = 4  # of a warp, unless there is but one


def takes_one_step(x, batch: int) -> bool:
    """Whether the planner gives a single step of so many sequences, with x's dtype, to this schedule."""
    return planner.one_step(batch, dtype_name(x)) is not None


def one_step(x, weights: Weights, before: tuple | None, index: int, y, lane: Lane | None, after: State) -> None:
    """One layer in one direction: y and ``after`` from x and ``before``, (h, c), which is zeros if None.

    x (..., inputs), the axes before are the batch; states (layers * directions, batch, hidden), of which this is number
    ``index``; y (..., all directions), of which ``lane`` names the columns, or None for both. All are C-contiguous.
    """
    inputs, hidden = x.shape[-1], after.c.shape[-1]
    h_before, c_before = (None, None) if before is None else before
    arrays = (x, weights.input, weights.recurrent, weights.bias, h_before, c_before, y, after.h, after.c)
    width = 0 if y is None else y.shape[-1]
    function, grid, block, numbers = _launch(dtype_name(x), x.size // inputs, inputs, hidden, width, lane, index)
    function.launch(grid, block, arrays, numbers)


def repeated_step(
    dtype: str, batch: int, inputs: int, hidden: int, width: int, lane: Lane | None, index: int, weights: Weights
) -> Repeated:
    """`one_step` again and again for arrays of these sizes, with the same weights: to be called with the addresses of
    x, h and c before, y, h and c after, 0 where there is none. ``width`` is that of y."""
    function, grid, block, numbers = _launch(dtype, batch, inputs, hidden, width, lane, index)
    arrays = (..., weights.input, weights.recurrent, weights.bias, *[...] * 5)
    return Repeated(function, grid, block, arrays, numbers)


def _launch(
    dtype: str, batch: int, inputs: int, hidden: int, width: int, lane: Lane | None, index: int
) -> tuple[Kernel, Extent, Extent, tuple[int, ...]]:
    """The kernel, its grid and block, and the ints that it takes."""
    several, first_column = batch > 1, 0 if lane is None else lane.first
    grid = (-(-hidden // WARPS), -(-batch // SEQUENCES) if several else 1, 1)
    function = kernel("lstm_one_step_forward", dtype, several)
    return function, grid, (32 * WARPS, 1, 1), (batch, inputs, hidden, width, first_column, index)
