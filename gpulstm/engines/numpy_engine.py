"""The LSTM on NumPy arrays: one large GEMM for the inputs, one small one per step, everything else in place.

The equations are those of `gpulstm.equations`; the names too. See `gpulstm.engines` for what each function takes.
"""

from typing import NamedTuple

import numpy as np

from ..masks import Draws
from ..parameters import Weights
from . import Lane, inputs_of, slots, windows
from . import cpu_window as window

GATE_BUFFER_BYTES = 8 * 2**20  # half an L3 slice: a buffer that leaves the cache costs more than its GEMM gains


class Saved(NamedTuple):
    """What the backward pass needs."""

    gates: np.ndarray  # (time, batch, 4*hidden) activated
    cells: np.ndarray  # (time + 1, batch, hidden)
    hiddens: np.ndarray  # (time + 1, batch, hidden)


class Scratch:
    """Every temporary of the time loop, allocated once."""

    def __init__(self, batch: int, hidden: int, dtype: np.dtype) -> None:
        self.gates = np.empty((batch, 4 * hidden), dtype)
        self.a = np.empty((batch, hidden), dtype)
        self.b = np.empty((batch, hidden), dtype)


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
    return Weights(*(None if w is None else np.zeros_like(w) for w in weights))


def finish_gradient(gradient: Weights, lane: Lane) -> Weights:
    return gradient


def forward(x, weights: Weights, h, c, y, lane: Lane, lengths) -> Saved:
    steps, batch, _ = x.shape
    gates = np.empty((steps, batch, 4 * lane.width), x.dtype)
    cells, hiddens = (np.empty((steps + 1, batch, lane.width), x.dtype) for _ in "ch")
    first, last = (-1, 0) if lane.reverse else (0, -1)
    # An empty sequence hands its state on and takes part in no product: what 0 * nan would leave there is nan.
    takes_part = None if lengths is None else lengths[:, None] > 0
    cells[first], hiddens[first] = c, h if takes_part is None else np.where(takes_part, h, x.dtype.type(0))
    _run(x, weights, hiddens, cells, y[:, :, lane.columns], gates, lengths, 0, lane.reverse)
    c[...], h[...] = cells[last], hiddens[last] if takes_part is None else np.where(takes_part, hiddens[last], h)
    return Saved(gates, cells, hiddens)


def inference(x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
    _run(x, weights, h[None], c[None], y[:, :, lane.columns], gates, lengths, first_time, lane.reverse)


@np.errstate(over="ignore", invalid="ignore")  # infinities and NaNs travel as IEEE says, without a warning per step
def _run(x, weights, hiddens, cells, y, gates, lengths, first_time, reverse) -> None:
    """hiddens and cells hold one slot per time and one more, or a single slot that is updated in place."""
    steps, batch, inputs = x.shape
    hidden = hiddens.shape[2]
    for stretch in windows(steps, window(x.shape[1]), reverse):
        np.matmul(x[stretch].reshape(-1, inputs), weights.input.T, out=gates[stretch].reshape(-1, 4 * hidden))
    if weights.bias is not None:
        gates += weights.bias
    scratch = Scratch(batch, hidden, x.dtype)
    scale, shift = _activation_affine(hidden, x.dtype)
    recurrent = weights.recurrent.T
    everyone_until = steps if lengths is None else int(lengths.min(initial=steps)) - first_time
    for t in range(steps)[:: -1 if reverse else 1]:
        before, after = slots(t, reverse) if len(cells) > 1 else (0, 0)
        np.matmul(hiddens[before], recurrent, out=scratch.gates)
        np.add(gates[t], scratch.gates, out=gates[t])
        _activate(gates[t], scale, shift)
        if t < everyone_until:
            _update(gates[t], cells[before], cells[after], hiddens[after], scratch, True)
            y[t] = hiddens[after]
        else:
            running = (first_time + t < lengths)[:, None]
            if before != after:
                cells[after], hiddens[after] = cells[before], hiddens[before]
            _update(gates[t], cells[before], cells[after], hiddens[after], scratch, running)
            y[t] = 0
            np.copyto(y[t], hiddens[after], where=running)


def _activation_affine(hidden: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """sigmoid(a) = tanh(a / 2) / 2 + 1 / 2 and tanh(a) = tanh(a * 1) * 1 + 0: one tanh over all four gates, with these
    factors before and after it, touches memory that is contiguous and calls NumPy four times instead of twelve."""
    scale = np.full(4 * hidden, 0.5, dtype)
    shift = np.full(4 * hidden, 0.5, dtype)
    scale[2 * hidden : 3 * hidden] = 1
    shift[2 * hidden : 3 * hidden] = 0
    return scale, shift


def _activate(gates, scale, shift) -> None:
    gates *= scale
    np.tanh(gates, out=gates)
    gates *= scale
    gates += shift


def _update(gates, c_before, c_after, h, scratch: Scratch, running) -> None:
    """c' = f * c + i * g and h' = o * tanh(c'), for the running sequences only."""
    i, f, g, o = _split(gates)
    np.multiply(f, c_before, out=c_after, where=running)
    np.multiply(i, g, out=scratch.a)
    np.add(c_after, scratch.a, out=c_after, where=running)
    np.tanh(c_after, out=scratch.a)
    np.multiply(o, scratch.a, out=h, where=running)


def _split(gates):
    """Views of i, f, g, o, each (batch, hidden)."""
    hidden = gates.shape[1] // 4
    return (gates[:, k * hidden : (k + 1) * hidden] for k in range(4))


@np.errstate(over="ignore", invalid="ignore")
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
    _backward_steps(gates, cells, weights, dy if dy is None else dy[:, :, lane.columns], dh, dc, lengths, reverse)

    for stretch in windows(len(gates), window(gates.shape[1]), reverse):
        da = gates[stretch].reshape(-1, gates.shape[2])  # (window * batch, 4*hidden), of the pre-activations by now
        of_x = dx[stretch].reshape(-1, dx.shape[2])
        if add_to_dx:
            of_x += da @ weights.input
        else:
            np.matmul(da, weights.input, out=of_x)
        gradient.input[...] += da.T @ x[stretch].reshape(-1, x.shape[2])
        gradient.recurrent[...] += da.T @ hiddens[inputs_of(stretch, reverse)].reshape(-1, hiddens.shape[2])
        if gradient.bias is not None:
            gradient.bias[...] += da.sum(axis=0)


def _backward_steps(gates, cells, weights, dy, dh, dc, lengths, reverse) -> None:
    """Turns activated gates into gradients of the pre-activations, in place, and dh and dc into the initial state's."""
    steps, batch, _ = gates.shape
    scratch = Scratch(batch, dh.shape[1], gates.dtype)
    everyone_until = steps if lengths is None else int(lengths.min(initial=steps))
    for t in range(steps)[:: 1 if reverse else -1]:
        before, after = slots(t, reverse)
        running = True if t < everyone_until else (t < lengths)[:, None]
        if dy is not None:
            np.add(dh, dy[t], out=dh, where=running)
        _update_backward(gates[t], cells[before], cells[after], dh, dc, scratch, running)
        if running is True:
            np.matmul(gates[t], weights.recurrent, out=dh)
        else:
            np.copyto(gates[t], 0, where=~running)
            np.matmul(gates[t], weights.recurrent, out=scratch.a)
            np.copyto(dh, scratch.a, where=running)


def _update_backward(gates, c_before, c_after, dh, dc, scratch: Scratch, running) -> None:
    """`equations.step_backward` without temporaries. What is the same for several gates is one call over all of them:
    at small sizes the calls are what takes time."""
    i, f, g, o = _split(gates)
    da = scratch.gates
    da_i, da_f, da_g, da_o = _split(da)
    tanh_c, slope = scratch.a, scratch.b
    np.tanh(c_after, out=tanh_c)

    np.multiply(tanh_c, tanh_c, out=slope)  # dc += dh * o * (1 - tanh(c)^2)
    np.subtract(1, slope, out=slope)
    slope *= o
    slope *= dh
    np.add(dc, slope, out=dc, where=running)

    np.subtract(1, gates, out=da)  # the slopes: s * (1 - s) of the sigmoids, and 1 - g^2
    da *= gates
    np.multiply(g, g, out=da_g)
    np.subtract(1, da_g, out=da_g)

    da_i *= g  # da_i = dc * g * slope, da_f = dc * c_before * slope, da_g = dc * i * slope
    da_f *= c_before
    da_g *= i
    of_c = da[:, : 3 * dc.shape[1]].reshape(len(dc), 3, dc.shape[1])
    of_c *= dc[:, None]
    da_o *= tanh_c  # da_o = dh * tanh(c) * slope
    da_o *= dh
    np.multiply(dc, f, out=dc, where=running)
    gates[...] = da
