"""How many time steps a CUDA graph of the loop runs, what its buffers hold, and what a step of it may take. Pure
arithmetic; `gpulstm.engines.cupy_graph` makes the graphs.

No graph has been timed on a GPU yet. Its step is predicted to be the loop's as the GPU sees it, with the measured
boundary of two kernels in a graph instead of that in a stream, and with what is copied between a layer's arrays and the
graph's buffers on top. The floors were measured on one H200; benchmarks/results/notes.md lists them. What it saves
above all is the CPU's time to launch: the loop never takes less than that.
"""

from . import half_layouts
from .catalogue import REAL_OF_DTYPE

STEPS, FEWEST_STEPS = 32, 4  # what comes on top of a graph, some ten copies, is little for each of 32 steps
BYTES = 256 * 2**20  # of the buffers that a graph works in; steps so large that 4 do not fit keep the CPU waiting

IN_A_STREAM, IN_A_GRAPH = 1.96, 1.14  # microseconds from one kernel of 132 blocks to the next one, all asked for before
COPIES = 10  # for each replay
TERABYTES = 4.3  # in a second, read and written
PREDICTED = "us a step predicted from floors, not measured"

# What a layer has beyond the plain one, as `planner.choose` is told.
OPTIONS, LAYER_NORM, LAYER_NORM_AND_OPTIONS = "options", "layer norm", "layer norm together with other options"

# What a graph's buffers hold for a hidden unit of a sequence and each time step: gates, c, h and y, of which only c has
# 32 bits where the others have 16; with options what is projected, too; with layer norm also what was normalised, twice
# the gates, and c before zoneout, which is as wide as c.
_NUMBERS = {"": 7, OPTIONS: 8, LAYER_NORM: 17, LAYER_NORM_AND_OPTIONS: 17}


def steps(batch: int, hidden: int, dtype: str, not_plain: str = "") -> int:
    """Time steps that one graph of this layer runs: as many as its buffers have room for."""
    return min(STEPS, BYTES // max(1, batch * hidden * _unit_bytes(dtype, not_plain)))


def obstacle(batch: int, hidden: int, dtype: str, not_plain: str) -> str:
    """Why a graph cannot hold this, or is not for it; empty if it may be."""
    in_half = dtype in half_layouts.DTYPES
    if dtype not in REAL_OF_DTYPE and dtype != "tf32" and not in_half:
        return f"does not know {dtype}"
    if batch == 0:
        return "has no sequence to run"
    if steps(batch, hidden, dtype, not_plain) < FEWEST_STEPS:
        return "is for steps whose launches take longer than their arithmetic"
    return ""


def microseconds(loop: float, backward: bool, batch: int, hidden: int, dtype: str, not_plain: str) -> float:
    """Predicted time per step, where the GPU alone needs ``loop`` for one of the loop, a product and a kernel."""
    both_ways = (
        12 if backward and not_plain in (LAYER_NORM, LAYER_NORM_AND_OPTIONS) else 4
    )  # gates, and what was normalised, go in and out
    copied = 2 * batch * hidden * (_unit_bytes(dtype, not_plain) + both_ways * _bytes(dtype))
    copies = COPIES * IN_A_STREAM / steps(batch, hidden, dtype, not_plain) + copied / (1e6 * TERABYTES)
    return loop - 2 * (IN_A_STREAM - IN_A_GRAPH) + copies


def _unit_bytes(dtype: str, not_plain: str) -> int:
    """Of a hidden unit of a sequence in one step's part of the buffers."""
    numbers = _NUMBERS.get(not_plain, _NUMBERS[""]) * _bytes(dtype)
    wide = 2 if not_plain in (LAYER_NORM, LAYER_NORM_AND_OPTIONS) else 1
    return numbers + 2 * wide if dtype in half_layouts.DTYPES else numbers


def _bytes(dtype: str) -> int:
    return 2 if dtype in half_layouts.DTYPES else 8 if dtype == "float64" else 4
