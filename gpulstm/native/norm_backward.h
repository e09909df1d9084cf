// Layer norm in a step of the backward pass: `norm.h` has the equations.
//
//     v' = norm(v)      dv = scale * (dv' - mean(dv') - v' * mean(dv' * v'))
//
// The step's own product, what the next step asks of h, is shared by units; the rest by sequences, as forward. What the
// parameters' gradients consist of is added up for each sequence by itself, so that no sum depends on who computes it:
// NORM_SUMS rows of the gradients of the bias (4), gain_input (4), gain_recurrent (4), gain_cell and bias_cell.
#pragma once

#include "norm.h"

typedef struct {
    StepBack step;
    const real* asked;  // (batch, hidden): W_hh^T dr of the step that was computed last, times hidden_factor
    real *normal, *dn;  // (ROWS, hidden), the thread's own: norm(c*), and the gradient of it
} NormStepBack;

// A sum over a sequence's units or gates, and one of products with the normalised numbers.
typedef struct {
    vec plain, along;
} Sums;

INLINE vec asked_of(const Backward* p, const NormStepBack* at, long s, long unit, long count) {
    const long place = s * p->hidden + unit;
    const vec dh = load_part(p->dh + place, count);
    return ran(p, &at->step, s) ? dh + load_part(at->asked + place, count) : dh;
}

INLINE void add_to_sums(const Norm* norm, long hidden, long s, int row, long unit, vec v, long count) {
    real* to = norm->sums + (s * NORM_SUMS + row) * hidden + unit;
    store_part(to, load_part(to, count) + v, count);
}

// A sequence that has no such step, or no step any more.
INLINE void norm_pass_on(const Backward* p, const NormStepBack* at, long s, long unit, long count) {
    const long row = (at->step.step * p->batch + s) * 4 * p->hidden + unit;
    const vec zero = {0};
    store_part(p->dh + s * p->hidden + unit, asked_of(p, at, s, unit, count), count);
    for (int gate = 0; !at->step.last && gate < 4; ++gate) {
        store_part(p->options->norm->p + row + gate * p->hidden, zero, count);
        store_part(p->options->norm->r + row + gate * p->hidden, zero, count);
    }
}

// From h' to norm(c*), and to the output gate.
INLINE void norm_squashed(const Backward* p, const NormStepBack* at, const int has, long s, const real* moments, int n, Sums* sums,
                          long unit, const long count) {
    const Options* o = p->options;
    const Norm* norm = o->norm;
    const long hidden = p->hidden, row = at->step.step * p->batch + s;
    const vec zero = {0}, gain = load_part(norm->gain_cell + unit, count);
    vec dh = asked_of(p, at, s, unit, count);
    if (p->dy) dh += load_part(p->dy + row * p->dy_width + unit, count);
    const Left cell = left_by(p, &at->step, has, s, unit, count);
    const ivec keeps_h = where(cell.bits, KEEPS_H);
    // c* as it was to the last bit, where zoneout did not replace it: what all units have in common is to cancel.
    const long after = (at->step.step + !p->reverse) * p->batch + s;
    const vec next = load_part(p->cells + after * hidden + unit, count);
    const vec normal = ((has & ZONEOUT ? choose(where(cell.bits, KEEPS_C), cell.c_star, next) : next) - moments[3]) * moments[2];
    vec da_o, dn;
    squashed_back(o, has, &cell, gain * normal + load_part(norm->bias_cell + unit, count),
                  has & ZONEOUT ? choose(keeps_h, zero, dh) : dh, &da_o, &dn);
    store_part(p->dh + s * hidden + unit, has & ZONEOUT ? choose(keeps_h, dh, zero) : zero, count);
    store_part(p->gates + (4 * row + 3) * hidden + unit, da_o, count);
    add_to_sums(norm, hidden, s, 12, unit, dn * normal, count);
    add_to_sums(norm, hidden, s, 13, unit, dn, count);
    const vec d_normal = dn * gain;
    store_part(at->normal + n * hidden + unit, normal, count);
    store_part(at->dn + n * hidden + unit, d_normal, count);
    sums->plain += count == LANES ? d_normal : only(d_normal, count);
    sums->along += count == LANES ? d_normal * normal : only(d_normal * normal, count);
}

// From c* to the pre-activations, the normalised products and the state before.
INLINE void norm_opened(const Backward* p, const NormStepBack* at, const int has, long s, const real* moments, int n, real plain,
                        real along, Sums* of_p, Sums* of_r, long unit, const long count) {
    const Options* o = p->options;
    const Norm* norm = o->norm;
    const long hidden = p->hidden, place = s * hidden + unit, row = (at->step.step * p->batch + s) * 4 * hidden + unit;
    const vec zero = {0};
    vec w[3], da[4];
    load_peepholes(w, o, has, hidden, unit, count);
    const Left cell = left_by(p, &at->step, has, s, unit, count);
    da[3] = cell.out;  // it stands there by now
    const vec normal = load_part(at->normal + n * hidden + unit, count);
    const vec through = (load_part(at->dn + n * hidden + unit, count) - plain - normal * along) * moments[2];
    const vec dc = load_part(p->dc + place, count);
    vec dc_star = (has & ZONEOUT ? choose(where(cell.bits, KEEPS_C), zero, dc) : dc) + through;
    if (has & PEEPHOLES) dc_star += da[3] * w[2];
    store_part(p->dc + place, opened_back(o, has, &cell, w, dc_star, dc, da), count);
    if (has & PEEPHOLES) add_peepholes(p, &cell, da, s, unit, count);
    UNROLLED for (int gate = 0; gate < 4; ++gate) {
        const long k = gate * hidden;
        if (count < LANES) da[gate] = only(da[gate], count);
        const vec normal_p = load_part(norm->p + row + k, count), normal_r = load_part(norm->r + row + k, count);
        const vec by_p = da[gate] * normal_p, by_r = da[gate] * normal_r;
        const vec gain_p = load_part(norm->gain_input + unit + k, count);
        const vec gain_r = load_part(norm->gain_recurrent + unit + k, count);
        add_to_sums(norm, hidden, s, gate, unit, da[gate], count);
        add_to_sums(norm, hidden, s, 4 + gate, unit, by_p, count);
        add_to_sums(norm, hidden, s, 8 + gate, unit, by_r, count);
        of_p->plain += da[gate] * gain_p;
        of_p->along += by_p * gain_p;
        of_r->plain += da[gate] * gain_r;
        of_r->along += by_r * gain_r;
        store_part(p->gates + row + k, da[gate], count);
    }
}

// From the normalised products to the products themselves.
INLINE void norm_products(const Backward* p, const NormStepBack* at, long s, const real* moments, const real* means,
                          long unit, const long count) {
    const Norm* norm = p->options->norm;
    const long hidden = p->hidden, row = (at->step.step * p->batch + s) * 4 * hidden + unit;
    UNROLLED for (int gate = 0; gate < 4; ++gate) {
        const long k = gate * hidden;
        const vec da = load_part(p->gates + row + k, count);
        const vec normal_p = load_part(norm->p + row + k, count), normal_r = load_part(norm->r + row + k, count);
        const vec d_p = da * load_part(norm->gain_input + unit + k, count) - means[0] - normal_p * means[1];
        const vec d_r = da * load_part(norm->gain_recurrent + unit + k, count) - means[2] - normal_r * means[3];
        store_part(norm->p + row + k, d_p * moments[0], count);
        store_part(norm->r + row + k, d_r * moments[1], count);
    }
}

INLINE void norm_rows_back(const Backward* p, const NormStepBack* at, const int* own, int rows, const int has) {
    const Norm* norm = p->options->norm;
    const long hidden = p->hidden;
    const Sums nothing = {{0}, {0}};
    const real units = (real)hidden, all = (real)(4 * hidden);
    const real* moments[ROWS];
    long sequences[ROWS];
    real plain[ROWS], along[ROWS], means[ROWS][4];
    int running = 0;
    for (int n = 0; n < rows; ++n) {
        const long s = own[n];
        if (at->step.last || (p->lengths && at->step.step >= p->lengths[s])) {
            FOR_ANY_UNITS(hidden, norm_pass_on, p, at, s)
        } else {
            moments[running] = norm->moments + (at->step.step * p->batch + s) * MOMENTS;
            sequences[running++] = s;
        }
    }
    for (int n = 0; n < running; ++n) {
        Sums sums = nothing;
        FOR_UNITS(hidden, norm_squashed, p, at, has, sequences[n], moments[n], n, &sums)
        plain[n] = total_of(sums.plain) / units;
        along[n] = total_of(sums.along) / units;
    }
    for (int n = 0; n < running; ++n) {
        Sums of_p = nothing, of_r = nothing;
        FOR_UNITS(hidden, norm_opened, p, at, has, sequences[n], moments[n], n, plain[n], along[n], &of_p, &of_r)
        means[n][0] = total_of(of_p.plain) / all;
        means[n][1] = total_of(of_p.along) / all;
        means[n][2] = total_of(of_r.plain) / all;
        means[n][3] = total_of(of_r.along) / all;
    }
    for (int n = 0; n < running; ++n) {
        FOR_UNITS(hidden, norm_products, p, at, sequences[n], moments[n], means[n])
    }
}

NOINLINE void norm_gradients(const Backward* p, const NormStepBack* at, const int* own, int rows) {
    if (at->step.features) {
        norm_rows_back(p, at, own, rows, at->step.features);
    } else {
        norm_rows_back(p, at, own, rows, 0);
    }
}
