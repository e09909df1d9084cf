// All time steps of one small LSTM layer in one launch, in float16 or bfloat16, on the tensor cores: a block has the
// whole of W_hh in its registers.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Stored in 16 bits: gates, weights, bias, h and y, each rounded once to the nearest. In float32: products' sums, what
// a step computes, and the cell state.
//
// Who owns what: a block owns up to 4 * CELLS sequences, and waits for no other block. A warp owns eight hidden units,
// of which it has 32 rows of weights as two fragments of the tensor cores (half_precision.cuh): rows g and g + 8 of the
// first are the gates i and f of its unit number g, those of the second g and o. So a lane gets all four sums of a unit
// of its sequences, makes the cells by itself, and needs no other lane for that. The hidden states are in shared
// memory, twice, so that one barrier per step is enough; a thread's 8 * KTILES words of weights are in registers.
//
// The product has eight columns. Lane 4 * g + t has columns 2 * t and 2 * t + 1 of it: sequences t and t + 4, or with
// CELLS=1, for up to four sequences, twice the sequence t. Columns of one sequence do not look at those of another.
//
// Words of h and of the weights are permuted alike, so that a lane reads those of two tiles of the product at once, 16
// bytes; a sequence's words are followed by four, so that what lanes read or write at once is in banks of their own.
//
// What a step reads from memory does not depend on h, and is fetched AHEAD steps before it is used.
//
// Bytes per hidden unit and step: reads 4 gates of 2, writes y of 2, and with `keep` 4 gates and h of 2 and c of 4.
//
// hidden is at most 16 * KTILES; a block has 32 threads for every 8 hidden units. How many sequences a block has is in
// the number of blocks: the batch is split evenly.
//
// OPTIONS  the equations are those of persistent_options.cuh. A unit's four lanes draw for four steps at once, one step
//          each, for each of the block's sequences. With `keep` `hiddens` then receives what the products read, h with
//          its mask and zero where a step does nothing, rounded once more; h itself is in `state`.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "half_precision.cuh"
#include "persistent_options.cuh"
#include "quick_activations.cuh"
#include "registers.cuh"
#include "storage.cuh"

#define UNROLLED 4            // steps: as many as lanes draw for, and even, since two buffers take turns
#define AHEAD (KTILES < 8 && CELLS == 1 ? 4 : 2)  // registers are short
#define CHAINS (KTILES < 8 ? 2 : 1)               // sums of a product that do not wait for each other
#define LOADS (KTILES / 2)    // of h, of 16 bytes each
#define PITCH (8 * KTILES + 4)  // words of h of a sequence
#define COLUMNS (4 * CELLS)   // sequences
// Blocks that the 65536 registers of a multiprocessor hold, with 128 for each thread where there are several.
#define BLOCKS_TOGETHER (KTILES <= 4 ? 8 / KTILES : 1)

// The lane's words of the four gates' rows of its unit: of load v 16 * v + 4 * t and the three after it. Zero where
// there are no weights.
__device__ __forceinline__ void hold_rows(
    unsigned (&w)[4][LOADS][4], const store* weight, int unit, int t, int hidden) {
    const bool in_words = ((size_t)weight | hidden * sizeof(store)) % 16 == 0;
    int after = 0;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
        for (int v = 0; v < LOADS; ++v) {
            const int column = 32 * v + 8 * t + after;
            const store* first = weight + (gate * hidden + unit) * hidden + column;  // below 2^16
            if (in_words) {
                uint4 words = make_uint4(0, 0, 0, 0);
                if (unit < hidden && column < hidden) words = *(const uint4*)first;
                w[gate][v][0] = words.x, w[gate][v][1] = words.y, w[gate][v][2] = words.z, w[gate][v][3] = words.w;
            } else {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    store pair[2];
#pragma unroll
                    for (int p = 0; p < 2; ++p) {
                        const bool there = unit < hidden && column + 2 * k + p < hidden;
                        pair[p] = there ? first[2 * k + p] : stored(0.0f);
                    }
                    w[gate][v][k] = pair_of(pair[0], pair[1]);
                }
                after = (int)((w[gate][v][0] ^ w[gate][v][1] ^ w[gate][v][2] ^ w[gate][v][3]) & unknown_zero(weight));
            }
        }
    }
}

// sums[gate][cell] += W_hh h, from the words of h of the lane's column. Two sums each, so that a product need not wait
// for the one before it.
__device__ __forceinline__ void add_products(
    float (&sums)[4][CELLS], const unsigned (&w)[4][LOADS][4], const uint4* words) {
    float d[CHAINS][2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            d[0][m][part] = sums[2 * m + part / 2][part % 2 * (CELLS - 1)];
            if (CHAINS > 1) d[CHAINS - 1][m][part] = 0.0f;
        }
    }
#pragma unroll
    for (int v = 0; v < LOADS; ++v) {
        const uint4 four = words[4 * v];
        const unsigned b[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                const unsigned a[4] = {w[2 * m][v][2 * half], w[2 * m + 1][v][2 * half], w[2 * m][v][2 * half + 1],
                                       w[2 * m + 1][v][2 * half + 1]};
                multiply_add(d[half % CHAINS][m], a, b[half]);
            }
        }
    }
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
        for (int e = 0; e < CELLS; ++e) {
            const int part = gate % 2 * 2 + e;
            sums[gate][e] = d[0][gate / 2][part] + (CHAINS > 1 ? d[CHAINS - 1][gate / 2][part] : 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(64 * KTILES, BLOCKS_TOGETHER) lstm_resident_tensor_forward(
    store* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight, // (4*hidden, hidden) W_hh
    const store* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* hiddens,                   // the same of h
    store* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
#if BIDIRECTIONAL  // the same of the second direction, which writes the columns of y behind those of the first
    store* gates_2,
    const store* weight_2,
    const store* bias_2,
    float* cells_2,
    store* hiddens_2,
#endif
#if OPTIONS
    store* state,                     // (batch, hidden) the initial h; becomes the final one
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    Options options,
#if BIDIRECTIONAL
    store* state_2,
    const store* peephole_2,
    unsigned stream_2,
#endif
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time) {                 // the time of step 0, to compare with lengths
#if BIDIRECTIONAL
    const int groups = gridDim.x / 2;
    const bool second = blockIdx.x >= groups;
    const int number = second ? blockIdx.x - groups : blockIdx.x;
    if (second) {
#if OPTIONS
        state = state_2, peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y_offset += hidden, reverse = !reverse;
    }
#else
    const int groups = gridDim.x, number = blockIdx.x;
#endif
    const int share = (batch + groups - 1) / groups;  // at most COLUMNS
    const int first_sequence = number * share, own = min(share, batch - first_sequence);

    __shared__ __align__(16) unsigned h_now[2][COLUMNS][PITCH];
    const int thread = threadIdx.x, lane = thread % 32, g = lane / 4, t = lane % 4, unit = thread / 32 * 8 + g;
    const long long units = (long long)batch * hidden;

    unsigned w[4][LOADS][4];
    hold_rows(w, weight, unit, t, hidden);
    const int there = min(unit, hidden - 1);  // lanes without a cell read what another one reads, and write nothing
    float b[4];
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) b[gate] = bias ? real_of(bias[gate * hidden + there]) : 0.0f;

    const long long first_slot = keep && reverse ? steps * units : 0;
    bool exists[CELLS];
    int sequences[CELLS], lengths_left[CELLS];
    float c[CELLS];
    store h[CELLS];
    for (int i = thread; i < 2 * COLUMNS * PITCH; i += blockDim.x) (&h_now[0][0][0])[i] = 0;
    __syncthreads();
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        exists[e] = unit < hidden && t + 4 * e < own;
        sequences[e] = first_sequence + (t + 4 * e < own ? t + 4 * e : 0);
        const long long at = (long long)sequences[e] * hidden + there;
        lengths_left[e] = lengths ? lengths[sequences[e]] - first_time : steps;
        c[e] = cells[first_slot + at];
#if OPTIONS
        h[e] = state[at];
#else
        h[e] = hiddens[first_slot + at];
#endif
    }
    store* const handed = (store*)&h_now[0][t][0] + unit;
    const uint4* const words = (const uint4*)&h_now[0][g / 2 + 4 * (CELLS - 1) * (g % 2)][4 * t];

#if OPTIONS
    float mask[CELLS];  // of h, on its way to the products
#pragma unroll
    for (int e = 0; e < CELLS; ++e) mask[e] = hidden_mask(options, draw_for_sequence(options, unit, sequences[e]));
    float peep[3] = {};
    if (peephole) {
#pragma unroll
        for (int k = 0; k < 3; ++k) peep[k] = real_of(peephole[k * hidden + there]);
    }
#endif
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
#if OPTIONS
        if (exists[e]) handed[8 * e * PITCH] = stored(real_of(h[e]) * mask[e]);
#else
        if (exists[e]) handed[8 * e * PITCH] = h[e];
#endif
    }

    // What a lane reads and writes of a step is this many bytes times the step behind where that of step 0 is, and that
    // of its second cell, if it has one, four sequences further on.
    const unsigned unit_bytes = (unsigned)batch * hidden * sizeof(store);
    const unsigned y_bytes = made_once((unsigned)batch * y_width * (unsigned)sizeof(store));
    store* const gate_of_0 = made_once(gates + (long long)sequences[0] * 4 * hidden + there);
    store* const y_of_0 = made_once(y + (long long)sequences[0] * y_width + y_offset + there);
    const long long slot_of_0 = (long long)sequences[0] * hidden + there + (1 - reverse) * units;
    store* const hidden_of_0 = made_once(hiddens + slot_of_0);  // of what follows step 0
    float* const cell_of_0 = made_once(cells + slot_of_0);
    const int further = sequences[CELLS - 1] - sequences[0];

    const int direction = made_once(reverse ? -1 : 1), ahead = made_once(AHEAD * direction);
    int step = reverse ? steps - 1 : 0;
    store next[AHEAD][4][CELLS];
    const auto fetch = [&](store(&fetched)[4][CELLS], int at) {
        const store* const of_step = at_step(gate_of_0, at, 4 * unit_bytes);
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
            for (int e = 0; e < CELLS; ++e) fetched[gate][e] = of_step[(gate + e * 4 * further) * hidden];
        }
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch(next[i], step + direction * min(i, steps - 1));
    __syncthreads();

    for (int left = steps; left > 0; left -= UNROLLED) {
#if OPTIONS
        unsigned drawn = 0;  // for one of four steps, each lane its own: four bits for each sequence
        if (draws_at_each_step(options)) {
            for (int s = 0; s < own; ++s) {
                drawn |= draw_for_step(options, unit, first_sequence + s, step + direction * t) << 4 * s;
            }
        }
#endif
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) {
            if (left <= i) break;
            float sums[4][CELLS];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
                for (int e = 0; e < CELLS; ++e) sums[gate][e] = real_of(next[i % AHEAD][gate][e]) + b[gate];
            }
            add_products(sums, w, words + i % 2 * (COLUMNS * PITCH / 4));
            if (left > i + AHEAD) fetch(next[i % AHEAD], step + ahead);
#if OPTIONS
            const unsigned of_step = __shfl_sync(0xFFFFFFFFu, drawn, i, 4);
#endif
#pragma unroll
            for (int e = 0; e < CELLS; ++e) {
                const bool runs = step < lengths_left[e];
#if OPTIONS
                const unsigned now = of_step >> 4 * (t + 4 * e);
                if (peephole) {
                    sums[0][e] = fmaf(peep[0], c[e], sums[0][e]);
                    sums[1][e] = fmaf(peep[1], c[e], sums[1][e]);
                }
                const float in = quick_sigmoid(sums[0][e]);
                const float forget = options.coupled ? 1.0f - in : quick_sigmoid(sums[1][e]);
                const float candidate = quick_tanh(sums[2][e]);
                const float c_star = fmaf(forget, c[e], in * (candidate * candidate_mask(options, now)));
                if (peephole) sums[3][e] = fmaf(peep[2], c_star, sums[3][e]);
                const float out = quick_sigmoid(sums[3][e]);
                if (runs) {
                    c[e] = zoned_c(options, now, c[e], c_star);
                    h[e] = stored(zoned_h(options, now, real_of(h[e]), out * quick_tanh(c_star)));
                }
                const store masked = stored(real_of(h[e]) * mask[e]);
                const store shown = step + direction < lengths_left[e] ? masked : stored(0.0f);
#else
                const float in = quick_sigmoid(sums[0][e]), forget = quick_sigmoid(sums[1][e]);
                const float candidate = quick_tanh(sums[2][e]), out = quick_sigmoid(sums[3][e]);
                if (runs) {
                    c[e] = fmaf(forget, c[e], in * candidate);
                    h[e] = stored(out * quick_tanh(c[e]));
                }
                const store masked = h[e], shown = h[e];
#endif
                if (exists[e]) {
                    handed[((i + 1) % 2 * COLUMNS + 4 * e) * 2 * PITCH] = masked;
                    at_step(y_of_0, step, y_bytes)[e * further * y_width] = runs ? h[e] : stored(0.0f);
                    if (keep) {
                        at_step(hidden_of_0, step, unit_bytes)[e * further * hidden] = shown;
                        at_step(cell_of_0, step, 2 * unit_bytes)[e * further * hidden] = c[e];
                        if (runs) {
                            store* const of_step = at_step(gate_of_0, step, 4 * unit_bytes) + e * 4 * further * hidden;
                            of_step[0] = stored(in), of_step[hidden] = stored(forget);
                            of_step[2 * hidden] = stored(candidate), of_step[3 * hidden] = stored(out);
                        }
                    }
                }
            }
            step += direction;
            __syncthreads();
        }
    }
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        if (!exists[e]) continue;
        const long long at = (long long)sequences[e] * hidden + unit;
#if OPTIONS
        state[at] = h[e];
        if (!keep) cells[at] = c[e];
#else
        if (!keep) hiddens[at] = h[e], cells[at] = c[e];
#endif
    }
}
