// All time steps of one LSTM layer in one direction on a CPU, in float32, forward and backward.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: a thread owns blocks of LANES hidden units, of the whole batch or of a part of it, for all steps.
// Their four gates' rows of W_hh are laid out once a call, so that they are read in one go and stay in the core's own
// cache, and their cell states are nobody else's. A step of a block multiplies for up to ROWS sequences at a time, with
// the four gates of its units side by side in registers, and goes on to the cell and the hidden state without putting
// them down. One barrier a step hands h on to the threads of the same part.
//
// Backward, the same thread owns the same units: dh = W_hh^T da needs all of da, one barrier a step hands it on.
// Weight gradients are products over all steps of a window, with the same sums however many threads there are.
#include "product.h"

#define GATES_AT_ONCE (256 * 1024)  // numbers in a stretch of steps, whose gates stay in the cache until they are used
#define ROWS_AT_ONCE 96             // rows of x that a stretch has at least, so that W_ih is not read too often
#define OWN_CACHE (1280 * 1024)     // bytes of weights that a core can keep for itself
#define FEWEST_ROWS 3               // sequences that make a part of the batch worth its own reading of the weights,
#define MANY_ROWS 48                // and of weights that fill more than half of the cache
#define MOST_THREADS 64

typedef struct {
    const float* x;                             // (steps, batch, inputs)
    const float *input, *recurrent, *bias;      // (4*hidden, inputs), (4*hidden, hidden), (4*hidden,) or null
    float* gates;                               // (steps, batch, 4*hidden), activated with `keep`
    float *cells, *hiddens;                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* y;                                   // (steps, batch, y_width) from its first column on
    const int* lengths;                         // (batch,) or null
    float* scratch;                             // `lstm_forward_scratch` floats
    long steps, batch, inputs, hidden, y_width, first_time;
    int keep, reverse, threads;
} Forward;

typedef struct {
    float* gates;                 // (steps, batch, 4*hidden) activated; becomes the gradient of the pre-activations
    const float *cells, *hiddens; // (steps + 1, batch, hidden)
    const float *x, *input, *recurrent;
    const float* dy;              // (steps, batch, dy_width) from its first column on, or null
    float *dh, *dc;               // (batch, hidden) of the final state, becomes the initial one's
    float* dx;                    // (steps, batch, inputs), added to with `add_to_dx`
    float *d_input, *d_recurrent; // added to with `add_to_weights`
    float* d_bias;                // added to; or null
    const int* lengths;
    float* scratch;               // `lstm_backward_scratch` floats
    long steps, batch, inputs, hidden, dy_width;
    long window;                  // steps whose gradients are added up in one product, counted from the first step
    int reverse, add_to_dx, add_to_weights, threads;
} Backward;

typedef struct {
    const float *a, *b;           // op(a) (rows, depth) and op(b) (depth, columns): one of each one's steps is 1
    float* out;                   // (rows, columns)
    float* scratch;               // `lstm_product_scratch` floats
    long rows, columns, depth;
    long a_by_row, a_by_column, b_by_row, b_by_column, out_by_row;
    int add, threads;             // out += with `add`
} Product;

static long larger(long a, long b) { return a > b ? a : b; }

// Steps whose gates stay in a thread's cache between the product with the inputs and the step itself.
static long stretch_of(long steps, long batch, long hidden) {
    const long fit = GATES_AT_ONCE / (batch * 4 * hidden), few = (ROWS_AT_ONCE + batch - 1) / batch;
    const long stretch = larger(larger(fit, few), 1);
    return stretch < steps ? stretch : steps;
}

static long blocks_of(long hidden) { return (hidden + LANES - 1) / LANES; }
static long lanes_of(long hidden, long block) {
    return hidden - block * LANES < LANES ? hidden - block * LANES : LANES;
}

// Threads in the order of their ids: parts of the batch that never wait for each other, and within a part an equal
// share of the units. Parts need no word from each other, but each of them reads all of the weights: they must fit into
// a core's own cache, and a part must be worth it.
typedef struct {
    Team* team;           // the threads of this part
    int id;               // this thread within it
    long first, end;      // sequences of the part
    long first_block, end_block;  // of this thread
} Place;

static int parts_of(long batch, long hidden, int threads) {
    const long bytes = 16 * hidden * hidden;
    if (bytes > OWN_CACHE) return 1;
    const long fewest = bytes > OWN_CACHE / 2 ? MANY_ROWS : FEWEST_ROWS;
    int parts = 1;
    for (int count = 2; count <= threads; ++count) {
        if (threads % count == 0 && batch >= fewest * count) parts = count;
    }
    return parts;
}

static Place place_of(Team* teams, int id, int threads, long batch, long hidden) {
    const int parts = parts_of(batch, hidden, threads), size = threads / parts, part = id / size;
    const long blocks = blocks_of(hidden);
    teams[part].size = size;  // by each of them the same
    Place place = {teams + part, id % size, share(batch, part, parts), share(batch, part + 1, parts), 0, 0};
    place.first_block = share(blocks, place.id, size);
    place.end_block = share(blocks, place.id + 1, size);
    return place;
}

// Forward ------------------------------------------------------------------------------------------------------------

// Where a call keeps what it works with, in its scratch memory.
typedef struct {
    float *recurrent, *input, *bias;  // a panel for each block: (hidden, PANEL), (inputs, PANEL), (PANEL,)
    float* states;                    // without `keep` two times (batch, hidden): h before and after a step
} Room;

static Room room_of(const Forward* p) {
    const long blocks = blocks_of(p->hidden);
    Room room = {p->scratch, 0, 0, 0};
    room.input = room.recurrent + blocks * p->hidden * PANEL;
    room.bias = room.input + blocks * p->inputs * PANEL;
    room.states = room.bias + blocks * PANEL;
    return room;
}

long lstm_forward_scratch(long batch, long inputs, long hidden) {
    return blocks_of(hidden) * (hidden + inputs + 1) * PANEL + 2 * batch * hidden;
}

// The block's gate rows of a weight (4*hidden, depth), side by side: panel[k][gate][lane].
static void lay_out_gates(float* panel, const float* weight, long hidden, long depth, long block) {
    for (int gate = 0; gate < 4; ++gate) {
        const float* from = weight + (gate * hidden + block * LANES) * depth;
        transpose(panel + gate * LANES, PANEL, LANES, from, depth, lanes_of(hidden, block), depth);
    }
}

// gates = W_ih x + b for some rows of x, each of which is a sequence at a step.
INLINE void input_tile(const int rows, const float* panel, const float* bias, long inputs, const float* x, float* gates,
                       long hidden, long count) {
    vec sums[ROWS][4];
    tile(rows, panel, inputs, x, inputs, 1, sums);
    for (int n = 0; n < rows; ++n) {
        for (int gate = 0; gate < 4; ++gate) {
            store_part(gates + (4 * n + gate) * hidden, sums[n][gate] + load(bias + gate * LANES), count);
        }
    }
}

// Where the gates of a step are: without `keep` the buffer has room for one stretch of steps.
static float* gates_of(const Forward* p, long step, long first) {
    return p->gates + (p->keep ? step : step - first) * p->batch * 4 * p->hidden;
}

INLINE void forward_tile(const int rows, const Forward* p, const float* panel, long step, float* all_gates,
                         const float* h_before, float* h_after, const float* c_before, float* c_after, long sequence,
                         long unit, long count) {
    const long hidden = p->hidden;
    vec sums[ROWS][4];
    tile(rows, panel, hidden, h_before + sequence * hidden, hidden, 1, sums);
    for (int n = 0; n < rows; ++n) {
        const long s = sequence + n, at = s * hidden + unit;
        float* gates = all_gates + s * 4 * hidden + unit;
        vec c = load_part(c_before + at, count), h, y = {0};
        if (!p->lengths || p->first_time + step < p->lengths[s]) {
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
            h = load_part(h_before + at, count);
        }
        store_part(c_after + at, c, count);
        store_part(h_after + at, h, count);
        store_part(p->y + (step * p->batch + s) * p->y_width + unit, y, count);
    }
}

static void forward_steps(const Forward* p, const Room* room, const Place* place) {
    const long hidden = p->hidden, inputs = p->inputs, batch = p->batch, units = batch * hidden;
    const long own = place->end - place->first;  // sequences
    const long stretch = stretch_of(p->steps, batch, hidden), stretches = (p->steps + stretch - 1) / stretch;
    long parity = 0;
    for (long count = 0; count < stretches; ++count) {
        const long first = (p->reverse ? stretches - 1 - count : count) * stretch;
        const long here = p->steps - first < stretch ? p->steps - first : stretch;
        // The rows of the whole batch follow each other over all steps; those of a part begin anew at each step.
        const long runs = own == batch ? 1 : here, rows = own == batch ? here * batch : own;
        for (long b = place->first_block; b < place->end_block; ++b) {
            for (long run = 0; run < runs; ++run) {
                for (long group = 0; group < groups_of(rows); ++group) {
                    const long row = run * batch + place->first + group_start(rows, group);
                    const long some = group_start(rows, group + 1) - group_start(rows, group);
                    const float* x = p->x + (first * batch + row) * inputs;
                    float* gates = gates_of(p, first, first) + row * 4 * hidden + b * LANES;
                    WITH_ROWS(some, input_tile, room->input + b * inputs * PANEL, room->bias + b * PANEL, inputs, x,
                              gates, hidden, lanes_of(hidden, b))
                }
            }
        }
        for (long within = 0; within < here; ++within, parity ^= 1) {
            const long step = first + (p->reverse ? here - 1 - within : within);
            const long before = step + p->reverse, after = step + !p->reverse;
            const float* h_before = p->keep ? p->hiddens + before * units : room->states + parity * units;
            float* h_after = p->keep ? p->hiddens + after * units : room->states + (1 - parity) * units;
            const float* c_before = p->keep ? p->cells + before * units : p->cells;
            float* c_after = p->keep ? p->cells + after * units : p->cells;
            float* gates = gates_of(p, step, first);
            for (long b = place->first_block; b < place->end_block; ++b) {
                for (long group = 0; group < groups_of(own); ++group) {
                    const long sequence = place->first + group_start(own, group);
                    const long some = group_start(own, group + 1) - group_start(own, group);
                    WITH_ROWS(some, forward_tile, p, room->recurrent + b * hidden * PANEL, step, gates, h_before,
                              h_after, c_before, c_after, sequence, b * LANES, lanes_of(hidden, b))
                }
            }
            barrier(place->team);
        }
    }
}

// Without `keep` h and c become the final states.
void lstm_forward(const Forward* p) {
    const long hidden = p->hidden, units = p->batch * hidden, blocks = blocks_of(hidden);
    const Room room = room_of(p);
    Team team = {1, 0, 0}, teams[MOST_THREADS] = {{1, 0, 0}};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        for (long b = share(blocks, id, team.size); b < share(blocks, id + 1, team.size); ++b) {
            lay_out_gates(room.recurrent + b * hidden * PANEL, p->recurrent, hidden, hidden, b);
            lay_out_gates(room.input + b * p->inputs * PANEL, p->input, hidden, p->inputs, b);
            for (int gate = 0; gate < 4; ++gate) {
                vec bias = {0};
                if (p->bias) bias = load_part(p->bias + gate * hidden + b * LANES, lanes_of(hidden, b));
                store(room.bias + b * PANEL + gate * LANES, bias);
            }
        }
        if (id == 0 && !p->keep) memcpy(room.states, p->hiddens, units * sizeof(float));
        const Place place = place_of(teams, id, team.size, p->batch, hidden);
        barrier(&team);
        forward_steps(p, &room, &place);
        barrier(&team);
        if (id == 0 && !p->keep) memcpy(p->hiddens, room.states + p->steps % 2 * units, units * sizeof(float));
    }
}

// Backward -----------------------------------------------------------------------------------------------------------

// dh at `step`, from da of the step after it where that one was computed; `last` is true before the first step.
INLINE void backward_tile(const int rows, const Backward* p, const float* panel, long step, long later, int last,
                          long sequence, long unit, long count) {
    const long hidden = p->hidden, batch = p->batch, units = batch * hidden;
    vec sums[ROWS][4];
    if (later < 0) {
        memset(sums, 0, sizeof sums);
    } else {
        const float* da = p->gates + (later * batch + sequence) * 4 * hidden;
        tile_of_four(rows, panel, hidden, da, 4 * hidden, sums);
    }
    for (int n = 0; n < rows; ++n) {
        const long s = sequence + n, at = s * hidden + unit;
        vec dh = load_part(p->dh + at, count);
        const int ran = later >= 0 && (!p->lengths || later < p->lengths[s]);
        if (ran) dh = (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
        if (last) {
            store_part(p->dh + at, dh, count);
            continue;
        }
        const long row = step * batch + s;
        float* gates = p->gates + row * 4 * hidden + unit;
        if (p->lengths && step >= p->lengths[s]) {
            const vec zero = {0};
            for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, zero, count);
            store_part(p->dh + at, dh, count);
            continue;
        }
        if (p->dy) dh += load_part(p->dy + row * p->dy_width + unit, count);
        const vec i = load_part(gates, count), f = load_part(gates + hidden, count);
        const vec g = load_part(gates + 2 * hidden, count), o = load_part(gates + 3 * hidden, count);
        const vec c_before = load_part(p->cells + (step + p->reverse) * units + at, count);
        const vec tanh_c = tanh_of(load_part(p->cells + (step + !p->reverse) * units + at, count));
        const vec dc = load_part(p->dc + at, count) + dh * o * (1.0f - tanh_c * tanh_c);
        const vec da[4] = {dc * g * i * (1.0f - i), dc * c_before * f * (1.0f - f), dc * i * (1.0f - g * g),
                           dh * tanh_c * o * (1.0f - o)};
        store_part(p->dc + at, dc * f, count);
        for (int gate = 0; gate < 4; ++gate) store_part(gates + gate * hidden, da[gate], count);
    }
}

static void backward_steps(const Backward* p, const float* panels, const Place* place) {
    const long hidden = p->hidden, own = place->end - place->first;
    long later = -1;
    for (long count = 0; count <= p->steps; ++count) {
        const int last = count == p->steps;
        const long step = p->reverse ? count : p->steps - 1 - count;
        for (long b = place->first_block; b < place->end_block; ++b) {
            for (long group = 0; group < groups_of(own); ++group) {
                const long sequence = place->first + group_start(own, group);
                const long some = group_start(own, group + 1) - group_start(own, group);
                WITH_ROWS(some, backward_tile, p, panels + b * hidden * PANEL, step, later, last, sequence, b * LANES,
                          lanes_of(hidden, b))
            }
        }
        later = step;
        barrier(place->team);
    }
}

long lstm_backward_scratch(long inputs, long hidden, int threads) {
    const long panels = larger(panels_size(inputs), panels_size(hidden));
    return blocks_of(hidden) * hidden * PANEL + panels + threads * (long)ROWS_SIZE;
}

void lstm_backward(const Backward* p) {
    const long hidden = p->hidden, blocks = blocks_of(hidden), rows = p->steps * p->batch;
    float* weights = p->scratch;
    float* panels = weights + blocks * hidden * PANEL;
    float* all_rows = panels + larger(panels_size(p->inputs), panels_size(hidden));
    Team team = {1, 0, 0}, teams[MOST_THREADS] = {{1, 0, 0}};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        float* own_rows = all_rows + id * (long)ROWS_SIZE;
        for (long b = share(blocks, id, team.size); b < share(blocks, id + 1, team.size); ++b) {
            float* panel = weights + b * hidden * PANEL;
            const long count = lanes_of(hidden, b);
            for (long k = 0; k < hidden; ++k) {
                for (int gate = 0; gate < 4; ++gate) {
                    const float* from = p->recurrent + (gate * hidden + k) * hidden + b * LANES;
                    store(panel + k * PANEL + gate * LANES, load_part(from, count));
                }
            }
        }
        const Place place = place_of(teams, id, team.size, p->batch, hidden);
        barrier(&team);
        backward_steps(p, weights, &place);

        const Matrix da = {p->gates, 4 * hidden, 1}, input = {p->input, p->inputs, 1};
        multiply(&team, id, rows, p->inputs, 4 * hidden, da, input, p->dx, p->inputs, p->add_to_dx, 0, panels,
                 own_rows);
        const long windows = (p->steps + p->window - 1) / p->window;
        for (long count = 0; count < windows; ++count) {  // the last window in time first, as the steps went
            const long first = (p->reverse ? count : windows - 1 - count) * p->window;
            const long last = p->steps - first < p->window ? p->steps : first + p->window;
            const long here = (last - first) * p->batch, row = first * p->batch;
            const Matrix turned = {p->gates + row * 4 * hidden, 1, 4 * hidden};
            const Matrix x = {p->x + row * p->inputs, p->inputs, 1};
            const Matrix h = {p->hiddens + (row + p->reverse * p->batch) * hidden, hidden, 1};
            const int add = count > 0 || p->add_to_weights;
            multiply(&team, id, 4 * hidden, p->inputs, here, turned, x, p->d_input, p->inputs, add, p->d_bias, panels,
                     own_rows);
            multiply(&team, id, 4 * hidden, hidden, here, turned, h, p->d_recurrent, hidden, add, 0, panels, own_rows);
        }
    }
}

// A product of matrices by the same threads. OpenBLAS' own ones spin for a while after each of theirs, on the same cores.
long lstm_product_scratch(long columns, int threads) { return panels_size(columns) + threads * (long)ROWS_SIZE; }

void lstm_product(const Product* p) {
    const Matrix a = {p->a, p->a_by_row, p->a_by_column}, b = {p->b, p->b_by_row, p->b_by_column};
    float* all_rows = p->scratch + panels_size(p->columns);
    Team team = {1, 0, 0};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        multiply(&team, id, p->rows, p->columns, p->depth, a, b, p->out, p->out_by_row, p->add, 0, p->scratch,
                 all_rows + id * (long)ROWS_SIZE);
    }
}

int lstm_threads(void) { return omp_get_max_threads() < MOST_THREADS ? omp_get_max_threads() : MOST_THREADS; }
