// All time steps of one small LSTM layer with layer norm in one launch: a block has the whole of W_hh in its registers.
//
//     r = W_hh h[t-1]                     a = gain_p * norm(p) + b + gain_r * norm(r)
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(gain_c * norm(c[t]) + bias_c)
//
// The part of p comes from lstm_layer_norm_inputs_forward. Of r no mean has to be taken: each column of W_hh has its
// own taken off, and then the sum of r over its 4*hidden rows is zero for every h. What is left is the variance.
//
// Who owns what: as in lstm_resident_forward. A block owns SEQUENCES sequences, and waits for no other block. Eight
// neighbouring lanes own a hidden unit: two for each of its gates, which halve the sum over h.
//
// Both norms are sums over the block: over a warp's four units by shuffles, then over the warps through shared memory,
// in a fixed order. The variance of c is made of squared distances from a warp's first c, and the warps' are put
// together with distances from the first mean (Chan, Golub and LeVeque 1983): of n numbers one of which is 0, the
// squares' sum is at most n times what is left when their mean is taken off, so nothing large is taken off something
// large. A step has three barriers: for the norm of r, for that of c, and for h.
//
// What a step reads from memory does not depend on h, and is fetched AHEAD steps before it is used.
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 y, in training 4 gates + 4 r + 1 h + 1 cell too.
//
// hidden is at most 8 * QUADS; a block has 32 threads for every 4 hidden units.
#include "common.cuh"
#include "lane_sums.cuh"
#include "own_gate.cuh"
#include "resident_product.cuh"

#define AHEAD (SEQUENCES == 1 ? QUADS == 4 ? 4 : 3 : 2)  // more would not fit into the registers
#define HALF (4 * QUADS)        // hidden states in one half of the sum
#define STRIDE (2 * HALF + 4)   // of a sequence's; the second half begins 4 further on, in banks of its own
#define WARPS (2 * QUADS)       // at most

__device__ __forceinline__ float sum_of_four(const float4& v) { return (v.x + v.y) + (v.z + v.w); }

extern "C" __global__ void __launch_bounds__(64 * QUADS, 1) lstm_resident_layer_norm_forward(
    float* gates,                          // (steps, batch, 4*hidden) gain_p * norm(p) + b; activated with `keep`
    const float* __restrict__ weight,      // (4*hidden, hidden) W_hh
    const float* __restrict__ weight_sums, // (hidden,) of its columns
    const float* __restrict__ gain,        // (4*hidden,) gain_r
    const float* __restrict__ gain_cell,   // (hidden,)
    const float* __restrict__ bias_cell,   // (hidden,)
    float* cells,                          // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* state,                          // (batch, hidden) the initial h; becomes the final one
    float* hiddens,                        // with `keep` (steps + 1, batch, hidden): what the products read, which is
                                           // zero where a step does nothing; the first one's is there already
    float* r,                              // (steps, batch, 4*hidden) with `keep` receives norm(r)
    float* norms,                          // (steps, batch, 4) with `keep` receives, behind the first, 1/std of r, mean
                                           // and 1/std of c
    float* __restrict__ y,                 // (steps, batch, y_width) output; these columns start at y_offset
    const int* __restrict__ lengths,       // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                              // 1: for the backward pass, everything is kept
    int reverse,                           // 1: from the last step to the first
    int first_time) {                      // the time of step 0, to compare with lengths
    __shared__ __align__(16) float h_now[SEQUENCES][STRIDE];
    __shared__ __align__(16) float squares[SEQUENCES][WARPS];  // of each warp's r
    __shared__ __align__(16) float means[SEQUENCES][WARPS];    // of each warp's c
    __shared__ __align__(16) float spreads[SEQUENCES][WARPS];  // and the sums of their squared distances from it
    __shared__ __align__(16) float units_of[WARPS];            // that a warp has
    __shared__ float shares[WARPS];                            // 1 / units_of, for a register less
    const int thread = threadIdx.x, unit = thread / 8, gate = thread % 8 / 2, half = thread % 2;
    const int lane = thread % 32, warp = thread / 32, first_lane = lane & ~7, role = thread % 8;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden;
    const float per_row = 1.0f / (4 * hidden), per_unit = 1.0f / hidden;

    float w[HALF];
#pragma unroll
    for (int k = 0; k < HALF; ++k) {
        const int column = half * HALF + k;
        const bool there = exists && column < hidden;
        w[k] = there ? weight[((long long)gate * hidden + unit) * hidden + column] - weight_sums[column] * per_row
                     : 0.0f;
    }
    const float gain_r = exists ? gain[gate * hidden + unit] : 0.0f;
    const float gain_c = exists ? gain_cell[unit] : 0.0f, bias_c = exists ? bias_cell[unit] : 0.0f;

    const int first_sequence = blockIdx.x * SEQUENCES;
    const int first_slot = keep && reverse ? steps : 0;
    float c[SEQUENCES], h[SEQUENCES];
    int length[SEQUENCES];
    bool mine[SEQUENCES];  // the last block may have fewer sequences
    for (int i = thread; i < SEQUENCES * STRIDE; i += blockDim.x) (&h_now[0][0])[i] = 0.0f;
    for (int i = thread; i < SEQUENCES * WARPS; i += blockDim.x) {
        (&squares[0][0])[i] = (&means[0][0])[i] = (&spreads[0][0])[i] = 0.0f;
    }
    for (int i = thread; i < WARPS; i += blockDim.x) {
        const int left = hidden - 4 * i;
        units_of[i] = left < 0 ? 0.0f : left < 4 ? (float)left : 4.0f;
        shares[i] = left <= 0 ? 0.0f : 1.0f / units_of[i];
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const int sequence = first_sequence + s;
        mine[s] = exists && sequence < batch;
        c[s] = mine[s] ? cells[first_slot * units + (long long)sequence * hidden + unit] : 0.0f;
        h[s] = mine[s] ? state[(long long)sequence * hidden + unit] : 0.0f;
        length[s] = lengths && mine[s] ? lengths[sequence] - first_time : steps;
        if (role == 0 && mine[s]) h_now[s][unit + unit / HALF * 4] = h[s];
    }

    // One step further on, a pointer moves by its row's width times the batch, back in time if `reverse`.
    const int direction = reverse ? -1 : 1, first_step = reverse ? steps - 1 : 0;
    const long long first_row = (long long)first_step * batch + first_sequence;
    const int gate_row = 4 * hidden;
    const long long gate_move = (long long)direction * batch * gate_row;
    const long long own_gate = first_row * gate_row + gate * hidden + unit;
    const float* ahead = gates + own_gate;             // of sequence 0, at the step that is fetched
    float* tape_at = (half == 0 ? gates : r) + own_gate;  // and at the one that runs

    // Eight lanes have the same h and c: each writes something else, if anything.
    const bool writes = role == 1 || (keep && (role == 3 || role == 5));
    const int out_row = role == 1 ? y_width : hidden;
    const long long out_move = (long long)direction * batch * out_row;
    const long long after = (first_row + (1 - reverse) * (long long)batch) * hidden + unit;  // its slot
    float* out_at = role == 1 ? y + first_row * y_width + y_offset + unit : (role == 3 ? hiddens : cells) + after;

    float next[AHEAD][SEQUENCES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int s = 0; s < SEQUENCES; ++s) next[i][s] = mine[s] && i < steps ? ahead[s * gate_row] : 0.0f;
        ahead += gate_move;
    }
    __syncthreads();

    for (int first = 0; first < steps; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? steps - 1 - count : count;
            float input[SEQUENCES], recurrent[SEQUENCES];
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                input[s] = next[i][s];
                next[i][s] = mine[s] && count + AHEAD < steps ? ahead[s * gate_row] : 0.0f;
                recurrent[s] = add_product(sums, w, &h_now[s][half * (HALF + 4)]);
            }
            ahead += gate_move;
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                recurrent[s] += __shfl_xor_sync(ALL_LANES, recurrent[s], 1);
                const float square = recurrent[s] * recurrent[s];
                // Over a unit's gates, then over the warp's four units, in lane 0 at least.
                const float sum = sum_of_four_lanes<8>(sum_of_four_lanes<2>(square));
                if (lane == 0) squares[s][warp] = sum;
            }
            __syncthreads();

            float scale_r[SEQUENCES], c_next[SEQUENCES], activated[SEQUENCES], out[SEQUENCES];
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                float sum = 0.0f;
#pragma unroll
                for (int q = 0; q < WARPS / 4; ++q) sum += sum_of_four(((const float4*)squares[s])[q]);
                scale_r[s] = rsqrtf(sum * per_row + NORM_EPSILON);
                recurrent[s] *= scale_r[s];
                activated[s] = activated_gate(gate, input[s] + gain_r * recurrent[s]);
                const float in = __shfl_sync(ALL_LANES, activated[s], first_lane);
                const float forget = __shfl_sync(ALL_LANES, activated[s], first_lane + 2);
                const float candidate = __shfl_sync(ALL_LANES, activated[s], first_lane + 4);
                out[s] = __shfl_sync(ALL_LANES, activated[s], first_lane + 6);
                c_next[s] = forget * c[s] + in * candidate;
                const float first_c = __shfl_sync(ALL_LANES, c_next[s], 0);
                const float distance = exists ? c_next[s] - first_c : 0.0f;
                const float along = sum_of_four_lanes<8>(distance), squared = sum_of_four_lanes<8>(distance * distance);
                if (lane == 0) {
                    const float per_own = shares[warp];
                    means[s][warp] = first_c + along * per_own;
                    spreads[s][warp] = squared - along * along * per_own;
                }
            }
            __syncthreads();

#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                const int four = lane % (WARPS / 4);  // warps of which this lane adds up what they have
                const float4 mean = ((const float4*)means[s])[four], spread_of = ((const float4*)spreads[s])[four];
                const float4 n = ((const float4*)units_of)[four];
                const float first_mean = means[s][0];
                const float4 off = {mean.x - first_mean, mean.y - first_mean, mean.z - first_mean, mean.w - first_mean};
                const float4 off_n = {n.x * off.x, n.y * off.y, n.z * off.z, n.w * off.w};
                const float4 product = {off_n.x * off.x, off_n.y * off.y, off_n.z * off.z, off_n.w * off.w};
                const float along = sum_over_lanes<1, WARPS / 4>(sum_of_four(off_n));
                const float squared = sum_over_lanes<1, WARPS / 4>(sum_of_four(spread_of) + sum_of_four(product));
                const float mean_c = first_mean + along * per_unit, spread = squared - along * along * per_unit;
                const float scale_c = rsqrtf(spread * per_unit + NORM_EPSILON);
                const bool runs = step < length[s], next_runs = step + direction < length[s];
                if (runs) {
                    c[s] = c_next[s];
                    h[s] = out[s] * tanhf(gain_c * ((c[s] - mean_c) * scale_c) + bias_c);
                }
                if (!mine[s]) continue;
                if (role == 0) h_now[s][unit + unit / HALF * 4] = h[s];
                if (writes) out_at[s * out_row] = role == 5 ? c[s] : (role == 3 ? next_runs : runs) ? h[s] : 0.0f;
                if (keep && runs) {
                    tape_at[s * gate_row] = half == 0 ? activated[s] : recurrent[s];
                    if (thread == 0) {
                        float* norm = norms + 4 * ((long long)step * batch + first_sequence + s);
                        norm[1] = scale_r[s];
                        norm[2] = mean_c;
                        norm[3] = scale_c;
                    }
                }
            }
            tape_at += gate_move;
            out_at += out_move;
            __syncthreads();
        }
    }
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const long long at = (long long)(first_sequence + s) * hidden + unit;
        if (mine[s] && role == 0) state[at] = h[s];
        if (mine[s] && role == 1 && !keep) cells[at] = c[s];
    }
}
