// All time steps of one LSTM layer with layer norm in one launch, in float32 (or TF32), with one hand-over a
// step: for few sequences. The equations are those of lstm_persistent_layer_norm_forward:
//
//     r = W_hh h[t-1]                     a = gain_p * norm(p) + b + gain_r * norm(r)
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(gain_c * norm(c[t]) + bias_c)
//
// The part of p comes from lstm_layer_norm_inputs_forward, and r has no mean since each column of W_hh has its own
// taken off. There h crosses between the blocks, and the sums that norm(r) and norm(c) need cross after it, one after
// the other. Here r crosses, and nothing else does: everything behind it, up to h[t], each block makes by itself for
// all hidden units of its group's sequences. All blocks do the same with the same words and get the same bits. That is
// three sigmoids and two tanh a unit in every block instead of in one: it pays while they take less time than two
// hand-overs.
//
// Who owns what: the batch is split into groups of up to SEQUENCES sequences that never wait for each other. Of W_hh, a
// block of a group holds the rows of UNITS = 4 * MTILES hidden units in registers, as lstm_persistent_forward does, and
// h of all units in shared memory. For the rest TEAM = 16 / SEQUENCES warps have a sequence, and a thread HELD hidden
// units of it, whose c it keeps. What goes to memory is written by the block that has the unit's rows.
//
// A step of a block: multiply; add up the warps' sums and hand over r; wait for all of r; its variance; c; its mean and
// variance; h. Sums over units go over the lanes of a warp, then over the warps of the sequence, of which each lane
// takes four. The variance of c is made of squared distances from the first c, and the warps' are put together with
// distances from the first mean: of n numbers one of which is 0, the squares' sum is at most n times what is left when
// their mean is taken off, so nothing large is taken off something large.
//
// `exchange` has two slots that take turns. A word says by its lowest bit whether it has arrived, as in
// lstm_persistent_backward, and the readers clear it, the block that wrote it too. A slot may be written again because
// whoever writes to it has read what all others made of the last use.
//
// Bytes per hidden unit and step: each block reads 4 inputs + 4 r from L2; in all 4 inputs are read, 4 r + 1 y written,
// and with `keep` 4 gates + 4 r + 1 h + 1 cell.
//
// hidden is a multiple of 4, and at most 128 * KTILES.
//
// OPTIONS  the equations are those of persistent_options.cuh but for peepholes, with norm(c*) in the place of
//          norm(c[t]). lstm_draw_options has drawn beforehand, since all blocks need the same bits.
//
// TF32     one product in TF32 (tensor_core.cuh) instead of three.
//
// FLOAT16, BFLOAT16  beside TF32 (storage.cuh): gates, weight, gains, the cell's bias, h, r and y have 16 bits, each
//          rounded once to the nearest, h with its mask once more; the rest is float32. A number of 16 bits is one of
//          TF32: h is multiplied as it is. A weight less its column's mean is not, and rounded to TF32, whose mantissa
//          has as many bits as float16's.
#include "handed_sums.cuh"
#include "persistent_options.cuh"
#include "row_fragments.cuh"
#include "storage.cuh"

#define H_STRIDE (128 * KTILES + 8)             // of the h of one sequence
#define TEAM (WARPS / SEQUENCES)                // warps of a sequence
#define TAKEN (TEAM < 4 ? TEAM : 4)             // of them, whose sums a lane adds up
#define HELD ((KTILES * SEQUENCES + 3) / 4)     // hidden units that a thread has

// Every block makes those of all units, so few instructions are worth some 5 units in the last place. Where the
// exponential is infinite, this is 0.
__device__ __forceinline__ float sigmoid(float a) { return __fdividef(1.0f, 1.0f + __expf(-a)); }

// As it is once it has been stored.
__device__ __forceinline__ float rounded(float h) { return real_of(stored(h)); }

__device__ __forceinline__ float sum_of_taken(const float* of_warps) {
    float sum = 0.0f;
#pragma unroll
    for (int other = 0; other < TAKEN; ++other) sum += of_warps[other];
    return sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) lstm_persistent_layer_norm_once_forward(
    const store* inputs,                   // (steps, batch, 4*hidden) gain_p * norm(p) + b
    store* gates,                          // (steps, batch, 4*hidden) with `keep` receives the activated gates: other
                                           // memory than `inputs`, which other blocks may not have read yet
    const store* __restrict__ weight,      // (4*hidden, hidden) W_hh
    const float* __restrict__ weight_sums, // (hidden,) of its columns
    const store* __restrict__ gain,        // (4*hidden,) gain_r
    const store* __restrict__ gain_cell,   // (hidden,)
    const store* __restrict__ bias_cell,   // (hidden,)
    const store* __restrict__ initial_h,   // (batch, hidden), which all blocks read: other memory than the next ones
    const float* __restrict__ initial_c,   // (batch, hidden)
    float* cells,                          // with `keep` (steps + 1, batch, hidden), but for the initial ones, else
                                           // (batch, hidden) the final ones
    store* state,                          // (batch, hidden) receives the final h
    store* hiddens,                        // with `keep` (steps + 1, batch, hidden): what the products read, which is
                                           // zero where a step does nothing; the first one's is there already
    store* r,                              // (steps, batch, 4*hidden) with `keep` receives norm(r)
    float* norms,                          // (steps, batch, 4) with `keep` receives, behind the first, 1/std of r, mean
                                           // and 1/std of c
    store* __restrict__ y,                 // (steps, batch, y_width) output; these columns start at y_offset
    const int* __restrict__ lengths,       // (batch,) steps that a sequence has, or null
    unsigned* exchange,                    // [2][batch][hidden][4] r, zeros at the beginning
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
    __shared__ float per_unit;  // 1 / hidden: a register less
    __shared__ __align__(16) float h_now[SEQUENCES * H_STRIDE];
    __shared__ float sums[WARPS * SEQUENCES * STRIDE];
    __shared__ float c[HELD][32 * WARPS];  // of each thread's units: registers are short
    __shared__ float h[HELD][32 * WARPS];
#if OPTIONS
    __shared__ unsigned char bits[HELD][32 * WARPS];  // drawn for the step
#endif
    __shared__ __align__(16) float counts[WARPS];   // hidden units that a warp has
    __shared__ __align__(16) float squares[WARPS];  // the sum of their r's
    __shared__ __align__(16) float means[WARPS];    // of their c
    __shared__ __align__(16) float spreads[WARPS];  // the sum of its squared distances from their mean
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int first_unit = blockIdx.x % blocks * UNITS;
    const int first_sequence = blockIdx.x / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_column = warp * 8 * KTILES + t * CHUNK;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KTILES][4];
    hold_rows(w, first_unit, first_column, hidden, g, [=](long long place, int column) {
        return real_of(weight[place]) - weight_sums[column] / (4.0f * hidden);
    });

    if (blocks_are_missing(blocks, batch, share, failed)) return;
    const int team = warp / TEAM, sequence = first_sequence + team, unit0 = 32 * (warp % TEAM) + lane;
    const int member = team * TEAM + lane % (TEAM / TAKEN) * TAKEN;  // the first of the warps that this lane adds up
    const bool there = sequence < end_sequence;  // a whole warp's sequence; units unit0 + 32 * TEAM * k
    const int length = lengths && there ? lengths[sequence] - first_time : steps;
    if (thread == 0) {
        mask = HIGH_BITS;
        per_unit = 1.0f / hidden;
    }
    for (int i = thread; i < SEQUENCES * H_STRIDE; i += 32 * WARPS) h_now[i] = 0.0f;
    __syncthreads();
    float of_warp = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int unit = unit0 + 32 * TEAM * k;
        const bool exists = there && unit < hidden;
        const long long at = (long long)sequence * hidden + unit;
        c[k][thread] = exists ? initial_c[at] : 0.0f;
        h[k][thread] = exists ? real_of(initial_h[at]) : 0.0f;
#if OPTIONS
        const long long first_step = reverse ? steps - 1 : 0;
        bits[k][thread] = exists && drawn ? drawn[first_step * units + at] : 0;
        if (exists) h_now[team * H_STRIDE + unit] = rounded(h[k][thread] * hidden_mask(options, bits[k][thread]));
#else
        if (exists) h_now[team * H_STRIDE + unit] = h[k][thread];
#endif
        of_warp += sum_over_lanes<1, 32>(unit < hidden ? 1.0f : 0.0f);
    }
    if (lane == 0) counts[warp] = of_warp;
    __syncthreads();

    Patience patience = {0, failed};
    for (int count = 0; count < steps; ++count) {
        const int step = reverse ? steps - 1 - count : count;
        const unsigned bit = (count / 2 & 1) ^ 1;
        unsigned* slot = exchange + count % 2 * 4 * units;
        if (there) {
            const long long of_step = (long long)afresh(step) * batch + sequence;
#pragma unroll
            for (int k = 0; k < HELD; ++k) {
                const int unit = afresh(unit0) + 32 * TEAM * k;
                if (unit >= hidden) continue;
#pragma unroll
                for (int q = 0; q < 4; ++q) prefetch(inputs + (of_step * 4 + q) * hidden + unit);
            }
        }

        const unsigned high_bits = high_bits_of(&mask);
        float d[MTILES][4];
#pragma unroll
        for (int m = 0; m < MTILES; ++m) d[m][0] = d[m][1] = d[m][2] = d[m][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < KTILES; ++k) {
            unsigned b[2] = {0, 0};
            if (g < SEQUENCES) {
                const float* column = h_now + g * H_STRIDE + first_column + 2 * k;
                b[0] = operand(__float_as_uint(column[0])), b[1] = operand(__float_as_uint(column[1]));
            }
            const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
#pragma unroll
            for (int m = 0; m < MTILES; ++m) multiply_add(d[m], w[m][k], b, b_low, high_bits);
        }
#pragma unroll
        for (int m = 0; m < MTILES; ++m) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int column = 2 * t + part % 2;
                if (column < SEQUENCES) {
                    sums[(warp * SEQUENCES + column) * STRIDE + 16 * m + g + 8 * (part / 2)] = d[m][part];
                }
            }
        }
        __syncthreads();
        if (thread < ROWS * SEQUENCES) {
            const int row = thread % ROWS, column = thread / ROWS, unit = first_unit + row / 4;
            if (unit < hidden && first_sequence + column < end_sequence) {
                float sum = 0.0f;
#pragma unroll
                for (int other = 0; other < WARPS; ++other) sum += sums[(other * SEQUENCES + column) * STRIDE + row];
                const long long at = ((long long)(first_sequence + column) * hidden + unit) * 4 + row % 4;
                store_word(slot + at, (__float_as_uint(sum) & ~1u) | bit);
            }
        }

        const long long of_step = (long long)afresh(step) * batch + sequence;
        float a[HELD][4];  // inputs, then pre-activations, then gates
        unsigned words[HELD][4];
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int unit = afresh(unit0) + 32 * TEAM * k;
#pragma unroll
            for (int q = 0; q < 4; ++q) a[k][q] = 0.0f, words[k][q] = bit;
            if (!there || unit >= hidden) continue;
            load_words(slot + 4 * ((long long)sequence * hidden + unit), words[k]);
#pragma unroll
            for (int q = 0; q < 4; ++q) a[k][q] = real_of(inputs[(of_step * 4 + q) * hidden + unit]);
#if OPTIONS
            bits[k][thread] = drawn ? drawn[of_step * hidden + unit] : 0;
#endif
        }
        patience.begin();
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int unit = afresh(unit0) + 32 * TEAM * k;
            while (any_early(words[k], bit) && !patience.ends()) {
                load_words(slot + 4 * ((long long)sequence * hidden + unit), words[k]);
            }
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                words[k][q] &= ~1u;
                sum += __uint_as_float(words[k][q]) * __uint_as_float(words[k][q]);
            }
        }
        __syncwarp();
        sum = sum_over_lanes<1, 32>(sum);
        if (lane == 0) squares[warp] = sum;
        __syncthreads();

        sum = sum_over_lanes<1, TEAM / TAKEN>(sum_of_taken(squares + member));
        const float scale_r = rsqrtf(0.25f * per_unit * sum + NORM_EPSILON);
        const bool runs = there && step < length, next_runs = there && step + 1 - 2 * reverse < length;
        float c_next[HELD], along = 0.0f, squared = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int unit = afresh(unit0) + 32 * TEAM * k;
            const bool exists = unit < hidden;
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                words[k][q] = __float_as_uint(__uint_as_float(words[k][q]) * scale_r);
                const float gain_r = exists ? real_of(gain[q * hidden + unit]) : 0.0f;
                a[k][q] += gain_r * __uint_as_float(words[k][q]);
                a[k][q] = q == 2 ? tanhf(a[k][q]) : sigmoid(a[k][q]);
            }
#if OPTIONS
            if (options.coupled) a[k][1] = 1.0f - a[k][0];
            c_next[k] = fmaf(a[k][1], c[k][thread], a[k][0] * (a[k][2] * candidate_mask(options, bits[k][thread])));
#else
            c_next[k] = fmaf(a[k][1], c[k][thread], a[k][0] * a[k][2]);
#endif
            if (keep && runs && unit >= first_unit && unit < first_unit + UNITS && exists) {
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    gates[(of_step * 4 + q) * hidden + unit] = stored(a[k][q]);
                    r[(of_step * 4 + q) * hidden + unit] = stored(__uint_as_float(words[k][q]));
                }
#if OPTIONS
                if (c_star) c_star[of_step * hidden + unit] = c_next[k];
#endif
            }
        }
        const float first_c = __shfl_sync(ALL_LANES, c_next[0], 0);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const float distance = unit0 + 32 * TEAM * k < hidden ? c_next[k] - first_c : 0.0f;
            along += distance;
            squared += distance * distance;
        }
        along = sum_over_lanes<1, 32>(along);
        squared = sum_over_lanes<1, 32>(squared);
        if (lane == 0) {
            const float own_units = counts[warp], per_own = own_units > 0.0f ? __fdividef(1.0f, own_units) : 0.0f;
            means[warp] = own_units > 0.0f ? first_c + along * per_own : 0.0f;
            spreads[warp] = squared - along * along * per_own;
        }
        __syncthreads();

        const float first_mean = means[team * TEAM];
        along = 0.0f, squared = sum_of_taken(spreads + member);
#pragma unroll
        for (int other = member; other < member + TAKEN; ++other) {
            const float off = means[other] - first_mean, total = counts[other] * off;
            along += total;
            squared += total * off;
        }
        along = sum_over_lanes<1, TEAM / TAKEN>(along);
        squared = sum_over_lanes<1, TEAM / TAKEN>(squared);
        const float mean_c = first_mean + along * per_unit, spread = squared - along * along * per_unit;
        const float scale_c = rsqrtf(spread * per_unit + NORM_EPSILON);
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int unit = afresh(unit0) + 32 * TEAM * k;
            if (!there || unit >= hidden) continue;
            float h_next = h[k][thread];
            if (runs) {
                h_next = a[k][3] * tanhf(real_of(gain_cell[unit]) * ((c_next[k] - mean_c) * scale_c) +
                                         real_of(bias_cell[unit]));
#if OPTIONS
                h_next = zoned_h(options, bits[k][thread], h[k][thread], h_next);
                c_next[k] = zoned_c(options, bits[k][thread], c[k][thread], c_next[k]);
#endif
                h_next = rounded(h_next);
                c[k][thread] = c_next[k];
                h[k][thread] = h_next;
            }
#if OPTIONS
            const float h_in = next_runs ? rounded(h_next * hidden_mask(options, bits[k][thread])) : 0.0f;
#else
            const float h_in = next_runs ? h_next : 0.0f;
#endif
            h_now[team * H_STRIDE + unit] = h_in;
            if (unit < first_unit || unit >= first_unit + UNITS) continue;  // another block writes it to memory
            y[of_step * y_width + y_offset + unit] = stored(runs ? h_next : 0.0f);
            if (!keep) continue;
            const long long after = (step + 1 - reverse) * units + (long long)sequence * hidden + unit;
            cells[after] = c[k][thread];
            hiddens[after] = stored(h_in);
            if (runs && unit == 0) {
                norms[4 * of_step + 1] = scale_r;
                norms[4 * of_step + 2] = mean_c;
                norms[4 * of_step + 3] = scale_c;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int unit = afresh(unit0) + 32 * TEAM * k;
        if (!there || unit < first_unit || unit >= first_unit + UNITS || unit >= hidden) continue;
        const long long at = (long long)sequence * hidden + unit;
        state[at] = stored(h[k][thread]);
        if (!keep) cells[at] = c[k][thread];
    }
}
