"""The LSTM with all its options, written as equations: what `gpulstm.equations` is for the plain one.

The notation is that of `equations`. Beyond it: ``r`` and ``p`` are the recurrent and the input part of a
pre-activation, ``m`` is the hidden state before it is projected, and a star marks a state before zoneout.

    h_in = h * hidden_mask                                     recurrent dropout, Gal and Ghahramani 2016
    r = (W_hh * weight_mask) h_in        p = W_ih x            weight drop, Merity et al. 2018
    a = p + r + b                                              or with layer norm, Ba et al. 2016:
    a = gain_p * norm(p) + gain_r * norm(r) + b
    a_i += w_i * c        a_f += w_f * c                       peepholes, Gers et al. 2002
    i = gate(clamp(a_i))  f = gate(clamp(a_f))  g = candidate(clamp(a_g))
    f = 1 - i                                                  coupled gates
    c* = f * c + i * g * candidate_mask                        Semeniuta et al. 2016
    a_o += w_o * c*
    o = gate(clamp(a_o))
    n = c*                                                     or with layer norm: gain_c * norm(c*) + bias_c
    m = o * cell(clamp(n))
    h* = m                                                     or with projection, Sak et al. 2014: W_hr m
    c' = zone_c * c + (1 - zone_c) * c*                        zoneout, Krueger et al. 2017
    h' = zone_h * h + (1 - zone_h) * h*

``clamp`` bounds what goes into an activation, as the ONNX operator's clip does; without a bound it does nothing.
"""

from typing import Any, NamedTuple

from .activations import clamp
from .arrays import Array, namespace
from .options import Options
from .parameters import Weights

NORM_EPSILON = 1e-5


class StepMasks(NamedTuple):
    """What is random in one step; None where an option is off. Dropout masks are 0 or 1 / (1 - probability)."""

    hidden: Array | None  # (batch, output) on h
    candidate: Array | None  # (batch, hidden) on g
    zone_h: Any  # (batch, output) of 0 and 1 in training, the probability itself in inference, None without zoneout
    zone_c: Any  # (batch, hidden), likewise


class Normalised(NamedTuple):
    """Layer normalisation's outcome, from which its backward is computed."""

    value: Array  # zero mean and unit variance along the last axis
    scale: Array  # (batch, 1): one over the standard deviation


class VariantStep(NamedTuple):
    """What the backward pass needs to know about one forward step."""

    x: Array
    h_in: Array
    c_previous: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c_star: Array
    m: Array
    squashed: Array  # cell(clamp(n))
    p: Normalised | None
    r: Normalised | None
    n: Normalised | None


class VariantGradients(NamedTuple):
    """Gradients of one step: of x, h and c, and of all parameters as `Weights`."""

    dx: Array
    dh: Array
    dc: Array
    weights: Weights


def normalise(a: Array) -> Normalised:
    """(a - mean) / sqrt(variance + epsilon) along the last axis, with the biased variance (Ba et al. 2016)."""
    xp = namespace(a)
    centred = a - xp.mean(a, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + NORM_EPSILON)
    return Normalised(centred * scale, scale)


def normalise_backward(normalised: Normalised, d: Array) -> Array:
    """Gradient of what `normalise` was given, from that of its value."""
    xp = namespace(d)
    value, scale = normalised
    along = xp.mean(d * value, axis=-1, keepdims=True)
    return scale * (d - xp.mean(d, axis=-1, keepdims=True) - value * along)


def step(
    x: Array, h: Array, c: Array, weights: Weights, options: Options, masks: StepMasks
) -> tuple[Array, Array, VariantStep]:
    """One time step; weights.recurrent has its weight mask on it already. Returns h', c' and what backward needs."""
    gate, candidate, cell = options.activations
    h_in = h if masks.hidden is None else h * masks.hidden
    p, r = x @ weights.input.T, h_in @ weights.recurrent.T
    norm_p = norm_r = norm_c = None
    if weights.gain_input is not None:
        norm_p, norm_r = normalise(p), normalise(r)
        p, r = weights.gain_input * norm_p.value, weights.gain_recurrent * norm_r.value
    a = p + r if weights.bias is None else p + r + weights.bias
    a_i, a_f, a_g, a_o = split(a)
    w_i, w_f, w_o = (None,) * 3 if weights.peephole is None else split(weights.peephole[None, :], 3)
    i = gate(_bounded(a_i if w_i is None else a_i + w_i * c, options))
    f = 1 - i if options.coupled else gate(_bounded(a_f if w_f is None else a_f + w_f * c, options))
    g = candidate(_bounded(a_g, options))

    c_star = f * c + i * (g if masks.candidate is None else g * masks.candidate)
    o = gate(_bounded(a_o if w_o is None else a_o + w_o * c_star, options))
    n = c_star
    if weights.gain_cell is not None:
        norm_c = normalise(c_star)
        n = weights.gain_cell * norm_c.value + weights.bias_cell
    squashed = cell(_bounded(n, options))
    m = o * squashed
    h_star = m if weights.projection is None else m @ weights.projection.T
    saved = VariantStep(x, h_in, c, i, f, g, o, c_star, m, squashed, norm_p, norm_r, norm_c)
    return _zoned(masks.zone_h, h, h_star), _zoned(masks.zone_c, c, c_star), saved


def step_backward(
    saved: VariantStep, dh: Array, dc: Array, weights: Weights, options: Options, masks: StepMasks
) -> VariantGradients:
    """`step` from its last equation to its first. ``dh`` and ``dc`` are all that the loss asks of h' and c'."""
    xp = namespace(dh)
    x, h_in, c, i, f, g, o, c_star, m, squashed, norm_p, norm_r, norm_c = saved
    gate, candidate, cell = options.activations
    dh_star, dh_kept = _zoned_backward(masks.zone_h, dh)
    dc_star, dc_kept = _zoned_backward(masks.zone_c, dc)

    dm = dh_star if weights.projection is None else dh_star @ weights.projection
    n = c_star if norm_c is None else weights.gain_cell * norm_c.value + weights.bias_cell
    dn = dm * o * cell.slope(squashed)
    if options.cell_clip is not None:
        dn = xp.where(xp.abs(n) < options.cell_clip, dn, xp.zeros_like(dn))
    dc_star = dc_star + (dn if norm_c is None else normalise_backward(norm_c, dn * weights.gain_cell))

    da_o = dm * squashed * _gate_slope(gate, o, options)
    w_i, w_f, w_o = (None,) * 3 if weights.peephole is None else split(weights.peephole[None, :], 3)
    if w_o is not None:
        dc_star = dc_star + da_o * w_o
    dg = dc_star * i if masks.candidate is None else dc_star * i * masks.candidate
    di, df = dc_star * (g if masks.candidate is None else g * masks.candidate), dc_star * c
    if options.coupled:
        di, df = di - df, xp.zeros_like(df)
    da_i, da_f = di * _gate_slope(gate, i, options), df * _gate_slope(gate, f, options)
    da_g = dg * _gate_slope(candidate, g, options)
    da = xp.concat([da_i, da_f, da_g, da_o], axis=1)

    dc_before = dc_star * f + dc_kept
    if w_i is not None:
        dc_before = dc_before + da_i * w_i + da_f * w_f
    dp = dr = da
    if norm_p is not None and norm_r is not None:
        dp = normalise_backward(norm_p, da * weights.gain_input)
        dr = normalise_backward(norm_r, da * weights.gain_recurrent)
    dh_before = dr @ weights.recurrent
    dh_before = dh_kept + (dh_before if masks.hidden is None else dh_before * masks.hidden)

    def over_batch(a: Array) -> Array:
        return xp.sum(a, axis=0)

    return VariantGradients(
        dx=dp @ weights.input,
        dh=dh_before,
        dc=dc_before,
        weights=Weights(
            input=dp.T @ x,
            recurrent=dr.T @ h_in,
            bias=None if weights.bias is None else over_batch(da),
            projection=None if weights.projection is None else dh_star.T @ m,
            peephole=None if w_i is None else over_batch(xp.concat([da_i * c, da_f * c, da_o * c_star], axis=1)),
            gain_input=None if norm_p is None else over_batch(da * norm_p.value),
            gain_recurrent=None if norm_r is None else over_batch(da * norm_r.value),
            gain_cell=None if norm_c is None else over_batch(dn * norm_c.value),
            bias_cell=None if norm_c is None else over_batch(dn),
        ),
    )


def split(a: Array, parts: int = 4) -> list[Array]:
    """Views of ``parts`` equal pieces along the last axis."""
    width = a.shape[-1] // parts
    return [a[..., k * width : (k + 1) * width] for k in range(parts)]


def _bounded(a: Array, options: Options) -> Array:
    return a if options.cell_clip is None else clamp(a, options.cell_clip)


def _gate_slope(activation, value: Array, options: Options) -> Array:
    """The slope by a pre-activation; zero where the bound held it, which the value tells because an activation is
    monotonic."""
    slope = activation.slope(value)
    if options.cell_clip is None:
        return slope
    xp = namespace(value)
    ends = [activation(xp.ones_like(value) * limit) for limit in (-options.cell_clip, options.cell_clip)]
    low, high = xp.minimum(*ends), xp.maximum(*ends)
    return xp.where((value > low) & (value < high), slope, xp.zeros_like(slope))


def _zoned(zone: Any, before: Array, after: Array) -> Array:
    return after if zone is None else zone * before + (1 - zone) * after


def _zoned_backward(zone: Any, d: Array) -> tuple[Array, Array]:
    """Gradients of the new and of the kept state."""
    return (d, namespace(d).zeros_like(d)) if zone is None else ((1 - zone) * d, zone * d)
