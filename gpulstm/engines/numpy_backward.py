"""The backward time loop of the NumPy engine: `equations.step_backward`, with all that does not depend on the
recurrence taken out of it.

    dh += dy                            dc += dh * A              A = o * (1 - tanh(c')^2)
    da_o = dh * B_o                                               B_o = tanh(c') * o * (1 - o)
    da_i, da_f, da_g = dc * (B_i, B_f, B_g)                       B_i = g * i * (1 - i)
    dc = dc * f                                                   B_f = c * f * (1 - f)
    dh = da W_hh                                                  B_g = i * (1 - g^2)

A and B are computed for as many steps at once as stay in the cache; six NumPy calls and the product are left in a
step.
"""

import numpy as np

from .numpy_ragged import Ragged

ELEMENTS_AT_ONCE = 32 * 1024  # gates: they and their factors take a quarter of a megabyte in float32


class Factors:
    """A and B of up to ``steps`` steps."""

    def __init__(self, steps: int, batch: int, hidden: int, dtype: np.dtype) -> None:
        self.a, self.tanh_c = (np.empty((steps, batch, hidden), dtype) for _ in "at")
        self.b = np.empty((steps, batch, 4, hidden), dtype)
        self.one = np.array(1, dtype)

    def compute(self, gates: np.ndarray, c_before: np.ndarray, c_after: np.ndarray, running) -> None:
        """From activated gates (steps, batch, 4, hidden), the cells before and after, and which sequences run."""
        steps = len(gates)
        a, tanh_c, b = self.a[:steps], self.tanh_c[:steps], self.b[:steps]
        i, g, o = (gates[:, :, k] for k in (0, 2, 3))
        np.tanh(c_after, tanh_c)
        np.multiply(tanh_c, tanh_c, a)
        np.subtract(self.one, a, a)
        np.multiply(a, o, a)
        np.subtract(self.one, gates, b)
        np.multiply(b, gates, b)
        of_g = b[:, :, 2]
        np.multiply(g, g, of_g)
        np.subtract(self.one, of_g, of_g)
        for k, factor in enumerate((g, c_before, i, tanh_c)):
            np.multiply(b[:, :, k], factor, b[:, :, k])
        if running is not None:
            for factor in (a, b, gates):  # of the gates, the loop reads f
                factor[~running] = 0


def steps(gates, cells, recurrent, dy, dh, dc, ragged: Ragged | None, reverse: bool) -> None:
    """Turns activated gates (steps, batch, 4*hidden) into gradients of the pre-activations, in place, and dh and dc
    (batch, hidden) from the final state's gradients into the initial state's."""
    count, batch, _ = gates.shape
    hidden = dh.shape[1]
    at_once = max(1, min(count, ELEMENTS_AT_ONCE // (batch * 4 * hidden)))
    factors = Factors(at_once, batch, hidden, gates.dtype)
    by_gate = gates.reshape(count, batch, 4, hidden)
    loop = _Loop(recurrent, dh, dc, ragged, reverse)
    if ragged is not None:
        ragged.before_first_gradient(dh, dc)
    for first in range(0, count, at_once)[:: 1 if reverse else -1]:
        part = slice(first, min(first + at_once, count))
        before, after = cells[part.start : part.stop], cells[part.start + 1 : part.stop + 1]
        running = None if ragged is None else ragged.running(part)
        factors.compute(by_gate[part], *((after, before) if reverse else (before, after)), running)
        of_y = None if dy is None else dy[part]
        if of_y is not None and running is not None and not running.all():
            of_y = np.where(running[:, :, None], of_y, dy.dtype.type(0))
        loop.run(first, gates[part], factors, of_y)
    loop.finish()
    if ragged is not None:
        ragged.initial_gradients(dh, dc)


class _Loop:
    """The recurrence itself: dh and dc from step to step."""

    def __init__(self, recurrent, dh, dc, ragged: Ragged | None, reverse: bool) -> None:
        self.recurrent, self.ragged, self.reverse = recurrent, ragged, reverse
        self.dh, self.dc, self.given_dc = dh, dc, dc
        self.dc_next, self.new = (np.empty_like(dc) for _ in "cn")

    def run(self, first: int, gates, factors: Factors, dy) -> None:
        """Steps from ``first``. gates (steps, batch, 4*hidden) hold the forget gates, and become the gradients."""
        count, batch, _ = gates.shape
        hidden = self.dh.shape[1]
        rows = () if batch == 1 else (batch,)  # NumPy is quickest in 1-D
        by_gate, b = gates.reshape(count, *rows, 4, hidden), factors.b[:count].reshape(count, *rows, 4, hidden)
        a, all_da = factors.a[:count].reshape(count, *rows, hidden), gates.reshape(count, *rows, 4 * hidden)
        forget, da_of_c, da_of_o = by_gate[..., 1, :], by_gate[..., :3, :], by_gate[..., 3, :]
        b_of_c, b_of_o = b[..., :3, :], b[..., 3, :]
        if dy is not None:
            dy = dy.reshape(count, *rows, hidden)
        dh, new, *dcs = (x.reshape(*rows, hidden) for x in (self.dh, self.new, self.dc, self.dc_next))
        for_gates = [dc[..., None, :] for dc in dcs]
        for t in range(count)[:: 1 if self.reverse else -1]:
            dc, dc_next = dcs
            if self.ragged is not None:
                self.ragged.before_gradient(first + t, dh.reshape(batch, hidden), dc.reshape(batch, hidden))
            if dy is not None:
                np.add(dh, dy[t], dh)
            np.multiply(dh, a[t], new)
            np.add(dc, new, dc)
            np.multiply(dc, forget[t], dc_next)  # before da_f takes its place
            np.multiply(dh, b_of_o[t], da_of_o[t])
            np.multiply(for_gates[0], b_of_c[t], da_of_c[t])
            np.dot(all_da[t], self.recurrent, dh)
            dcs.reverse()
            for_gates.reverse()
        if count % 2:
            self.dc, self.dc_next = self.dc_next, self.dc

    def finish(self) -> None:
        """Leaves dc where it was asked for."""
        if self.dc is not self.given_dc:
            self.given_dc[...] = self.dc
