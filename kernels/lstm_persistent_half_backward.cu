// Backpropagation through all time steps of one LSTM layer in one launch, in float16 or bfloat16: the twin of
// lstm_persistent_half_forward.
//
// The formulas are those of lstm_backward_step.cu. What couples the steps is dh = W_hh^T da, a sum over all 4*hidden
// pre-activations of a step, which live in all blocks of a group. Two things can be handed over:
//
//     contributions   each block sends what its own da add to each dh: blocks * share * hidden words of float32 written
//                     and as many read, in all blocks of a group together (lstm_persistent_backward.cu)
//     da itself       each block reads all da of its group: blocks * share * 4*hidden numbers of 16 bits, read alone
//
// Either way 8 * blocks * share * hidden bytes cross L2 in a step. But contributions are half writes, words scattered
// over all owners, for which the float32 kernel was measured to take 2.07 us per million words, 3.9 TB/s; da is read by
// all blocks alike, for which L2 was measured to give 13 to 15 TB/s. So da is handed over, every dh is summed in one
// place in one order, in float32, and what is rounded is what the weights' gradients are made of anyway.
//
// Who owns what: as in the forward pass, a block owns UNITS hidden units of its group's sequences: their dh, a sum over
// the columns of W_hh that are its rows of weights here, and their da. handed_product.cuh says how its warps share the
// sum out. A lane's two units make four words for each sequence, one for each gate: a unit's neighbour is in the other
// half. They follow each other in `exchange`, which is all ones where nothing has been written yet. `gates` itself
// cannot be handed over: a reader could not tell a gradient there from the activated gate before it. So that `exchange`
// stays small, long sequences take several launches, between which dh and dc are all that is carried on.
//
// Bytes per hidden unit and step: reads 4 gates and dy of 2, 2 cells, dh and dc of 4, writes 4 gates of 2, dh and dc of
// 4, and 8 to `exchange`, which each block of the group reads from L2, WARPS / SPLIT times.
//
// hidden is a multiple of 8, and at most 4 * SPLIT * KTILES.
//
// OPTIONS  the equations are those of persistent_options.cuh, the formulas those of lstm_variant_cell_backward.cu. c*
//          comes from the gates again instead of c[t]. With peepholes 3 sums of 4 bytes more are read and written.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
//
// LAYERS  layers on top of each other run in one launch, each with blocks of its own, which begin where those of the
//         layer below end. The uppermost one is as without the switch. The others make their dy from da in `exchange`
//         of the layer above (stacked_product.cuh), which its own blocks hand each other anyway: each block reads 8
//         bytes of L2 more instead of a dy of 2, and that dy is never rounded to 16 bits.
#include "handed_product.cuh"
#include "persistent_options.cuh"
#include "stacked_product.cuh"
#include "storage.cuh"

#define UNITS ROWS

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_persistent_half_backward(
    store* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const store* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* exchange,                // (steps, batch, hidden / 2, 4): da of two units and one gate, all ones at first
    unsigned* failed,                  // becomes 1 if a block waited in vain
#if BIDIRECTIONAL  // the same of the second direction, whose columns of dy are behind those of the first
    store* gates_2,
    const store* weight_2,
    const float* cells_2,
    const store* dy_2,                 // dy of its time steps, which may be others
    float* dh_2,
    float* dc_2,
    unsigned* exchange_2,
#endif
#if OPTIONS
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    float* d_peephole,                 // (batch, 3*hidden) their gradients so far, apart for each sequence, or null
    Options options,
#if BIDIRECTIONAL
    const store* peephole_2,
    float* d_peephole_2,
    unsigned stream_2,
#endif
#endif
#if LAYERS
    const GradientsAbove above,
    int layers,                        // with the lowest one
#endif
#if BIDIRECTIONAL
    int first_time_2,
#endif
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse,                       // 1: the forward pass went from the last step to the first
    int first_time,                    // the time of step 0, to compare with lengths
    int blocks,                        // of a group
    int share) {                       // sequences of a group
#if BIDIRECTIONAL
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    if (second) {
#if OPTIONS
        peephole = peephole_2, d_peephole = d_peephole_2, options.stream = stream_2;
        options.first_draw += first_time_2 - first_time;
#endif
        gates = gates_2, weight = weight_2, cells = cells_2, dy = dy_2, dh = dh_2, dc = dc_2, exchange = exchange_2;
        dy_offset += hidden, reverse = !reverse, first_time = first_time_2;
    }
#elif LAYERS
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a layer
    const int layer = blockIdx.x / of_one;
    const unsigned number = blockIdx.x % of_one;
    const bool is_below = layer + 1 < layers;  // there is a layer above it
    const store* input_weight = 0;
    if (is_below) input_weight = above.input_weight[layer], dy = 0;
    if (layer > 0) {
        gates = above.gates[layer - 1], weight = above.weight[layer - 1], cells = above.cells[layer - 1];
        dh = above.dh[layer - 1], dc = above.dc[layer - 1], exchange = above.handed[layer - 1];
    }
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    extern __shared__ uint4 dynamic[];  // [PARKED + NEXT_PARKED] weights, then float [2][SPLIT][COLUMNS][STRIDE] sums
    uint4* parked = dynamic + threadIdx.x;
    float* all_sums = (float*)(dynamic + PARKED + NEXT_PARKED);
    const int thread = threadIdx.x;
    const int first_unit = number % blocks * UNITS;
    const int first_sequence = number / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KEPT][4];
    hold_weights<KEPT>(w, parked, Corner(thread), (size_t)failed % 4, [=](int row, int word) -> unsigned {
        const int unit = first_unit + row, source = word / 4 * 2, gate = word % 4;
        if (unit >= hidden || source >= hidden) return 0;
        const store* first = weight + ((gate * hidden + source) * hidden + unit);  // 4 * 2048^2 at most
        return pair_of(first[0], first[hidden]);
    });

#if LAYERS
    unsigned w_next[MTILES][NEXT_SIZE][4];
    uint4* parked_next = parked + PARKED;
    const unsigned zero = (size_t)failed % 4;
    hold_weights<NEXT_KEPT>(w_next, parked_next, Corner(thread), zero, [=](int row, int word) -> unsigned {
        const int unit = first_unit + row, source = word / 4 * 2, gate = word % 4;
        if (!input_weight || unit >= hidden || source >= hidden) return 0;
        const store* first = input_weight + ((gate * hidden + source) * hidden + unit);
        return pair_of(first[0], first[hidden]);
    });
    if (blocks_are_missing(layers * blocks, batch, share, failed)) return;
#else
    if (blocks_are_missing(blocks, batch, share, failed)) return;
#endif
    Patience patience = {0, failed};
    int buffer = 0;
    for (int count = 0; count <= steps; ++count) {  // the last round only collects the initial dh
        const int step = reverse ? count : steps - 1 - count, step_before = reverse ? step - 1 : step + 1;
        const bool collects = count > 0, computes = count < steps;

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
            // What the recurrence does not touch is fetched first.
#if OPTIONS
            float c_before[OUTPUTS], d_cell[OUTPUTS], d_hidden[OUTPUTS];
            unsigned dy_and_drawn[OUTPUTS];  // in its upper half what was drawn: registers are short
#else
            float c_before[OUTPUTS], c_after[OUTPUTS], d_cell[OUTPUTS], d_hidden[OUTPUTS], d_output[OUTPUTS];
#endif
            unsigned i_and_f[OUTPUTS], g_and_o[OUTPUTS];
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * THREADS;
                const int unit = first_unit + output % UNITS, sequence = sequence0 + output / UNITS;
                const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
#if OPTIONS
                c_before[e] = d_cell[e] = d_hidden[e] = 0.0f;
                dy_and_drawn[e] = 0;
#else
                c_before[e] = c_after[e] = d_cell[e] = d_hidden[e] = d_output[e] = 0.0f;
#endif
                i_and_f[e] = g_and_o[e] = 0;
                if (output >= UNITS * COLUMNS || unit >= hidden || sequence >= end_sequence) continue;
                d_hidden[e] = dh[at];
                if (!computes) continue;
                const store* gate = gates + row * 4 * hidden + unit;
                i_and_f[e] = pair_of(gate[0], gate[hidden]);
                g_and_o[e] = pair_of(gate[2 * hidden], gate[3 * hidden]);
                c_before[e] = cells[(step + reverse) * units + at];
#if OPTIONS
                d_cell[e] = dc[at];
                if (dy) dy_and_drawn[e] = dy[row * dy_width + dy_offset + unit].bits;
#else
                c_after[e] = cells[(step + 1 - reverse) * units + at];
                d_cell[e] = dc[at];
                if (dy) d_output[e] = real_of(dy[row * dy_width + dy_offset + unit]);
#endif
            }
#if OPTIONS  // while these are on their way
#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * THREADS;
                const int unit = first_unit + output % UNITS, sequence = sequence0 + output / UNITS;
                unsigned drawn = draw_for_step(options, unit, sequence, step);
                drawn |= draw_for_sequence(options, unit, sequence);
                const int later = first_time + step + 1 - 2 * reverse;
                if (!lengths || (sequence < end_sequence && later < lengths[sequence])) drawn |= LATER_STEP_RAN;
                dy_and_drawn[e] |= drawn << 16;
            }
#endif

            const float* sums = all_sums + buffer * SPLIT * COLUMNS * STRIDE;
#if LAYERS
            const bool takes = is_below && computes;  // dy, from the layer above
            const bool adds = collects || takes;
#else
            const bool adds = collects;
#endif
            if (adds) {
                const Corner corner(afresh(thread));
                const int own = sequence0 + corner.g;  // the first of this lane's sequences
#if LAYERS  // where nothing is collected, the product is one with zeros
                const int there = end_sequence - own, last = collects ? step_before : step;
                const unsigned* arrivals = exchange + ((long long)last * batch + own) * 2 * hidden;
                const auto begin = [&](float(&d)[NTILES][MTILES][4]) {
                    if (!takes) return;  // all of the block alike
                    const unsigned* handed = above.handed[afresh(layer)];
                    const unsigned* from_above = handed + ((long long)step * batch + own) * 2 * hidden;
                    add_from_next(d, w_next, parked_next, corner, from_above, 2 * hidden, there, patience);
                };
                multiply_handed_over(all_sums + (buffer * SPLIT + corner.part) * COLUMNS * STRIDE, w, parked, corner,
                                     arrivals, 2 * hidden, collects ? there : 0, true, patience, begin);
#else
                const unsigned* arrivals = exchange + ((long long)step_before * batch + own) * 2 * hidden;
                multiply_handed_over(all_sums + (buffer * SPLIT + corner.part) * COLUMNS * STRIDE, w, parked, corner,
                                     arrivals, 2 * hidden, end_sequence - own, true, patience);
#endif
                __syncthreads();  // the other buffer is free after it: whoever read that one has come here since
                buffer ^= 1;
            }

#pragma unroll
            for (int e = 0; e < OUTPUTS; ++e) {
                const int output = afresh(thread) + e * THREADS;
                const int unit = first_unit + output % UNITS, column = output / UNITS, sequence = sequence0 + column;
                const int first = output & ~31;  // of this warp, which leaves as a whole
                if (first >= UNITS * COLUMNS || sequence0 + first / UNITS >= end_sequence) break;
                const bool owner = unit < hidden && sequence < end_sequence;
                const long long at = (long long)sequence * hidden + unit, row = (long long)step * batch + sequence;
#if OPTIONS
                const unsigned drawn = dy_and_drawn[e] >> 16;
                if (adds) {
                    const float sum = whole_sum(sums, output % UNITS, column);
                    d_hidden[e] += drawn & LATER_STEP_RAN ? sum * hidden_mask(options, drawn) : 0.0f;
                }
#else
                if (adds) d_hidden[e] += whole_sum(sums, output % UNITS, column);
#endif
                if (!computes) {
                    if (owner) dh[at] = d_hidden[e];
                    continue;
                }
                unsigned i_and_f_gradient = 0, g_and_o_gradient = 0;
                if (owner) {
                    if (!lengths || first_time + step < lengths[sequence]) {
                        const float i = real_of(first_of(i_and_f[e])), f = real_of(second_of(i_and_f[e]));
                        const float candidate = real_of(first_of(g_and_o[e])), o = real_of(second_of(g_and_o[e]));
#if OPTIONS
                        const float of_gates[4] = {i, f, candidate, o};
                        float d_gate[4];
                        d_hidden[e] += real_of(first_of(dy_and_drawn[e]));
                        const float c_star = step_back(options, drawn, of_gates, c_before[e], peephole, unit, hidden,
                                                       d_hidden[e], d_cell[e], d_gate);
                        if (peephole) {
                            float* d_peep = d_peephole + (long long)sequence * 3 * hidden + unit;
                            d_peep[0] += d_gate[0] * c_before[e];
                            d_peep[hidden] += d_gate[1] * c_before[e];
                            d_peep[2 * hidden] += d_gate[3] * c_star;
                        }
                        dc[at] = d_cell[e];
                        i_and_f_gradient = pair_of(stored(d_gate[0]), stored(d_gate[1]));
                        g_and_o_gradient = pair_of(stored(d_gate[2]), stored(d_gate[3]));
#else
                        const float d_h = d_hidden[e] + d_output[e], tanh_c = tanhf(c_after[e]);
                        const float d_c = d_cell[e] + d_h * o * (1.0f - tanh_c * tanh_c);
                        i_and_f_gradient = pair_of(stored(d_c * candidate * (i * (1.0f - i))),
                                                   stored(d_c * c_before[e] * (f * (1.0f - f))));
                        g_and_o_gradient = pair_of(stored(d_c * i * (1.0f - candidate * candidate)),
                                                   stored(d_h * tanh_c * (o * (1.0f - o))));
                        dc[at] = d_c * f;
                        d_hidden[e] = 0;
#endif
                    }
                    dh[at] = d_hidden[e];
                    store* gate = gates + row * 4 * hidden + unit;
                    gate[0] = first_of(i_and_f_gradient), gate[hidden] = second_of(i_and_f_gradient);
                    gate[2 * hidden] = first_of(g_and_o_gradient), gate[3 * hidden] = second_of(g_and_o_gradient);
                }
                // The lane of the even unit publishes both units' i and f, that of the odd one their g and o.
                const bool odd = output % 2;
                const unsigned kept = odd ? g_and_o_gradient : i_and_f_gradient;
                const unsigned sent = odd ? i_and_f_gradient : g_and_o_gradient;
                const unsigned got = __shfl_xor_sync(0xFFFFFFFFu, sent, 1);
                const unsigned low = odd ? got : kept, high = odd ? kept : got;
                if (!owner) continue;
                unsigned* target = exchange + row * 2 * hidden + unit / 2 * 4 + 2 * odd;
                store_words(target, present((low & 0xFFFFu) | high << 16), present(low >> 16 | (high & 0xFFFF0000u)));
            }
            __syncwarp();  // no lane waits for what another one of its own warp has yet to publish
        }
    }
}
