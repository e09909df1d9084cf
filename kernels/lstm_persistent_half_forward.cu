// All time steps of one LSTM layer in one launch, in float16 or bfloat16: the recurrent weights stay on the chip.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Stored in 16 bits: gates, weights, bias, h and y, each rounded once to the nearest. In float32: products' sums, what
// a step computes, and the cell state, which never goes through 16 bits.
//
// Who owns what: the batch is split into groups of sequences that never wait for each other. Within a group a block
// owns UNITS hidden units, all four gates of each, for all sequences of the group; row r of its weights is gate r % 4
// of unit r / 4. handed_product.cuh says how its warps share them out.
//
// A step of a block, for 8 * NTILES sequences at a time: fetch what does not depend on h; wait for h[t-1]; multiply;
// add up the warps' sums through shared memory, in a fixed order; four neighbouring lanes make one unit's four gates;
// publish h[t], two units in one word. What has not been written yet in `hiddens` is all ones: two NaNs that `stored`
// does not make, and that `present` does not pass on.
//
// Bytes per hidden unit and step: reads 4 gates of 2 and a cell of 4, writes a cell of 4, h and y of 2, and with `keep`
// 4 gates of 2; each block reads the group's h[t-1] from L2, WARPS / SPLIT times, half the bytes of float32.
//
// hidden is a multiple of 8, and at most 16 * SPLIT * KTILES.
//
// OPTIONS  the equations are those of persistent_options.cuh. `hiddens` then holds what the products read, h with its
//          mask and zero where a step does nothing, rounded once more; h itself is in `state`. 2 + 2 bytes more.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
//
// LAYERS  layers on top of each other run in one launch, each with blocks of its own, which begin where those of the
//         layer below end. The lowest one is as without the switch. The others take h[t] of the layer below word by
//         word instead of W_ih x from `gates` (stacked_product.cuh), so that all of them have passed through `steps`
//         steps after `steps + layers - 1`. 2 bytes of h more are read from L2 instead of 4 gates, by each block. h is
//         rounded to 16 bits where it is handed over, so a layer above reads the numbers that y has.
#include "handed_product.cuh"
#include "persistent_options.cuh"
#include "stacked_product.cuh"
#include "storage.cuh"

#define UNITS (ROWS / 4)
#define TOGETHER (OUTPUTS < 4 ? OUTPUTS : 4)  // outputs of a thread for which the four lanes of a unit draw together

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_persistent_half_forward(
    store* gates,                      // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const store* __restrict__ bias,    // (4*hidden,) or null
    float* cells,                      // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* hiddens,                    // (steps + 1, batch, hidden): the initial h, and all ones elsewhere
    store* __restrict__ y,             // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* failed,                  // becomes 1 if a block waited in vain
#if BIDIRECTIONAL  // the same of the second direction, which writes the columns of y behind those of the first
    store* gates_2,
    const store* weight_2,
    const store* bias_2,
    float* cells_2,
    store* hiddens_2,
#endif
#if OPTIONS
    store* state,                      // (batch, hidden) the initial h; becomes the final one
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    Options options,
#if BIDIRECTIONAL
    store* state_2,
    const store* peephole_2,
    unsigned stream_2,
#endif
#endif
#if LAYERS  // y of a layer is null where nobody reads it
    const LayersAbove above,
    int layers,                        // with the lowest one
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                          // 1: for the backward pass, activated gates and all cell states are kept
    int reverse,                       // 1: from the last step to the first
    int first_time,                    // the time of step 0, to compare with lengths
    int blocks,                        // of a group
    int share) {                       // sequences of a group
#if BIDIRECTIONAL
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    if (second) {
#if OPTIONS
        state = state_2, peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y += hidden, reverse = !reverse;
    }
#elif LAYERS
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a layer
    const int layer = blockIdx.x / of_one;
    const unsigned number = blockIdx.x % of_one;
    store *const lowest_h = hiddens, *const lowest_y = y;
    const store* input_weight = 0;
    if (layer > 0) {
        gates = above.gates[layer - 1], weight = above.weight[layer - 1], bias = above.bias[layer - 1];
        cells = above.cells[layer - 1], hiddens = above.hiddens[layer - 1];
        input_weight = above.input_weight[layer - 1];
    }
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    extern __shared__ uint4 dynamic[]; // [PARKED + NEXT_PARKED] weights, then float [2][SPLIT][COLUMNS][STRIDE] sums
    uint4* parked = dynamic + threadIdx.x;
    float* all_sums = (float*)(dynamic + PARKED + NEXT_PARKED);
    const int thread = threadIdx.x;
    const int first_unit = number % blocks * UNITS;
    const int first_sequence = number / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KEPT][4];
    hold_weights<KEPT>(w, parked, Corner(thread), (size_t)failed % 4, [=](int row, int word) -> unsigned {
        const int unit = first_unit + row / 4;
        if (unit >= hidden || 2 * word >= hidden) return 0;
        const store* first = weight + ((row % 4 * hidden + unit) * hidden + 2 * word);  // below 4 * 2048^2
        return pair_of(first[0], first[1]);  // a caller's array may begin at an odd number
    });

#if LAYERS
    unsigned w_next[MTILES][NEXT_SIZE][4];
    uint4* parked_next = parked + PARKED;
    const unsigned zero = (size_t)failed % 4;
    hold_weights<NEXT_KEPT>(w_next, parked_next, Corner(thread), zero, [=](int row, int word) -> unsigned {
        const int unit = first_unit + row / 4;
        if (layer == 0 || unit >= hidden || 2 * word >= hidden) return 0;
        const store* first = input_weight + ((row % 4 * hidden + unit) * hidden + 2 * word);
        return pair_of(first[0], first[1]);
    });
    if (blocks_are_missing(layers * blocks, batch, share, failed)) return;
#else
    if (blocks_are_missing(blocks, batch, share, failed)) return;
#endif
    Patience patience = {0, failed};
    int buffer = 0;
    for (int count = 0; count < steps; ++count) {
        const int step = reverse ? steps - 1 - count : count;
        const unsigned* h_before = (const unsigned*)(hiddens + (step + reverse) * units);
        unsigned* h_after = (unsigned*)(hiddens + (step + 1 - reverse) * units);
        const float* c_before = cells + (keep ? (step + reverse) * units : 0);
        float* c_after = cells + (keep ? (step + 1 - reverse) * units : 0);

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
            float input[OUTPUTS], c[OUTPUTS];
#if OPTIONS
            unsigned h_and_drawn[OUTPUTS];  // h[t-1], and in the upper half what was drawn: registers are short
#endif
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * THREADS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS;
                input[e] = c[e] = 0.0f;
#if OPTIONS
                h_and_drawn[e] = 0;
#endif
                if (output < ROWS * COLUMNS && unit < hidden && sequence < end_sequence) {
#if LAYERS
                    if (layer == 0)
#endif
                        input[e] =
                            real_of(gates[((long long)step * batch + sequence) * 4 * hidden + gate * hidden + unit]);
                    if (bias) input[e] += real_of(bias[gate * hidden + unit]);
                    c[e] = c_before[(long long)sequence * hidden + unit];
#if OPTIONS
                    h_and_drawn[e] = state[(long long)sequence * hidden + unit].bits;
                    if (peephole && gate < 2) input[e] += real_of(peephole[gate * hidden + unit]) * c[e];
#endif
                }
            }
#if OPTIONS  // while these are on their way
#pragma unroll
            for (int e = 0; e < OUTPUTS; e += TOGETHER) {
                const int part = afresh(thread) % 4, first_lane = afresh(thread) % 32 & ~3;
                const int output = afresh(thread) + (e + part * TOGETHER / 4) * THREADS;
                const int unit = first_unit + output / 4 % UNITS, sequence = sequence0 + output / ROWS;
                const unsigned own = draw_together<TOGETHER>(options, unit, sequence, step, part) << 16;
#pragma unroll
                for (int k = 0; k < TOGETHER; ++k) h_and_drawn[e + k] |= drawn_together<TOGETHER>(own, k, first_lane);
            }
#endif

            const Corner corner(afresh(thread));
            const int own = sequence0 + corner.g;  // the first of this lane's sequences
            float* sums = all_sums + buffer * SPLIT * COLUMNS * STRIDE;
#if LAYERS
            const auto begin = [&](float(&d)[NTILES][MTILES][4]) {
                if (layer == 0) return;  // all of the block alike
                const store* below = of_layer(lowest_h, above.hiddens, afresh(layer) - 1);
                const unsigned* h_below = (const unsigned*)(below + (step + 1 - reverse) * units);
                add_from_next(d, w_next, parked_next, corner, h_below + (long long)own * (hidden / 2), hidden / 2,
                              end_sequence - own, patience);
            };
#else
            const Nothing begin = {};
#endif
            multiply_handed_over(sums + corner.part * COLUMNS * STRIDE, w, parked, corner,
                                 h_before + (long long)own * (hidden / 2), hidden / 2, end_sequence - own, count > 0,
                                 patience, begin);
            __syncthreads();  // the other buffer is free after it: whoever read that one has come here since

#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * THREADS, gate = output % 4;
                const int unit = first_unit + output / 4 % UNITS, column = output / ROWS, sequence = sequence0 + column;
                const int first = output & ~31;  // of this warp, which leaves as a whole
                if (first >= ROWS * COLUMNS || sequence0 + first / ROWS >= end_sequence) break;
                const float a = whole_sum(sums, output % ROWS, column) + input[e];
                const float half = gate == 2 ? 1.0f : 0.5f;  // sigmoid(a) = tanh(a / 2) / 2 + 1 / 2
                const float tanh_a = tanhf(half * a);
                float activated = gate == 2 ? tanh_a : 0.5f * tanh_a + 0.5f;
                const int first_lane = output % 32 & ~3;
                const float i = __shfl_sync(0xFFFFFFFFu, activated, first_lane);
                const float f = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 1);
                const float candidate = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 2);
#if OPTIONS
                const store h_old = first_of(h_and_drawn[e]);
                const unsigned drawn = h_and_drawn[e] >> 16;
                const bool exists = unit < hidden && sequence < end_sequence;
                const float forget = options.coupled ? 1.0f - i : f;
                const float c_star = fmaf(forget, c[e], i * (candidate * candidate_mask(options, drawn)));
                if (gate == 1) activated = forget;
                if (peephole && gate == 3 && unit < hidden) {
                    activated = 0.5f * tanhf(0.5f * (a + real_of(peephole[2 * hidden + unit]) * c_star)) + 0.5f;
                }
                const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
                const float c_next = zoned_c(options, drawn, c[e], c_star);
                const store h_next = stored(zoned_h(options, drawn, real_of(h_old), o * tanhf(c_star)));
                const int left = !lengths ? steps : exists ? lengths[sequence] - first_time : 0;
                const bool runs = step < left;
                const store h_now = runs ? h_next : h_old;
                store handed = store{0};
                if (step + 1 - 2 * reverse < left) handed = stored(real_of(h_now) * hidden_mask(options, drawn));
                const unsigned h_neighbour = __shfl_xor_sync(0xFFFFFFFFu, (unsigned)handed.bits, 4);
                if (!exists) continue;
                const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
                if (gate == 0) state[at] = h_now;
                if (gate == 0 && unit % 2 == 0) store_word(h_after + at / 2, present(handed.bits | h_neighbour << 16));
#else
                const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
                const float c_next = fmaf(f, c[e], i * candidate);
                const store h_next = stored(o * tanhf(c_next));
                // The word's other unit.
                const unsigned h_neighbour = __shfl_xor_sync(0xFFFFFFFFu, (unsigned)h_next.bits, 4);
                if (unit >= hidden || sequence >= end_sequence) continue;
                const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
                const bool runs = !lengths || first_time + step < lengths[sequence];
                if (gate == 0 && unit % 2 == 0) {
                    const unsigned word = runs ? h_next.bits | h_neighbour << 16 : h_before[at / 2];
                    store_word(h_after + at / 2, present(word));
                }
#endif
#if LAYERS
                store* const y = of_layer(lowest_y, above.y, afresh(layer));
                if (y)
#endif
                if (gate == 1) y[row * y_width + y_offset + unit] = runs ? h_next : stored(0.0f);
                if (gate == 2) c_after[at] = runs ? c_next : c[e];
                if (keep && runs) gates[row * 4 * hidden + gate * hidden + unit] = stored(activated);
            }
            __syncwarp();  // c was written by one lane of four, and all four read it in the next step; so was `state`
            buffer ^= 1;
        }
    }
}
