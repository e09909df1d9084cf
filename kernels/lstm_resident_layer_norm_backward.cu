// Backpropagation through all time steps of one small LSTM layer with layer norm in one launch: the twin of
// lstm_resident_layer_norm_forward. The formulas are those of lstm_variant_cell_backward.cu:
//
//     e = dh * o * tanh'(n) * gain_c              dc += 1/std_c * (e - mean(e) - norm(c) * mean(e * norm(c)))
//     da as without layer norm, of that dc        d = da * gain_r
//     dr = 1/std_r * (d - mean(d) - norm(r) * mean(d * norm(r)))        dh[t-1] = W_hh^T dr
//
// da and dr replace the activated gates and norm(r). What becomes of the products of x is
// lstm_layer_norm_inputs_backward's.
//
// Who owns what: as in lstm_resident_backward. A block owns SEQUENCES sequences, and waits for no other block. Eight
// neighbouring lanes own a hidden unit: its dh is a sum over all 4*hidden of dr, of which each lane takes an eighth.
// The first four make one gate's gradient each. Gradients of the gains and of the cell's bias are added up over time in
// registers: a gate's gain by its lane, the cell's by the two next ones.
//
// The means are sums over the block: over a warp's units by shuffles, then over the warps through shared memory.
// Those over d are had together with those over e: lstm_persistent_layer_norm_backward.cu says how, out of sums that
// lstm_layer_norm_slope_sums has made beforehand. A step has two barriers, for the sums and for dr.
//
// What a step reads from memory is two numbers per lane (of each gate its value and norm(r), the norms, the cell state
// before and after, dy), and is fetched AHEAD steps before it is used; and one of the sums made beforehand, which
// another kernel has just left in the cache, and which is needed behind the first barrier. As in lstm_resident_backward,
// what lanes read through one pointer is not __restrict__ const where one of them reads what is written.
//
// Bytes per hidden unit and step: reads 4 gates + 4 r + 2 cells (+ 1 dy), writes 4 gates + 4 r.
//
// hidden is at most 8 * QUADS; a block has 32 threads for every 4 hidden units.
#include "lane_sums.cuh"
#include "resident_product.cuh"

#define AHEAD (QUADS == 4 ? 4 / SEQUENCES : 2 / SEQUENCES)  // more would not fit into the registers
#define EIGHTH (4 * QUADS)        // pre-activations in a lane's part of the sum
#define STRIDE (8 * EIGHTH + 32)  // of a sequence's; each part begins 4 further on, in banks of its own
#define WARPS (2 * QUADS)         // at most

// What each warp has left, added up by every WARPS / 4 lanes, of which each takes four: a + b is b + a, so all of them
// get the same bits.
__device__ __forceinline__ float sum_over_warps(const float* of_warps, int lane) {
    const float4 four = ((const float4*)of_warps)[lane % (WARPS / 4)];
    return sum_over_lanes<1, WARPS / 4>((four.x + four.y) + (four.z + four.w));
}

extern "C" __global__ void __launch_bounds__(64 * QUADS, 1) lstm_resident_layer_norm_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    float* r,                          // (steps, batch, 4*hidden) norm(r); dr in place
    const float* norms,                // (steps, batch, 4) behind the first: 1/std of r, mean and 1/std of c
    const float* __restrict__ slope_sums,  // (steps, batch, 4) of lstm_layer_norm_slope_sums
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ gain,    // (4*hidden,) gain_r
    const float* __restrict__ gain_cell,  // (hidden,)
    const float* __restrict__ bias_cell,  // (hidden,)
    const float* cells,                // (steps + 1, batch, hidden)
    const float* dy,                   // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    float* d_norm,                     // (batch, 10*hidden) behind the first 4*hidden, gradients of gain_r, gain_cell
                                       // and bias_cell so far, apart for each sequence
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse) {                     // 1: the forward pass went from the last step to the first
    __shared__ __align__(16) float d_product[SEQUENCES][STRIDE];  // dr
    __shared__ float per_unit;  // 1 / hidden, here as the next ones because registers are short
    __shared__ float gains[4][8 * QUADS];
    __shared__ float of_cell[2][8 * QUADS];  // gain and bias
    // Sums over a warp's units: of e, e * norm(c), and with x for dc of d, d * norm(r).
    __shared__ __align__(16) float of_warps[4][SEQUENCES][WARPS];
    const int thread = threadIdx.x, unit = thread / 8, role = thread % 8, lane = thread % 32, warp = thread / 32;
    const int first_lane = lane & ~7;
    const bool exists = unit < hidden, has_gate = role < 4;
    const long long units = (long long)batch * hidden;

    float w[EIGHTH];  // of output `unit`; pre-activation number q is gate q % 4 of unit q / 4
#pragma unroll
    for (int k = 0; k < EIGHTH; ++k) {
        const int q = role * EIGHTH + k, row = q % 4 * hidden + q / 4;
        w[k] = exists && q / 4 < hidden ? weight[(long long)row * hidden + unit] : 0.0f;
    }
    if (has_gate) gains[role][unit] = exists ? gain[role * hidden + unit] : 0.0f;
    if (role < 2) of_cell[role][unit] = !exists ? 0.0f : role == 0 ? gain_cell[unit] : bias_cell[unit];

    if (thread == 0) per_unit = 1.0f / hidden;
    const int first_sequence = blockIdx.x * SEQUENCES;
    float d_cell[SEQUENCES], d_hidden[SEQUENCES], d_gain[SEQUENCES];
    int length[SEQUENCES];
    bool mine[SEQUENCES];  // the last block may have fewer sequences
    for (int i = thread; i < SEQUENCES * STRIDE; i += blockDim.x) (&d_product[0][0])[i] = 0.0f;
    for (int i = thread; i < 4 * SEQUENCES * WARPS; i += blockDim.x) (&of_warps[0][0][0])[i] = 0.0f;
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        const int sequence = first_sequence + s;
        mine[s] = exists && sequence < batch;
        d_hidden[s] = mine[s] ? dh[(long long)sequence * hidden + unit] : 0.0f;
        d_cell[s] = mine[s] ? dc[(long long)sequence * hidden + unit] : 0.0f;
        length[s] = lengths && mine[s] ? lengths[sequence] : steps;
        d_gain[s] = 0.0f;
    }

    // What a lane reads for each step of a sequence: a gate, a cell state, or dy; and norm(r) of a gate, or a norm. One
    // step further on, a pointer moves by its row's width times the batch, back in time unless `reverse`.
    const int direction = reverse ? 1 : -1, first_step = reverse ? 0 : steps - 1;
    const long long first_row = (long long)first_step * batch + first_sequence;
    const bool reads = exists && (role < 6 || (role == 6 && dy));
    const int row = has_gate ? 4 * hidden : role < 6 ? hidden : dy_width, row_of_r = has_gate ? 4 * hidden : 4;
    const long long move = (long long)direction * batch * row, move_of_r = (long long)direction * batch * row_of_r;
    const float* ahead = has_gate   ? gates + role * hidden + unit
                         : role < 6 ? cells + (role == 4 ? reverse : 1 - reverse) * units + unit
                         : dy       ? dy + dy_offset + unit
                                    : gates;  // and not read
    const float* ahead_of_r = has_gate ? r + role * hidden + unit : norms + role % 4;
    ahead += first_row * row;
    ahead_of_r += first_row * row_of_r;
    float* tape = has_gate ? gates : r;  // lanes with a gate write its da, the others its dr


    float next[AHEAD][SEQUENCES], next_of_r[AHEAD][SEQUENCES], of_slopes[SEQUENCES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int s = 0; s < SEQUENCES; ++s) {
            next[i][s] = reads && mine[s] && i < steps ? ahead[s * row] : 0.0f;
            next_of_r[i][s] = mine[s] && i < steps ? ahead_of_r[s * row_of_r] : 0.0f;
        }
        ahead += move;
        ahead_of_r += move_of_r;
    }
    __syncthreads();

    for (int first = 0; first < steps; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? count : steps - 1 - count;
            float item[SEQUENCES], of_r[SEQUENCES], d_gate[SEQUENCES];
            float slope[SEQUENCES], x[SEQUENCES], normal[SEQUENCES];
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                item[s] = next[i][s];
                of_r[s] = next_of_r[i][s];
                next[i][s] = reads && mine[s] && count + AHEAD < steps ? ahead[s * row] : 0.0f;
                next_of_r[i][s] = mine[s] && count + AHEAD < steps ? ahead_of_r[s * row_of_r] : 0.0f;
                const long long row_of_sums = (long long)step * batch + first_sequence + s;
                of_slopes[s] = mine[s] ? slope_sums[row_of_sums * 4 + role % 4] : 0.0f;
                const float in = __shfl_sync(ALL_LANES, item[s], first_lane);
                const float forget = __shfl_sync(ALL_LANES, item[s], first_lane + 1);
                const float candidate = __shfl_sync(ALL_LANES, item[s], first_lane + 2);
                const float out = __shfl_sync(ALL_LANES, item[s], first_lane + 3);
                const float c_before = __shfl_sync(ALL_LANES, item[s], first_lane + 4);
                const float c_after = __shfl_sync(ALL_LANES, item[s], first_lane + 5);
                const float d_output = __shfl_sync(ALL_LANES, item[s], first_lane + 6);
                const float mean_c = __shfl_sync(ALL_LANES, of_r[s], first_lane + 6);
                const float scale_c = __shfl_sync(ALL_LANES, of_r[s], first_lane + 7);
                slope[s] = 0.0f;  // of a gate's pre-activation: what its gradient is for dc = 1
                if (role == 0) slope[s] = candidate * (in * (1.0f - in));
                if (role == 1) slope[s] = c_before * (forget * (1.0f - forget));
                if (role == 2) slope[s] = in * (1.0f - candidate * candidate);
                normal[s] = (c_after - mean_c) * scale_c;
                const float gain_c = of_cell[0][unit], tanh_n = tanhf(gain_c * normal[s] + of_cell[1][unit]);
                const float d_h = d_hidden[s] + d_output;
                const float dn = d_h * out * (1.0f - tanh_n * tanh_n);
                const bool runs = mine[s] && step < length[s];
                const float e = runs ? dn * gain_c : 0.0f;
                x[s] = d_cell[s] + scale_c * e;
                d_gate[s] = role == 3 ? d_h * tanh_n * (out * (1.0f - out)) : x[s] * slope[s];
                const float d = runs && has_gate ? d_gate[s] * gains[role % 4][unit] : 0.0f;
                if (runs && role == 4) d_gain[s] += dn * normal[s];
                if (runs && role == 5) d_gain[s] += dn;
                // Over the warp's four units, in lane 0 at least; for d over a unit's gates first.
                const float sum_e = sum_of_four_lanes<8>(e);
                const float along_e = sum_of_four_lanes<8>(runs ? e * normal[s] : 0.0f);
                const float sum_d = sum_of_four_lanes<8>(sum_of_four_lanes<1>(d));
                const float along_d = sum_of_four_lanes<8>(sum_of_four_lanes<1>(runs && has_gate ? d * of_r[s] : 0.0f));
                if (lane == 0) {
                    of_warps[0][s][warp] = sum_e;
                    of_warps[1][s][warp] = along_e;
                    of_warps[2][s][warp] = sum_d;
                    of_warps[3][s][warp] = along_d;
                }
            }
            ahead += move;
            ahead_of_r += move_of_r;
            __syncthreads();

#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                const float scale_r = __shfl_sync(ALL_LANES, of_r[s], first_lane + 5);
                const float scale_c = __shfl_sync(ALL_LANES, of_r[s], first_lane + 7) * per_unit;
                const float e = sum_over_warps(of_warps[0][s], lane) * scale_c;
                const float f = sum_over_warps(of_warps[1][s], lane) * scale_c;
                float sum = sum_over_warps(of_warps[2][s], lane), along = sum_over_warps(of_warps[3][s], lane);
                float of_slope[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) of_slope[k] = __shfl_sync(ALL_LANES, of_slopes[s], first_lane + k);
                sum -= e * of_slope[0] + f * of_slope[1];
                along -= e * of_slope[2] + f * of_slope[3];
                const float forget = __shfl_sync(ALL_LANES, item[s], first_lane + 1);
                const bool runs = mine[s] && step < length[s];
                float dr = 0.0f;
                if (runs) {
                    const float d_c = x[s] - (e + f * normal[s]);
                    if (role < 3) d_gate[s] = d_c * slope[s];
                    const float off = 0.25f * per_unit * (sum + of_r[s] * along);
                    dr = has_gate ? scale_r * (d_gate[s] * gains[role % 4][unit] - off) : 0.0f;
                    if (has_gate) d_gain[s] += d_gate[s] * of_r[s];
                    d_cell[s] = d_c * forget;
                    d_hidden[s] = 0.0f;
                } else {
                    d_gate[s] = 0.0f;
                }
                dr = __shfl_sync(ALL_LANES, dr, first_lane + role % 4);
                if (!mine[s]) continue;
                const int q = 4 * unit + role;
                if (has_gate) d_product[s][q + q / EIGHTH * 4] = dr;
                const long long to = ((long long)step * batch + first_sequence + s) * 4 + role % 4;
                tape[to * hidden + unit] = has_gate ? d_gate[s] : dr;
            }
            __syncthreads();
#pragma unroll
            for (int s = 0; s < SEQUENCES; ++s) {
                float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                const float sum = sum_over_lanes<1, 8>(add_product(sums, w, &d_product[s][role * (EIGHTH + 4)]));
                if (step < length[s]) d_hidden[s] += sum;
            }
        }
    }
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        if (!mine[s]) continue;
        const long long sequence = first_sequence + s, at = sequence * hidden + unit;
        if (role == 0) dh[at] = d_hidden[s];
        if (role == 1) dc[at] = d_cell[s];
        float* of_sequence = d_norm + sequence * 10 * hidden + unit;
        if (has_gate) of_sequence[(4 + role) * hidden] += d_gain[s];
        if (role == 4) of_sequence[8 * hidden] += d_gain[s];
        if (role == 5) of_sequence[9 * hidden] += d_gain[s];
    }
}
