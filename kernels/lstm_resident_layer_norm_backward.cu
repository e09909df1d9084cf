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
// Who owns what: as in lstm_resident_backward. A block owns a sequence, and waits for no other block. Four neighbouring
// lanes own a hidden unit: each makes one gate's gradient, and all of them have its dh and dc. Sixteen lanes make the
// dh of four units together (sixteenth_products.cuh). Gradients of the gains and of the cell's bias are added up over
// time in registers: a gate's gain by its lane, the cell's by a unit's first two.
//
// The means are sums over the block: over a warp's units by shuffles, then over the warps through shared memory, each
// of a unit's lanes adding up one of the four. Those over d are had together with those over e:
// lstm_persistent_layer_norm_backward.cu says how, out of sums that lstm_layer_norm_slope_sums has made beforehand. A
// step has two barriers, for the sums and for dr.
//
// What does not depend on dh is prepared for four steps at once, each of a unit's lanes doing so for a step of its own,
// from what it fetched four steps before that. The first warp fetches what belongs to a step and no unit. All of it
// lies in shared memory until its step comes.
//
// Steps that a sequence does not have are none here: they get zeros at the end.
//
// Bytes per hidden unit and step: reads 4 gates + 4 r + 2 cells (+ 1 dy), writes 4 gates + 4 r.
//
// hidden is at most 16 * QUADS, and batch * hidden below 2^28; a block has 32 threads for every 8 hidden units.
#include "lane_sums.cuh"
#include "registers.cuh"
#include "sixteenth_products.cuh"

#define WARPS (2 * QUADS)  // at most

extern "C" __global__ void __launch_bounds__(64 * QUADS, 8 / QUADS) lstm_resident_layer_norm_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    float* r,                          // (steps, batch, 4*hidden) norm(r); dr in place
    const float* __restrict__ norms,   // (steps, batch, 4) behind the first: 1/std of r, mean and 1/std of c
    const float* __restrict__ slope_sums,  // (steps, batch, 4) of lstm_layer_norm_slope_sums
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ gain,    // (4*hidden,) gain_r
    const float* __restrict__ gain_cell,  // (hidden,)
    const float* __restrict__ bias_cell,  // (hidden,)
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const float* __restrict__ dy,      // (steps, batch, dy_width), or null
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
    const int sequence = blockIdx.x;
    __shared__ __align__(16) float dr_now[4 * UNITS];
    // Sums over a warp's units: of e, e * norm(c), and with x for dc of d, d * norm(r).
    __shared__ __align__(16) float of_warps[4][WARPS];
    // What is prepared of four steps and the four after them. Two units more than there can be, so that what four lanes
    // write of a step each has banks of its own.
    __shared__ float4 of_gates[2][4][UNITS + 2];  // what gives each gate's gradient from dc, the output gate's from dh
    __shared__ float4 of_r[2][4][UNITS + 2];      // norm(r) of each gate
    __shared__ float4 of_cell[2][4][UNITS + 2];   // what gives the gradient of norm(c) from dh; norm(c), f, dy
    __shared__ float of_step[2][4][8];            // slope_sums and norms
    const int thread = threadIdx.x, unit = thread / 4, gate = thread % 4, part = thread % 16;
    const int lane = thread % 32, warp = thread / 32;
    const bool exists = unit < hidden, odd = gate % 2;
    const long long at = (long long)sequence * hidden + unit;
    const float per_unit = 1.0f / hidden;

    float w[4][4 * QUADS];
    sixteenths_of_columns(w, weight, unit, part, hidden);
    const float gain_r = exists ? gain[gate * hidden + unit] : 0.0f;
    const float gain_c = exists ? gain_cell[unit] : 0.0f, bias_c = exists ? bias_cell[unit] : 0.0f;
    for (int i = thread; i < 4 * UNITS; i += blockDim.x) dr_now[i] = 0.0f;  // also of units that there are not
    for (int i = thread; i < 4 * WARPS; i += blockDim.x) (&of_warps[0][0])[i] = 0.0f;

    int running = steps;
    if (lengths) running = min(max(lengths[sequence], 0), steps);
    const int direction = reverse ? 1 : -1, first_step = reverse ? 0 : running - 1;
    float d_hidden = exists ? dh[at] : 0.0f, d_cell = exists ? dc[at] : 0.0f;
    float d_gain = 0.0f, d_of_cell = 0.0f;  // of the cell's gain in a unit's first lane, of its bias in the others

    // What is read and written of a step is this many bytes times the step behind where that of step 0 is.
    const unsigned cell_bytes = 4u * batch * hidden, gate_bytes = 4 * cell_bytes, dy_bytes = 4u * batch * dy_width;
    const long long first_gate = 4 * at - 3 * unit;  // of the unit
    float* const gate_of_0 = made_once(gates + first_gate + gate * hidden);
    float* const r_of_0 = made_once(r + first_gate + gate * hidden);
    const float* const cell_of_0 = made_once(cells + at);
    const float* const dy_of_0 = made_once(dy + (dy ? (long long)sequence * dy_width + dy_offset + unit : 0));

    float4 gates_there, r_there;
    float lower, upper, d_output, number;
    const auto fetch = [&](int first) {  // from step number `first` on, one each
        const int there = first_step + direction * (first + gate);
        const float4 zeros = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        gates_there = r_there = zeros;
        lower = upper = d_output = number = 0.0f;
        if (exists && first + gate < running) {
            const float* const own = at_step(gate_of_0, there, gate_bytes) - gate * hidden;
            gates_there = make_float4(own[0], own[hidden], own[2 * hidden], own[3 * hidden]);
            const float* const own_r = at_step(r_of_0, there, gate_bytes) - gate * hidden;
            r_there = make_float4(own_r[0], own_r[hidden], own_r[2 * hidden], own_r[3 * hidden]);
            const float* const cell = at_step(cell_of_0, there, cell_bytes);
            lower = cell[0], upper = cell[batch * hidden];
            if (dy) d_output = *at_step(dy_of_0, there, dy_bytes);
        }
        if (thread < 32 && first + thread / 8 < running) {
            const long long row = (long long)(first_step + direction * (first + thread / 8)) * batch + sequence;
            number = (thread % 8 < 4 ? slope_sums : norms)[4 * row + thread % 4];
        }
    };
    const auto hand = [&](int buffer) {
        if (thread < 32) of_step[buffer][thread / 8][thread % 8] = number;
    };
    const auto prepare = [&](int buffer) {  // behind a barrier after hand()
        const float in = gates_there.x, forget = gates_there.y, candidate = gates_there.z, out = gates_there.w;
        const float before = reverse ? upper : lower, after = reverse ? lower : upper;
        const float normal = (after - of_step[buffer][gate][6]) * of_step[buffer][gate][7];
        const float tanh_n = tanhf(gain_c * normal + bias_c);
        of_gates[buffer][gate][unit] =
            make_float4(candidate * (in * (1.0f - in)), before * (forget * (1.0f - forget)),
                        in * (1.0f - candidate * candidate), tanh_n * (out * (1.0f - out)));
        of_r[buffer][gate][unit] = r_there;
        of_cell[buffer][gate][unit] = make_float4(out * (1.0f - tanh_n * tanh_n), normal, forget, d_output);
    };
    fetch(0);
    hand(0);
    __syncthreads();
    prepare(0);
    fetch(4);
    __syncthreads();

#pragma unroll 1
    for (int count = 0; count < running; ++count) {
        const int i = count % 4, buffer = count / 4 % 2, step = first_step + direction * count;
        const float4 cell = of_cell[buffer][i][unit];
        const float* const now = of_step[buffer][i];
        const float slope = ((const float*)of_gates[buffer][i])[thread];
        const float own_r = ((const float*)of_r[buffer][i])[thread];
        d_hidden += cell.w;
        const float dn = exists ? d_hidden * cell.x : 0.0f, e = dn * gain_c, x = d_cell + now[7] * e;
        float d_gate = (gate == 3 ? d_hidden : x) * slope;
        const float d = exists ? d_gate * gain_r : 0.0f, along_r = d * own_r;
        d_of_cell += gate == 0 ? dn * cell.y : dn;
        // Over a unit's gates: in even lanes of d, in odd ones of d * norm(r). Then over the warp's units, each of a
        // unit's lanes one of the four sums.
        float of_gate = (odd ? along_r : d) + __shfl_xor_sync(ALL_LANES, odd ? d : along_r, 1);
        of_gate += __shfl_xor_sync(ALL_LANES, of_gate, 2);
        const float own = gate == 0 ? e : gate == 1 ? e * cell.y : of_gate;
        const float of_warp = sum_over_lanes<16, 32>(sum_of_four_lanes<4>(own));
        if (lane < 4) of_warps[gate][warp] = of_warp;
        __syncthreads();

        float total = 0.0f;
#pragma unroll
        for (int q = 0; q < WARPS / 4; ++q) {
            const float4 four = ((const float4*)of_warps[gate])[q];
            total += (four.x + four.y) + (four.z + four.w);
        }
        const float scale_c = now[7] * per_unit;
        const float mean_e = __shfl_sync(ALL_LANES, total, 0, 4) * scale_c;
        const float along_e = __shfl_sync(ALL_LANES, total, 1, 4) * scale_c;
        const float sum = __shfl_sync(ALL_LANES, total, 2, 4) - (mean_e * now[0] + along_e * now[1]);
        const float along = __shfl_sync(ALL_LANES, total, 3, 4) - (mean_e * now[2] + along_e * now[3]);
        const float d_c = x - (mean_e + along_e * cell.y);
        if (gate < 3) d_gate = d_c * slope;
        const float dr = now[5] * (d_gate * gain_r - 0.25f * per_unit * (sum + own_r * along));
        d_gain += d_gate * own_r;
        d_cell = d_c * cell.z;
        if (exists) {
            dr_now[thread] = dr;
            *at_step(gate_of_0, step, gate_bytes) = d_gate;
            *at_step(r_of_0, step, gate_bytes) = dr;
        }
        __syncthreads();
        if (i == 1) hand(buffer ^ 1);
        if (i == 2) {
            prepare(buffer ^ 1);
            fetch(count + 6);
        }
        d_hidden = sum_of_sixteenths(w, dr_now, part);
    }
    if (!exists) return;
    if (gate == 0) dh[at] = d_hidden;
    if (gate == 1) dc[at] = d_cell;
    float* const of_sequence = d_norm + (long long)sequence * 10 * hidden + unit;
    of_sequence[(4 + gate) * hidden] += d_gain;
    if (gate < 2) of_sequence[(8 + gate) * hidden] += d_of_cell;
    for (int step = running; step < steps; ++step) {
        *at_step(gate_of_0, step, gate_bytes) = 0.0f;
        *at_step(r_of_0, step, gate_bytes) = 0.0f;
    }
}
