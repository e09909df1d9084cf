// The backward pass: step by step from the last one, then the products over all steps.
#pragma once

#include "norm_backward.h"

INLINE void plain_gradients(const Backward* p, const StepBack* at, const int rows, vec sums[][4], const long count) {
    const long hidden = p->hidden, batch = p->batch, units = batch * hidden, unit = at->unit;
    for (int n = 0; n < rows; ++n) {
        const long s = at->sequences[n], place = s * hidden + unit;
        vec dh = load_part(p->dh + place, count);
        if (ran(p, at, s)) dh = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
        if (at->last) {
            store_part(p->dh + place, dh, count);
            continue;
        }
        const long row = at->step * batch + s;
        real* gates = p->gates + row * 4 * hidden + unit;
        if (p->lengths && at->step >= p->lengths[s]) {
            const vec zero = {0};
            for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, zero, count);
            store_part(p->dh + place, dh, count);
            continue;
        }
        if (p->dy) dh += load_part(p->dy + row * p->dy_width + unit, count);
        const vec i = load_part(gates, count), f = load_part(gates + hidden, count);
        const vec g = load_part(gates + 2 * hidden, count), o = load_part(gates + 3 * hidden, count);
        const vec c_before = load_part(p->cells + (at->step + p->reverse) * units + place, count);
        const vec tanh_c = tanh_of(load_part(p->cells + (at->step + !p->reverse) * units + place, count));
        const vec dc = load_part(p->dc + place, count) + dh * o * (1.0f - tanh_c * tanh_c);
        const vec da[4] = {dc * g * i * (1.0f - i), dc * c_before * f * (1.0f - f), dc * i * (1.0f - g * g),
                           dh * tanh_c * o * (1.0f - o)};
        store_part(p->dc + place, dc * f, count);
        UNROLLED for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, da[gate], count);
    }
}

NOINLINE void gradients_of(const Backward* p, const StepBack* at, int rows, vec sums[][4], long count) {
    if (p->options && count == LANES) {
        WITH_FEATURES(at->features, option_gradients, p, at, rows, sums, LANES)
    } else if (p->options) {
        option_gradients(p, at, rows, sums, count, at->features);
    } else if (count == LANES) {
        plain_gradients(p, at, rows, sums, LANES);
    } else {
        plain_gradients(p, at, rows, sums, count);
    }
}

// dh = W_hh^T da of the step that was computed last.
INLINE void recurrent_tile_back(const int rows, const real* panel, long hidden, const real* da, const int* sequences,
                                vec sums[][4]) {
    tile_of_four(rows, panel, hidden, da, sequences, 4 * hidden, sums);
}

// Layer norm: the products alone, for who goes on with the sequence as a whole. They are rounded here, whoever adds
// them to what: a stretch of steps is to have the same bits as the whole.
NOINLINE void store_asked(const Backward* p, real* asked, const StepBack* at, int rows, vec sums[][4], long count) {
    for (int n = 0; n < rows; ++n) {
        const long place = at->sequences[n] * p->hidden + at->unit;
        vec sum = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
        if (p->options->hidden_factor) sum *= load_part(p->options->hidden_factor + place, count);
        store_part(asked + place, sum, count);
    }
}

// The gradients of this thread's sequences. `asked` is what layer norm works with.
static void norm_step_back(const Backward* p, const StepBack* at, const Place* place, real* asked) {
    real* rows = asked + p->batch * 4 * p->hidden + place->thread * 2L * ROWS * p->hidden;
    const NormStepBack step = {*at, asked, rows, rows + ROWS * p->hidden};
    const long running = running_at(place, p->lengths, at->step), over = place->end - place->first - running;
    FOR_OWN_SEQUENCES(place, place->order, running, norm_gradients, p, &step)
    FOR_OWN_SEQUENCES(place, place->order + running, over, norm_gradients, p, &step)
}

// The same for the units of four blocks, gate by gate, as if each block had been multiplied by itself: blocks[v][n] are
// the sums that `recurrent_tile_back` has for block v. It reads a quarter of the numbers of `da`, over and over.
static void wide_tile_back(int rows, const real* panel, long hidden, const real* da, const int* sequences, Early early,
                           vec blocks[4][ROWS][4]) {
    for (int gate = 0; gate < 4; ++gate) {
        vec sums[ROWS][4];
        const Early of_gate = {early.what, early.next + gate * hidden * PANEL};
        product_of_rows(rows, panel + gate * hidden * PANEL, hidden, da + gate * hidden, sequences, 4 * hidden, of_gate,
                        sums);
        for (int n = 0; n < rows; ++n) {
            for (int v = 0; v < 4; ++v) blocks[v][n][gate] = sums[n][v];
        }
    }
}

// Whether a part's threads share the units in fours of blocks: where every one has as many of them, or many.
static int is_wide(long hidden, int threads) {
    const long fours = hidden / PANEL;
    return hidden % PANEL == 0 && fours && (fours % threads == 0 || fours >= 4 * threads);
}

// W_hh for the backward product: of each block panel[k][gate][lane], of four at once panel[gate][k][block][lane].
static void lay_out_back(const Backward* p, real* weights, int wide, int id, int threads) {
    const long hidden = p->hidden, blocks = blocks_of(hidden), fours = hidden / PANEL;
    if (wide) {
        for (long four = share(fours, id, threads); four < share(fours, id + 1, threads); ++four) {
            real* to = weights + four * 4 * hidden * PANEL;
            for (long k = 0; k < 4 * hidden; ++k) {
                memcpy(to + k * PANEL, p->recurrent + k * hidden + four * PANEL, PANEL * sizeof(real));
            }
        }
        return;
    }
    for (long b = share(blocks, id, threads); b < share(blocks, id + 1, threads); ++b) {
        real* panel = weights + b * hidden * PANEL;
        const long count = lanes_of(hidden, b);
        for (long k = 0; k < hidden; ++k) {
            for (int gate = 0; gate < 4; ++gate) {
                const real* from = p->recurrent + (gate * hidden + k) * hidden + b * LANES;
                store(panel + k * PANEL + gate * LANES, load_part(from, count));
            }
        }
    }
}

// What a group of sequences goes on with, of one block of units.
INLINE void use_sums(const Backward* p, const StepBack* at, real* asked, int rows, vec sums[][4]) {
    const long count = lanes_of(p->hidden, at->unit / LANES);
    if (p->options && p->options->norm) {
        store_asked(p, asked, at, rows, sums, count);
    } else {
        gradients_of(p, at, rows, sums, count);
    }
}

static void backward_steps(const Backward* p, const real* panels, const Place* place, int wide, real* asked) {
    const long hidden = p->hidden, own = place->end - place->first, at_once = wide ? 4 : 1;
    const Norm* norm = p->options ? p->options->norm : 0;
    const real* factors = norm ? norm->r : p->gates;
    StepBack at = {.later = -1, .features = p->options ? features_of(p->options) : 0};
    for (long count = 0; count <= p->steps; ++count) {
        at.last = count == p->steps;
        at.step = p->reverse ? count : p->steps - 1 - count;
        // Those that the later step was computed for: the others ask nothing, and need no product.
        const long asking = at.later < 0 ? 0 : running_at(place, p->lengths, at.later);
        for (long b = place->first_block; b < place->end_block; b += at_once) {
            vec blocks[4][ROWS][4] = {{{{0}}}};
            const real* panel = panels + b * hidden * PANEL;
            const long next_block = b + at_once < place->end_block ? b + at_once : place->first_block;
            const real* next = panels + next_block * hidden * PANEL;
            for (long group = 0; group < groups_of(asking); ++group) {
                const long some = group_start(asking, group + 1) - group_start(asking, group);
                const real* da = factors + at.later * p->batch * 4 * hidden;
                at.sequences = place->order + group_start(asking, group);
                if (wide) {
                    wide_tile_back(some, panel, hidden, da, at.sequences,
                                   early_of(group, groups_of(asking), next, hidden), blocks);
                } else {
                    WITH_ROWS(some, recurrent_tile_back, panel, hidden, da, at.sequences, blocks[0])
                }
                for (int v = 0; v < at_once; ++v) {
                    at.unit = (b + v) * LANES;
                    use_sums(p, &at, asked, some, blocks[v]);
                }
            }
            for (long k = asking; k < own && !norm; k += ROWS) {
                at.sequences = place->order + k;
                for (int v = 0; v < at_once; ++v) {
                    at.unit = (b + v) * LANES;
                    use_sums(p, &at, asked, own - k < ROWS ? own - k : ROWS, blocks[v]);
                }
            }
        }
        if (norm) {
            barrier(place->team);
            norm_step_back(p, &at, place, asked);
        }
        at.later = at.step;
        barrier(place->team);
    }
}

static long backward_room(long batch, long inputs, long hidden, int threads) {
    const long panels = larger(panels_size(inputs), panels_size(hidden));
    return blocks_of(hidden) * hidden * PANEL + panels + threads * (long)ROWS_SIZE + ORDER_ROOM(batch);
}

static void backward(const Backward* p) {
    const long hidden = p->hidden, blocks = blocks_of(hidden), rows = p->steps * p->batch;
    real* weights = p->scratch;
    real* panels = weights + blocks * hidden * PANEL;
    real* all_rows = panels + larger(panels_size(p->inputs), panels_size(hidden));
    // With layer norm the products with x and with h have gradients of their own, and the bias' is in `sums`.
    const Norm* norm = p->options ? p->options->norm : 0;
    const real *of_inputs = norm ? norm->p : p->gates, *of_hiddens = norm ? norm->r : p->gates;
    Team team = {1, 0, 0}, teams[MOST_THREADS] = {{1, 0, 0}};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        real* own_rows = all_rows + id * (long)ROWS_SIZE;
        real* rest = all_rows + team.size * (long)ROWS_SIZE;
        Place place = place_of(teams, id, team.size, p->batch, hidden);
        const int wide = is_wide(hidden, place.team->size);
        if (wide) {
            place.first_block = 4 * share(blocks / 4, place.id, place.team->size);
            place.end_block = 4 * share(blocks / 4, place.id + 1, place.team->size);
        }
        set_order(&place, (int*)rest, p->lengths);
        lay_out_back(p, weights, wide, id, team.size);
        barrier(&team);
        backward_steps(p, weights, &place, wide, rest + ORDER_ROOM(p->batch));

        const Matrix da = {of_inputs, 4 * hidden, 1}, input = {p->input, p->inputs, 1};
        multiply(&team, id, rows, p->inputs, 4 * hidden, da, input, p->dx, p->inputs, p->add_to_dx, 0, panels,
                 own_rows);
        const long windows = (p->steps + p->window - 1) / p->window;
        for (long count = 0; count < windows; ++count) {  // the last window in time first, as the steps went
            const long first = (p->reverse ? count : windows - 1 - count) * p->window;
            const long last = p->steps - first < p->window ? p->steps : first + p->window;
            const long here = (last - first) * p->batch, row = first * p->batch;
            const Matrix of_x = {of_inputs + row * 4 * hidden, 1, 4 * hidden};
            const Matrix of_h = {of_hiddens + row * 4 * hidden, 1, 4 * hidden};
            const Matrix x = {p->x + row * p->inputs, p->inputs, 1};
            const Matrix h = {p->hiddens + (row + p->reverse * p->batch) * hidden, hidden, 1};
            const int add = count > 0 || p->add_to_weights;
            multiply(&team, id, 4 * hidden, p->inputs, here, of_x, x, p->d_input, p->inputs, add, p->d_bias, panels,
                     own_rows);
            multiply(&team, id, 4 * hidden, hidden, here, of_h, h, p->d_recurrent, hidden, add, 0, panels, own_rows);
        }
    }
}
