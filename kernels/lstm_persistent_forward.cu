// All time steps of one LSTM layer in one launch, in float32: the recurrent weights stay in registers. With -DTF32=1
// the factors of products with h are rounded to TF32 (tensor_core.cuh), and nothing else is.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: the batch is split into groups of sequences that never wait for each other. Within a group a block
// owns UNITS = 4 * MTILES hidden units, all four gates of each, for all sequences of the group; its 16 warps share out
// the sum over h, so a warp holds 16 * MTILES rows x 8 * KTILES columns of W_hh as fragments for the tensor cores, and
// reads each h of its columns exactly once. Row r of the block is gate r % 4 of unit r / 4. The order of the columns
// within a warp is permuted such that a thread's share of h is contiguous.
//
// A step of a block, for 8 * NTILES sequences at a time: fetch what does not depend on h; wait for h[t-1]
// (handover.cuh); multiply; add up the 16 warps' sums through shared memory, in a fixed order; four neighbouring lanes
// make one unit's four gates; publish h[t]. What has not been written yet in `hiddens` is all ones, a NaN that no
// arithmetic makes.
//
// Bytes per hidden unit and step: reads 4 gates + 1 cell, writes 1 cell + 1 h + 1 y, and with `keep` 4 gates; each
// block reads the group's h[t-1] from L2.
//
// hidden is a multiple of 4, and at most 128 * KTILES.
//
// OPTIONS  the equations are those of persistent_options.cuh. `hiddens` then holds what the products read, h with its
//          mask and zero where a step does nothing; h itself is in `state`. One h more is read and written.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
//
// LAYERS  layers on top of each other run in one launch, each with blocks of its own, which begin where those of the
//         layer below end. The lowest one is as without the switch. The others have their W_ih in registers too, and
//         take h[t] of the layer below word by word instead of W_ih x from `gates`, so that all of them have passed
//         through `steps` steps after `steps + layers - 1`. Nobody waits for a layer above.
#include "handed_rows.cuh"
#include "own_gate.cuh"
#include "persistent_options.cuh"
#include "stacked_rows.cuh"

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) lstm_persistent_forward(
    float* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const float* __restrict__ weight, // (4*hidden, hidden) W_hh
    const float* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* hiddens,                   // (steps + 1, batch, hidden): the initial h, and all ones elsewhere
    float* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
    unsigned* failed,                 // becomes 1 if a block waited in vain
#if BIDIRECTIONAL  // the same of the second direction, which writes the columns of y behind those of the first
    float* gates_2,
    const float* weight_2,
    const float* bias_2,
    float* cells_2,
    float* hiddens_2,
#endif
#if OPTIONS
    float* state,                     // (batch, hidden) the initial h; becomes the final one
    const float* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    Options options,
#if BIDIRECTIONAL
    float* state_2,
    const float* peephole_2,
    unsigned stream_2,
#endif
#endif
#if LAYERS  // y of a layer is null where nobody reads it
    const LayersAbove above,
    int layers,                       // with the lowest one
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all cell states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time,                   // the time of step 0, to compare with lengths
    int blocks,                       // of a group
    int share) {                      // sequences of a group
#if BIDIRECTIONAL
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    if (second) {
#if OPTIONS
        state = state_2, peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y_offset += hidden, reverse = !reverse;
    }
#elif LAYERS
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a layer
    const int layer = blockIdx.x / of_one;
    const unsigned number = blockIdx.x % of_one;
    const float* below = layer == 0 ? 0 : layer == 1 ? hiddens : above.hiddens[layer - 2];
    const float* input_weight = layer == 0 ? 0 : above.input_weight[layer - 1];
    if (layer > 0) {
        gates = above.gates[layer - 1], weight = above.weight[layer - 1], bias = above.bias[layer - 1];
        cells = above.cells[layer - 1], hiddens = above.hiddens[layer - 1], y = above.y[layer - 1];
    }
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    __shared__ unsigned mask;
    extern __shared__ float sums[];   // [2][WARPS][COLUMNS][STRIDE]
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int first_unit = number % blocks * UNITS;
    const int first_sequence = number / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_column = warp * 8 * KTILES + t * CHUNK;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KTILES][4];
    const auto weight_at = [=](long long place, int) { return weight[place]; };
#if LAYERS
    unsigned w_input[MTILES][KTILES][4];
    const auto input_weight_at = [=](long long place, int) { return layer > 0 ? input_weight[place] : 0.0f; };
    hold_rows_of_two(w, w_input, first_unit, first_column, hidden, g, weight_at, input_weight_at);
#else
    hold_rows(w, first_unit, first_column, hidden, g, weight_at);
#endif

#if LAYERS
    if (blocks_are_missing(layers * blocks, batch, share, failed)) return;
#else
    if (blocks_are_missing(blocks, batch, share, failed)) return;
#endif
    if (thread == 0) mask = HIGH_BITS;
    __syncthreads();
    Patience patience = {0, failed};
    int buffer = 0;
    for (int count = 0; count < steps; ++count) {
        const int step = reverse ? steps - 1 - count : count;
        const float* h_before = hiddens + (step + reverse) * units;
        float* h_after = hiddens + (step + 1 - reverse) * units;
        const float* c_before = cells + (keep ? (step + reverse) * units : 0);
        float* c_after = cells + (keep ? (step + 1 - reverse) * units : 0);

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
            float input[OUTPUTS], c[OUTPUTS];
#if OPTIONS
            float h_old[OUTPUTS];
            unsigned drawn[OUTPUTS];
#endif
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS;
                input[e] = c[e] = 0.0f;
#if OPTIONS
                h_old[e] = 0.0f;
                drawn[e] = 0;
                if (e * 32 * WARPS + warp * 32 < ROWS * COLUMNS) {  // a whole warp at once
                    drawn[e] = draw_in_four_lanes(options, unit, sequence, step, gate, lane & ~3);
                }
#endif
                if (output < ROWS * COLUMNS && unit < hidden && sequence < end_sequence) {
#if LAYERS
                    if (layer == 0)
#endif
                        input[e] = gates[((long long)step * batch + sequence) * 4 * hidden + gate * hidden + unit];
                    if (bias) input[e] += bias[gate * hidden + unit];
                    c[e] = c_before[(long long)sequence * hidden + unit];
#if OPTIONS
                    h_old[e] = state[(long long)sequence * hidden + unit];
                    if (peephole && gate < 2) input[e] += peephole[gate * hidden + unit] * c[e];
#endif
                }
            }

            float* mine = sums + (buffer * WARPS + warp) * COLUMNS * STRIDE;
#pragma unroll 1
            for (int n = 0; n < NTILES; ++n) {
                const int sequence = sequence0 + 8 * n + g;
                const unsigned* source = (const unsigned*)h_before + (long long)sequence * hidden;
                float* out = mine + 8 * n * STRIDE;
                const bool there = sequence < end_sequence;
#if LAYERS
                const long long row = (step + 1 - reverse) * units + (long long)sequence * hidden;
                const unsigned* source_below = layer > 0 ? (const unsigned*)below + row : 0;
                multiply_both_rows_when_there(source_below, source, there, count > 0, first_column, hidden, g, t,
                                              w_input, w, &mask, patience, out);
#else
                multiply_rows_when_there(source, there, count > 0, first_column, hidden, g, t, w, &mask, patience, out);
#endif
            }
            __syncthreads();  // the other buffer is free after it: whoever read that one has come here since

#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * 32 * WARPS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, column = output / ROWS, sequence = sequence0 + column;
                if (e * 32 * WARPS + warp * 32 >= ROWS * COLUMNS) break;  // a whole warp at once
                const float* sum = sums + (buffer * WARPS * COLUMNS + column) * STRIDE + output % ROWS;
                const float a = sum_over_warps(sum) + input[e];
                float activated = activated_gate(gate, a);
                const int first_lane = lane & ~3;
                const float i = __shfl_sync(0xFFFFFFFFu, activated, first_lane);
                const float f = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 1);
                const float candidate = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 2);
#if OPTIONS
                const float forget = options.coupled ? 1.0f - i : f;
                const float c_star = fmaf(forget, c[e], i * (candidate * candidate_mask(options, drawn[e])));
                if (gate == 1) activated = forget;
                if (peephole && gate == 3 && unit < hidden) {
                    activated = activated_gate(gate, a + peephole[2 * hidden + unit] * c_star);
                }
                const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
                const float c_next = zoned_c(options, drawn[e], c[e], c_star);
                const float h_next = zoned_h(options, drawn[e], h_old[e], o * tanhf(c_star));
#else
                const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
                const float c_next = fmaf(f, c[e], i * candidate);
                const float h_next = o * tanhf(c_next);
#endif
                if (unit >= hidden || sequence >= end_sequence) continue;
                const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
                const bool runs = !lengths || first_time + step < lengths[sequence];
                if (gate == 0) {
#if OPTIONS
                    const bool next_runs = !lengths || first_time + step + 1 - 2 * reverse < lengths[sequence];
                    const float h_now = runs ? h_next : h_old[e];
                    state[at] = h_now;
                    const unsigned word = next_runs ? __float_as_uint(h_now * hidden_mask(options, drawn[e])) : 0u;
#else
                    const unsigned word = runs ? __float_as_uint(h_next) : ((const unsigned*)h_before)[at];
#endif
                    store_word((unsigned*)h_after + at, to_hand_over(word));
                }
#if LAYERS
                if (y)
#endif
                if (gate == 1) y[row * y_width + y_offset + unit] = runs ? h_next : 0.0f;
                if (gate == 2) c_after[at] = runs ? c_next : c[e];
                if (keep && runs) gates[row * 4 * hidden + gate * hidden + unit] = activated;
            }
            __syncwarp();  // c was written by one lane of four, and all four read it in the next step; so was `state`
            buffer ^= 1;
        }
    }
}
