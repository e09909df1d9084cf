"""One time step in inference on CuPy arrays, in one launch for each layer and direction: the schedule "step".

A model that is asked for one step at a time, such as one that generates text, waits for the CPU: here are no buffers,
no products and no copies of states, only three arrays and a launch.
"""

from ..arrays import dtype_name
from ..cuda import planner
from ..cuda.modules import kernel
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
    inputs = x.shape[-1]
    batch = x.size // inputs
    hidden, several = after.c.shape[-1], batch > 1
    h_before, c_before = (None, None) if before is None else before
    arrays = (x, weights.input, weights.recurrent, weights.bias, h_before, c_before, y, after.h, after.c)
    columns = (0, 0) if lane is None else (y.shape[-1], lane.first)
    kernel("lstm_one_step_forward", dtype_name(x), several).launch(
        (-(-hidden // WARPS), -(-batch // SEQUENCES) if several else 1, 1),
        (32 * WARPS, 1, 1),
        arrays,
        (batch, inputs, hidden, *columns, index),
    )
