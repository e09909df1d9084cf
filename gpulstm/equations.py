"""The LSTM, written as its equations: the definition that every engine and kernel is tested against.

Notation, fixed once. We are at time ``t``. ``x`` is the input, ``h`` the hidden state, ``c`` the cell state, all with
the batch as first axis. ``i``, ``f``, ``g``, ``o`` are the input gate, the forget gate, the candidate and the output
gate. ``a`` is a gate's pre-activation, what goes into its sigmoid or tanh. ``d`` before a name is the gradient of the
loss with respect to it.

Only array-API operations are used and nothing is written in place, so NumPy, PyTorch, JAX and every other array-API
library can run this, differentiate it and compile it.

Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9(8), 1997; with the forget gate of Gers,
Schmidhuber and Cummins, Learning to forget, Neural Computation 12(10), 2000.
"""

from typing import Any, NamedTuple

from .arrays import Array, namespace
from .parameters import Weights


class Step(NamedTuple):
    """What the backward pass needs to know about one forward step. Each is (batch, hidden) but for x."""

    x: Array  # (batch, inputs)
    h_previous: Array
    c_previous: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c: Array


class StepGradients(NamedTuple):
    """Gradients of one step. The four gates' stand side by side in ``da``."""

    da: Array  # (batch, 4*hidden) of the pre-activations, order i, f, g, o
    dx: Array  # (batch, inputs)
    dh: Array  # (batch, hidden) of the hidden state before the step
    dc: Array  # (batch, hidden) of the cell state before the step


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), written with tanh so that no exponential can overflow."""
    return 0.5 * namespace(a).tanh(0.5 * a) + 0.5


def step(x: Array, h: Array, c: Array, weights: Weights) -> tuple[Array, Array, Step]:
    """One time step: input, hidden and cell state in; the new hidden and cell state out.

    ::

        a = W_ih x + W_hh h + b                 four pre-activations side by side: a_i, a_f, a_g, a_o

        i = sigmoid(a_i)                        input gate:  how much of the candidate to write
        f = sigmoid(a_f)                        forget gate: how much of the cell state to keep
        g = tanh(a_g)                           candidate:   what to write
        o = sigmoid(a_o)                        output gate: how much of the cell state to show

        c' = f * c + i * g                      cell state:   keep some, write some
        h' = o * tanh(c')                       hidden state: what the outside sees

    x (batch, inputs), h and c (batch, hidden). Returns h', c' and what `step_backward` needs.
    """
    xp = namespace(x)
    hidden = h.shape[1]
    a = x @ weights.input.T + h @ weights.recurrent.T
    if weights.bias is not None:
        a = a + weights.bias

    i = sigmoid(a[:, :hidden])
    f = sigmoid(a[:, hidden : 2 * hidden])
    g = xp.tanh(a[:, 2 * hidden : 3 * hidden])
    o = sigmoid(a[:, 3 * hidden :])

    c_next = f * c + i * g
    h_next = o * xp.tanh(c_next)
    return h_next, c_next, Step(x, h, c, i, f, g, o, c_next)


def step_backward(saved: Step, dh: Array, dc: Array, weights: Weights) -> StepGradients:
    """The same step backwards: the chain rule, read from the last equation of `step` to its first.

    ::

        h' = o * tanh(c')       do = dh * tanh(c')          dc = dc + dh * o * (1 - tanh(c')^2)
        c' = f * c + i * g      df = dc * c     di = dc * g     dg = dc * i     dc_previous = dc * f
        s  = sigmoid(a)         da = ds * s * (1 - s)
        g  = tanh(a_g)          da_g = dg * (1 - g^2)
        a  = W_ih x + W_hh h    dx = W_ih^T da              dh_previous = W_hh^T da

    ``dh`` and ``dc`` (batch, hidden) are all that the loss asks of h' and c': what the output at this step asks,
    plus what the next step hands back.
    """
    xp = namespace(dh)
    _, _, c_previous, i, f, g, o, c = saved
    tanh_c = xp.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)

    da_i = dc * g * i * (1 - i)
    da_f = dc * c_previous * f * (1 - f)
    da_g = dc * i * (1 - g * g)
    da_o = dh * tanh_c * o * (1 - o)
    da = xp.concat([da_i, da_f, da_g, da_o], axis=1)

    return StepGradients(da=da, dx=da @ weights.input, dh=da @ weights.recurrent, dc=dc * f)


def times(steps: int, reverse: bool) -> list[int]:
    """The order in which a direction visits the time steps."""
    return list(range(steps))[::-1] if reverse else list(range(steps))


def sequence(
    x: Array,
    h: Array,
    c: Array,
    weights: Weights,
    lengths: Array | None = None,
    reverse: bool = False,
    *,
    keep: bool = True,
) -> tuple[Array, Array, Array, list[Step]]:
    """All time steps of one layer in one direction.

    x (time, batch, inputs); h and c (batch, hidden) the initial state; lengths (batch,) or None.

    While a sequence is over (``t >= length``) its state stays as it is and its output is zero. Forwards that keeps the
    state of its own last step; in reverse it makes the sequence start from its own end.

    Returns y (time, batch, hidden), the final h and c, and the steps, indexed by time: None each unless ``keep``.
    """
    xp = namespace(x)
    outputs: list[Array] = [h] * x.shape[0]
    steps: list[Any] = [None] * x.shape[0]
    for t in times(x.shape[0], reverse):
        h_next, c_next, saved = step(x[t, ...], h, c, weights)
        steps[t] = saved if keep else None
        if lengths is None:
            h, c, outputs[t] = h_next, c_next, h_next
        else:
            running = running_at(t, lengths)
            h, c = xp.where(running, h_next, h), xp.where(running, c_next, c)
            outputs[t] = xp.where(running, h_next, xp.zeros_like(h_next))
    return xp.stack(outputs), h, c, steps


def sequence_backward(
    steps: list[Step],
    dy: Array | None,
    dh: Array,
    dc: Array,
    weights: Weights,
    lengths: Array | None = None,
    reverse: bool = False,
    gradient: Weights | None = None,
) -> tuple[Array, Weights, Array, Array]:
    """Backpropagation through time: the steps of `sequence` in the opposite order, weight gradients added up, onto
    ``gradient`` if there is one.

    dy (time, batch, hidden) or None; dh and dc (batch, hidden) the gradients of the final state.
    Returns dx (time, batch, inputs), the weights' gradients, and dh and dc of the initial state.
    """
    xp = namespace(dh)
    dx: list[Array] = [dh] * len(steps)
    d_input, d_recurrent, d_bias, *_ = zero_gradient(weights) if gradient is None else gradient
    for t in reversed(times(len(steps), reverse)):
        saved = steps[t]
        dh_total = dh if dy is None else dh + dy[t, ...]
        gradients = step_backward(saved, dh_total, dc, weights)
        x, h_previous = saved.x, saved.h_previous
        if lengths is not None:
            gradients, x, h_previous = _silence(gradients, x, h_previous, dh, dc, running_at(t, lengths))
        dh, dc, dx[t] = gradients.dh, gradients.dc, gradients.dx
        d_input = d_input + gradients.da.T @ x
        d_recurrent = d_recurrent + gradients.da.T @ h_previous
        if d_bias is not None:
            d_bias = d_bias + xp.sum(gradients.da, axis=0)
    return xp.stack(dx), Weights(d_input, d_recurrent, d_bias), dh, dc


def zero_gradient(weights: Weights) -> Weights:
    """Zeros of the shapes of ``weights``."""
    return Weights(*(None if w is None else namespace(w).zeros_like(w) for w in weights))


def running_at(t: int, lengths: Array) -> Array:
    """(batch, 1) booleans: which sequences have a step ``t``."""
    return (t < lengths)[:, None]


def _silence(
    gradients: StepGradients, x: Array, h_previous: Array, dh: Array, dc: Array, running: Array
) -> tuple[StepGradients, Array, Array]:
    """A sequence that is over hands its state's gradient on and takes part in nothing else.

    What stands in its padding is replaced by zero too, because 0 * nan in a weight gradient would be nan.
    """
    xp = namespace(dh)

    def or_zero(a: Array) -> Array:
        return xp.where(running, a, xp.zeros_like(a))

    silenced = StepGradients(
        da=or_zero(gradients.da),
        dx=or_zero(gradients.dx),
        dh=xp.where(running, gradients.dh, dh),
        dc=xp.where(running, gradients.dc, dc),
    )
    return silenced, or_zero(x), or_zero(h_previous)
