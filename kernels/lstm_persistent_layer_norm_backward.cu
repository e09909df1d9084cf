// Backpropagation through all time steps of one LSTM layer with layer norm in one launch, in float32 (or TF32): the
// twin of lstm_persistent_layer_norm_forward. The formulas are those of lstm_variant_cell_backward.cu:
//
//     e = dh * o * tanh'(n) * gain_c              dc += 1/std_c * (e - mean(e) - norm(c) * mean(e * norm(c)))
//     da as without layer norm, of that dc        d = da * gain_r
//     dr = 1/std_r * (d - mean(d) - norm(r) * mean(d * norm(r)))        dh[t-1] = W_hh^T dr
//
// da and dr replace the activated gates and norm(r). What becomes of the products of x is
// lstm_layer_norm_inputs_backward's.
//
// Who owns what: as in lstm_persistent_backward. A block owns UNITS = 4 * MTILES hidden units of its group's sequences.
// It makes their dr, and at once what these contribute to every dh of the group; the contributions go to the owners of
// the outputs, who add up one from each block, in the order of the blocks.
//
// A step has two hand-overs: those contributions, and all of its sums. The sums over d need not wait for those over e.
// With x = dc + e / std_c, which a unit's owner knows at once, and S, N and m as in lstm_layer_norm_slope_sums, which
// has made the sums of S, S m, N and N m for all steps beforehand:
//
//     E = sum of e, F = sum of e * m            dc = x - (E + F m) / (hidden * std_c)        d_o = da_o * gain_o
//     sum of d           = sum of (x S + d_o)     - (E * sum of S + F * sum of S m) / (hidden * std_c)
//     sum of d * norm(r) = sum of (x N + d_o n_o) - (E * sum of N + F * sum of N m) / (hidden * std_c)
//
// So a block hands over four sums for each sequence, and a warp for each sequence adds up those of all blocks.
//
// What one word says of its own arrival: in `exchange`, which is used again and again, the lowest bit, as in
// lstm_persistent_backward; in `handed`, which is written once, anything but all ones.
//
// Bytes per hidden unit and step: reads 4 gates + 4 r + 2 cells + 1 dc + 1 dh (+ 1 dy), writes 4 gates + 4 r + 1 dc + 1
// dh, adds onto 6 sums, and 4 * blocks written and read of contributions. hidden is a multiple of 4.
//
// OPTIONS  the equations are those of persistent_options.cuh but for peepholes, with norm(c*) in the place of
//          norm(c[t]). lstm_draw_options has drawn, since registers are short. dh and dc go by a step as zoneout says.
//
// TF32     one product in TF32 (tensor_core.cuh) instead of three.
//
// FLOAT16, BFLOAT16  beside TF32 (storage.cuh): gates, weight, gains, the cell's bias, r and dy have 16 bits, each
//          rounded once to the nearest; the rest is float32. Weights are multiplied as they are, since a number of 16
//          bits is one of TF32. dr is rounded to TF32 for the product, whose mantissa has as many bits as float16's.
#include "contributing_product.cuh"
#include "handed_sums.cuh"
#include "persistent_options.cuh"
#include "storage.cuh"

#define OWNERS (UNITS * COLUMNS)                   // threads that have a hidden unit of a sequence
#define AT_ONCE 4                                  // blocks whose sums a lane waits for together

// Four sums over all hidden units, of which each block has handed over its own, for a whole warp.
__device__ __forceinline__ void sums_of_blocks(
    const unsigned* row, int blocks, int lane, Patience& patience, float (&sums)[4]) {
    sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
    patience.begin();
    for (int first = lane; first < blocks; first += 32 * AT_ONCE) {
        unsigned words[AT_ONCE][4];
#pragma unroll
        for (int b = 0; b < AT_ONCE; ++b) {
            look_at(row + 4 * (first + 32 * b), first + 32 * b < blocks ? 4 : 0, words[b]);
        }
#pragma unroll
        for (int b = 0; b < AT_ONCE; ++b) {
            wait_for(row + 4 * (first + 32 * b), 4, words[b], patience);
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[k] += __uint_as_float(words[b][k]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] = sum_over_lanes<1, 32>(sums[k]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_persistent_layer_norm_backward(
    store* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    store* r,                          // (steps, batch, 4*hidden) norm(r); dr in place
    const float* __restrict__ norms,   // (steps, batch, 4) behind the first: 1/std of r, mean and 1/std of c
    const float* __restrict__ slope_sums,  // (steps, batch, 4) of lstm_layer_norm_slope_sums
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const store* __restrict__ gain,    // (4*hidden,) gain_r
    const store* __restrict__ gain_cell,  // (hidden,)
    const store* __restrict__ bias_cell,  // (hidden,)
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const store* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    float* d_norm,                     // (batch, 10*hidden) behind the first 4*hidden, gradients of gain_r, gain_cell
                                       // and bias_cell so far, apart for each sequence
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* exchange,                // [2][groups][blocks][share][blocks][UNITS], zeros at the beginning
    unsigned* handed,                  // (steps, batch, blocks, 4) all ones: each block's sums
    unsigned* failed,                  // becomes 1 if a block waited in vain
#if OPTIONS
    const unsigned char* __restrict__ drawn,  // (steps, batch, hidden) of lstm_draw_options, or null
    const float* __restrict__ c_star,  // (steps, batch, hidden) c* with zoneout of c, else null
    const Options options,
#endif
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse,                       // 1: the forward pass went from the last step to the first
    int blocks,                        // of a group
    int share) {                       // sequences of a group
    __shared__ unsigned mask;
    __shared__ float per_unit;  // 1 / hidden: a register less
    __shared__ float dr[ROWS * STRIDE];
    // Registers are short while something is waited for, so what is needed afterwards stands here.
    __shared__ float normals[4][OWNERS];  // norm(r)
    __shared__ float slopes[3][OWNERS];   // of a_i, a_f and a_g: what their gradients are for dc = 1
    __shared__ float of_sums[2][OWNERS];  // S and N
    __shared__ float forget[OWNERS];
    __shared__ float d_cells[OWNERS];     // dc of the later step
    __shared__ float totals[COLUMNS][4];  // sums over all units
    __shared__ float parts[COLUMNS * PARTS * UNITS];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int block = blockIdx.x % blocks, group = blockIdx.x / blocks;
    const int first_unit = block * UNITS, first_sequence = group * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_output = warp * 16 * JTILES;
    const long long units = (long long)batch * hidden;
    const long long region = (long long)share * blocks * UNITS;  // of one owner
    const long long slot_size = (long long)(gridDim.x / blocks) * blocks * region;

    unsigned w[JTILES][ROWS / 8][4];
    hold_outputs(w, weight, first_unit, first_output, hidden, g, t);

    if (blocks_are_missing(blocks, batch, share, failed)) return;
    if (thread == 0) {
        mask = HIGH_BITS;
        per_unit = 1.0f / hidden;
    }
    __syncthreads();
    Patience patience = {0, failed};
    for (int count = 0; count <= steps; ++count) {  // the last round only collects the initial dh
        const int step = reverse ? count : steps - 1 - count;
        const bool collects = count > 0, computes = count < steps;
        const unsigned* arrivals = exchange + (count + 1) % 2 * slot_size + (long long)blockIdx.x * region;
        const unsigned arrival_bit = (((count - 1) / 2) & 1) ^ 1, departure_bit = ((count / 2) & 1) ^ 1;

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
            const int reader = afresh(thread) % UNITS, column = afresh(thread) / UNITS;
            const int unit = first_unit + reader, sequence = sequence0 + column;
            const bool owner = thread < OWNERS && unit < hidden && sequence < end_sequence;
            const bool runs = computes && sequence < end_sequence && (!lengths || step < lengths[sequence]);
            const bool acts = owner && runs;
            const long long of_step = (long long)step * batch + sequence;
            if (owner && count + 1 < steps) {  // what the next step needs, on its way into the cache
                const int next = step + (reverse ? 1 : -1);
                const long long row = (long long)next * batch + sequence;
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    prefetch(gates + (row * 4 + q) * hidden + unit);
                    prefetch(r + (row * 4 + q) * hidden + unit);
                }
                prefetch(cells + (next + reverse) * units + (long long)sequence * hidden + unit);
                prefetch(norms + 4 * row);
                prefetch(slope_sums + 4 * row);
                if (dy) prefetch(dy + row * dy_width + dy_offset + unit);
            }
            if (acts) {  // what the contributions do not touch
                const store* gate = gates + of_step * 4 * hidden + unit;
                const long long at = (long long)sequence * hidden + unit;
                const float i = real_of(gate[0]), f = real_of(gate[hidden]), candidate = real_of(gate[2 * hidden]);
                const float c_before = cells[(step + reverse) * units + at];
#if OPTIONS
                const unsigned bits = drawn ? drawn[of_step * hidden + unit] : 0u;
                const float mask = candidate_mask(options, bits), off = options.coupled ? c_before : 0.0f;
                const float a[3] = {(candidate * mask - off) * (i * (1.0f - i)),
                                    options.coupled ? 0.0f : c_before * (f * (1.0f - f)),
                                    i * mask * (1.0f - candidate * candidate)};
#else
                const float a[3] = {candidate * (i * (1.0f - i)), c_before * (f * (1.0f - f)),
                                    i * (1.0f - candidate * candidate)};
#endif
                float slope = 0.0f, along = 0.0f;
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const float normal = real_of(r[(of_step * 4 + q) * hidden + unit]);
                    normals[q][thread] = normal;
                    if (q == 3) continue;
                    slopes[q][thread] = a[q];
                    slope += a[q] * real_of(gain[q * hidden + unit]);
                    along += a[q] * real_of(gain[q * hidden + unit]) * normal;
                }
                of_sums[0][thread] = slope;
                of_sums[1][thread] = along;
                forget[thread] = f;
                d_cells[thread] = dc[at];
#if OPTIONS
                zone_c_takes(options, bits, d_cells[thread]);
#endif
            }

            if (collects) {
                const int reads = thread / READERS;  // a sequence
                const long long place = (long long)(sequence0 - first_sequence + reads) * blocks * UNITS;
                collect(arrivals + place, sequence0 + reads < end_sequence, blocks * MTILES, arrival_bit, patience,
                        parts + reads * PARTS * UNITS);
                __syncthreads();
            }

            float x = 0.0f, d_o = 0.0f, normal_c = 0.0f, scale_c = 0.0f;
            if (owner) {
                const long long at = (long long)afresh(sequence) * hidden + unit;
                float d_hidden = dh[at];
#if OPTIONS
                const int drew = computes ? step : reverse ? steps - 1 : 0;  // a step for the initial h's mask too
                const unsigned bits = drawn ? drawn[drew * units + at] : 0u;
                float product = 0.0f;
#else
                float& product = d_hidden;
#endif
                if (collects && (!lengths || step + 1 - 2 * reverse < lengths[sequence])) {  // the later step ran
#pragma unroll
                    for (int part = 0; part < PARTS; ++part) {
                        product += parts[(column * PARTS + part) * UNITS + reader];
                    }
#if OPTIONS
                    d_hidden += product * hidden_mask(options, bits);
#endif
                }
                dh[at] = acts ? 0.0f : d_hidden;
                if (acts) {
                    scale_c = norms[4 * of_step + 3];
                    float c_after = cells[(step + 1 - reverse) * units + at];
                    if (dy) d_hidden += real_of(dy[of_step * dy_width + dy_offset + unit]);
#if OPTIONS
                    if (c_star) c_after = c_star[of_step * hidden + unit];
                    dh[at] = zone_h_takes(options, bits, d_hidden);
#endif
                    normal_c = (c_after - norms[4 * of_step + 2]) * scale_c;
                    const float o = real_of(gates[(of_step * 4 + 3) * hidden + unit]);
                    const float tanh_n = tanhf(real_of(gain_cell[unit]) * normal_c + real_of(bias_cell[unit]));
                    x = d_hidden * o * (1.0f - tanh_n * tanh_n);  // the gradient of what tanh is taken of
                    d_o = d_hidden * tanh_n * (o * (1.0f - o));
                }
            }
            if (!computes) {
                __syncthreads();  // `parts` is written again for the next sequences
                continue;
            }
            if (thread < OWNERS) {  // whole warps, since sums over units are made of what all lanes have
                float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                if (acts) {
                    float* d_gains = d_norm + (long long)sequence * 10 * hidden + unit;
                    d_gains[8 * hidden] += x * normal_c;
                    d_gains[9 * hidden] += x;
                    sums[0] = x * real_of(gain_cell[unit]);
                    sums[1] = sums[0] * normal_c;
                    x = d_cells[thread] + scale_c * sums[0];
                    const float of_o = d_o * real_of(gain[3 * hidden + unit]);
                    sums[2] = x * of_sums[0][thread] + of_o;
                    sums[3] = x * of_sums[1][thread] + of_o * normals[3][thread];
                }
#pragma unroll
                for (int k = 0; k < 4; ++k) sums[k] = sum_over_lanes<1, UNITS>(sums[k]);
                if (runs && reader == 0) {
                    unsigned* own = handed + (of_step * blocks + block) * 4;
                    store_words(own, to_hand_over(sums[0]), to_hand_over(sums[1]));
                    store_words(own + 2, to_hand_over(sums[2]), to_hand_over(sums[3]));
                }
            }
            for (int other = warp; other < COLUMNS; other += WARPS) {
                const int whose = sequence0 + other;
                if (whose >= end_sequence || (lengths && step >= lengths[whose])) continue;
                float sums[4];
                sums_of_blocks(handed + ((long long)step * batch + whose) * blocks * 4, blocks, lane, patience, sums);
                if (lane == 0) {
#pragma unroll
                    for (int k = 0; k < 4; ++k) totals[other][k] = sums[k];
                }
            }
            __syncthreads();
            if (owner) {
                float d_gate[4] = {0, 0, 0, 0}, own_r[4] = {0, 0, 0, 0};
                const long long now = (long long)step * batch + afresh(sequence);
                if (acts) {
                    const float* of_slopes = slope_sums + 4 * now;
                    const float per_std = per_unit * scale_c, scale_r = norms[4 * now + 1];
                    const float e = per_std * totals[column][0], f = per_std * totals[column][1];
                    const float sum = totals[column][2] - (e * of_slopes[0] + f * of_slopes[1]);
                    const float along = totals[column][3] - (e * of_slopes[2] + f * of_slopes[3]);
                    const float d_cell = x - (e + f * normal_c);
                    float* d_gains = d_norm + (long long)afresh(sequence) * 10 * hidden + unit;
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        const float normal = normals[q][thread];
                        d_gate[q] = q < 3 ? d_cell * slopes[q][thread] : d_o;
                        const float off = 0.25f * per_unit * (sum + normal * along);
                        own_r[q] = scale_r * (d_gate[q] * real_of(gain[q * hidden + unit]) - off);
                        d_gains[(4 + q) * hidden] += d_gate[q] * normal;
                    }
                    float* of_c = dc + (long long)afresh(sequence) * hidden + unit;
#if OPTIONS
                    float later = *of_c;
                    const unsigned bits = drawn ? drawn[now * hidden + unit] : 0u;
                    *of_c = d_cell * forget[thread] + zone_c_takes(options, bits, later);
#else
                    *of_c = d_cell * forget[thread];
#endif
                }
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    gates[(now * 4 + q) * hidden + unit] = stored(d_gate[q]);
                    r[(now * 4 + q) * hidden + unit] = stored(own_r[q]);
                    dr[(4 * reader + q) * STRIDE + column] = own_r[q];
                }
            } else if (thread < OWNERS) {
#pragma unroll
                for (int q = 0; q < 4; ++q) dr[(4 * reader + q) * STRIDE + column] = 0.0f;
            }
            __syncthreads();

            unsigned* departures = exchange + count % 2 * slot_size + (long long)group * blocks * region;
            contribute(w, dr, &mask, departures, region, departure_bit, block, blocks, first_output, sequence0,
                       first_sequence, end_sequence, g, t);
            // dr is written again after the next barrier of the totals.
        }
    }
}
