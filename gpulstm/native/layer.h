// What one call of the forward or of the backward pass is given, and how its threads share the work.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: a thread owns blocks of LANES hidden units, of the whole batch or of a part of it, for all steps.
// Their four gates' rows of W_hh are laid out once a call, so that they are read in one go and stay in the core's own
// cache, and their cell states are nobody else's. A step of a block multiplies for up to ROWS sequences at a time, with
// the four gates of its units side by side in registers, and goes on to the cell and the hidden state at once. One
// barrier a step hands h on to the threads of the same part. Of sequences that have lengths of their own the longest
// come first, so that those which run at a step fill its tiles; the others are in none.
//
// Backward, the same thread owns the same units: dh = W_hh^T da needs all of da, one barrier a step hands it on.
// Weight gradients are products over all steps of a window, with the same sums however many threads there are.
#pragma once

#include "draws.h"
#include "product.h"

#define STRETCH_BYTES (1024 * 1024)  // gates of a stretch of steps: they stay in the cache until they are used
#define ROWS_AT_ONCE 96              // rows of x that a stretch has at least, so that W_ih is not read too often
#define OWN_CACHE (1280 * 1024)      // bytes of weights that a core can keep for itself
#define FEWEST_ROWS 3                // sequences that make a part of the batch worth its own reading of the weights,
#define MANY_ROWS 48                 // and of weights that fill more than half of the cache
#define MOST_THREADS 64

#define MOMENTS 4     // of a sequence's step, kept by layer norm: 1 / standard deviation of p, r and c*, and c*'s mean
#define NORM_SUMS 14  // of each unit, that layer norm's gradient consists of: see `norm_backward.h`

// Layer norm: `norm.h` has the equations.
typedef struct {
    const real *gain_input, *gain_recurrent;  // (4*hidden,)
    const real *gain_cell, *bias_cell;        // (hidden,)
    real *p, *r;    // (steps, batch, 4*hidden): products with x and h, normalised; backward their gradients; or null
    real* moments;  // (steps, batch, MOMENTS), or null where nothing is kept
    real* sums;     // backward, (batch, NORM_SUMS, hidden), added to
} Norm;

// What a layer does beyond the plain one; `options.h` has the equations. Weight drop is no matter of it: a call is given
// the weights with the mask on them.
typedef struct {
    const Norm* norm;           // or null: no layer norm
    const real* peephole;       // (3*hidden,) of i, f, o; or null
    const real* hidden_factor;  // (batch, hidden): what the product reads is h times this; or null
    real* state;                // forward, (batch, hidden): h itself, becomes the final one; null where the factor is
    uint8_t* record;            // (steps, batch, hidden) bits: written forward, read backward; or null
    real* d_peephole;           // backward, (batch, 3*hidden), added to; or null
    uint64_t seed;              // of the masks that each step draws
    uint32_t stream, first_time;
    uint32_t zone_h, zone_c, candidate;     // words below this keep h, keep c, drop the candidate; 0 without
    int coupled, others;                    // `others`: not sigmoid, tanh, tanh, but
    int kinds[3];                           // these activations of `activations.h`, of gates, candidate and cell,
    double alphas[3], betas[3];             // and their parameters
    double zone_h_share, zone_c_share;      // what is kept of the state before, instead of a mask; 0 without
    double candidate_scale;                 // of a candidate that is not dropped
    double clip;                            // bound of what goes into every activation; 0 is none
} Options;

typedef struct {
    const real* x;                              // (steps, batch, inputs)
    const real *input, *recurrent, *bias;       // (4*hidden, inputs), (4*hidden, hidden), (4*hidden,) or null
    real* gates;                                // (steps, batch, 4*hidden), activated; or without `keep` as `lstm_gates`
    real *cells, *hiddens;                      // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    real* y;                                    // (steps, batch, y_width) from its first column on
    const int* lengths;                         // (batch,) or null
    real* scratch;                              // `forward_scratch` numbers
    const Options* options;                     // or null: the plain LSTM
    long steps, batch, inputs, hidden, y_width, first_time;
    int keep, reverse, threads;
} Forward;

typedef struct {
    real* gates;                  // (steps, batch, 4*hidden) activated; becomes the gradient of the pre-activations
    const real *cells, *hiddens;  // (steps + 1, batch, hidden); hiddens as the products read them
    const real *x, *input, *recurrent;
    const real* dy;               // (steps, batch, dy_width) from its first column on, or null
    real *dh, *dc;                // (batch, hidden) of the final state, becomes the initial one's
    real* dx;                     // (steps, batch, inputs), added to with `add_to_dx`
    real *d_input, *d_recurrent;  // added to with `add_to_weights`
    real* d_bias;                 // added to; or null
    const int* lengths;
    real* scratch;                // `backward_scratch` numbers
    const Options* options;       // or null: the plain LSTM
    long steps, batch, inputs, hidden, dy_width;
    long window;                  // steps whose gradients are added up in one product, counted from the first step
    int reverse, add_to_dx, add_to_weights, threads;
} Backward;

static long larger(long a, long b) { return a > b ? a : b; }

static long blocks_of(long hidden) { return (hidden + LANES - 1) / LANES; }
static long lanes_of(long hidden, long block) {
    return hidden - block * LANES < LANES ? hidden - block * LANES : LANES;
}

// Threads in the order of their ids: parts of the batch that never wait for each other, and within a part an equal
// share of the units. Parts need no word from each other, but each of them reads all of the weights: they must fit into
// a core's own cache, and a part must be worth it.
typedef struct {
    Team* team;           // the threads of this part
    int id, thread;       // this thread within it, and of all
    long first, end;      // sequences of the part
    int* order;           // (end - first,), the same sequences, those with more steps first
    long first_block, end_block;  // of this thread
} Place;

static int parts_of(long batch, long hidden, int threads) {
    const long bytes = 4 * REAL_BYTES * hidden * hidden;
    if (bytes > OWN_CACHE) return 1;
    const long fewest = bytes > OWN_CACHE / 2 ? MANY_ROWS : FEWEST_ROWS;
    int parts = 1;
    for (int count = 2; count <= threads; ++count) {
        if (threads % count == 0 && batch >= fewest * count) parts = count;
    }
    return parts;
}

// Numbers of memory for all orders, whole cache lines.
#define ORDER_ROOM(batch) (((batch) + 15) / 16 * 16)

// Called by all threads of the part; a barrier must follow. `orders` (batch,) is shared by all parts.
static void set_order(Place* place, int* orders, const int* lengths) {
    int* order = place->order = orders + place->first;
    const long count = place->end - place->first;
    if (place->id) return;
    for (long k = 0; k < count; ++k) order[k] = (int)(place->first + k);
    if (!lengths) return;
    for (long gap = count / 2; gap; gap /= 2) {  // Shell's sort
        for (long k = gap; k < count; ++k) {
            const int moved = order[k];
            long to = k;
            for (; to >= gap && lengths[order[to - gap]] < lengths[moved]; to -= gap) order[to] = order[to - gap];
            order[to] = moved;
        }
    }
}

// How many of the part's sequences, in their order, have a step at `time`.
static long running_at(const Place* place, const int* lengths, long time) {
    long low = 0, high = place->end - place->first;
    if (!lengths) return high;
    while (low < high) {
        const long middle = (low + high) / 2;
        if (lengths[place->order[middle]] > time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static Place place_of(Team* teams, int id, int threads, long batch, long hidden) {
    const int parts = parts_of(batch, hidden, threads), size = threads / parts, part = id / size;
    const long blocks = blocks_of(hidden);
    teams[part].size = size;  // by each of them the same
    Place place = {teams + part, id % size, id, share(batch, part, parts), share(batch, part + 1, parts), 0, 0, 0};
    place.first_block = share(blocks, place.id, size);
    place.end_block = share(blocks, place.id + 1, size);
    return place;
}
