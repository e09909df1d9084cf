"""Variable lengths before and after the time steps, on CuPy arrays, by `kernels/padding.cu`: a launch each."""

from ..arrays import dtype_name
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel


def without_padding(x, lengths):
    """A copy of x (time, batch, inputs) with zeros where a sequence is over."""
    import cupy

    y = cupy.empty(x.shape, x.dtype)
    kernel("without_padding", dtype_name(x)).launch(*one_thread_per(x.size), (x, y, lengths), x.shape)
    return y


def state_of_running(running, empty, state, lengths) -> None:
    """``state`` of the sequences that have a step is ``running``, and of the others ``empty``, or zeros if None. All
    are (batch, features), or (1, batch, features), C-contiguous, and may be the same."""
    arrays = running, empty, state, lengths
    kernel("state_of_running", dtype_name(state)).launch(*one_thread_per(state.size), arrays, state.shape[-2:])


def clear_inputs(hiddens, lengths, reverse: bool) -> None:
    """hiddens (steps + 1, batch, hidden) become zero where they are what a step past a sequence's end starts from."""
    sizes = (int(reverse), *hiddens.shape)
    kernel("clear_inputs", dtype_name(hiddens)).launch(*one_thread_per(hiddens.size), (hiddens, lengths), sizes)
