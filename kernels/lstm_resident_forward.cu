// All time steps of one small LSTM layer in one launch: a block has the whole of W_hh in its registers.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: a block owns SEQUENCES sequences, and waits for no other block. Eight neighbouring lanes own a hidden
// unit: two for each of its gates, which halve the sum over h. The hidden states are in shared memory, twice, so that
// one barrier per step is enough; a thread's 4 * QUADS weights and the cell states are in registers.
//
// What a step reads from memory does not depend on h, and is fetched AHEAD steps before it is used.
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 h + 1 y, in training 4 gates + 1 cell too.
//
// hidden is at most 8 * QUADS; a block has 32 threads for every 4 hidden units.
//
// OPTIONS  the equations are those of persistent_options.cuh. The unit's eight lanes draw for eight steps at once, one
//          step each. With `keep` `hiddens` then receives what the products read, h with its mask and zero where a step
//          does nothing; h itself is in `state`.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "own_gate.cuh"
#include "persistent_options.cuh"
#include "resident_product.cuh"

// Even, since two buffers take turns; more would not fit into the registers.
#define AHEAD (SEQUENCES == 1 ? 8 - 4 * (OPTIONS && BIDIRECTIONAL) : 2)
#define HALF (4 * QUADS)        // hidden states in one half of the sum
#define STRIDE (2 * HALF + 4)   // of a sequence's; the second half begins 4 further on, in banks of its own

extern "C" __global__ void __launch_bounds__(64 * QUADS, 1) lstm_resident_forward(
    float* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const float* __restrict__ weight, // (4*hidden, hidden) W_hh
    const float* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* hiddens,                   // the same of h
    float* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
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
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time) {                 // the time of step 0, to compare with lengths
#if BIDIRECTIONAL
    const unsigned of_one = (batch + SEQUENCES - 1) / SEQUENCES;  // blocks of a direction
    const bool second = blockIdx.x >= of_one;
    const unsigned number = second ? blockIdx.x - of_one : blockIdx.x;
    float *const cells_1 = cells, *const hiddens_1 = hiddens;
#if OPTIONS
    float* const state_1 = state;
#endif
    if (second) {
#if OPTIONS
        state = state_2, peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y_offset += hidden, reverse = !reverse;
    }
#else
    const unsigned number = blockIdx.x;  // of this block in its direction
#endif
    __shared__ __align__(16) float h_now[2][SEQUENCES][STRIDE];
    const int thread = threadIdx.x, unit = thread / 8, gate = thread % 8 / 2, half = thread % 2;
    const int first_lane = thread % 32 & ~7;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden;

    float w[HALF];
#pragma unroll
    for (int k = 0; k < HALF; ++k) {
        const int column = half * HALF + k;
        w[k] = exists && column < hidden ? weight[((long long)gate * hidden + unit) * hidden + column] : 0.0f;
    }
    const float b = bias && exists && half == 0 ? bias[gate * hidden + unit] : 0.0f;

    const int first_sequence = number * SEQUENCES;
    const int first_slot = keep && reverse ? steps : 0;
    float c[SEQUENCES], h[SEQUENCES];
    int length[SEQUENCES];
    bool mine[SEQUENCES];  // the last block may have fewer sequences
#if OPTIONS
    float mask[SEQUENCES];         // of h, on its way to the products
    unsigned drawn[SEQUENCES];     // for one of eight steps, each lane its own
    const float peep = peephole && exists && gate != 2 ? peephole[(gate < 2 ? gate : 2) * hidden + unit] : 0.0f;
#endif
    for (int i = thread; i < 2 * SEQUENCES * STRIDE; i += blockDim.x) (&h_now[0][0][0])[i] = 0.0f;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const int sequence = first_sequence + s;
        mine[s] = exists && sequence < batch;
        const long long at = first_slot * units + (long long)sequence * hidden + unit;
        c[s] = mine[s] ? cells[at] : 0.0f;
#if OPTIONS
        h[s] = mine[s] ? state[(long long)sequence * hidden + unit] : 0.0f;
        mask[s] = hidden_mask(options, draw_for_sequence(options, unit, sequence));
        drawn[s] = 0;
#else
        h[s] = mine[s] ? hiddens[at] : 0.0f;
#endif
        length[s] = lengths && mine[s] ? lengths[sequence] - first_time : steps;
#if OPTIONS
        const float masked = h[s] * mask[s];
#else
        const float masked = h[s];
#endif
        if (thread % 8 == 0 && mine[s]) h_now[0][s][unit + unit / HALF * 4] = masked;
    }

    // One step further on, a pointer moves by its row's width times the batch, back in time if `reverse`.
    const int direction = reverse ? -1 : 1, first_step = reverse ? steps - 1 : 0;
    const long long first_row = (long long)first_step * batch + first_sequence;
    const int gate_row = 4 * hidden;
    const long long gate_move = (long long)direction * batch * gate_row;
    float* gate_at = gates + first_row * gate_row + gate * hidden + unit;  // of sequence 0, at the step that runs
    const float* ahead = gate_at;                                          // and at the one that is fetched

    // Eight lanes have the same h and c: each writes something else, if anything.
    const int role = thread % 8;
    const bool writes = role == 1 || (keep && (role == 3 || role == 5));
    const int out_row = role == 1 ? y_width : hidden;
    const long long out_move = (long long)direction * batch * out_row;
    const long long after = (first_row + (1 - reverse) * (long long)batch) * hidden + unit;  // its slot
    float* out_at = role == 1 ? y + first_row * y_width + y_offset + unit : (role == 3 ? hiddens : cells) + after;

    float next[AHEAD][SEQUENCES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int s = 0; s < SEQUENCES; ++s) next[i][s] = mine[s] && i < steps && half == 0 ? ahead[s * gate_row] : 0.0f;
        ahead += gate_move;
    }
    __syncthreads();

    for (int first = 0; first < steps; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? steps - 1 - count : count;
#if OPTIONS
            if (count % 8 == 0) {
#pragma unroll
                for (int s = 0; s < SEQUENCES; ++s) {
                    drawn[s] = draw_for_step(options, unit, first_sequence + s, step + direction * role);
                }
            }
#endif
            float a[SEQUENCES];
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                float sums[4] = {next[i][s], b, 0.0f, 0.0f};
                next[i][s] = mine[s] && half == 0 && count + AHEAD < steps ? ahead[s * gate_row] : 0.0f;
                a[s] = add_product(sums, w, &h_now[i % 2][s][half * (HALF + 4)]);
            }
            ahead += gate_move;
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                a[s] += __shfl_xor_sync(0xFFFFFFFFu, a[s], 1);
#if OPTIONS
                if (peephole && gate < 2) a[s] += peep * c[s];
#endif
                float activated = activated_gate(gate, a[s]);
                const float in = __shfl_sync(0xFFFFFFFFu, activated, first_lane);
                const float forget = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 2);
                const float candidate = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 4);
#if OPTIONS
                const unsigned now = __shfl_sync(0xFFFFFFFFu, drawn[s], first_lane + count % 8);
                const float kept = options.coupled ? 1.0f - in : forget;
                const float c_star = fmaf(kept, c[s], in * (candidate * candidate_mask(options, now)));
                if (gate == 1) activated = kept;
                if (peephole && gate == 3) activated = sigmoid_of(a[s] + peep * c_star);
#endif
                const float out = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 6);
                const bool runs = step < length[s];
#if OPTIONS
                if (runs) {
                    c[s] = zoned_c(options, now, c[s], c_star);
                    h[s] = zoned_h(options, now, h[s], out * tanhf(c_star));
                }
                const bool next_runs = step + direction < length[s];
#else
                if (runs) {
                    c[s] = fmaf(forget, c[s], in * candidate);
                    h[s] = out * tanhf(c[s]);
                }
#endif
                if (!mine[s]) continue;
#if OPTIONS
                const float masked = h[s] * mask[s], h_in = next_runs ? masked : 0.0f;
#else
                const float masked = h[s];
#endif
                if (role == 0) h_now[(i + 1) % 2][s][unit + unit / HALF * 4] = masked;
#if OPTIONS
                if (writes) out_at[s * out_row] = role == 5 ? c[s] : (role == 3 ? h_in : (runs ? h[s] : 0.0f));
#else
                if (writes) out_at[s * out_row] = role == 5 ? c[s] : (runs || role == 3 ? h[s] : 0.0f);
#endif
                if (keep && runs && half == 0) gate_at[s * gate_row] = activated;
            }
            gate_at += gate_move;
            out_at += out_move;
            __syncthreads();
        }
    }
#if OPTIONS
#if BIDIRECTIONAL  // where it is is found out again: registers are short in between
    state = blockIdx.x < of_one ? state_1 : state_2;
#endif
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        if (mine[s] && thread % 8 == 0) state[(long long)(first_sequence + s) * hidden + unit] = h[s];
    }
#endif
    if (keep) return;
#if BIDIRECTIONAL  // and so is where these are
    cells = blockIdx.x < of_one ? cells_1 : cells_2;
    hiddens = blockIdx.x < of_one ? hiddens_1 : hiddens_2;
#endif
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const long long at = (long long)(first_sequence + s) * hidden + unit;
#if !OPTIONS
        if (mine[s] && thread % 8 == 0) hiddens[at] = h[s];
#endif
        if (mine[s] && thread % 8 == 1) cells[at] = c[s];
    }
}
