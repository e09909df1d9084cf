// The forward pass: stretches of steps, first the products with their inputs, then step by step.
#pragma once

#include "norm.h"

// Where a call keeps what it works with, in its scratch memory.
typedef struct {
    real *recurrent, *input, *bias;  // a panel for each block: (hidden, PANEL), (inputs, PANEL), (PANEL,)
    real* states;                    // without `keep` two times (batch, hidden): h before and after a step
    int* order;                      // (batch,), see `Place`
    real *products, *c_star;         // with layer norm (batch, 4*hidden), and (ROWS, hidden) for each thread
} Room;

static Room room_of(const Forward* p) {
    const long blocks = blocks_of(p->hidden);
    Room room = {.recurrent = p->scratch};
    room.input = room.recurrent + blocks * p->hidden * PANEL;
    room.bias = room.input + blocks * p->inputs * PANEL;
    room.states = room.bias + blocks * PANEL;
    room.order = (int*)(room.states + 2 * p->batch * p->hidden);
    room.products = room.states + 2 * p->batch * p->hidden + ORDER_ROOM(p->batch);
    room.c_star = room.products + p->batch * 4 * p->hidden;
    return room;
}

static long forward_room(long batch, long inputs, long hidden) {
    return blocks_of(hidden) * (hidden + inputs + 1) * PANEL + 2 * batch * hidden + ORDER_ROOM(batch);
}

static real* recurrent_panel(const Forward* p, const Room* room, long block) {
    return room->recurrent + block * p->hidden * PANEL;
}
static real* input_panel(const Forward* p, const Room* room, long block) {
    return room->input + block * p->inputs * PANEL;
}

// Steps whose gates stay in a thread's cache between the product with the inputs and the step itself.
static long stretch_of(long steps, long batch, long hidden) {
    const long fit = STRETCH_BYTES / (batch * 4 * hidden * REAL_BYTES), few = (ROWS_AT_ONCE + batch - 1) / batch;
    const long stretch = larger(larger(fit, few), 1);
    return stretch < steps ? stretch : steps;
}

// The block's gate rows of a weight (4*hidden, depth), side by side: panel[k][gate][lane].
static void lay_out_gates(real* panel, const real* weight, long hidden, long depth, long block) {
    for (int gate = 0; gate < 4; ++gate) {
        const real* from = weight + (gate * hidden + block * LANES) * depth;
        transpose(panel + gate * LANES, PANEL, LANES, from, depth, lanes_of(hidden, block), depth);
    }
}

// gates = W_ih x + b for some rows of x, each of which is a sequence at a step: the index[n]-th from x and gates on.
static void input_tile(int rows, const real* panel, const real* bias, long inputs, const real* x, const int* index,
                       Early early, real* gates, long hidden, long count) {
    vec sums[ROWS][4];
    product_of_rows(rows, panel, inputs, x, index, inputs, early, sums);
    for (int n = 0; n < rows; ++n) {
        UNROLLED for (int gate = 0; gate < 4; ++gate) {
            store_part(gates + (4L * index[n] + gate) * hidden, sums[n][gate] + load(bias + gate * LANES), count);
        }
    }
}

// Where the gates of a step are: without `keep` the buffer has room for one stretch of steps.
static real* gates_of(const Forward* p, long step, long first) {
    return p->gates + (p->keep ? step : step - first) * p->batch * 4 * p->hidden;
}

static const Norm* norm_of(const Options* options) { return options ? options->norm : 0; }

// What is added to the products with the inputs: layer norm adds the bias to what it made of them.
static const real* bias_of(const Forward* p) { return norm_of(p->options) ? 0 : p->bias; }

// Where the products with the inputs of a step go: layer norm keeps them beside the activated gates.
static real* products_of(const Forward* p, long step, long first) {
    const Norm* norm = norm_of(p->options);
    return norm && p->keep ? norm->p + step * p->batch * 4 * p->hidden : gates_of(p, step, first);
}

// The plain LSTM's cell, from the recurrent part of the pre-activations. `count` is a constant where it is LANES.
INLINE void plain_cells(const Forward* p, const Step* at, const int rows, vec sums[][4], const long count) {
    const long hidden = p->hidden;
    for (int n = 0; n < rows; ++n) {
        const long s = at->sequences[n], place = s * hidden + at->unit;
        real* gates = at->gates + s * 4 * hidden + at->unit;
        vec c = load_part(at->c_before + place, count), h, y = {0};
        if (runs(p, at, s)) {
            vec i = (sums[n][0] + load_part(gates, count)) * 0.5f;
            vec f = (sums[n][1] + load_part(gates + hidden, count)) * 0.5f;
            vec o = (sums[n][3] + load_part(gates + 3 * hidden, count)) * 0.5f;
            vec g = sums[n][2] + load_part(gates + 2 * hidden, count);
            two_tanhs(&i, &f);  // sigmoid(a) = tanh(a / 2) / 2 + 1 / 2
            two_tanhs(&o, &g);
            i = i * 0.5f + 0.5f;
            f = f * 0.5f + 0.5f;
            o = o * 0.5f + 0.5f;
            c = f * c + i * g;
            y = h = o * tanh_of(c);
            if (p->keep) {
                store_part(gates, i, count);
                store_part(gates + hidden, f, count);
                store_part(gates + 2 * hidden, g, count);
                store_part(gates + 3 * hidden, o, count);
            }
        } else {
            h = load_part(at->h_before + place, count);
        }
        store_part(at->c_after + place, c, count);
        store_part(at->h_after + place, h, count);
        store_part(p->y + (at->step * p->batch + s) * p->y_width + at->unit, y, count);
    }
}

// Not part of the tiles, of which there is one for each number of rows: it is as fast, and compiled once.
NOINLINE void cells_of(const Forward* p, const Step* at, int rows, vec sums[][4], long count) {
    if (p->options && count == LANES) {
        WITH_FEATURES(at->features, option_cells, p, at, rows, sums, LANES)
    } else if (p->options) {
        option_cells(p, at, rows, sums, count, at->features);
    } else if (count == LANES) {
        plain_cells(p, at, rows, sums, LANES);
    } else {
        plain_cells(p, at, rows, sums, count);
    }
}

// Layer norm: products alone, for who goes on with the sequence as a whole.
NOINLINE void store_products(const Forward* p, const Step* at, real* r, int rows, vec sums[][4], long count) {
    for (int n = 0; n < rows; ++n) {
        real* to = r + 4L * at->sequences[n] * p->hidden + at->unit;
        UNROLLED for (int gate = 0; gate < 4; ++gate) store_part(to + gate * p->hidden, sums[n][gate], count);
    }
}

// The cells of this thread's sequences: of those that run, and of those that do not.
static void norm_step(const Forward* p, const Room* room, const Place* place, const Step* at, long first, long running,
                      real* r) {
    const Norm* norm = p->options->norm;
    const NormStep step = {*at, products_of(p, at->step, first), r,
                           norm->moments ? norm->moments + at->step * p->batch * MOMENTS : 0,
                           room->c_star + place->thread * (long)ROWS * p->hidden};
    const long over = place->end - place->first - running;
    FOR_OWN_SEQUENCES(place, place->order, running, norm_cells, p, &step)
    FOR_OWN_SEQUENCES(place, place->order + running, over, norm_cells, p, &step)
}

// The products with the inputs of `here` steps from `first` on. Where sequences have lengths of their own, and there
// are enough of them to fill tiles at each step, those that are over are left out.
static void input_products(const Forward* p, const Room* room, const Place* place, long first, long here) {
    const long hidden = p->hidden, inputs = p->inputs, batch = p->batch;
    const long own = place->end - place->first;
    const int step_by_step = own < batch || (p->lengths && own >= 4 * ROWS), sparse = step_by_step && p->lengths;
    // The rows of the whole batch follow each other over all steps; those of a part begin anew at each step.
    const long runs = step_by_step ? here : 1;
    for (long b = place->first_block; b < place->end_block; ++b) {
        const int is_last = b + 1 == place->end_block;  // the first step's panel comes after it
        const real* next = is_last ? recurrent_panel(p, room, place->first_block) : input_panel(p, room, b + 1);
        for (long run = 0; run < runs; ++run) {
            const long rows = sparse         ? running_at(place, p->lengths, p->first_time + first + run)
                              : step_by_step ? own
                                             : here * batch;
            for (long group = 0; group < groups_of(rows); ++group) {
                const long from = group_start(rows, group), some = group_start(rows, group + 1) - from;
                const long row = run * batch + (sparse ? 0 : place->first + from);
                const int* index = sparse ? place->order + from : in_turn;
                const real* x = p->x + (first * batch + row) * inputs;
                real* gates = products_of(p, first, first) + row * 4 * hidden + b * LANES;
                Early early = early_of(group, groups_of(rows), next, is_last ? hidden : inputs);
                if (run + 1 < runs && early.what == NEXT_PANEL) early.what = NOTHING;
                input_tile(some, input_panel(p, room, b), room->bias + b * PANEL, inputs, x, index, early, gates,
                           hidden, lanes_of(hidden, b));
            }
        }
    }
}

static void forward_steps(const Forward* p, const Room* room, const Place* place) {
    const long hidden = p->hidden, batch = p->batch, units = batch * hidden;
    const long own = place->end - place->first;  // sequences
    const Norm* norm = norm_of(p->options);
    const Options* o = p->options;
    const int features = o ? features_of(o) : 0;
    const Generator generator = generator_of(o ? o->seed : 0, o ? o->stream : 0);
    const long stretch = stretch_of(p->steps, batch, hidden), stretches = (p->steps + stretch - 1) / stretch;
    long parity = 0;
    for (long count = 0; count < stretches; ++count) {
        const long first = (p->reverse ? stretches - 1 - count : count) * stretch;
        const long here = p->steps - first < stretch ? p->steps - first : stretch;
        input_products(p, room, place, first, here);
        for (long within = 0; within < here; ++within, parity ^= 1) {
            const long step = first + (p->reverse ? here - 1 - within : within);
            const long before = step + p->reverse, after = step + !p->reverse;
            const long running = running_at(place, p->lengths, p->first_time + step);
            Step at = {.step = step, .features = features, .generator = &generator, .gates = gates_of(p, step, first)};
            at.h_before = p->keep ? p->hiddens + before * units : room->states + parity * units;
            at.h_after = p->keep ? p->hiddens + after * units : room->states + (1 - parity) * units;
            at.c_before = p->keep ? p->cells + before * units : p->cells;
            at.c_after = p->keep ? p->cells + after * units : p->cells;
            real* r = norm && p->keep ? norm->r + step * 4 * units : room->products;
            for (long b = place->first_block; b < place->end_block; ++b) {
                vec sums[ROWS][4] = {{{0}}};
                const real* next = recurrent_panel(p, room, b + 1 < place->end_block ? b + 1 : place->first_block);
                at.unit = b * LANES;
                for (long group = 0; group < groups_of(running); ++group) {
                    const long some = group_start(running, group + 1) - group_start(running, group);
                    at.sequences = place->order + group_start(running, group);
                    product_of_rows(some, recurrent_panel(p, room, b), hidden, at.h_before, at.sequences, hidden,
                                    early_of(group, groups_of(running), next, hidden), sums);
                    if (norm) {
                        store_products(p, &at, r, some, sums, lanes_of(hidden, b));
                    } else {
                        cells_of(p, &at, some, sums, lanes_of(hidden, b));
                    }
                }
                for (long k = running; k < own && !norm; k += ROWS) {  // sequences that are over, without products
                    at.sequences = place->order + k;
                    cells_of(p, &at, own - k < ROWS ? own - k : ROWS, sums, lanes_of(hidden, b));
                }
            }
            if (norm) {
                barrier(place->team);
                norm_step(p, room, place, &at, first, running, r);
            }
            barrier(place->team);
        }
    }
}

// Without `keep` h and c become the final states.
static void forward(const Forward* p) {
    const long hidden = p->hidden, units = p->batch * hidden, blocks = blocks_of(hidden);
    const Room room = room_of(p);
    Team team = {1, 0, 0}, teams[MOST_THREADS] = {{1, 0, 0}};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        for (long b = share(blocks, id, team.size); b < share(blocks, id + 1, team.size); ++b) {
            lay_out_gates(recurrent_panel(p, &room, b), p->recurrent, hidden, hidden, b);
            lay_out_gates(input_panel(p, &room, b), p->input, hidden, p->inputs, b);
            for (int gate = 0; gate < 4; ++gate) {
                vec bias = {0};
                if (bias_of(p)) bias = load_part(bias_of(p) + gate * hidden + b * LANES, lanes_of(hidden, b));
                store(room.bias + b * PANEL + gate * LANES, bias);
            }
        }
        if (id == 0 && !p->keep) memcpy(room.states, p->hiddens, units * sizeof(real));
        Place place = place_of(teams, id, team.size, p->batch, hidden);
        set_order(&place, room.order, p->lengths);
        barrier(&team);
        forward_steps(p, &room, &place);
        barrier(&team);
        if (id == 0 && !p->keep) memcpy(p->hiddens, room.states + p->steps % 2 * units, units * sizeof(real));
    }
}
