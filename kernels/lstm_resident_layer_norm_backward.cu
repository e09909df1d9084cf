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
// Who owns what: a block owns a sequence, and waits for no other block. It has two warps for each of a multiprocessor's
// schedulers. The first four go back through time. LANES_OF_UNIT lanes own a hidden unit: each makes GATES of its
// gates' gradients, and all of them have its dh and dc, with the same bits. Sixteen lanes make the dh of their units
// together (group_products.cuh). Gradients of the gains and of the cell's bias are added up over time in registers.
//
// The four means are sums over the block: over a warp's units by its tensor core, then over the warps through shared
// memory, one of the four in each of four lanes. Those over d are had together with those over e:
// lstm_persistent_layer_norm_backward.cu says how, out of sums that lstm_layer_norm_slope_sums has made beforehand. A
// step has two barriers, for the sums and for dr.
//
// All that is added up is linear in dh and dc. What it is multiplied by does not depend on them. The other four warps
// fetch what it is made of, for four steps at once, a step each, make it four steps later, and put it into shared
// memory another four before it is used. So from dh to what is added up there is one multiply-add. They write to memory
// what each step leaves, too.
//
// Steps that a sequence does not have are none here: they get zeros at the end.
//
// Bytes per hidden unit and step: reads 4 gates + 4 r + 2 cells (+ 1 dy), writes 4 gates + 4 r.
//
// hidden is at most 16 * QUADS, and batch * hidden below 2^28; a block has 256 threads. Two of them share a
// multiprocessor with QUADS = 2, none with 4.
//
// FLOAT16, BFLOAT16  (storage.cuh) gates, r, weight, gains, the cell's bias and dy have 16 bits, each rounded once to
//          the nearest. All else is float32: the product takes dr as it is before it is rounded.
#include "common.cuh"
#include "exponential_gates.cuh"
#include "group_products.cuh"
#include "registers.cuh"
#include "storage.cuh"
#include "warp_roles.cuh"
#include "warp_sums.cuh"

#define WARPS 4                    // of either kind
#define GATES (QUADS / 2)          // of a lane, and of the four sums that it adds to
#define SERVED (QUADS / 2)         // hidden units that a lane of the other warps prepares: 32 apart
#define OF_A_SUM (2 * QUADS)       // numbers in shared memory that are added up to one of the four

struct __align__(4 * GATES) PerGate {
    float of[GATES];               // each of a lane's gates
};

struct __align__(8 * GATES) OwnGates {
    float slope[GATES];            // what gives each gate's gradient from dc, the output gate's from dh
    float r[GATES];                // norm(r)
};

// What is prepared of a step.
struct __align__(16) Prepared {
    float4 of_sums[LANES_OF_UNIT][UNITS];  // what is added up of dh, one or two, and of dc; and the gradient of the
                                           // cell's gain or bias from dh
    OwnGates of_gates[LANES_OF_UNIT][UNITS];
    float4 of_cell[UNITS];                 // what of dh is added to dc, f, norm(c), dy
    float of_step[8];                      // slope_sums as they are needed, and norms
};

extern "C" __global__ void __launch_bounds__(64 * WARPS, 4 / QUADS) lstm_resident_layer_norm_backward(
    store* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    store* r,                          // (steps, batch, 4*hidden) norm(r); dr in place
    const float* __restrict__ norms,   // (steps, batch, 4) behind the first: 1/std of r, mean and 1/std of c
    const float* __restrict__ slope_sums,  // (steps, batch, 4) of lstm_layer_norm_slope_sums
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const store* __restrict__ gain,    // (4*hidden,) gain_r
    const store* __restrict__ gain_cell,  // (hidden,)
    const store* __restrict__ bias_cell,  // (hidden,)
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const store* __restrict__ dy,      // (steps, batch, dy_width), or null
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
    __shared__ float4 da_now[UNITS];
    __shared__ float4 dr_now[UNITS];
    __shared__ __align__(16) float of_warps[4][OF_A_SUM];  // parts of the sums
    __shared__ Prepared prepared[2][4];                    // of four steps and the four after them
    const int lane = threadIdx.x % 32, warp = own_warp();
    const float per_unit = 1.0f / hidden;

    int running = steps;
    if (lengths) running = min(max(lengths[sequence], 0), steps);
    const int direction = reverse ? 1 : -1, first_step = reverse ? 0 : running - 1;

    if (warp >= WARPS) {
        // What is read and written of a step is this many bytes times the step behind where that of step 0 is.
        const unsigned cell_bytes = 4u * batch * hidden, gate_bytes = (unsigned)sizeof(store) * cell_bytes;
        const unsigned dy_bytes = (unsigned)sizeof(store) * batch * dy_width;
        const int turn = warp - WARPS;
        const long long first_cell = (long long)sequence * hidden + lane;
        const store* const gates_of_0 = made_once(gates + 4 * first_cell - 3 * lane);
        const store* const rs_of_0 = made_once(r + 4 * first_cell - 3 * lane);
        const float* const cells_of_0 = made_once(cells + first_cell);
        const store* const dy_of_0 = made_once(dy + (dy ? (long long)sequence * dy_width + dy_offset + lane : 0));
        float gain_r[SERVED][4], gain_c[SERVED], bias_c[SERVED];
        bool exists[SERVED];
#pragma unroll
        for (int p = 0; p < SERVED; ++p) {
            const int unit = lane + 32 * p;
            exists[p] = unit < hidden;
#pragma unroll
            for (int k = 0; k < 4; ++k) gain_r[p][k] = exists[p] ? real_of(gain[k * hidden + unit]) : 0.0f;
            gain_c[p] = exists[p] ? real_of(gain_cell[unit]) : 0.0f;
            bias_c[p] = exists[p] ? real_of(bias_cell[unit]) : 0.0f;
        }

        // What is fetched and prepared is of step number first + turn.
        store of_4[SERVED][4], r_of_4[SERVED][4], d_output[SERVED];
        float lower[SERVED], upper[SERVED], of_row;
        const auto fetch_row = [&](int first) {
            const long long row = (long long)(first_step + direction * (first + turn)) * batch + sequence;
            of_row = 0.0f;
            if (lane < 8 && first + turn < running) of_row = (lane < 4 ? slope_sums : norms)[4 * row + lane % 4];
        };
        const auto fetch = [&](int first, int p) {
            const int there = first_step + direction * (first + turn);
            const bool is_there = exists[p] && first + turn < running;
            const store* const own = at_step(gates_of_0, there, gate_bytes) + 32 * p;
            const store* const own_r = at_step(rs_of_0, there, gate_bytes) + 32 * p;
            const float* const cell = at_step(cells_of_0, there, cell_bytes) + 32 * p;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                of_4[p][k] = is_there ? own[k * hidden] : stored(0.0f);
                r_of_4[p][k] = is_there ? own_r[k * hidden] : stored(0.0f);
            }
            lower[p] = is_there ? cell[0] : 0.0f, upper[p] = is_there ? cell[batch * hidden] : 0.0f;
            d_output[p] = is_there && dy ? at_step(dy_of_0, there, dy_bytes)[32 * p] : stored(0.0f);
        };
        const auto prepare = [&](int buffer) {
            Prepared& to = prepared[buffer][turn];
            const float scale_r = __shfl_sync(ALL_LANES, of_row, 5), mean_c = __shfl_sync(ALL_LANES, of_row, 6);
            const float scale_c = __shfl_sync(ALL_LANES, of_row, 7), per_row = 0.25f * per_unit * scale_r;
            if (lane < 8) to.of_step[lane] = lane < 4 ? of_row * per_row : of_row;
#pragma unroll
            for (int p = 0; p < SERVED; ++p) {
                const int unit = lane + 32 * p;
                const float in = real_of(of_4[p][0]), forget = real_of(of_4[p][1]);
                const float candidate = real_of(of_4[p][2]), out = real_of(of_4[p][3]);
                const float before = reverse ? upper[p] : lower[p], after = reverse ? lower[p] : upper[p];
                const float normal = (after - mean_c) * scale_c, n[1] = {fmaf(gain_c[p], normal, bias_c[p])};
                float tanh_n[1] = {2.0f * LOG2_E * n[0]};
                tanh_all(tanh_n, n);
                const float slopes[4] = {
                    candidate * (in * (1.0f - in)), before * (forget * (1.0f - forget)),
                    in * (1.0f - candidate * candidate), tanh_n[0] * (out * (1.0f - out))};
                float d[4], normals[4], sum = 0.0f, along = 0.0f;  // of what dc makes of the gates, through gain_r
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    to.of_gates[k / GATES][unit].slope[k % GATES] = slopes[k];
                    normals[k] = real_of(r_of_4[p][k]);
                    to.of_gates[k / GATES][unit].r[k % GATES] = normals[k];
                    d[k] = slopes[k] * gain_r[p][k];
                    if (k < 3) sum += d[k], along += d[k] * normals[k];
                }
                const float to_n = out * (1.0f - tanh_n[0] * tanh_n[0]), to_c = scale_c * gain_c[p] * to_n;
                const float of_dh[4] = {to_c * per_unit, to_c * per_unit * normal, per_row * (to_c * sum + d[3]),
                                        per_row * (to_c * along + d[3] * normals[3])};
                const float of_dc[4] = {0.0f, 0.0f, per_row * sum, per_row * along};
                const float of_cell[4] = {to_n * normal, to_n, 0.0f, 0.0f};
#pragma unroll
                for (int number = 0; number < LANES_OF_UNIT; ++number) {
                    const int other = (number + 2) % 4, last = GATES == 2 ? other : number;
                    to.of_sums[number][unit] = make_float4(of_dh[number], of_dh[other], of_dc[last], of_cell[number]);
                }
                to.of_cell[unit] = make_float4(to_c, forget, normal, real_of(d_output[p]));
            }
        };

        // What a warp writes: da or dr of 32 units.
        const int written = lane + turn % SERVED * 32;
        const bool writes = written < hidden && turn < 2 * SERVED;
        const float4* const from = (turn < SERVED ? da_now : dr_now) + written % UNITS;
        store* const to_of_0 = made_once((turn < SERVED ? gates : r) + 4ll * sequence * hidden + written);
        int step = first_step;
        const auto write = [&](float4 four) {
            store* const to = at_step(to_of_0, step, gate_bytes);
            if (writes) to[0] = stored(four.x), to[hidden] = stored(four.y);
            if (writes) to[2 * hidden] = stored(four.z), to[3 * hidden] = stored(four.w);
        };

        fetch_row(0);
#pragma unroll
        for (int p = 0; p < SERVED; ++p) fetch(0, p);
        prepare(0);
        fetch_row(4);
#pragma unroll
        for (int p = 0; p < SERVED; ++p) fetch(4, p);
        wait_for_all_warps();
        for (int first = 0; first < running; first += 4) {
            const bool whole = first + 4 <= running;
            if (whole) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    wait_for_all_warps();
                    wait_for_all_warps();
                    write(*from);
                    step += direction;
                    if (i == 0) prepare(first / 4 % 2 ^ 1);
                    if (i == 1) fetch_row(first + 8);
                    if (i > 0 && i <= SERVED) fetch(first + 8, i - 1);
                }
            } else {
#pragma unroll 1
                for (int i = first; i < running; ++i) {
                    wait_for_all_warps();
                    wait_for_all_warps();
                    write(*from);
                    step += direction;
                }
            }
        }
        for (step = running; step < steps; ++step) write(make_float4(0.0f, 0.0f, 0.0f, 0.0f));
        return;
    }

    const int unit = warp * UNITS_OF_WARP + lane % UNITS_OF_WARP, number = lane / UNITS_OF_WARP, gate = number * GATES;
    const int part = made_once(part_of(lane)), own = made_once(unit * LANES_OF_UNIT + number);
    const bool exists = unit < hidden, has_out = number == LANES_OF_UNIT - 1;  // among its gates
    float w[OUTPUTS][4 * QUADS], gain_r[GATES];
    columns_of_group(w, weight, unit, part, hidden);
#pragma unroll
    for (int k = 0; k < GATES; ++k) gain_r[k] = exists ? real_of(gain[(gate + k) * hidden + unit]) : 0.0f;

    const long long at = (long long)sequence * hidden + unit;
    float d_hidden = exists ? dh[at] : 0.0f, d_cell = exists ? dc[at] : 0.0f;
    float d_gain[GATES], d_of_cell = 0.0f;  // the cell's gain's in a unit's first lane, its bias's in the second
#pragma unroll
    for (int k = 0; k < GATES; ++k) d_gain[k] = 0.0f;

    float4 cell_now, sums_now, slopes_now;
    OwnGates own_now;
    float gain_now[GATES], added[GATES];  // what is added to the sums without what comes from the products
    const auto take = [&](int buffer, int i) {
        const Prepared& from = prepared[buffer][i];
        cell_now = from.of_cell[unit], sums_now = from.of_sums[number][unit], own_now = from.of_gates[number][unit];
        slopes_now = *(const float4*)from.of_step;
#pragma unroll
        for (int k = 0; k < GATES; ++k) gain_now[k] = gain_r[k] * from.of_step[5];
        added[0] = sums_now.x * cell_now.w;
        added[GATES - 1] = fmaf(sums_now.z, d_cell, GATES == 2 ? sums_now.y * cell_now.w : added[0]);
    };
    wait_for_all_warps();
    take(0, 0);
    // Step number first + i, of four that were prepared together. Before its product it takes what the next one needs.
    const auto run_step = [&](int first, int i, bool goes_on) {
        const int buffer = first / 4 % 2;
#pragma unroll
        for (int k = 0; k < GATES; ++k) {
            const float of_lane = fmaf(k ? sums_now.y : sums_now.x, d_hidden, added[k]);
            const float of_8 = sum_of_eight_neighbours(of_lane);
            if (lane < 4) of_warps[lane / GATES + 2 * k][GATES * warp + lane % GATES] = of_8;
        }
        d_hidden += cell_now.w;
        d_of_cell += sums_now.w * d_hidden;
        const float x = fmaf(cell_now.x, d_hidden, d_cell);
        wait_for_all_warps();

        float total = 0.0f;
#pragma unroll
        for (int q = 0; q < OF_A_SUM / 4; ++q) {
            const float4 four = ((const float4*)of_warps[lane % 4])[q];
            total = q ? total + ((four.x + four.y) + (four.z + four.w)) : (four.x + four.y) + (four.z + four.w);
        }
        const float mean_e = __shfl_sync(ALL_LANES, total, 0, 4), along_e = __shfl_sync(ALL_LANES, total, 1, 4);
        const float sum = __shfl_sync(ALL_LANES, total, 2, 4) - (mean_e * slopes_now.x + along_e * slopes_now.y);
        const float along = __shfl_sync(ALL_LANES, total, 3, 4) - (mean_e * slopes_now.z + along_e * slopes_now.w);
        const float d_c = x - fmaf(along_e, cell_now.z, mean_e);
        PerGate d_gate, dr;
#pragma unroll
        for (int k = 0; k < GATES; ++k) {
            d_gate.of[k] = (k == GATES - 1 && has_out ? d_hidden : d_c) * own_now.slope[k];
            dr.of[k] = fmaf(d_gate.of[k], gain_now[k], -fmaf(own_now.r[k], along, sum));
            d_gain[k] += d_gate.of[k] * own_now.r[k];
        }
        d_cell = d_c * cell_now.y;
        // Units that there are not have zeros in the weights that these are multiplied by.
        ((PerGate*)dr_now)[own] = dr, ((PerGate*)da_now)[own] = d_gate;
        wait_for_all_warps();
        float4 of_sources[QUADS];
#pragma unroll
        for (int q = 0; q < QUADS; ++q) of_sources[q] = dr_now[16 * q + part];
        if (i < 3) take(buffer, i + 1);
        if (i == 3 && goes_on) take(buffer ^ 1, 0);
        d_hidden = sum_of_group(w, of_sources);
    };
    for (int first = 0; first < running; first += 4) {
        if (first + 4 <= running) {
#pragma unroll
            for (int i = 0; i < 4; ++i) run_step(first, i, true);
        } else {
#pragma unroll 1
            for (int i = 0; i < running - first; ++i) run_step(first, i, false);
        }
    }
    if (!exists) return;
    if (number == 0) dh[at] = d_hidden;
    if (number == 1) dc[at] = d_cell;
    float* const of_sequence = d_norm + (long long)sequence * 10 * hidden + unit;
#pragma unroll
    for (int k = 0; k < GATES; ++k) of_sequence[(4 + gate + k) * hidden] += d_gain[k];
    if (number < 2) of_sequence[(8 + number) * hidden] += d_of_cell;
}
