"""The forward time loop of the NumPy engine.

    a = W_ih x + W_hh h + b      i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)      g = tanh(a_g)
    c' = f * c + i * g           h' = o * tanh(c')

At small sizes a step is bound by the number of NumPy calls, a third of a microsecond each, and at large ones by the
recurrent product. So sigmoid(a) = tanh(a / 2) / 2 + 1 / 2 makes one tanh over all four gates, which stand side by side
in one buffer whose views are made once; the half in it is multiplied into the weights beforehand, which is exact; and
the weights are laid out as BLAS reads them fastest.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..parameters import Weights
from . import cpu_window as window
from . import windows
from .numpy_ragged import Ragged

ROWS_THAT_PAY = 32  # time steps times sequences from which on a laid-out copy of the weights is made up for
TRANSPOSED_AT_ONCE = 64  # rows: their cache lines stay until the last column of them has been read
FACTORS_BYTES = 64 * 1024  # larger factors, one for each gate of each sequence, would push the gates out of the cache


@dataclass
class Product:
    """The weights as the loop multiplies by them: transposed, and ``halved`` for the three sigmoids if that pays."""

    input: np.ndarray  # (inputs, 4*hidden)
    recurrent: np.ndarray  # (hidden, 4*hidden)
    bias: np.ndarray | None  # (4*hidden,)
    halved: bool

    @classmethod
    def of(cls, weights: Weights, steps_so_far: int, batch: int) -> "Product":
        """Each stretch of a long sequence decides alike, for the same bits: hence the steps from the beginning."""
        if steps_so_far * batch < ROWS_THAT_PAY:
            return cls(weights.input.T, weights.recurrent.T, weights.bias, False)
        bias = (
            None if weights.bias is None else weights.bias * sigmoid_factors(len(weights.bias) // 4, weights.bias.dtype)
        )
        return cls(_transposed(weights.input), _transposed(weights.recurrent), bias, True)

    def of_inputs(self, x: np.ndarray, gates: np.ndarray, reverse: bool) -> None:
        """gates = x W_ih^T + b, window by window."""
        for stretch in windows(len(x), window(x.shape[1]), reverse):
            out = gates[stretch].reshape(-1, gates.shape[2])
            np.matmul(x[stretch].reshape(-1, x.shape[2]), self.input, out=out)
            if self.bias is not None:
                out += self.bias


@lru_cache(maxsize=16)  # a single step would spend an eighth of its time on making them
def sigmoid_factors(hidden: int, dtype: np.dtype) -> np.ndarray:
    """(4*hidden,): 1/2 for the gates that are sigmoids, 1 for the candidate. Read only."""
    factors = np.full(4 * hidden, 0.5, dtype)
    factors[2 * hidden : 3 * hidden] = 1
    factors.flags.writeable = False
    return factors


@lru_cache(maxsize=16)  # of up to 2 * FACTORS_BYTES each
def _affine(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """What gates of this shape are multiplied by behind tanh, and what is added then. Read only."""
    scale = np.broadcast_to(sigmoid_factors(shape[-1] // 4, dtype), shape).copy()
    offset = np.where(scale < 1, scale, dtype.type(0))
    scale.flags.writeable = offset.flags.writeable = False
    return scale, offset


def _transposed(weight: np.ndarray) -> np.ndarray:
    """A copy (columns, 4*hidden) of (4*hidden, columns), halved for the sigmoids."""
    rows, columns = weight.shape
    out = np.empty((columns, rows), weight.dtype)
    hidden = rows // 4
    half, one = (np.array(value, weight.dtype) for value in (0.5, 1))
    for gate, factor in enumerate((half, half, one, half)):
        for first in range(gate * hidden, (gate + 1) * hidden, TRANSPOSED_AT_ONCE):
            part = slice(first, min(first + TRANSPOSED_AT_ONCE, (gate + 1) * hidden))
            np.multiply(weight[part].T, factor, out=out[:, part])
    return out


class Step:
    """One step on buffers of its own, without the batch axis where there is one sequence: NumPy is quickest in 1-D."""

    def __init__(self, batch: int, hidden: int, product: Product) -> None:
        dtype = product.recurrent.dtype
        shape = (hidden,) if batch == 1 else (batch, hidden)
        self.recurrent = product.recurrent
        self.gates = np.empty((*shape[:-1], 4 * hidden), dtype)
        self.parts = [self.gates[..., k * hidden : (k + 1) * hidden] for k in range(4)]
        self.new = np.empty(shape, dtype)
        self.before = None if product.halved else sigmoid_factors(hidden, dtype)
        # Contiguous arrays of the same shape are quickest, while they fit the cache; views of the sigmoids are larger.
        self.half = np.array(0.5, dtype)
        self.sigmoids = (self.gates[..., : 2 * hidden], self.parts[3])
        self.affine: tuple[np.ndarray, np.ndarray] | None = None
        if self.gates.nbytes <= FACTORS_BYTES:
            self.affine = _affine(self.gates.shape, dtype)

    def run(self, times, inputs, h_before, c_before, h_after, c_after, ragged: Ragged | None, keep: bool) -> None:
        """A step for each of ``times``, with its arrays from the other sequences in that order.

        ``inputs`` are W_ih x + b; with ``keep`` the activated gates are written over them.
        """
        dot, add, multiply, tanh, copyto = np.dot, np.add, np.multiply, np.tanh, np.copyto
        recurrent, gates, new, before, affine, half = (
            self.recurrent,
            self.gates,
            self.new,
            self.before,
            self.affine,
            self.half,
        )
        i, f, g, o = self.parts
        for t, a, h, c, h_next, c_next in zip(times, inputs, h_before, c_before, h_after, c_after, strict=False):
            if ragged is not None:
                ragged.before_step(t, h.reshape(-1, h.shape[-1]), c.reshape(-1, c.shape[-1]))
            dot(h, recurrent, gates)
            add(gates, a, gates)
            if before is not None:
                multiply(gates, before, gates)
            tanh(gates, gates)
            if affine is not None:
                multiply(gates, affine[0], gates)
                add(gates, affine[1], gates)
            else:
                for sigmoid in self.sigmoids:
                    multiply(sigmoid, half, sigmoid)
                    add(sigmoid, half, sigmoid)
            multiply(i, g, new)
            multiply(f, c, c_next)
            add(c_next, new, c_next)
            tanh(c_next, new)
            multiply(o, new, h_next)
            if keep:
                copyto(a, gates)


def training_steps(gates, product: Product, hiddens, cells, ragged: Ragged | None, reverse: bool) -> None:
    """gates (steps, batch, 4*hidden) is W_ih x + b, and is activated; hiddens and cells (steps + 1, batch, hidden) have
    their first state in its slot."""
    steps, batch, _ = gates.shape
    order = slice(None, None, -1 if reverse else 1)
    inputs, h, c = (list(_flat(array))[order] for array in (gates, hiddens, cells))
    if ragged is not None:
        first = steps if reverse else 0
        ragged.before_first_step(hiddens[first], cells[first])
    step = Step(batch, hiddens.shape[2], product)
    step.run(range(steps)[order], inputs, h, c, h[1:], c[1:], ragged, True)


def inference_steps(gates, product: Product, h, c, y, ragged: Ragged | None, reverse: bool) -> None:
    """The same, and keeps nothing: h and c (batch, hidden) become the final states, and y (steps, batch, hidden) is
    written, of which each step's is the next one's h."""
    steps, batch, _ = gates.shape
    order = slice(None, None, -1 if reverse else 1)
    inputs, outputs = (list(_flat(array))[order] for array in (gates, y))
    if ragged is not None:
        ragged.before_first_step(h, c)
    cells = [_flat(c)] * steps
    step = Step(batch, h.shape[1], product)
    step.run(range(steps)[order], inputs, [_flat(h), *outputs], cells, outputs, cells, ragged, False)
    last = y[0 if reverse else -1]
    if ragged is None:
        h[...] = last
    else:
        ragged.final_states(last, c, h, c)


def _flat(array: np.ndarray) -> np.ndarray:
    """Without the batch axis, the last but one, where it is 1."""
    return array[..., 0, :] if array.shape[-2] == 1 else array
