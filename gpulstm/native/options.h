// The cells of a step with options, forward and backward: `gpulstm.variants`, but for layer norm, projection and other
// activations.
//
//     a_i += w_i * c        a_f += w_f * c                    peepholes
//     i = sigmoid(clamp(a_i))    f = sigmoid(clamp(a_f))      or coupled: f = 1 - i
//     g = tanh(clamp(a_g)) * candidate_mask                   dropout of the candidate
//     c* = f * c + i * g    o = sigmoid(clamp(a_o + w_o * c*))    h* = o * tanh(clamp(c*))
//     c' = zone_c * c + (1 - zone_c) * c*                     zoneout; in inference zone is the probability itself
//     h' = zone_h * h + (1 - zone_h) * h*
//
// and the next step's product reads h' * hidden_factor. What a step draws, and what its bounds held, goes into a byte
// for each unit: to draw once more would cost the backward pass more than to read it.
#pragma once

#include "layer.h"

enum { DROPPED = 1, KEEPS_H = 2, KEEPS_C = 4, HELD_I = 8, HELD_F = 16, HELD_G = 32, HELD_O = 64, HELD_C = 128 };

typedef uint8_t bytes __attribute__((vector_size(LANES)));

// One step of one block of units for some sequences: where things are.
typedef struct {
    long step, sequence, unit;
    real* gates;                       // (batch, 4*hidden), W_ih x + b, of this step
    const real *h_before, *c_before;   // (batch, hidden)
    real *h_after, *c_after;
} Step;

INLINE int runs(const Forward* p, const Step* at, long sequence) {
    return !p->lengths || p->first_time + at->step < p->lengths[sequence];
}

INLINE void store_bits(uint8_t* to, ivec bits, long count) {
    const bytes narrow = __builtin_convertvector(bits, bytes);
    if (count == LANES) {
        memcpy(to, &narrow, LANES);
    } else {
        memcpy(to, &narrow, count);
    }
}
INLINE ivec load_bits(const uint8_t* from, long count) {
    bytes narrow = {0};
    if (count == LANES) {
        memcpy(&narrow, from, LANES);
    } else {
        memcpy(&narrow, from, count);
    }
    return __builtin_convertvector(narrow, ivec);
}
INLINE ivec where(ivec bits, int bit) { return (ivec)((bits & bit) != 0); }

// Bounds a pre-activation, and gives `bit` where it was held: its slope there is zero.
INLINE ivec clamp(vec* a, real bound, int bit) {
    const ivec held = (ivec)(*a >= bound) | (ivec)(*a <= -bound);
    *a = within(*a, bound);
    return held & bit;
}

INLINE void option_cells(const Forward* p, const Step* at, int rows, vec sums[][4], const long count) {
    const Options* o = p->options;
    const long hidden = p->hidden, unit = at->unit;
    const Generator generator = {o->seed, o->stream};
    const uint32_t thresholds[3] = {o->zone_h, o->zone_c, o->candidate};
    const int draws = o->zone_h || o->zone_c || o->candidate;
    const vec zero = {0};
    const real clip = (real)o->clip, share_h = (real)o->zone_h_share, share_c = (real)o->zone_c_share;
    const real rest_h = (real)(1 - o->zone_h_share), rest_c = (real)(1 - o->zone_c_share);
    vec w[3] = {zero, zero, zero};
    for (int gate = 0; o->peephole && gate < 3; ++gate) w[gate] = load_part(o->peephole + gate * hidden + unit, count);

    // All at once, and before the rest: the processor then works on several draws at the same time.
    Below all_drawn[ROWS];
    const Block units = block_of(generator, unit);
    for (int n = 0; draws && n < rows; ++n) {
        all_drawn[n] = draw(generator, units, at->sequence + n, o->first_time + (uint32_t)at->step, thresholds);
    }
    for (int n = 0; n < rows; ++n) {
        const long s = at->sequence + n, place = s * hidden + unit;
        real* gates = at->gates + s * 4 * hidden + unit;
        real* y = p->y + (at->step * p->batch + s) * p->y_width + unit;
        const vec c = load_part(at->c_before + place, count);
        if (!runs(p, at, s)) {
            store_part(at->c_after + place, c, count);
            store_part(at->h_after + place, load_part(at->h_before + place, count), count);
            store_part(y, zero, count);
            continue;
        }
        const vec h = load_part((o->state ? o->state : at->h_before) + place, count);
        Below drawn = {0};
        if (draws) drawn = all_drawn[n];
        ivec bits = (drawn.first & KEEPS_H) | (drawn.second & KEEPS_C) | (drawn.third & DROPPED);

        vec i = sums[n][0] + load_part(gates, count), f = sums[n][1] + load_part(gates + hidden, count);
        vec g = sums[n][2] + load_part(gates + 2 * hidden, count);
        vec out = sums[n][3] + load_part(gates + 3 * hidden, count);
        if (o->peephole) {
            i += w[0] * c;
            f += w[1] * c;
        }
        if (o->clip) bits |= clamp(&i, clip, HELD_I) | clamp(&f, clip, HELD_F) | clamp(&g, clip, HELD_G);
        i *= 0.5f;
        f *= 0.5f;
        two_tanhs(&i, &f);
        i = i * 0.5f + 0.5f;
        f = o->coupled ? 1.0f - i : f * 0.5f + 0.5f;
        if (o->peephole) {
            g = tanh_of(g);
        } else {  // the output gate need not wait for the cell
            if (o->clip) bits |= clamp(&out, clip, HELD_O);
            out *= 0.5f;
            two_tanhs(&out, &g);
        }
        vec candidate = g;
        if (o->candidate) candidate = choose(drawn.third, zero, g * (real)o->candidate_scale);
        const vec c_star = f * c + i * candidate;
        vec squashed = c_star;
        if (o->clip) bits |= clamp(&squashed, clip, HELD_C);
        if (o->peephole) {
            out += w[2] * c_star;
            if (o->clip) bits |= clamp(&out, clip, HELD_O);
            out *= 0.5f;
            two_tanhs(&out, &squashed);
        } else {
            squashed = tanh_of(squashed);
        }
        out = out * 0.5f + 0.5f;
        const vec h_star = out * squashed;

        vec c_next = choose(drawn.second, c, c_star), h_next = choose(drawn.first, h, h_star);
        if (o->zone_c_share) c_next = share_c * c + rest_c * c_star;
        if (o->zone_h_share) h_next = share_h * h + rest_h * h_star;
        store_part(at->c_after + place, c_next, count);
        store_part(y, h_next, count);
        if (o->state) store_part(o->state + place, h_next, count);
        if (o->hidden_factor) h_next *= load_part(o->hidden_factor + place, count);
        store_part(at->h_after + place, h_next, count);
        if (p->keep) {
            store_part(gates, i, count);
            store_part(gates + hidden, f, count);
            store_part(gates + 2 * hidden, g, count);
            store_part(gates + 3 * hidden, out, count);
        }
        if (o->record) store_bits(o->record + at->step * p->batch * hidden + place, bits, count);
    }
}

// One step of the backward pass: `later` is the step that came before it here, or -1.
typedef struct {
    long step, later, sequence, unit;
    int last;  // there is no step left: dh alone is asked for
} StepBack;

// What the step after this one, in the order of the forward pass, asks of h; and whether it was computed.
INLINE int ran(const Backward* p, const StepBack* at, long sequence) {
    return at->later >= 0 && (!p->lengths || at->later < p->lengths[sequence]);
}

INLINE void option_gradients(const Backward* p, const StepBack* at, int rows, vec sums[][4], const long count) {
    const Options* o = p->options;
    const long hidden = p->hidden, batch = p->batch, units = batch * hidden, unit = at->unit;
    const vec zero = {0};
    const real clip = (real)o->clip;
    vec w[3] = {zero, zero, zero};
    for (int gate = 0; o->peephole && gate < 3; ++gate) w[gate] = load_part(o->peephole + gate * hidden + unit, count);

    for (int n = 0; n < rows; ++n) {
        const long s = at->sequence + n, place = s * hidden + unit, row = at->step * batch + s;
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
        ivec bits = {0};
        if (o->record) bits = load_bits(o->record + row * hidden + unit, count);
        const ivec keeps_h = where(bits, KEEPS_H), keeps_c = where(bits, KEEPS_C), dropped = where(bits, DROPPED);
        const vec i = load_part(gates, count), f = load_part(gates + hidden, count);
        const vec g = load_part(gates + 2 * hidden, count), out = load_part(gates + 3 * hidden, count);
        const vec c = load_part(p->cells + (at->step + p->reverse) * units + place, count);
        const real scale = o->candidate ? (real)o->candidate_scale : 1;
        const vec candidate = choose(dropped, zero, g * scale), c_star = f * c + i * candidate;
        vec squashed = o->clip ? within(c_star, clip) : c_star;
        squashed = tanh_of(squashed);

        const vec dc = load_part(p->dc + place, count);
        const vec dh_star = choose(keeps_h, zero, dh), dh_kept = choose(keeps_h, dh, zero);
        const vec da_o = choose(where(bits, HELD_O), zero, dh_star * squashed * out * (1.0f - out));
        const vec through = choose(where(bits, HELD_C), zero, dh_star * out * (1.0f - squashed * squashed));
        const vec dc_star = choose(keeps_c, zero, dc) + through + da_o * w[2];
        vec di = dc_star * candidate, df = dc_star * c;
        if (o->coupled) {
            di -= df;
            df = zero;
        }
        const vec da_i = choose(where(bits, HELD_I), zero, di * i * (1.0f - i));
        const vec da_f = choose(where(bits, HELD_F), zero, df * f * (1.0f - f));
        const vec dg = choose(dropped, zero, dc_star * i * scale);
        const vec da_g = choose(where(bits, HELD_G), zero, dg * (1.0f - g * g));
        const vec dc_before = dc_star * f + choose(keeps_c, dc, zero) + da_i * w[0] + da_f * w[1];
        store_part(p->dh + place, dh_kept, count);
        store_part(p->dc + place, dc_before, count);
        const vec da[4] = {da_i, da_f, da_g, da_o}, by_cell[3] = {da_i * c, da_f * c, da_o * c_star};
        for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, da[gate], count);
        for (int gate = 0; o->d_peephole && gate < 3; ++gate) {
            real* to = o->d_peephole + (3 * s + gate) * hidden + unit;
            store_part(to, load_part(to, count) + by_cell[gate], count);
        }
    }
}
