// The cells of a step with options, forward and backward: `gpulstm.variants`, but for projections. Layer norm is in
// `norm.h`, which has the same cells, opened and closed apart. Here are those whose units do not meet.
//
//     a_i += w_i * c        a_f += w_f * c                    peepholes
//     i = sigmoid(clamp(a_i))    f = sigmoid(clamp(a_f))      or coupled: f = 1 - i
//     g = tanh(clamp(a_g)) * candidate_mask                   dropout of the candidate
//     c* = f * c + i * g    o = sigmoid(clamp(a_o + w_o * c*))    h* = o * tanh(clamp(c*))
//     c' = zone_c * c + (1 - zone_c) * c*                     zoneout; in inference zone is the probability itself
//     h' = zone_h * h + (1 - zone_h) * h*
//
// where sigmoid and tanh may be other activations, and the next step's product reads h' * hidden_factor. What a step
// draws, and what its bounds held, goes into a byte for each unit: to draw once more would cost the backward pass more
// than to read it.
#pragma once

#include "activations.h"

// What a layer has of them. Whoever passes this as a constant gets code without the rest.
enum { PEEPHOLES = 1, COUPLED = 2, OTHERS = 4, CLIPPED = 8, ZONEOUT = 16, DROPS_CANDIDATE = 32, SHARES = 64 };

static int features_of(const Options* o) {
    return (o->peephole ? PEEPHOLES : 0) | (o->coupled ? COUPLED : 0) | (o->others ? OTHERS : 0) |
           (o->clip ? CLIPPED : 0) | (o->zone_h || o->zone_c ? ZONEOUT : 0) | (o->candidate ? DROPS_CANDIDATE : 0) |
           (o->zone_h_share || o->zone_c_share ? SHARES : 0);
}

// Calls `what(..., features)`, with a constant for layers that have nothing of all this or one thing of it. Dropout of
// h is such a layer, too.
#define WITH_FEATURES(features, what, ...)                                  \
    switch (features) {                                                     \
        case 0: what(__VA_ARGS__, 0); break;                                \
        case ZONEOUT: what(__VA_ARGS__, ZONEOUT); break;                    \
        case DROPS_CANDIDATE: what(__VA_ARGS__, DROPS_CANDIDATE); break;    \
        case PEEPHOLES: what(__VA_ARGS__, PEEPHOLES); break;                \
        case COUPLED: what(__VA_ARGS__, COUPLED); break;                    \
        default: what(__VA_ARGS__, features); break;                        \
    }

enum { DROPPED = 1, KEEPS_H = 2, KEEPS_C = 4, HELD_I = 8, HELD_F = 16, HELD_G = 32, HELD_O = 64, HELD_C = 128 };

// One step of one block of units for some sequences: where things are.
typedef struct {
    long step, unit;
    int features;
    const Generator* generator;
    const int* sequences;
    real* gates;                       // (batch, 4*hidden), W_ih x + b, of this step
    const real *h_before, *c_before;   // (batch, hidden)
    real *h_after, *c_after;
} Step;

INLINE int runs(const Forward* p, const Step* at, long sequence) {
    return !p->lengths || p->first_time + at->step < p->lengths[sequence];
}

INLINE ivec where(ivec bits, int bit) { return (ivec)((bits & bit) != 0); }

// Bounds a pre-activation, and gives `bit` where it was held: its slope there is zero.
INLINE ivec clamp(vec* a, real bound, int bit) {
    const ivec held = (ivec)(*a >= bound) | (ivec)(*a <= -bound);
    *a = within(*a, bound);
    return held & bit;
}

// A cell before its state is squashed: the gates, of which an output gate with a peephole is still its pre-activation,
// and c*. `held` are the bits of what a bound held.
typedef struct {
    vec i, f, g, out, c_star;
    ivec held;
} Opened;

INLINE vec candidate_of(const Options* o, const int has, vec g, ivec dropped) {
    const vec zero = {0};
    return has & DROPS_CANDIDATE ? choose(dropped, zero, g * (real)o->candidate_scale) : g;
}

INLINE Opened opened(const Options* o, const int has, const vec w[3], const vec a[4], vec c, ivec dropped) {
    const real clip = (real)o->clip;
    Opened cell = {.i = a[0], .f = a[1], .g = a[2], .out = a[3], .held = {0}};
    if (has & PEEPHOLES) {
        cell.i += w[0] * c;
        cell.f += w[1] * c;
    }
    if (has & CLIPPED) {
        cell.held = clamp(&cell.i, clip, HELD_I) | clamp(&cell.f, clip, HELD_F) | clamp(&cell.g, clip, HELD_G);
        if (!(has & PEEPHOLES)) cell.held |= clamp(&cell.out, clip, HELD_O);
    }
    if (has & OTHERS) {
        cell.i = activated(o, OF_GATES, cell.i);
        cell.f = has & COUPLED ? 1.0f - cell.i : activated(o, OF_GATES, cell.f);
        cell.g = activated(o, OF_CANDIDATE, cell.g);
        if (!(has & PEEPHOLES)) cell.out = activated(o, OF_GATES, cell.out);
    } else {
        cell.i *= 0.5f;
        cell.f *= 0.5f;
        two_tanhs(&cell.i, &cell.f);
        cell.i = cell.i * 0.5f + 0.5f;
        cell.f = has & COUPLED ? 1.0f - cell.i : cell.f * 0.5f + 0.5f;
        if (has & PEEPHOLES) {
            cell.g = tanh_of(cell.g);
        } else {  // the output gate need not wait for the cell
            cell.out *= 0.5f;
            two_tanhs(&cell.out, &cell.g);
            cell.out = cell.out * 0.5f + 0.5f;
        }
    }
    cell.c_star = cell.f * c + cell.i * candidate_of(o, has, cell.g, dropped);
    return cell;
}

// The new states, and the output gate.
typedef struct {
    vec out, c, h;
    ivec held;
} Closed;

// `n` is what is squashed: c*, or what layer norm made of it; c and h are the states before.
INLINE Closed closed(const Options* o, const int has, vec w_o, vec out, vec c_star, vec n, vec c, vec h, ivec keeps_c,
                     ivec keeps_h) {
    const real clip = (real)o->clip, share_h = (real)o->zone_h_share, share_c = (real)o->zone_c_share;
    Closed cell = {.out = out, .held = {0}};
    if (has & CLIPPED) cell.held |= clamp(&n, clip, HELD_C);
    if (has & PEEPHOLES) {
        cell.out += w_o * c_star;
        if (has & CLIPPED) cell.held |= clamp(&cell.out, clip, HELD_O);
    }
    if (has & OTHERS) {
        if (has & PEEPHOLES) cell.out = activated(o, OF_GATES, cell.out);
        n = activated(o, OF_CELL, n);
    } else if (has & PEEPHOLES) {
        cell.out *= 0.5f;
        two_tanhs(&cell.out, &n);
        cell.out = cell.out * 0.5f + 0.5f;
    } else {
        n = tanh_of(n);
    }
    const vec h_star = cell.out * n;
    cell.c = c_star;
    cell.h = h_star;
    if (has & ZONEOUT) {
        cell.c = choose(keeps_c, c, c_star);
        cell.h = choose(keeps_h, h, h_star);
    }
    if (has & SHARES) {
        if (o->zone_c_share) cell.c = share_c * c + (real)(1 - o->zone_c_share) * c_star;
        if (o->zone_h_share) cell.h = share_h * h + (real)(1 - o->zone_h_share) * h_star;
    }
    return cell;
}

INLINE int draws(const int has) { return has & (ZONEOUT | DROPS_CANDIDATE); }
INLINE int records(const int has) { return has & (ZONEOUT | DROPS_CANDIDATE | CLIPPED); }

// What the sequences draw in a step, of the units from `unit` on. The processor works on several draws at the same time.
INLINE void draw_bits(const Forward* p, const Step* at, const int has, const int* sequences, int rows, long unit,
                      ivec bits[]) {
    const Options* o = p->options;
    const uint32_t thresholds[3] = {o->zone_h, o->zone_c, o->candidate}, time = o->first_time + (uint32_t)at->step;
    const Block units = block_of(at->generator, unit, time);
    for (int n = 0; n < rows; ++n) {
        const Below drawn = draw(at->generator, units, sequences[n], time, thresholds);
        bits[n] = (ivec){0};
        if (has & ZONEOUT) bits[n] |= (drawn.first & KEEPS_H) | (drawn.second & KEEPS_C);
        if (has & DROPS_CANDIDATE) bits[n] |= drawn.third & DROPPED;
    }
}

INLINE void load_peepholes(vec w[3], const Options* o, const int has, long hidden, long unit, long count) {
    UNROLLED for (int gate = 0; gate < 3; ++gate) {
        w[gate] = (vec){0};
        if (has & PEEPHOLES) w[gate] = load_part(o->peephole + gate * hidden + unit, count);
    }
}

// A sequence that is over keeps its states; its output is zero.
INLINE void hand_on(const Forward* p, const Step* at, long sequence, long unit, long count) {
    const long place = sequence * p->hidden + unit;
    const vec zero = {0};
    store_part(at->c_after + place, load_part(at->c_before + place, count), count);
    store_part(at->h_after + place, load_part(at->h_before + place, count), count);
    store_part(p->y + (at->step * p->batch + sequence) * p->y_width + unit, zero, count);
}

INLINE vec state_before(const Forward* p, const Step* at, long place, long count) {
    return load_part((p->options->state ? p->options->state : at->h_before) + place, count);
}

INLINE void store_states(const Forward* p, const Step* at, long sequence, long unit, Closed cell, long count) {
    const Options* o = p->options;
    const long place = sequence * p->hidden + unit;
    store_part(at->c_after + place, cell.c, count);
    store_part(p->y + (at->step * p->batch + sequence) * p->y_width + unit, cell.h, count);
    if (o->state) store_part(o->state + place, cell.h, count);
    if (o->hidden_factor) cell.h *= load_part(o->hidden_factor + place, count);
    store_part(at->h_after + place, cell.h, count);
}

INLINE void option_cells(const Forward* p, const Step* at, int rows, vec sums[][4], const long count, const int has) {
    const Options* o = p->options;
    const long hidden = p->hidden, unit = at->unit;
    const vec zero = {0};
    vec w[3];
    load_peepholes(w, o, has, hidden, unit, count);
    ivec drawn[ROWS];
    if (draws(has)) draw_bits(p, at, has, at->sequences, rows, unit, drawn);
    for (int n = 0; n < rows; ++n) {
        const long s = at->sequences[n], place = s * hidden + unit;
        if (!runs(p, at, s)) {
            hand_on(p, at, s, unit, count);
            continue;
        }
        real* gates = at->gates + s * 4 * hidden + unit;
        const vec c = load_part(at->c_before + place, count);
        const vec h = has & (ZONEOUT | SHARES) ? state_before(p, at, place, count) : zero;
        ivec bits = {0};
        if (draws(has)) bits = drawn[n];
        vec a[4];
        UNROLLED for (int gate = 0; gate < 4; ++gate) a[gate] = sums[n][gate] + load_part(gates + gate * hidden, count);
        const Opened cell = opened(o, has, w, a, c, where(bits, DROPPED));
        const Closed next = closed(o, has, w[2], cell.out, cell.c_star, cell.c_star, c, h, where(bits, KEEPS_C),
                                   where(bits, KEEPS_H));
        store_states(p, at, s, unit, next, count);
        if (p->keep) {
            store_part(gates, cell.i, count);
            store_part(gates + hidden, cell.f, count);
            store_part(gates + 2 * hidden, cell.g, count);
            store_part(gates + 3 * hidden, next.out, count);
        }
        if (records(has) && o->record) {
            store_bits(o->record + at->step * p->batch * hidden + place, bits | cell.held | next.held, count);
        }
    }
}

// One step of the backward pass: `later` is the step that came before it here, or -1.
typedef struct {
    long step, later, unit;
    int features;
    const int* sequences;
    int last;  // there is no step left: dh alone is asked for
} StepBack;

// What the step after this one, in the order of the forward pass, asks of h; and whether it was computed.
INLINE int ran(const Backward* p, const StepBack* at, long sequence) {
    return at->later >= 0 && (!p->lengths || at->later < p->lengths[sequence]);
}

// What the forward pass left of some units.
typedef struct {
    vec i, f, g, out, c, candidate, c_star;
    ivec bits;
} Left;

INLINE Left left_by(const Backward* p, const StepBack* at, const int has, long sequence, long unit, const long count) {
    const Options* o = p->options;
    const long hidden = p->hidden, row = at->step * p->batch + sequence;
    const real* gates = p->gates + row * 4 * hidden + unit;
    Left cell = {.bits = {0}};
    if (records(has)) cell.bits = load_bits(o->record + row * hidden + unit, count);
    cell.i = load_part(gates, count);
    cell.f = load_part(gates + hidden, count);
    cell.g = load_part(gates + 2 * hidden, count);
    cell.out = load_part(gates + 3 * hidden, count);
    cell.c = load_part(p->cells + ((at->step + p->reverse) * p->batch + sequence) * hidden + unit, count);
    cell.candidate = candidate_of(o, has, cell.g, where(cell.bits, DROPPED));
    cell.c_star = cell.f * cell.c + cell.i * cell.candidate;
    return cell;
}

INLINE vec gate_slope(const Options* o, const int has, vec value) {
    return has & OTHERS ? slope_at(o, OF_GATES, value) : value * (1.0f - value);
}

// From the gradient of h* to those of the output gate's pre-activation and of `n`, which is what was squashed.
INLINE void squashed_back(const Options* o, const int has, const Left* cell, vec n, vec dh_star, vec* da_o, vec* dn) {
    const vec zero = {0};
    vec squashed = has & CLIPPED ? within(n, (real)o->clip) : n, slope;
    if (has & OTHERS) {
        squashed = activated(o, OF_CELL, squashed);
        slope = slope_at(o, OF_CELL, squashed);
    } else {
        squashed = tanh_of(squashed);
        slope = 1.0f - squashed * squashed;
    }
    *da_o = dh_star * squashed * gate_slope(o, has, cell->out);
    *dn = dh_star * cell->out * slope;
    if (has & CLIPPED) {
        *da_o = choose(where(cell->bits, HELD_O), zero, *da_o);
        *dn = choose(where(cell->bits, HELD_C), zero, *dn);
    }
}

// From the gradient of c* to those of the other pre-activations; returns that of c. dc is the gradient of c'.
INLINE vec opened_back(const Options* o, const int has, const Left* cell, const vec w[3], vec dc_star, vec dc,
                       vec da[4]) {
    const vec zero = {0};
    vec di = dc_star * cell->candidate, df = dc_star * cell->c, dg = dc_star * cell->i;
    if (has & COUPLED) {
        di -= df;
        df = zero;
    }
    if (has & DROPS_CANDIDATE) dg = choose(where(cell->bits, DROPPED), zero, dg * (real)o->candidate_scale);
    da[0] = di * gate_slope(o, has, cell->i);
    da[1] = df * gate_slope(o, has, cell->f);
    da[2] = dg * (has & OTHERS ? slope_at(o, OF_CANDIDATE, cell->g) : 1.0f - cell->g * cell->g);
    if (has & CLIPPED) {
        da[0] = choose(where(cell->bits, HELD_I), zero, da[0]);
        da[1] = choose(where(cell->bits, HELD_F), zero, da[1]);
        da[2] = choose(where(cell->bits, HELD_G), zero, da[2]);
    }
    vec dc_before = dc_star * cell->f;
    if (has & ZONEOUT) dc_before += choose(where(cell->bits, KEEPS_C), dc, zero);
    if (has & PEEPHOLES) dc_before += da[0] * w[0] + da[1] * w[1];
    return dc_before;
}

INLINE void add_peepholes(const Backward* p, const Left* cell, const vec da[4], long sequence, long unit, long count) {
    if (!p->options->d_peephole) return;
    const vec by_cell[3] = {da[0] * cell->c, da[1] * cell->c, da[3] * cell->c_star};
    UNROLLED for (int gate = 0; gate < 3; ++gate) {
        real* to = p->options->d_peephole + (3 * sequence + gate) * p->hidden + unit;
        store_part(to, load_part(to, count) + by_cell[gate], count);
    }
}

INLINE void option_gradients(const Backward* p, const StepBack* at, int rows, vec sums[][4], const long count,
                             const int has) {
    const Options* o = p->options;
    const long hidden = p->hidden, unit = at->unit;
    const vec zero = {0};
    vec w[3];
    load_peepholes(w, o, has, hidden, unit, count);

    for (int n = 0; n < rows; ++n) {
        const long s = at->sequences[n], place = s * hidden + unit, row = at->step * p->batch + s;
        real* gates = p->gates + row * 4 * hidden + unit;
        vec dh = load_part(p->dh + place, count);
        if (ran(p, at, s)) {
            vec asked = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
            if (o->hidden_factor) asked *= load_part(o->hidden_factor + place, count);
            dh += asked;  // on top of what zoneout handed on
        }
        if (at->last || (p->lengths && at->step >= p->lengths[s])) {
            store_part(p->dh + place, dh, count);
            for (int gate = 0; !at->last && gate < 4; ++gate) store_part(gates + gate * hidden, zero, count);
            continue;
        }
        if (p->dy) dh += load_part(p->dy + row * p->dy_width + unit, count);
        const Left cell = left_by(p, at, has, s, unit, count);
        const ivec keeps_h = where(cell.bits, KEEPS_H), keeps_c = where(cell.bits, KEEPS_C);
        const vec dc = load_part(p->dc + place, count);
        vec da[4], dc_star;
        squashed_back(o, has, &cell, cell.c_star, has & ZONEOUT ? choose(keeps_h, zero, dh) : dh, da + 3, &dc_star);
        dc_star += has & ZONEOUT ? choose(keeps_c, zero, dc) : dc;
        if (has & PEEPHOLES) dc_star += da[3] * w[2];
        const vec dc_before = opened_back(o, has, &cell, w, dc_star, dc, da);
        store_part(p->dh + place, has & ZONEOUT ? choose(keeps_h, dh, zero) : zero, count);
        store_part(p->dc + place, dc_before, count);
        UNROLLED for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, da[gate], count);
        if (has & PEEPHOLES) add_peepholes(p, &cell, da, s, unit, count);
    }
}
