"""Random masks on CuPy arrays, drawn by the kernels: `gpulstm.masks` says what is drawn where."""

import numpy as np

from .. import philox
from ..arrays import dtype_name
from ..cuda.launch import one_thread_per
from ..cuda.modules import kernel
from ..masks import WEIGHT_STREAM, WHOLE_SEQUENCE, Draws
from . import Lane
from .cupy_storage import assign, where, wide_dtype


def masked_copy(source, target, draws: Draws, stream: int, probability: float, *, batch: int, first_time: int) -> None:
    """target = source * dropout mask. Both (..., columns) contiguous; they may be the same array.

    With all leading axes taken together, row r draws for sequence ``r % batch`` at time ``first_time + r // batch``.
    """
    numbers = (np.int64(source.size), np.int32(source.shape[-1]), np.int32(batch), np.uint32(first_time))
    seed_and_stream = draw_arguments(draws, stream, 0)[:3]
    arguments = (*seed_and_stream, *dropout_arguments(probability, wide_dtype(source).type))
    grid, block = one_thread_per(source.size)
    kernel("masked_copy", dtype_name(source))(grid, block, (source, target, *numbers, *arguments))


def draw_arguments(draws: Draws, stream: int, first_time: int) -> tuple[np.uint32, ...]:
    """seed_low, seed_high, stream and first_time. In inference nothing is drawn, whatever they are."""
    seed = draws.seed or 0
    return np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32), np.uint32(stream), np.uint32(first_time)


def dropout_arguments(probability: float, real: type) -> tuple[np.uint32, np.floating]:
    """The threshold below which a word drops, and the scale of what stays; 0 and 1 without dropout."""
    return np.uint32(philox.threshold(probability)), real(1 / (1 - probability))


def zoneout_arguments(probability: float, real: type, *, training: bool) -> tuple[np.uint32, np.floating]:
    """The threshold below which a word keeps the old state in training, and the share that inference keeps."""
    return np.uint32(philox.threshold(probability) if training else 0), real(0 if training else probability)


def with_weight_drop(recurrent, draws: Draws, lane: Lane):
    """weight_hh with the mask of weight drop, or itself where there is none."""
    if not (draws.training and draws.options.weight_drop):
        return recurrent
    import cupy

    target = cupy.empty(recurrent.shape, recurrent.dtype)
    drop_weights(recurrent, target, draws, lane)
    return target


def drop_weights(source, target, draws: Draws, lane: Lane) -> None:
    """target = source * mask of weight drop, if there is any."""
    probability = draws.options.weight_drop
    if draws.training and probability:
        stream, rows = WEIGHT_STREAM + lane.stream, source.shape[0]
        masked_copy(source, target, draws, stream, probability, batch=rows, first_time=0)


def first_h_in(h_in, h, draws: Draws, lane: Lane, lengths) -> None:
    """What the first step's product reads: h0 with its mask. Zero where a sequence is over by then: its NaN would get
    into the weights' gradient as 0 * NaN."""
    first = len(h_in) - 1 if lane.reverse else 0
    assign(h_in[first], h if lengths is None else where(lengths[:, None] > first, h))
    probability = draws.options.recurrent_dropout
    if draws.training and probability and draws.options.recurrent_dropout_on == "hidden":
        target, place = h_in[first], {"batch": len(h), "first_time": WHOLE_SEQUENCE}
        masked_copy(target, target, draws, lane.stream, probability, **place)
