// Layer norm in a step of the forward pass: `gpulstm.variants`.
//
//     a = gain_p * norm(p) + gain_r * norm(r) + b     p = W_ih x and r = W_hh h, over all gates of a sequence
//     n = gain_c * norm(c*) + bias_c                  over its units; what is squashed instead of c*
//     norm(v) = (v - mean(v)) / sqrt(variance(v) + epsilon)
//
// Who owns what: the products of a step are shared by units, as ever, and go to memory. What follows needs a sequence
// as a whole, and is shared by sequences: a barrier after the products, and one after the states. A row of sums is some
// thousand numbers, and stays in the first cache while it is gone through several times.
#pragma once

#include <math.h>

#include "options.h"

#define NORM_EPSILON 1e-5

// Where a step's sequences are.
typedef struct {
    Step step;      // `gates` are where the activated ones go, or without `keep` p
    real *p, *r;    // (batch, 4*hidden): products, with `keep` normalised in place
    real* moments;  // (batch, MOMENTS) or null
    real* c_star;   // (ROWS, hidden), the thread's own
} NormStep;

typedef struct {
    real mean, scale;  // scale is one over the standard deviation
} Moments;

// The lanes below `count`, and zero.
INLINE vec only(vec v, long count) {
    vec found = {0};
    memcpy(&found, &v, count * sizeof(real));
    return found;
}

// Two passes, and four sums side by side in each: sums of squares about zero would cancel. The order of the additions
// depends on nothing but `count`.
INLINE Moments moments_of(const real* v, long count) {
    const vec zero = {0};
    const long whole = count / PANEL * PANEL;
    const real one_over = 1 / (real)count;  // at hand before the sums are, which a division would have to wait for
    vec sums[4] = {zero, zero, zero, zero};
    for (long k = 0; k < whole; k += PANEL) {
        UNROLLED for (int j = 0; j < 4; ++j) sums[j] += load(v + k + j * LANES);
    }
    for (long k = whole; k < count; k += LANES) {
        sums[0] += load_part(v + k, count - k < LANES ? count - k : LANES);
    }
    const real mean = total_of((sums[0] + sums[1]) + (sums[2] + sums[3])) * one_over;
    vec squares[4] = {zero, zero, zero, zero};
    for (long k = 0; k < whole; k += PANEL) {
        UNROLLED for (int j = 0; j < 4; ++j) {
            const vec centred = load(v + k + j * LANES) - mean;
            squares[j] += centred * centred;
        }
    }
    for (long k = whole; k < count; k += LANES) {
        const long here = count - k < LANES ? count - k : LANES;
        vec centred = load_part(v + k, here) - mean;
        if (here < LANES) centred = only(centred, here);
        squares[0] += centred * centred;
    }
    const real variance = total_of((squares[0] + squares[1]) + (squares[2] + squares[3])) * one_over;
    return (Moments){mean, 1 / SQUARE_ROOT(variance + (real)NORM_EPSILON)};
}

// Calls `what(..., unit, count)` for all units, LANES at a time, where `count` is a constant.
#define FOR_UNITS(hidden, what, ...)                                                             \
    {                                                                                            \
        long unit = 0;                                                                           \
        for (; unit + LANES <= (hidden); unit += LANES) what(__VA_ARGS__, unit, LANES);          \
        if (unit < (hidden)) what(__VA_ARGS__, unit, (hidden) - unit);                           \
    }

// The same for what takes little time, or all of it elsewhere: it is compiled once.
#define FOR_ANY_UNITS(hidden, what, ...)                                                         \
    for (long unit = 0; unit < (hidden); unit += LANES) {                                        \
        what(__VA_ARGS__, unit, (hidden) - unit < LANES ? (hidden) - unit : LANES);              \
    }

// Up to c*.
INLINE void norm_open(const Forward* p, const NormStep* at, const int has, long s, Moments of_p, Moments of_r,
                      real* c_star, ivec bits, long unit, const long count) {
    const Options* o = p->options;
    const Norm* norm = o->norm;
    const long hidden = p->hidden, row = s * 4 * hidden + unit;
    vec w[3], a[4];
    load_peepholes(w, o, has, hidden, unit, count);
    UNROLLED for (int gate = 0; gate < 4; ++gate) {
        const long k = gate * hidden;
        const vec normal_p = (load_part(at->p + row + k, count) - of_p.mean) * of_p.scale;
        const vec normal_r = (load_part(at->r + row + k, count) - of_r.mean) * of_r.scale;
        a[gate] = load_part(norm->gain_input + unit + k, count) * normal_p +
                  load_part(norm->gain_recurrent + unit + k, count) * normal_r;
        if (p->bias) a[gate] += load_part(p->bias + unit + k, count);
        if (p->keep) {
            store_part(at->p + row + k, normal_p, count);
            store_part(at->r + row + k, normal_r, count);
        }
    }
    const vec c = load_part(at->step.c_before + s * hidden + unit, count);
    const Opened cell = opened(o, has, w, a, c, where(bits, DROPPED));
    store_part(c_star + unit, cell.c_star, count);
    if (p->keep) {
        store_part(at->step.gates + row, cell.i, count);
        store_part(at->step.gates + row + hidden, cell.f, count);
        store_part(at->step.gates + row + 2 * hidden, cell.g, count);
    }
    store_part(at->step.gates + row + 3 * hidden, cell.out, count);
    if (o->record && records(has)) {
        store_bits(o->record + (at->step.step * p->batch + s) * hidden + unit, bits | cell.held, count);
    }
}

// And from it on.
INLINE void norm_close(const Forward* p, const NormStep* at, const int has, long s, Moments of_c, const real* c_star,
                       long unit, const long count) {
    const Options* o = p->options;
    const long hidden = p->hidden, place = s * hidden + unit;
    real* gate = at->step.gates + (4 * s + 3) * hidden + unit;
    uint8_t* record = records(has) && o->record ? o->record + at->step.step * p->batch * hidden + place : 0;
    vec w[3];
    load_peepholes(w, o, has, hidden, unit, count);
    ivec bits = {0};
    if (record) bits = load_bits(record, count);
    const vec star = load_part(c_star + unit, count), c = load_part(at->step.c_before + place, count);
    const vec n = load_part(o->norm->gain_cell + unit, count) * ((star - of_c.mean) * of_c.scale) +
                  load_part(o->norm->bias_cell + unit, count);
    const vec h = has & (ZONEOUT | SHARES) ? state_before(p, &at->step, place, count) : (vec){0};
    const Closed next = closed(o, has, w[2], load_part(gate, count), star, n, c, h, where(bits, KEEPS_C),
                               where(bits, KEEPS_H));
    store_states(p, &at->step, s, unit, next, count);
    if (p->keep && (has & PEEPHOLES)) store_part(gate, next.out, count);
    if (record && (has & CLIPPED)) store_bits(record, bits | next.held, count);
}

// Opens all cells of the same units, so that what they draw is drawn side by side.
INLINE void norm_open_all(const Forward* p, const NormStep* at, const int has, const int* sequences, int rows,
                          const Moments* of_p, const Moments* of_r, long unit, const long count) {
    ivec drawn[ROWS];
    if (draws(has)) draw_bits(p, &at->step, has, sequences, rows, unit, drawn);
    for (int n = 0; n < rows; ++n) {
        ivec bits = {0};
        if (draws(has)) bits = drawn[n];
        norm_open(p, at, has, sequences[n], of_p[n], of_r[n], at->c_star + n * p->hidden, bits, unit, count);
    }
}

// Up to ROWS sequences go through the passes together, so that the processor need not wait for the end of a sum.
INLINE void norm_rows(const Forward* p, const NormStep* at, const int* own, int rows, const int has) {
    const long hidden = p->hidden;
    int sequences[ROWS], running = 0;
    for (int n = 0; n < rows; ++n) {
        if (runs(p, &at->step, own[n])) {
            sequences[running++] = own[n];
        } else {
            FOR_ANY_UNITS(hidden, hand_on, p, &at->step, own[n])
        }
    }
    Moments of_p[ROWS], of_r[ROWS], of_c[ROWS];
    for (int n = 0; n < running; ++n) {
        of_p[n] = moments_of(at->p + sequences[n] * 4 * hidden, 4 * hidden);
        of_r[n] = moments_of(at->r + sequences[n] * 4 * hidden, 4 * hidden);
    }
    FOR_UNITS(hidden, norm_open_all, p, at, has, sequences, running, of_p, of_r)
    for (int n = 0; n < running; ++n) of_c[n] = moments_of(at->c_star + n * hidden, hidden);
    for (int n = 0; n < running; ++n) {
        FOR_UNITS(hidden, norm_close, p, at, has, sequences[n], of_c[n], at->c_star + n * hidden)
        if (!at->moments) continue;
        const real kept[MOMENTS] = {of_p[n].scale, of_r[n].scale, of_c[n].scale, of_c[n].mean};
        memcpy(at->moments + sequences[n] * MOMENTS, kept, sizeof kept);
    }
}

NOINLINE void norm_cells(const Forward* p, const NormStep* at, const int* own, int rows) {
    if (at->step.features) {
        norm_rows(p, at, own, rows, at->step.features);
    } else {
        norm_rows(p, at, own, rows, 0);
    }
}

// The share of a thread in `count` sequences, in groups of up to ROWS: calls `what(..., sequences, rows)` for each.
#define FOR_OWN_SEQUENCES(place, sequences, count, what, ...)                                                  \
    {                                                                                                          \
        const long begin = share(count, (place)->id, (place)->team->size);                                     \
        const long own = share(count, (place)->id + 1, (place)->team->size) - begin;                           \
        for (long group = 0; own && group < groups_of(own); ++group) {                                         \
            const long from = group_start(own, group), to = group_start(own, group + 1);                       \
            what(__VA_ARGS__, (sequences) + begin + from, (int)(to - from));                                   \
        }                                                                                                      \
    }

// Numbers of scratch memory on top of the plain LSTM's, of either pass: the products of a step, and two rows for each
// sequence that a thread goes through at once.
static long norm_room(long batch, long hidden, int threads) {
    return batch * 4 * hidden + threads * 2L * ROWS * hidden;
}
