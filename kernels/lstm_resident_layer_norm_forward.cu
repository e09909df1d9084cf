// All time steps of one small LSTM layer with layer norm in one launch: a block has the whole of W_hh in its registers.
//
//     r = W_hh h[t-1]                     a = gain_p * norm(p) + b + gain_r * norm(r)
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(gain_c * norm(c[t]) + bias_c)
//
// The part of p comes from lstm_layer_norm_inputs_forward. Of r no mean has to be taken: each column of W_hh has its
// own taken off, and then the sum of r over its 4*hidden rows is zero for every h. What is left is the variance.
//
// Who owns what: as in lstm_resident_forward. A block owns one sequence, and waits for no other block. Four neighbouring
// lanes own a hidden unit: each has a quarter of the sums over h of all four gates, and then one gate.
//
// Both norms are sums over the block: over a warp's eight units by shuffles, then over the warps through shared memory,
// in a fixed order. The variance of c is made of squared distances from a warp's first c, and the warps' are put
// together with distances from the first mean (Chan, Golub and LeVeque 1983): of n numbers one of which is 0, the
// squares' sum is at most n times what is left when their mean is taken off, so nothing large is taken off something
// large. A step has three barriers: for the norm of r, for that of c, and for h.
//
// What a step reads from memory does not depend on h, and is fetched AHEAD steps before it is used.
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 y, in training 4 gates + 4 r + 1 h + 1 cell too.
//
// hidden is at most 16 * QUADS; a block has 32 threads for every 8 hidden units.
#include "common.cuh"
#include "lane_sums.cuh"
#include "own_gate.cuh"
#include "quarter_products.cuh"
#include "registers.cuh"

#define AHEAD 4
#define WARPS (2 * QUADS)       // at most

__device__ __forceinline__ float sum_of_four(const float4& v) { return (v.x + v.y) + (v.z + v.w); }

extern "C" __global__ void __launch_bounds__(64 * QUADS, BLOCKS_TOGETHER) lstm_resident_layer_norm_forward(
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
    __shared__ __align__(16) float h_now[4 * PITCH];
    __shared__ __align__(16) float squares[WARPS];  // of each warp's r
    __shared__ __align__(16) float means[WARPS];    // of each warp's c
    __shared__ __align__(16) float spreads[WARPS];  // and the sums of their squared distances from it
    __shared__ __align__(16) float units_of[WARPS]; // that a warp has
    __shared__ float shares[WARPS];                 // 1 / units_of, for a register less
    const int sequence = blockIdx.x;
    const int thread = threadIdx.x, unit = thread / 4, part = thread % 4, gate = part;
    const int lane = thread % 32, warp = thread / 32;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden, own = (long long)sequence * hidden + unit;
    const float per_row = 1.0f / (4 * hidden), per_unit = 1.0f / hidden;

    float w[4][PART];
    quarters_of_rows(w, weight, unit, part, hidden);
#pragma unroll
    for (int k = 0; k < PART; ++k) {
        const int column = part * PART + k;
        const float mean = exists && column < hidden ? weight_sums[column] * per_row : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; ++j) w[j][k] -= mean;
    }
    const float gain_r = exists ? gain[gate * hidden + unit] : 0.0f;
    const float gain_c = exists ? gain_cell[unit] : 0.0f, bias_c = exists ? bias_cell[unit] : 0.0f;

    float c = exists ? cells[(keep && reverse ? steps * units : 0) + own] : 0.0f;
    float h = exists ? state[own] : 0.0f;
    for (int i = thread; i < 4 * PITCH; i += blockDim.x) h_now[i] = 0.0f;
    for (int i = thread; i < WARPS; i += blockDim.x) {
        const int left = hidden - 8 * i;
        squares[i] = means[i] = spreads[i] = 0.0f;
        units_of[i] = left < 0 ? 0.0f : left < 8 ? (float)left : 8.0f;
        shares[i] = left <= 0 ? 0.0f : 1.0f / units_of[i];
    }
    __syncthreads();
    const bool hands = exists && part == 0;
    float* const handed = &h_now[place_of(unit)];
    if (hands) *handed = h;

    // What a lane reads and writes of a step is this many bytes times the step behind where that of step 0 is. Lanes
    // without a unit read what the last unit reads, and write nothing.
    const unsigned gate_bytes = 4u * batch * hidden * sizeof(float);
    const long long own_gate = (long long)sequence * 4 * hidden + gate * hidden + (exists ? unit : hidden - 1);
    float* const gate_of_0 = made_once(gates + own_gate);
    float* const r_of_0 = made_once(r + own_gate);

    // Four lanes have the same h and c: each writes it somewhere else, if anywhere.
    const bool to_y = part == 1, to_cells = part == 3;
    const bool writes = exists && (to_y || (part > 1 && keep)), keeps = exists && keep;
    const unsigned out_bytes = made_once((unsigned)batch * (to_y ? y_width : hidden) * (unsigned)sizeof(float));
    float* const slot_of_0 = (to_cells ? cells : hiddens) + own + (1 - reverse) * units;  // of what follows step 0
    float* const out_of_0 = made_once(to_y ? y + (long long)sequence * y_width + y_offset + unit : slot_of_0);

    const int direction = made_once(reverse ? -1 : 1), ahead = made_once(AHEAD * direction);
    int step = reverse ? steps - 1 : 0;
    const int length = lengths ? lengths[sequence] - first_time : steps;
    float next[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) next[i] = i < steps ? *at_step(gate_of_0, step + direction * i, gate_bytes) : 0.0f;
    __syncthreads();

    for (int left = steps; left > 0; left -= AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (left <= i) break;
            const float input = next[i];
            float recurrent = own_sum(0.0f, 0.0f, w, h_now + part * PITCH);
            if (left > i + AHEAD) next[i] = *at_step(gate_of_0, step + ahead, gate_bytes);
            // Over a unit's gates, then over the warp's eight units.
            const float of_four = sum_of_four_lanes<4>(sum_of_four_lanes<1>(recurrent * recurrent));
            const float of_warp = sum_over_lanes<16, 32>(of_four);
            if (lane == 0) squares[warp] = of_warp;
            __syncthreads();

            float sum = 0.0f;
#pragma unroll
            for (int q = 0; q < WARPS / 4; ++q) sum += sum_of_four(((const float4*)squares)[q]);
            const float scale_r = rsqrtf(sum * per_row + NORM_EPSILON);
            recurrent *= scale_r;
            const float activated = activated_gate(gate, input + gain_r * recurrent);
            const float in = __shfl_sync(ALL_LANES, activated, 0, 4);
            const float forget = __shfl_sync(ALL_LANES, activated, 1, 4);
            const float candidate = __shfl_sync(ALL_LANES, activated, 2, 4);
            const float out = __shfl_sync(ALL_LANES, activated, 3, 4);
            const float c_next = fmaf(forget, c, in * candidate);
            const float first_c = __shfl_sync(ALL_LANES, c_next, 0);
            const float distance = exists ? c_next - first_c : 0.0f;
            const float along_warp = sum_over_lanes<16, 32>(sum_of_four_lanes<4>(distance));
            const float squared_warp = sum_over_lanes<16, 32>(sum_of_four_lanes<4>(distance * distance));
            if (lane == 0) {
                const float per_own = shares[warp];
                means[warp] = first_c + along_warp * per_own;
                spreads[warp] = squared_warp - along_warp * along_warp * per_own;
            }
            __syncthreads();

            const int four = lane % (WARPS / 4);  // warps of which this lane adds up what they have
            const float4 mean = ((const float4*)means)[four], spread_of = ((const float4*)spreads)[four];
            const float4 n = ((const float4*)units_of)[four];
            const float first_mean = means[0];
            const float4 off = {mean.x - first_mean, mean.y - first_mean, mean.z - first_mean, mean.w - first_mean};
            const float4 off_n = {n.x * off.x, n.y * off.y, n.z * off.z, n.w * off.w};
            const float4 product = {off_n.x * off.x, off_n.y * off.y, off_n.z * off.z, off_n.w * off.w};
            const float along = sum_over_lanes<1, WARPS / 4>(sum_of_four(off_n));
            const float squared = sum_over_lanes<1, WARPS / 4>(sum_of_four(spread_of) + sum_of_four(product));
            const float mean_c = first_mean + along * per_unit, spread = squared - along * along * per_unit;
            const float scale_c = rsqrtf(spread * per_unit + NORM_EPSILON);
            const bool runs = step < length, next_runs = step + direction < length;
            float shown;
            if (runs) {
                c = c_next;
                h = out * tanhf(gain_c * ((c - mean_c) * scale_c) + bias_c);
                shown = to_cells ? c : to_y || next_runs ? h : 0.0f;
                if (keeps) {
                    *at_step(gate_of_0, step, gate_bytes) = activated;
                    *at_step(r_of_0, step, gate_bytes) = recurrent;
                    if (thread == 0) {
                        float* norm = norms + 4 * ((long long)step * batch + sequence);
                        norm[1] = scale_r;
                        norm[2] = mean_c;
                        norm[3] = scale_c;
                    }
                }
            } else {
                shown = to_cells ? c : !to_y && next_runs ? h : 0.0f;
            }
            if (hands) *handed = h;
            if (writes) *at_step(out_of_0, step, out_bytes) = shown;
            step += direction;
            __syncthreads();
        }
    }
    if (hands) state[own] = h;
    if (exists && part == 1 && !keep) cells[own] = c;
}
