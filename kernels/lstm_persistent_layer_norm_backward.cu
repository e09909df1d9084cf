// Backpropagation through all time steps of one LSTM layer with layer norm in one launch, in float32: the twin of
// lstm_persistent_layer_norm_forward. The formulas are those of lstm_variant_cell_backward.cu:
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
// the outputs, who add up one from each block, in the order of the blocks. A step has three hand-overs instead of one:
// those contributions, the sums over e, and the sums over d. Of either kind of sum a block hands over two for each
// sequence, and the UNITS threads that own a sequence's units add up those of all blocks.
//
// What one word says of its own arrival: in `exchange`, which is used again and again, the lowest bit, as in
// lstm_persistent_backward; in `handed`, which is written once, anything but all ones.
//
// Bytes per hidden unit and step: reads 4 gates + 4 r + 2 cells + 1 dc + 1 dh (+ 1 dy), writes 4 gates + 4 r + 1 dc +
// 1 dh, adds onto 6 sums, and 4 * blocks written and read of contributions. hidden is a multiple of 4.
#include "handed_sums.cuh"
#include "tensor_core.cuh"

#define WARPS 16
#define THREADS (32 * WARPS)
#define UNITS (4 * MTILES)
#define ROWS (16 * MTILES)
#define COLUMNS (8 * NTILES)                       // sequences at a time
#define STRIDE (COLUMNS + (NTILES % 2 ? 0 : 8))    // of a row of dr: no two lanes of a fragment share a bank
#define PAIRS (MTILES * JTILES == 8 ? 3 : 4)       // the same of pairs of sums, of which so many fit into the registers

#include "contributions.cuh"

// Two sums over all hidden units, of which each block has handed over its pair: for UNITS neighbouring threads, whose
// number among them is `reader`, if `waits`. A whole warp has to come.
__device__ __forceinline__ void sum_of_pairs(
    const unsigned* row, int count, int reader, bool waits, Patience& patience, float (&sums)[2]) {
    sums[0] = sums[1] = 0.0f;
    patience.begin();
    for (int first = 4 * reader; waits && first < count; first += 4 * PAIRS * UNITS) {
        unsigned words[PAIRS][4];
#pragma unroll
        for (int b = 0; b < PAIRS; ++b) {
            const int at = first + 4 * b * UNITS;
            look_at(row + at, count - at, words[b]);
        }
#pragma unroll
        for (int b = 0; b < PAIRS; ++b) {
            const int at = first + 4 * b * UNITS;
            wait_for(row + at, count - at, words[b], patience);
            sums[0] += __uint_as_float(words[b][0]) + __uint_as_float(words[b][2]);
            sums[1] += __uint_as_float(words[b][1]) + __uint_as_float(words[b][3]);
        }
    }
    __syncwarp();
    sums[0] = sum_over_lanes<1, UNITS>(sums[0]);
    sums[1] = sum_over_lanes<1, UNITS>(sums[1]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_persistent_layer_norm_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    float* r,                          // (steps, batch, 4*hidden) norm(r); dr in place
    const float* __restrict__ norms,   // (steps, batch, 4) behind the first: 1/std of r, mean and 1/std of c
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ gain,    // (4*hidden,) gain_r
    const float* __restrict__ gain_cell,  // (hidden,)
    const float* __restrict__ bias_cell,  // (hidden,)
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const float* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    float* d_norm,                     // (batch, 10*hidden) behind the first 4*hidden, gradients of gain_r, gain_cell and
                                       // bias_cell so far, apart for each sequence
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* exchange,                // [2][groups][blocks][share][blocks][UNITS], zeros at the beginning
    unsigned* handed,                  // (steps, batch, 2 * padded) all ones: pairs of sums, over e and over d; padded is
                                       // 2 * blocks, rounded up to a multiple of 4
    unsigned* failed,                  // becomes 1 if a block waited in vain
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
    // Registers are short while something is waited for, so what is needed afterwards stands here: first three gates
    // and c[t-1], then d, then dr; norm(r); and dc.
    __shared__ float dr[ROWS * STRIDE];
    __shared__ float normals[ROWS * STRIDE];
    __shared__ float d_cells[UNITS * COLUMNS];
    __shared__ float parts[COLUMNS * PARTS * UNITS];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int block = blockIdx.x % blocks, group = blockIdx.x / blocks;
    const int first_unit = block * UNITS, first_sequence = group * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_output = warp * 16 * JTILES;
    const long long units = (long long)batch * hidden;
    const long long region = (long long)share * blocks * UNITS;  // of one owner
    const long long slot_size = (long long)(gridDim.x / blocks) * blocks * region;

    unsigned w[JTILES][ROWS / 8][4];  // W_hh^T: outputs x own rows; row q is gate q % 4 of unit q / 4
#pragma unroll
    for (int j = 0; j < JTILES; ++j) {
#pragma unroll
        for (int k = 0; k < ROWS / 8; ++k) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int output = first_output + 16 * j + g + 8 * (part % 2);
                const int row = 8 * k + t + 4 * (part / 2), unit = first_unit + row / 4;
                const bool inside = unit < hidden && output < hidden;
                const long long at = ((long long)(row % 4) * hidden + unit) * hidden + output;
                w[j][k][part] = __float_as_uint(inside ? weight[at] : 0.0f);
            }
        }
    }

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
            if (computes && thread < UNITS * COLUMNS) {  // on its way while the contributions are waited for
                const int unit = first_unit + thread % UNITS, sequence = sequence0 + afresh(thread) / UNITS;
                if (unit < hidden && sequence < end_sequence) {
                    const long long row = ((long long)step * batch + sequence) * 4 * hidden + unit;
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        prefetch(gates + row + q * hidden);
                        prefetch(r + row + q * hidden);
                    }
                    prefetch(cells + (step + reverse) * units + (long long)sequence * hidden + unit);
                    prefetch(norms + 4 * ((long long)step * batch + sequence));
                    if (dy) prefetch(dy + ((long long)step * batch + sequence) * dy_width + dy_offset + unit);
                }
            }

            if (collects) {
                const int reads = thread / READERS;  // a sequence
                const long long place = (long long)(sequence0 - first_sequence + reads) * blocks * UNITS;
                collect(arrivals + place, sequence0 + reads < end_sequence, blocks * MTILES, arrival_bit, patience,
                        parts + reads * PARTS * UNITS);
                __syncthreads();
            }

            if (thread < UNITS * COLUMNS) {  // whole warps, since sums over units are made of what all lanes have
                const int reader = afresh(thread) % UNITS, column = afresh(thread) / UNITS;
                const int unit = first_unit + reader, sequence = sequence0 + column;
                const bool owner = unit < hidden && sequence < end_sequence;
                const bool runs = computes && sequence < end_sequence && (!lengths || step < lengths[sequence]);
                const bool acts = owner && runs;
                const long long at = (long long)sequence * hidden + unit, of_step = (long long)step * batch + sequence;
                float d_hidden = 0.0f;
                if (owner) {
                    d_hidden = dh[at];
                    if (collects && (!lengths || step + 1 - 2 * reverse < lengths[sequence])) {  // the later step ran
#pragma unroll
                        for (int part = 0; part < PARTS; ++part) d_hidden += parts[(column * PARTS + part) * UNITS + reader];
                    }
                    dh[at] = acts ? 0.0f : d_hidden;
                }
                if (computes) {
                    const int padded = (2 * blocks + 3) / 4 * 4;
                    unsigned* row = handed + of_step * 2 * padded;
                    const float* gate = gates + of_step * 4 * hidden + unit;
                    float e = 0.0f, dn = 0.0f, normal_c = 0.0f, d_gate[4] = {0, 0, 0, 0};
                    float scale_c = 0.0f, sums[2];
                    if (acts) {
                        scale_c = norms[4 * of_step + 3];
                        normal_c = (cells[(step + 1 - reverse) * units + at] - norms[4 * of_step + 2]) * scale_c;
                        if (dy) d_hidden += dy[of_step * dy_width + dy_offset + unit];
                        const float o = gate[3 * hidden], tanh_n = tanhf(gain_cell[unit] * normal_c + bias_cell[unit]);
                        dn = d_hidden * o * (1.0f - tanh_n * tanh_n);
                        e = dn * gain_cell[unit];
                        d_gate[3] = d_hidden * tanh_n * (o * (1.0f - o));
                    }
                    sums[0] = sum_over_lanes<1, UNITS>(e);
                    sums[1] = sum_over_lanes<1, UNITS>(e * normal_c);
                    if (runs && reader == 0) {
                        store_words(row + 2 * block, to_hand_over(sums[0]), to_hand_over(sums[1]));
                    }
                    const int place = 4 * reader * STRIDE + column;
                    if (acts) {  // while the sums are on their way
                        const float c_before = cells[(step + reverse) * units + at];
                        d_cells[thread] = dc[at];
#pragma unroll
                        for (int q = 0; q < 4; ++q) {
                            normals[place + q * STRIDE] = r[(of_step * 4 + q) * hidden + unit];
                            dr[place + q * STRIDE] = q < 3 ? gate[q * hidden] : c_before;
                        }
                        float* d_gains = d_norm + (long long)sequence * 10 * hidden + unit;
                        d_gains[8 * hidden] += dn * normal_c;
                        d_gains[9 * hidden] += dn;
                    }
                    sum_of_pairs(row, 2 * blocks, reader, runs, patience, sums);
                    if (acts) {
                        const float i = dr[place], f = dr[place + STRIDE], candidate = dr[place + 2 * STRIDE];
                        const float c_before = dr[place + 3 * STRIDE];
                        const float d_cell = d_cells[thread] + scale_c * (e - per_unit * (sums[0] + normal_c * sums[1]));
                        d_gate[0] = d_cell * candidate * (i * (1.0f - i));
                        d_gate[1] = d_cell * c_before * (f * (1.0f - f));
                        d_gate[2] = d_cell * i * (1.0f - candidate * candidate);
                        dc[at] = d_cell * f;
                    }
                    float sum = 0.0f, along = 0.0f;
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        const float d = acts ? d_gate[q] * gain[q * hidden + unit] : 0.0f;
                        sum += d;
                        if (acts) along += d * normals[place + q * STRIDE];
                        dr[place + q * STRIDE] = d;
                    }
                    sums[0] = sum_over_lanes<1, UNITS>(sum);
                    sums[1] = sum_over_lanes<1, UNITS>(along);
                    if (runs && reader == 0) {
                        store_words(row + padded + 2 * block, to_hand_over(sums[0]), to_hand_over(sums[1]));
                    }
                    if (owner) {
                        float* gate = gates + ((long long)step * batch + afresh(sequence)) * 4 * hidden + unit;
#pragma unroll
                        for (int q = 0; q < 4; ++q) gate[q * hidden] = d_gate[q];
                    }
                    if (acts) {
                        float* d_gains = d_norm + (long long)afresh(sequence) * 10 * hidden + unit;
#pragma unroll
                        for (int q = 0; q < 4; ++q) d_gains[(4 + q) * hidden] += d_gate[q] * normals[place + q * STRIDE];
                    }
                    const float scale_r = acts ? norms[4 * of_step + 1] : 0.0f;
                    sum_of_pairs(row + padded, 2 * blocks, reader, runs, patience, sums);
                    float* own_r = r + ((long long)step * batch + afresh(sequence)) * 4 * hidden + unit;
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        const int own = place + q * STRIDE;
                        if (acts) dr[own] = scale_r * (dr[own] - 0.25f * per_unit * (sums[0] + normals[own] * sums[1]));
                        if (owner) own_r[q * hidden] = dr[own];
                    }
                }
            }
            __syncthreads();
            if (!computes) continue;

            unsigned* departures = exchange + count % 2 * slot_size + (long long)group * blocks * region;
#pragma unroll 1
            for (int n = 0; n < NTILES; ++n) {
                const int output0 = afresh(first_output) + g;
                const unsigned high_bits = high_bits_of(&mask);
                float d[JTILES][4];
#pragma unroll
                for (int j = 0; j < JTILES; ++j) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0.0f;
#pragma unroll
                for (int k = 0; k < ROWS / 8; ++k) {
                    const float* fragment = dr + (8 * k + t) * STRIDE + 8 * n + g;
                    const unsigned b[2] = {__float_as_uint(fragment[0]), __float_as_uint(fragment[4 * STRIDE])};
                    const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
#pragma unroll
                    for (int j = 0; j < JTILES; ++j) multiply_add(d[j], w[j][k], b, b_low, high_bits);
                }
#pragma unroll
                for (int j = 0; j < JTILES; ++j) {
#pragma unroll
                    for (int part = 0; part < 4; ++part) {
                        const int output = output0 + 16 * j + 8 * (part / 2);
                        const int to = sequence0 + 8 * n + 2 * t + part % 2;
                        if (output < blocks * UNITS && to < end_sequence) {
                            const long long place = (long long)(to - first_sequence) * blocks * UNITS + block * UNITS;
                            store_word(departures + output / UNITS * region + place + output % UNITS,
                                       (__float_as_uint(d[j][part]) & ~1u) | departure_bit);
                        }
                    }
                }
            }
            // dr is written again after the barrier of collecting; where nothing is collected, after this one.
            if (!collects) __syncthreads();
        }
    }
}
