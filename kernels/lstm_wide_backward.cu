// Backpropagation through all time steps of one LSTM layer in one launch, in float32, where the recurrent weights do
// not fit on the chip: the twin of lstm_wide_forward.
//
// The formulas are those of lstm_backward_step.cu, and the steps are coupled as in lstm_persistent_backward.cu: dh =
// W_hh^T da is a sum over all blocks. A block makes the da of its 16 hidden units, and at once what these contribute to
// every dh of the group: each thread to four neighbouring ones, over the block's 64 rows of W_hh, of which it reads 16
// bytes each, as they stand in memory (wide_weights.cuh). The contributions go to the owners of the outputs, who add up
// one from each block, in the order of the blocks (contributions.cuh).
//
// `exchange` and its bits are those of lstm_persistent_backward.cu: a contribution is rounded to 22 bits of mantissa.
//
// Bytes per hidden unit and step: as in the backward step, and 4 * blocks written and read of contributions; in each
// pass over SEQUENCES sequences STREAMED * 16 bytes of weights for each thread of a block.
// hidden is a multiple of 4, and at most 2048; QUADS is 16, one for each hidden unit of the block.
//
// OPTIONS  the equations are those of persistent_options.cuh; the rest as in lstm_persistent_backward.cu.
#include "cell_backward.cuh"
#include "handover.cuh"
#include "persistent_options.cuh"
#include "registers.cuh"
#include "wide_weights.cuh"

#define MTILES (UNITS / 4)
#define COLUMNS SEQUENCES
#define BATCH (SEQUENCES < 4 ? SEQUENCES : 4)  // with 128 blocks each thread collects SEQUENCES pieces

#include "contributions.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_wide_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const float* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* exchange,                // [2][groups][blocks][share][blocks][UNITS], zeros at the beginning
    unsigned* failed,                  // becomes 1 if a block waited in vain
#if OPTIONS
    const float* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    float* d_peephole,                 // (batch, 3*hidden) their gradients so far, apart for each sequence, or null
    Options options,
#endif
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse,                       // 1: the forward pass went from the last step to the first
    int blocks,                        // of a group
    int share) {                       // sequences of a group
    extern __shared__ float4 shared[];          // [PARKED][THREADS] weights
    __shared__ float4 da[SEQUENCES][UNITS];     // of a hidden unit's four gates
    __shared__ float parts[COLUMNS * PARTS * UNITS];
    const int thread = threadIdx.x;
    const int block = blockIdx.x % blocks, group = blockIdx.x / blocks;
    const int first_unit = block * UNITS, first_sequence = group * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int output = 4 * thread;  // the first of four
    const long long units = (long long)batch * hidden;

    const int there = hidden - first_unit < UNITS ? hidden - first_unit : UNITS;
    const Fragments fragments = {weight, hidden, first_unit * hidden + output, hidden, output < hidden ? there : 0};
    const unsigned zero = unknown_zero(failed);
    Weights w;
    w.hold(fragments, shared, zero);

    if (blocks_are_missing(blocks, batch, share, failed)) return;
    Patience patience = {0, failed};
    for (int count = 0; count <= steps; ++count) {  // the last round only collects the initial dh
        const int step = reverse ? count : steps - 1 - count;
        const bool collects = count > 0, computes = count < steps;
        const unsigned arrival_bit = (((count - 1) / 2) & 1) ^ 1, departure_bit = ((count / 2) & 1) ^ 1;

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += SEQUENCES) {
            // What the recurrence does not touch is fetched first.
            if (computes) w.ask(fragments, count & zero);
            const int unit = first_unit + thread % UNITS, column = thread / UNITS, sequence = sequence0 + column;
            const bool owner = thread < UNITS * SEQUENCES && unit < hidden && sequence < end_sequence;
            const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
            float* gate = gates + row * 4 * hidden + unit;
#if !OPTIONS
            float i = 0, f = 0, candidate = 0, o = 0, c_before = 0, c_after = 0, d_cell = 0, d_hidden = 0, d_output = 0;
#else
            float i = 0, f = 0, candidate = 0, o = 0, c_before = 0, d_cell = 0, d_hidden = 0, d_output = 0;
            unsigned drawn = 0;
            if (owner) {
                drawn = draw_for_sequence(options, unit, sequence) | draw_for_step(options, unit, sequence, step);
                if (!lengths || step + 1 - 2 * reverse < lengths[sequence]) drawn |= LATER_STEP_RAN;
            }
#endif
            bool runs = true;
            if (owner) {
                d_hidden = dh[at];
                if (computes) {
                    if (lengths) runs = step < lengths[sequence];
                    i = gate[0], f = gate[hidden], candidate = gate[2 * hidden], o = gate[3 * hidden];
                    c_before = cells[(step + reverse) * units + at];
#if !OPTIONS
                    c_after = cells[(step + 1 - reverse) * units + at];
#endif
                    d_cell = dc[at];
                    if (dy) d_output = dy[row * dy_width + dy_offset + unit];
                }
            }

            if (collects) {
                const int reads = thread / READERS;  // a sequence
                const long long region = (long long)afresh(share) * blocks * UNITS;  // of one owner
                const unsigned* arrivals = exchange + ((count + 1) % 2 * gridDim.x + blockIdx.x) * region;
                const long long place = (long long)(sequence0 - first_sequence + reads) * blocks * UNITS;
                collect(arrivals + place, sequence0 + reads < end_sequence, blocks * MTILES, arrival_bit, patience,
                        parts + reads * PARTS * UNITS);
                __syncthreads();
                if (owner) {
#if OPTIONS
                    const float passed = d_hidden;  // by the step that came after
                    d_hidden = 0;
#endif
#pragma unroll
                    for (int part = 0; part < PARTS; ++part) {
                        d_hidden += parts[(column * PARTS + part) * UNITS + thread % UNITS];
                    }
#if OPTIONS
                    d_hidden = passed + (drawn & LATER_STEP_RAN ? d_hidden * hidden_mask(options, drawn) : 0.0f);
#endif
                }
            }
            if (!computes) {
                if (owner) dh[at] = d_hidden;
                __syncthreads();  // `parts` is written again for the next sequences
                continue;
            }

            if (thread < UNITS * SEQUENCES) {
                float d_gate[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                if (owner) {
                    if (runs) {
                        const float of_gates[4] = {i, f, candidate, o};
#if OPTIONS
                        d_hidden += d_output;
                        const float c_star =
                            step_back(options, drawn, of_gates, c_before, peephole, unit, hidden, d_hidden, d_cell,
                                      d_gate);
                        if (peephole) {
                            float* d_peep = d_peephole + (long long)sequence * 3 * hidden + unit;
                            d_peep[0] += d_gate[0] * c_before;
                            d_peep[hidden] += d_gate[1] * c_before;
                            d_peep[2 * hidden] += d_gate[3] * c_star;
                        }
                        dc[at] = d_cell;
#else
                        dc[at] = cell_back(of_gates, c_before, c_after, d_hidden + d_output, d_cell, d_gate);
                        d_hidden = 0;
#endif
                    }
                    dh[at] = d_hidden;
#pragma unroll
                    for (int q = 0; q < 4; ++q) gate[q * hidden] = d_gate[q];
                }
                da[column][thread % UNITS] = make_float4(d_gate[0], d_gate[1], d_gate[2], d_gate[3]);
            }
            __syncthreads();

            float4 sums[SEQUENCES];
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) sums[s] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            w.for_each_quad(fragments, zero, count, [&](int k, unsigned nothing, const float4(&of_gates)[4]) {
                const float4* of_unit = &da[0][0] + nothing;
                unsigned bits = 0;
#pragma unroll
                for (int s = 0; s < SEQUENCES; ++s) {
                    const float4 d = of_unit[s * UNITS + k];
                    const float d_gates[4] = {d.x, d.y, d.z, d.w};
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        sums[s].x = fmaf(of_gates[q].x, d_gates[q], sums[s].x);
                        sums[s].y = fmaf(of_gates[q].y, d_gates[q], sums[s].y);
                        sums[s].z = fmaf(of_gates[q].z, d_gates[q], sums[s].z);
                        sums[s].w = fmaf(of_gates[q].w, d_gates[q], sums[s].w);
                    }
                    bits |= __float_as_uint(sums[s].x) | __float_as_uint(sums[s].y);
                    bits |= __float_as_uint(sums[s].z) | __float_as_uint(sums[s].w);
                }
                return bits;
            });

            const long long region = (long long)afresh(share) * blocks * UNITS;
            unsigned* departures = exchange + (count % 2 * gridDim.x + group * blocks + output / UNITS) * region;
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                const int to = sequence0 + s;
                if (output >= blocks * UNITS || to >= end_sequence) continue;
                const float four[4] = {sums[s].x, sums[s].y, sums[s].z, sums[s].w};
                unsigned words[4];
#pragma unroll
                for (int v = 0; v < 4; ++v) words[v] = (__float_as_uint(four[v]) & ~1u) | departure_bit;
                const long long place = (long long)(to - first_sequence) * blocks * UNITS + block * UNITS;
                store_words(departures + place + output % UNITS, words);
            }
            // da is written again after the barrier of collecting; where nothing is collected, after this one.
            if (!collects) __syncthreads();
        }
    }
}
