// Backpropagation through all time steps of one LSTM layer in one launch, in float32: the twin of
// lstm_persistent_forward, and like it with -DTF32=1.
//
// The formulas are those of lstm_backward_step.cu. What couples the steps is dh = W_hh^T da, a sum over all 4*hidden
// pre-activations of a step, which live in all blocks of a group.
//
// Who owns what: as in the forward pass, a block owns UNITS = 4 * MTILES hidden units of its group's sequences. It
// makes their da, and at once what these contribute to every dh of the group: hidden outputs summed over its own 16 *
// MTILES rows of W_hh, which its 16 warps hold in registers, 16 * JTILES outputs each. The contributions go to the
// owners of the outputs, who add up one from each block, in the order of the blocks.
//
// `exchange` has two slots that take turns. A word says by its lowest bit whether it has arrived: the bit alternates
// from one use of a slot to the next. The reader clears it, so that what is added up does not depend on it; a
// contribution is thus rounded to 22 bits of mantissa, towards zero. A slot may be written again because whoever writes
// to it has read what its owner sent after reading the last use.
//
// Bytes per hidden unit and step: as in the backward step, and 4 * blocks written and read of contributions.
// hidden is a multiple of 4.
//
// OPTIONS  the equations are those of persistent_options.cuh, the formulas those of lstm_variant_cell_backward.cu.
//          c* is computed again from the gates instead of reading c[t]. With peepholes 3 sums more are read and
//          written.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
//
// LAYERS  layers on top of each other run in one launch, each with blocks of its own, which begin where those of the
//         layer below end. The uppermost one is as without the switch; the others make their dy from da of the layer
//         above (stacked_gradients.cuh) while they wait for their own contributions. Nobody waits for a layer below.
#include "cell_backward.cuh"
#include "contributing_product.cuh"
#include "persistent_options.cuh"
#include "stacked_gradients.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_persistent_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const float* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    unsigned* exchange,                // [2][groups][blocks][share][blocks][UNITS], zeros at the beginning
    unsigned* failed,                  // becomes 1 if a block waited in vain
#if BIDIRECTIONAL  // the same of the second direction, whose columns of dy are behind those of the first
    float* gates_2,
    const float* weight_2,
    const float* cells_2,
    float* dh_2,
    float* dc_2,
#endif
#if OPTIONS
    const float* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    float* d_peephole,                 // (batch, 3*hidden) their gradients so far, apart for each sequence, or null
    Options options,
#if BIDIRECTIONAL
    const float* peephole_2,
    float* d_peephole_2,
    unsigned stream_2,
#endif
#endif
#if LAYERS
    const GradientsAbove above,
    int layers,                        // with the lowest one
    int first_time,                    // the time of step 0, to compare with lengths
#endif
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse,                       // 1: the forward pass went from the last step to the first
    int blocks,                        // of a group
    int share) {                       // sequences of a group
#if BIDIRECTIONAL
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    if (second) {
#if OPTIONS
        peephole = peephole_2, d_peephole = d_peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, cells = cells_2, dh = dh_2, dc = dc_2;
        dy_offset += hidden, reverse = !reverse;
    }
#elif LAYERS
    const unsigned of_one = blocks * ((batch + share - 1) / share);  // blocks of a layer
    const int layer = blockIdx.x / of_one;
    const unsigned number = blockIdx.x % of_one;
    const bool is_below = layer + 1 < layers;  // there is a layer above it
    // Pointers are looked up where they are needed, again in each step: registers are short.
    weight = of_layer(weight, above.weight, layer);
    float *const lowest_gates = gates, *const lowest_dh = dh, *const lowest_dc = dc;
    const float *const lowest_cells = cells, *const dy_of_all = dy;
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    __shared__ unsigned mask;
    __shared__ float da[ROWS * STRIDE];
    __shared__ float parts[COLUMNS * PARTS * UNITS];
#if LAYERS
    // [WARPS][FRAGMENTS][32][2] of W_ih above, two words at a time, then every warp's sums for dy
    extern __shared__ __align__(16) unsigned fragments[];
    float* of_above = (float*)(fragments + WARPS * FRAGMENTS * 64);  // [WARPS][COLUMNS][UNITS]
#endif
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int block = number % blocks, group = blockIdx.x / blocks;
    const int first_unit = block * UNITS, first_sequence = number / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;
    const int first_output = warp * 16 * JTILES;
    const long long units = (long long)batch * hidden;
    const long long region = (long long)share * blocks * UNITS;  // of one owner
    const long long slot_size = (long long)(gridDim.x / blocks) * blocks * region;

    unsigned w[JTILES][ROWS / 8][4];
    hold_outputs(w, weight, first_unit, first_output, hidden, g, t);

#if LAYERS
    unsigned* w_above = fragments + warp * FRAGMENTS * 64;
    if (is_below) put_input_weight(above.input_weight[layer], first_unit, hidden, warp, lane, w_above);
    if (blocks_are_missing(layers * blocks, batch, share, failed)) return;
#else
    if (blocks_are_missing(blocks, batch, share, failed)) return;
#endif
    if (thread == 0) mask = HIGH_BITS;
    __syncthreads();
    Patience patience = {0, failed};
    for (int count = 0; count <= steps; ++count) {  // the last round only collects the initial dh
        const int step = reverse ? count : steps - 1 - count;
        const bool collects = count > 0, computes = count < steps;
        const unsigned* arrivals = exchange + (count + 1) % 2 * slot_size + (long long)blockIdx.x * region;
        const unsigned arrival_bit = (((count - 1) / 2) & 1) ^ 1, departure_bit = ((count / 2) & 1) ^ 1;

        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += COLUMNS) {
#if LAYERS
            if (is_below && computes) {
                const unsigned* rows = above.handed[afresh(layer)] + ((long long)step * batch + sequence0) * 4 * hidden;
                multiply_rows_from_above(rows, end_sequence - sequence0, 4 * hidden, warp, lane, w_above, &mask,
                                         patience, of_above + warp * COLUMNS * UNITS);
            }
            const int here = afresh(layer);
            float* const gates = of_layer(lowest_gates, above.gates, here);
            float* const dh = of_layer(lowest_dh, above.dh, here);
            float* const dc = of_layer(lowest_dc, above.dc, here);
            const float *const cells = of_layer(lowest_cells, above.cells, here), *const dy = is_below ? 0 : dy_of_all;
#endif
            // What the recurrence does not touch is fetched first.
            const int unit = first_unit + thread % UNITS, column = thread / UNITS, sequence = sequence0 + column;
            const bool owner = thread < UNITS * COLUMNS && unit < hidden && sequence < end_sequence;
            const long long row = (long long)step * batch + sequence;
            long long at = (long long)sequence * hidden + unit;
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
#if LAYERS
                    if (lengths) runs = first_time + step < lengths[sequence];
#else
                    if (lengths) runs = step < lengths[sequence];
#endif
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
#if LAYERS
            if (!collects) __syncthreads();
            if (is_below && computes && owner) {
                const float* sum = of_above + afresh(thread);
#pragma unroll 4
                for (int other = 0; other < WARPS; ++other) d_output += sum[other * COLUMNS * UNITS];
            }
#endif
#if OPTIONS || LAYERS
            at = (long long)afresh(sequence) * hidden + unit;  // registers are short above
            gate = gates + ((long long)step * batch + afresh(sequence)) * 4 * hidden + unit;
#endif
            if (!computes) {
                if (owner) dh[at] = d_hidden;
                __syncthreads();  // `parts` is written again for the next sequences
                continue;
            }

            if (thread < UNITS * COLUMNS) {
                float d_gate[4] = {0, 0, 0, 0};
                if (owner) {
                    if (runs) {
                        d_hidden += d_output;
                        const float of_gates[4] = {i, f, candidate, o};
#if OPTIONS
                        const float c_star =
                            step_back(options, drawn, of_gates, c_before, peephole, unit, hidden, d_hidden, d_cell,
                                      d_gate);
                        if (peephole) {
                            float* d_peep = d_peephole + (long long)sequence * 3 * hidden + unit;
                            d_peep[0] += d_gate[0] * c_before;
                            d_peep[hidden] += d_gate[1] * c_before;
                            d_peep[2 * hidden] += d_gate[3] * c_star;
                        }
#else
                        d_cell = cell_back(of_gates, c_before, c_after, d_hidden, d_cell, d_gate);
                        d_hidden = 0;
#endif
                        dc[at] = d_cell;
                    }
                    dh[at] = d_hidden;
#pragma unroll
                    for (int q = 0; q < 4; ++q) gate[q * hidden] = d_gate[q];
#if LAYERS
                    if (layer > 0) {
                        unsigned* handed = above.handed[afresh(layer) - 1] + (gate - gates);
#pragma unroll
                        for (int q = 0; q < 4; ++q) store_word(handed + q * hidden, to_hand_over(d_gate[q]));
                    }
#endif
                }
#pragma unroll
                for (int q = 0; q < 4; ++q) da[(thread % UNITS * 4 + q) * STRIDE + column] = d_gate[q];
            }
            __syncthreads();

            unsigned* departures = exchange + count % 2 * slot_size + (long long)group * blocks * region;
            contribute(w, da, &mask, departures, region, departure_bit, block, blocks, first_output, sequence0,
                       first_sequence, end_sequence, g, t);
            // da is written again after the barrier of collecting; where nothing is collected, after this one.
            if (!collects) __syncthreads();
        }
    }
}
