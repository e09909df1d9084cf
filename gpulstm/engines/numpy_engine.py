"""The LSTM on NumPy arrays: one large product for the inputs, one small one per step, everything else in place.

The equations are those of `gpulstm.equations`; the names too. See `gpulstm.engines` for what each function takes. The
time loops are in `numpy_forward` and `numpy_backward`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..masks import Draws
from ..parameters import Weights
from . import Lane, inputs_of, numpy_backward, numpy_forward, windows
from . import cpu_window as window
from .numpy_ragged import Ragged

quietly = np.errstate(over="ignore", invalid="ignore")  # infinities and NaNs travel as IEEE says, without a warning

GATE_BUFFER_BYTES = 8 * 2**20  # half an L3 slice: a buffer that leaves the cache costs more than its GEMM gains


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: np.ndarray  # (time, batch, 4*hidden) activated
    cells: np.ndarray  # (time + 1, batch, hidden)
    hiddens: np.ndarray  # (time + 1, batch, hidden)


@dataclass
class Sum:
    """Products that are added up, beginning with the first: zeros to begin with would cost a pass of their own."""

    shape: tuple[int, ...]
    dtype: np.dtype
    total: np.ndarray | None = None

    def add(self, product: np.ndarray) -> None:
        if self.total is None:
            self.total = product
        else:
            self.total += product

    def array(self, *, cleared: bool = True) -> np.ndarray:
        """The sum so far, to be added to in place; or, not ``cleared`` and the first time, to be written."""
        if self.total is None:
            self.total = np.zeros(self.shape, self.dtype) if cleared else np.empty(self.shape, self.dtype)
        return self.total


def contiguous(x):
    return np.ascontiguousarray(x)


def empty(shape, like):
    return np.empty(shape, like.dtype)


def zeros(shape, like):
    return np.zeros(shape, like.dtype)


wide_zeros = zeros


def assign(target, source):
    target[...] = source


def rounded(array, like):
    return array


def without_padding(x, lengths):
    running = np.arange(x.shape[0])[:, None] < lengths  # (time, batch)
    return np.where(running[:, :, None], x, x.dtype.type(0))


def dropped(y, draws: Draws, layer: int):
    mask = draws.between(layer, y.shape, y)
    return y if mask is None else y * mask


def start_gradient(x, weights: Weights, lane: Lane) -> Weights:
    return Weights(*(None if w is None else Sum(w.shape, w.dtype) for w in weights))


def finish_gradient(gradient: Weights, lane: Lane) -> Weights:
    return Weights(*(None if found is None else found.array() for found in gradient))


@quietly
def forward(x, weights: Weights, h, c, y, lane: Lane, lengths) -> Saved:
    steps, batch, _ = x.shape
    gates = np.empty((steps, batch, 4 * lane.width), x.dtype)
    cells, hiddens = (np.empty((steps + 1, batch, lane.width), x.dtype) for _ in "ch")
    first, last = (-1, 0) if lane.reverse else (0, -1)
    cells[first], hiddens[first] = c, h
    ragged = Ragged.of(lengths, steps, lane.reverse)
    product = numpy_forward.Product.of(weights, lane.first_time + steps, batch)
    product.of_inputs(x, gates, lane.reverse)
    numpy_forward.training_steps(gates, product, hiddens, cells, ragged, lane.reverse)
    y[:, :, lane.columns] = hiddens[:-1] if lane.reverse else hiddens[1:]
    if ragged is None:
        h[...], c[...] = hiddens[last], cells[last]
    else:
        ragged.final_states(hiddens[last], cells[last], h, c)
        ragged.clear_outputs(y[:, :, lane.columns])
        ragged.clear_inputs(hiddens)
    return Saved(gates, cells, hiddens)


@quietly
def inference(x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
    steps, batch, _ = x.shape
    y = y[:, :, lane.columns]
    ragged = Ragged.of(None if lengths is None else lengths - first_time, steps, lane.reverse)
    product = numpy_forward.Product.of(weights, first_time + steps, batch)
    product.of_inputs(x, gates, lane.reverse)
    numpy_forward.inference_steps(gates, product, h, c, y, ragged, lane.reverse)
    if ragged is not None:
        ragged.clear_outputs(y)


@quietly
def backward(
    saved: Saved,
    x,
    weights: Weights,
    dy,
    dh,
    dc,
    dx,
    add_to_dx: bool,
    lane: Lane,
    lengths,
    gradient: Weights,
) -> None:
    gates, cells, hiddens = saved
    reverse = lane.reverse
    ragged = Ragged.of(lengths, len(gates), reverse)
    own_dy = None if dy is None else dy[:, :, lane.columns]
    numpy_backward.steps(gates, cells, weights.recurrent, own_dy, dh, dc, ragged, reverse)
    for stretch in windows(len(gates), window(gates.shape[1]), reverse):
        da = gates[stretch].reshape(-1, gates.shape[2])  # (window * batch, 4*hidden), of the pre-activations by now
        of_x = dx[stretch].reshape(-1, dx.shape[2])
        if add_to_dx:
            of_x += da @ weights.input
        else:
            np.matmul(da, weights.input, out=of_x)
        gradient.input.add(da.T @ x[stretch].reshape(-1, x.shape[2]))
        gradient.recurrent.add(da.T @ hiddens[inputs_of(stretch, reverse)].reshape(-1, hiddens.shape[2]))
        if gradient.bias is not None:
            gradient.bias.add(da.sum(axis=0))
