// All time steps of one LSTM layer with layer norm in one launch, in float32 (or TF32): the recurrent weights stay in
// registers.
//
//     r = W_hh h[t-1]                     a = gain_p * norm(p) + b + gain_r * norm(r)
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(gain_c * norm(c[t]) + bias_c)
//
// The part of p comes from lstm_layer_norm_inputs_forward. Of r no mean has to be taken: each column of W_hh has its
// own taken off, and then the sum of r over its 4*hidden rows is zero for every h. What is left is the variance.
//
// Who owns what: as in lstm_persistent_forward. The batch is split into groups of sequences that never wait for each
// other. Within a group a block owns UNITS = 4 * MTILES hidden units, all four gates of each, for all sequences of the
// group; its 16 warps share out the sum over h. Row r of the block is gate r % 4 of unit r / 4.
//
// A step of a block, for 8 * NTILES sequences at a time, has three hand-overs instead of one: wait for h[t-1],
// multiply, add up the warps' sums through shared memory; hand over the sum of the squares of r, and wait for those of
// all blocks; make c; hand over its mean and the sum of squared distances from it, and wait for all; publish h[t]. Both
// sums are made by warps: one has 8 hidden units of one sequence, and what it hands over does not depend on the tiles.
// The variance of c is put together from the warps' (Chan, Golub and LeVeque 1983), so that nothing large is taken off
// something large.
//
// A sequence that does not run at a step hands over no sums, and nobody waits for them.
//
// Bytes per hidden unit and step: reads 4 gates + 1 cell, writes 1 cell + 1 h + 1 y + 1 state, and with `keep` 4 gates
// + 4 r; each block reads the group's h[t-1] and 3 words for every 8 hidden units from L2.
//
// hidden is a multiple of 4, and at most 128 * KTILES.
//
// OPTIONS  the equations are those of persistent_options.cuh but for peepholes, with norm(c*) in the place of
//          norm(c[t]). lstm_draw_options has drawn beforehand, since registers are short. `state` holds h, `hiddens` h
//          with its mask.
//
// TF32     one product in TF32 (tensor_core.cuh) instead of three.
//
// FLOAT16, BFLOAT16  beside TF32 (storage.cuh): gates, weight, gains, the cell's bias, h, r and y have 16 bits, each
//          rounded once to the nearest, h with its mask once more; the rest is float32. A number of 16 bits is one of
//          TF32: h is multiplied as it is. A weight less its column's mean is not, and rounded to TF32, whose mantissa
//          has as many bits as float16's.
#include "handed_rows.cuh"
#include "handed_sums.cuh"
#include "own_gate.cuh"
#include "persistent_options.cuh"
#include "storage.cuh"

#define ROUNDS ((KTILES + 3) / 4)                            // in which 32 lanes load the means and distances of a row

// Hidden units of a part: 8, 4 at the end if hidden is not a multiple of 8, and none beyond.
__device__ __forceinline__ float units_of(int hidden, int part) {
    const int left = hidden - 8 * part;
    return left >= 8 ? 8.0f : left > 0 ? 4.0f : 0.0f;
}

// As it is once it has been stored.
__device__ __forceinline__ float rounded(float h) { return real_of(stored(h)); }

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) lstm_persistent_layer_norm_forward(
    store* gates,                          // (steps, batch, 4*hidden) gain_p * norm(p) + b; activated with `keep`
    const store* __restrict__ weight,      // (4*hidden, hidden) W_hh
    const float* __restrict__ weight_sums, // (hidden,) of its columns
    const store* __restrict__ gain,        // (4*hidden,) gain_r
    const store* __restrict__ gain_cell,   // (hidden,)
    const store* __restrict__ bias_cell,   // (hidden,)
    float* cells,                          // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* state,                          // (batch, hidden) the initial h; becomes the final one
    float* hiddens,                        // (steps + 1, batch, hidden) what the products read, which is zero where a
                                           // step does nothing: the first step's, and all ones elsewhere. In 16 bits
                                           // too these are words of 32: each says itself whether it is there
    store* r,                              // (steps, batch, 4*hidden) with `keep` receives norm(r)
    float* norms,                          // (steps, batch, 4) with `keep` receives, behind the first, 1/std of r, mean
                                           // and 1/std of c
    store* __restrict__ y,                 // (steps, batch, y_width) output; these columns start at y_offset
    const int* __restrict__ lengths,       // (batch,) steps that a sequence has, or null
    unsigned* handed,                      // (steps, batch, 3 * padded) all ones: sums of squares of r, then means and
                                           // distances of c in turn; padded is hidden / 8, rounded up to a multiple
                                           // of 4
    unsigned* failed,                      // becomes 1 if a block waited in vain
#if OPTIONS
    const unsigned char* __restrict__ drawn,  // (steps, batch, hidden) of lstm_draw_options, or null
    float* c_star,                         // (steps, batch, hidden) receives c* with zoneout of c, else null
    const Options options,
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                              // 1: for the backward pass, everything is kept
    int reverse,                           // 1: from the last step to the first
    int first_time,                        // the time of step 0, to compare with lengths
    int blocks,                            // of a group
    int share) {                           // sequences of a group
    __shared__ unsigned mask;
    __shared__ float per_unit;             // 1 / hidden: a register less
    extern __shared__ float sums[];        // [2][WARPS][COLUMNS][STRIDE]
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int first_unit = blockIdx.x % blocks * UNITS;
    const int first_sequence = blockIdx.x / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_column = warp * 8 * KTILES + t * CHUNK;
    const long long units = (long long)batch * hidden;
    const int parts = (hidden + 7) / 8, padded = (parts + 3) / 4 * 4;

    unsigned w[MTILES][KTILES][4];
    hold_rows(w, first_unit, first_column, hidden, g, [=](long long place, int column) {
        return real_of(weight[place]) - weight_sums[column] / (4.0f * hidden);
    });

    if (blocks_are_missing(blocks, batch, share, failed)) return;
    if (thread == 0) {
        mask = HIGH_BITS;
        per_unit = 1.0f / hidden;
    }
    __syncthreads();
    Patience patience = {0, failed};
    int buffer = 0;
    for (int count = 0; count < steps; ++count) {
        const int step = reverse ? steps - 1 - count : count;
        const float* h_before = hiddens + (step + reverse) * units;

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS;
                if (output < ROWS * COLUMNS && unit < hidden && sequence < end_sequence) {
                    prefetch(gates + ((long long)step * batch + sequence) * 4 * hidden + gate * hidden + unit);
                }
            }

            float* mine = sums + (buffer * WARPS + warp) * COLUMNS * STRIDE;
#pragma unroll 1
            for (int n = 0; n < NTILES; ++n) {
                const int sequence = sequence0 + 8 * n + g;
                const unsigned* source = (const unsigned*)h_before + (long long)sequence * hidden;
                float* out = mine + 8 * n * STRIDE;
                const bool there = sequence < end_sequence;
                multiply_rows_when_there(source, there, count > 0, first_column, hidden, g, t, w, &mask, patience, out);
            }
            __syncthreads();  // the other buffer is free after it: whoever read that one has come here since

            // From here on a warp goes its own way. It has 8 hidden units, part number `part` of all, and one sequence,
            // so that all of its lanes take the same branches.
            float recurrent[OUTPUTS];
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS;
                const int column = output / ROWS, sequence = sequence0 + column;
                const int part = (first_unit + output / 4 % UNITS) / 8;
                if (output >= ROWS * COLUMNS || sequence >= end_sequence || part >= parts) continue;
                if (lengths && first_time + step >= lengths[sequence]) continue;
                const float* sum = sums + (buffer * WARPS * COLUMNS + column) * STRIDE + output % ROWS;
                recurrent[e] = sum_over_warps(sum);
                const float squares = sum_over_lanes<1, 32>(recurrent[e] * recurrent[e]);
                unsigned* row = handed + ((long long)step * batch + sequence) * 3 * padded;
                if (lane == 0) store_word(row + part, to_hand_over(squares));
            }

            float c_next[OUTPUTS], o[OUTPUTS];
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS, part = unit / 8;
                if (output >= ROWS * COLUMNS || sequence >= end_sequence || part >= parts) continue;
                if (lengths && first_time + step >= lengths[sequence]) continue;
                const long long of_step = (long long)step * batch + sequence;
                unsigned* row = handed + of_step * 3 * padded;
                unsigned words[4];
                look_at(row + 4 * lane, parts - 4 * lane, words);
                const bool exists = unit < hidden;
                const float gain_r = exists ? real_of(gain[gate * hidden + unit]) : 0.0f;
                const float input = exists ? real_of(gates[of_step * 4 * hidden + gate * hidden + unit]) : 0.0f;
                const long long c_before = (keep ? (afresh(step) + reverse) * units : 0) + (long long)sequence * hidden;
                const float c = exists ? cells[c_before + unit] : 0.0f;
#if OPTIONS
                const unsigned bits = exists && drawn ? drawn[of_step * hidden + unit] : 0u;
#endif
                patience.begin();
                wait_for(row + 4 * lane, parts - 4 * lane, words, patience);
                __syncwarp();
                const float squares = sum_over_lanes<1, 32>((__uint_as_float(words[0]) + __uint_as_float(words[1])) +
                                                            (__uint_as_float(words[2]) + __uint_as_float(words[3])));
                const float scale_r = rsqrtf(0.25f * per_unit * squares + NORM_EPSILON);
                const float normal = recurrent[e] * scale_r, a = input + gain_r * normal;
                float activated = activated_gate(gate, a);
                const int first_lane = lane & ~3;
                const float i = __shfl_sync(ALL_LANES, activated, first_lane);
                const float f = __shfl_sync(ALL_LANES, activated, first_lane + 1);
                const float candidate = __shfl_sync(ALL_LANES, activated, first_lane + 2);
                o[e] = __shfl_sync(ALL_LANES, activated, first_lane + 3);
#if OPTIONS
                const float forget = options.coupled ? 1.0f - i : f;
                c_next[e] = forget * c + i * (candidate * candidate_mask(options, bits));
                if (gate == 1) activated = forget;
#else
                c_next[e] = f * c + i * candidate;
#endif
                const float per_own = hidden - 8 * part < 8 ? 0.25f : 0.125f;
                const float mean = sum_over_lanes<4, 32>(exists ? c_next[e] : 0.0f) * per_own;
                const float distance = exists ? c_next[e] - mean : 0.0f;
                const float spread = sum_over_lanes<4, 32>(distance * distance);
                if (lane == 0) store_words(row + padded + 2 * part, to_hand_over(mean), to_hand_over(spread));
                if (keep && exists) {
                    gates[of_step * 4 * hidden + gate * hidden + unit] = stored(activated);
                    r[of_step * 4 * hidden + gate * hidden + unit] = stored(normal);
                }
                if (keep && part == 0 && lane == 0) norms[4 * of_step + 1] = scale_r;
            }

#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS;
                if (output >= ROWS * COLUMNS || sequence >= end_sequence || unit / 8 >= parts) continue;
                const bool runs = !lengths || first_time + step < lengths[sequence];
                const long long of_step = (long long)step * batch + sequence, at = (long long)sequence * hidden + unit;
                float h_next = 0.0f;
                if (runs) {
                    const unsigned* row = handed + of_step * 3 * padded + padded;
                    unsigned words[ROUNDS][4];
#pragma unroll
                    for (int k = 0; k < ROUNDS; ++k) {
                        look_at(row + 128 * k + 4 * lane, 2 * parts - 128 * k - 4 * lane, words[k]);
                    }
                    const float gain_c = unit < hidden ? real_of(gain_cell[unit]) : 0.0f;
                    const float bias_c = unit < hidden ? real_of(bias_cell[unit]) : 0.0f;
                    patience.begin();
                    float sum = 0.0f;
                    // What a part says counts for its units; a part that there is none of, for none.
#pragma unroll
                    for (int k = 0; k < ROUNDS; ++k) {
                        wait_for(row + 128 * k + 4 * lane, 2 * parts - 128 * k - 4 * lane, words[k], patience);
                        sum += units_of(hidden, 64 * k + 2 * lane) * __uint_as_float(words[k][0]);
                        sum += units_of(hidden, 64 * k + 2 * lane + 1) * __uint_as_float(words[k][2]);
                    }
                    __syncwarp();
                    const float mean_c = sum_over_lanes<1, 32>(sum) * per_unit;
                    float spread = 0.0f;
#pragma unroll
                    for (int k = 0; k < ROUNDS; ++k) {
#pragma unroll
                        for (int pair = 0; pair < 2; ++pair) {
                            const float distance = __uint_as_float(words[k][2 * pair]) - mean_c;
                            spread += __uint_as_float(words[k][2 * pair + 1]);
                            spread += units_of(hidden, 64 * k + 2 * lane + pair) * distance * distance;
                        }
                    }
                    const float scale_c = rsqrtf(sum_over_lanes<1, 32>(spread) * per_unit + NORM_EPSILON);
                    h_next = o[e] * tanhf(gain_c * ((c_next[e] - mean_c) * scale_c) + bias_c);
                    if (keep && unit == 0 && gate == 0) {
                        norms[4 * of_step + 2] = mean_c;
                        norms[4 * of_step + 3] = scale_c;
                    }
                }
#if OPTIONS
                const unsigned bits = unit < hidden && drawn ? drawn[of_step * hidden + unit] : 0u;
                if (runs && unit < hidden) h_next = zoned_h(options, bits, real_of(state[at]), h_next);
                __syncwarp();  // one lane of four writes what all four have read
#endif
                if (unit >= hidden) continue;
                h_next = rounded(h_next);
                if (gate == 0) {
                    const bool next_runs = !lengths || first_time + step + 1 - 2 * reverse < lengths[sequence];
                    const float h_now = runs ? h_next : next_runs ? real_of(state[at]) : 0.0f;
                    if (runs) state[at] = stored(h_now);
                    unsigned* place = (unsigned*)hiddens + (afresh(step) + 1 - reverse) * units + at;
#if OPTIONS
                    store_word(place, next_runs ? to_hand_over(rounded(h_now * hidden_mask(options, bits))) : 0u);
#else
                    store_word(place, next_runs ? to_hand_over(h_now) : 0u);
#endif
                }
                if (gate == 1) y[of_step * y_width + y_offset + unit] = stored(h_next);
                if (gate == 2) {
                    const int now = afresh(step);
                    float* c_after = cells + (keep ? (now + 1 - reverse) * units : 0) + at;
#if OPTIONS
                    const float c = cells[(keep ? (now + reverse) * units : 0) + at];
                    if (c_star && runs) c_star[of_step * hidden + unit] = c_next[e];
                    *c_after = runs ? zoned_c(options, bits, c, c_next[e]) : c;
#else
                    *c_after = runs ? c_next[e] : cells[(keep ? (now + reverse) * units : 0) + at];
#endif
                }
            }
            __syncwarp();  // c was written by one lane of four, and all four read it in the next step
            buffer ^= 1;
        }
    }
}
