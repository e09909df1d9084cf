// Backpropagation through all time steps of one small LSTM layer in one launch: the twin of lstm_resident_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t].
//
// Who owns what: a block owns SEQUENCES sequences, and waits for no other block. Eight neighbouring lanes own a hidden
// unit: its dh is a sum over all 4*hidden pre-activations, of which each lane takes an eighth, with 4 * QUADS weights
// in registers. The first four then make one gate's gradient each. The gradients are in shared memory, twice, so that
// one barrier per step is enough.
//
// What a step reads from memory is one number per lane (the four gates, the cell state before and after, dy), and is
// fetched AHEAD steps before it is used. All of it comes through one pointer, to gates in some lanes and to cells or dy
// in others; so none of them is __restrict__ const, which the compiler would take as a promise about gates as well.
//
// Bytes per hidden unit and step: reads 4 gates + 2 cells (+ 1 dy), writes 4 gates.
//
// hidden is at most 8 * QUADS; a block has 32 threads for every 4 hidden units.
//
// OPTIONS  the equations are those of persistent_options.cuh, the formulas those of lstm_variant_cell_backward.cu. The
//          unit's eight lanes draw for eight steps at once, one step each. c[t] is not read: c* comes from the gates.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "lane_sums.cuh"
#include "persistent_options.cuh"
#include "resident_product.cuh"

// Even, since two buffers take turns; more would not fit into the registers.
#define AHEAD (SEQUENCES == 1 ? 8 - 4 * OPTIONS : 2)
#define EIGHTH (4 * QUADS)        // pre-activations in a lane's part of the sum
#define STRIDE (8 * EIGHTH + 32)  // of a sequence's; each part begins 4 further on, in banks of its own

extern "C" __global__ void __launch_bounds__(64 * QUADS, 1) lstm_resident_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* cells,                // (steps + 1, batch, hidden)
    const float* dy,                   // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
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
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse) {                     // 1: the forward pass went from the last step to the first
#if BIDIRECTIONAL
    const unsigned of_one = (batch + SEQUENCES - 1) / SEQUENCES;  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    if (second) {
#if OPTIONS
        peephole = peephole_2, d_peephole = d_peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, cells = cells_2, dh = dh_2, dc = dc_2;
        dy_offset += hidden, reverse = !reverse;
    }
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    __shared__ __align__(16) float da[2][SEQUENCES][STRIDE];
    const int thread = threadIdx.x, unit = thread / 8, role = thread % 8, first_lane = thread % 32 & ~7;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden;

    float w[EIGHTH];  // of output `unit`; pre-activation number r is gate r % 4 of unit r / 4
#pragma unroll
    for (int k = 0; k < EIGHTH; ++k) {
        const int r = role * EIGHTH + k, row = r % 4 * hidden + r / 4;
        w[k] = exists && r / 4 < hidden ? weight[(long long)row * hidden + unit] : 0.0f;
    }

    const int first_sequence = number * SEQUENCES;
    float d_cell[SEQUENCES], d_hidden[SEQUENCES];
    int length[SEQUENCES];
    bool mine[SEQUENCES];  // the last block may have fewer sequences
#if OPTIONS
    float d_peep[SEQUENCES];    // of the three of a unit's lanes that have a peephole
    unsigned drawn[SEQUENCES];  // for the sequence and one of eight steps, each lane its own
#endif
    for (int i = thread; i < 2 * SEQUENCES * STRIDE; i += blockDim.x) (&da[0][0][0])[i] = 0.0f;
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const int sequence = first_sequence + s;
        mine[s] = exists && sequence < batch;
        d_hidden[s] = mine[s] ? dh[(long long)sequence * hidden + unit] : 0.0f;
        d_cell[s] = mine[s] ? dc[(long long)sequence * hidden + unit] : 0.0f;
        length[s] = lengths && mine[s] ? lengths[sequence] : steps;
#if OPTIONS
        d_peep[s] = 0.0f;
        drawn[s] = draw_for_sequence(options, unit, sequence);
#endif
    }

    // What a lane reads for each step of a sequence: a gate, a cell state, or dy. One step further on, a pointer moves
    // by its row's width times the batch, back in time unless `reverse`.
    const int direction = reverse ? 1 : -1, first_step = reverse ? 0 : steps - 1;
    const long long first_row = (long long)first_step * batch + first_sequence;
    const bool reads = exists && (role < 6 || (role == 6 && dy));
    const int row = role < 4 ? 4 * hidden : role < 6 ? hidden : dy_width;
    const long long move = (long long)direction * batch * row;
    const float* ahead = role < 4   ? gates + role * hidden + unit
                         : role < 6 ? cells + (role == 4 ? reverse : 1 - reverse) * units + unit
                         : dy       ? dy + dy_offset + unit
                                    : gates;  // and not read
    ahead += first_row * row;
    float* gate_at = gates + first_row * 4 * hidden + role * hidden + unit;  // of the first four lanes

    float next[AHEAD][SEQUENCES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int s = 0; s < SEQUENCES; ++s) next[i][s] = reads && mine[s] && i < steps ? ahead[s * row] : 0.0f;
        ahead += move;
    }
    __syncthreads();

    for (int first = 0; first < steps; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? count : steps - 1 - count;
#if OPTIONS
            if (count % 8 == 0) {
#pragma unroll
                for (int s = 0; s < SEQUENCES; ++s) {
                    drawn[s] &= HIDDEN_DROPS;
                    drawn[s] |= draw_for_step(options, unit, first_sequence + s, step + direction * role);
                }
            }
#endif
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                const float item = next[i][s];
                next[i][s] = reads && mine[s] && count + AHEAD < steps ? ahead[s * row] : 0.0f;
                const float in = __shfl_sync(0xFFFFFFFFu, item, first_lane);
                const float forget = __shfl_sync(0xFFFFFFFFu, item, first_lane + 1);
                const float candidate = __shfl_sync(0xFFFFFFFFu, item, first_lane + 2);
                const float out = __shfl_sync(0xFFFFFFFFu, item, first_lane + 3);
                const float c_before = __shfl_sync(0xFFFFFFFFu, item, first_lane + 4);
#if !OPTIONS
                const float c_after = __shfl_sync(0xFFFFFFFFu, item, first_lane + 5);
#endif
                const float d_output = __shfl_sync(0xFFFFFFFFu, item, first_lane + 6);
                float d_gate = 0.0f;
#if OPTIONS
                const unsigned now = __shfl_sync(0xFFFFFFFFu, drawn[s], first_lane + count % 8);
                if (step < length[s]) {
                    const float of_gates[4] = {in, forget, candidate, out};
                    float d_gates[4];
                    d_hidden[s] += d_output;
                    const int own = exists ? unit : 0;
                    const float c_star = step_back(options, now, of_gates, c_before, peephole, own, hidden, d_hidden[s],
                                                   d_cell[s], d_gates);
                    d_gate = role == 0 ? d_gates[0] : role == 1 ? d_gates[1] : role == 2 ? d_gates[2] : d_gates[3];
                    d_peep[s] += d_gate * (role == 3 ? c_star : c_before);
                }
#else
                if (step < length[s]) {
                    const float tanh_c = tanhf(c_after), d_h = d_hidden[s] + d_output;
                    const float d_c = d_cell[s] + d_h * out * (1.0f - tanh_c * tanh_c);
                    if (role == 0) d_gate = d_c * candidate * (in * (1.0f - in));
                    if (role == 1) d_gate = d_c * c_before * (forget * (1.0f - forget));
                    if (role == 2) d_gate = d_c * in * (1.0f - candidate * candidate);
                    if (role == 3) d_gate = d_h * tanh_c * (out * (1.0f - out));
                    d_cell[s] = d_c * forget;
                    d_hidden[s] = 0.0f;
                }
#endif
                if (role < 4 && mine[s]) {
                    const int r = 4 * unit + role;
                    da[i % 2][s][r + r / EIGHTH * 4] = d_gate;
#if OPTIONS  // an address more at each step, and two registers less
                    gates[(((long long)step * batch + first_sequence + s) * 4 + role) * hidden + unit] = d_gate;
#else
                    gate_at[s * row] = d_gate;
#endif
                }
            }
            ahead += move;
            gate_at += move;  // of the lanes that use it
            __syncthreads();
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                const float sum = sum_over_lanes<1, 8>(add_product(sums, w, &da[i % 2][s][role * (EIGHTH + 4)]));
#if OPTIONS
                if (step < length[s]) d_hidden[s] += sum * hidden_mask(options, drawn[s]);
#else
                d_hidden[s] += sum;
#endif
            }
        }
    }
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const long long at = (long long)(first_sequence + s) * hidden + unit;
        if (mine[s] && role == 0) dh[at] = d_hidden[s];
        if (mine[s] && role == 1) dc[at] = d_cell[s];
#if OPTIONS
        if (peephole && mine[s] && role < 4 && role != 2) {
            d_peephole[(3ll * (first_sequence + s) + (role == 3 ? 2 : role)) * hidden + unit] += d_peep[s];
        }
#endif
    }
}
