// All time steps of one small LSTM layer with layer norm in one launch: a block has the whole of W_hh in its registers.
//
//     r = W_hh h[t-1]                     a = gain_p * norm(p) + b + gain_r * norm(r)
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(gain_c * norm(c[t]) + bias_c)
//
// The part of p comes from lstm_layer_norm_inputs_forward. Of r no mean has to be taken: each column of W_hh has its
// own taken off, and then the sum of r over its 4*hidden rows is zero for every h. What is left is the variance.
//
// Who owns what: a block owns one sequence, and waits for no other block. It has four warps, one for each of a
// multiprocessor's schedulers. As makers of gates four neighbouring lanes own HELD hidden units: each has a quarter of
// the sums over h of all their gates, and then one gate of each. From there on every warp does the same, so that no
// warp waits for another one: a lane has HELD hidden units, takes their gates from shared memory, and makes their c,
// the mean and the variance of all c over the lanes of its warp, and their h, for its warp's products alone. What goes
// to memory is shared out: the first warp writes y, the others h, c and what was normalised by.
//
// A step has two barriers: for the squares' sum of r, first over a warp and then over all four, and for the gates.
// Steps that a sequence does not have are none here: what there is to write of them comes before or after all others.
//
// The variance of c is made of squared distances from the mean of the step before. Where that is so far off that more
// than nine tenths of their sum come from it, sums are made again, of distances from the mean that was found.
//
// What a step reads from memory does not depend on h, and is fetched AHEAD steps before it is used.
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 y, in training 4 gates + 4 r + 1 h + 1 cell too.
//
// hidden is at most 16 * QUADS; a block has 128 threads.
//
// FLOAT16, BFLOAT16  (storage.cuh) gates, weight, gains, the cell's bias, h, r and y have 16 bits, each rounded once to
//          the nearest, and the products read h as it is stored. All else is float32.
#include "common.cuh"
#include "exponential_gates.cuh"
#include "quarter_products.cuh"
#include "registers.cuh"
#include "storage.cuh"
#include "warp_roles.cuh"
#include "warp_sums.cuh"

#define AHEAD 4
#define HELD (QUADS / 2)  // hidden units of a lane: 32 apart
#define UNITS (32 * HELD) // at most
#define WARPS 4
#define INT_MAX 0x7FFFFFFF

// A cell state, which is float32, or a hidden state, which is stored.
__device__ __forceinline__ void write_either(char* place, int number, bool is_cell, float c, float h) {
    if (sizeof(store) == sizeof(float)) {
        ((float*)place)[number] = is_cell ? c : h;
    } else if (is_cell) {
        ((float*)place)[number] = c;
    } else {
        ((store*)place)[number] = stored(h);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 8 / QUADS) lstm_resident_layer_norm_forward(
    store* gates,                          // (steps, batch, 4*hidden) gain_p * norm(p) + b; activated with `keep`
    const store* __restrict__ weight,      // (4*hidden, hidden) W_hh
    const float* __restrict__ weight_sums, // (hidden,) of its columns
    const store* __restrict__ gain,        // (4*hidden,) gain_r
    const store* __restrict__ gain_cell,   // (hidden,)
    const store* __restrict__ bias_cell,   // (hidden,)
    float* cells,                          // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* state,                          // (batch, hidden) the initial h; becomes the final one
    store* hiddens,                        // with `keep` (steps + 1, batch, hidden): what the products read, which is
                                           // zero where a step does nothing; the first one's is there already
    store* r,                              // (steps, batch, 4*hidden) with `keep` receives norm(r)
    float* norms,                          // (steps, batch, 4) with `keep` receives, behind the first, 1/std of r, mean
                                           // and 1/std of c
    store* __restrict__ y,                 // (steps, batch, y_width) output; these columns start at y_offset
    const int* __restrict__ lengths,       // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                              // 1: for the backward pass, everything is kept
    int reverse,                           // 1: from the last step to the first
    int first_time) {                      // the time of step 0, to compare with lengths
    __shared__ __align__(16) float h_of_warps[WARPS][4 * PITCH];
    __shared__ __align__(16) float4 gates_now[UNITS];
    __shared__ __align__(16) float squares[WARPS];  // of each warp's r
    const int sequence = blockIdx.x;
    const int thread = threadIdx.x, maker = thread / 4, part = thread % 4, gate = part;
    const int lane = thread % 32, warp = own_warp();
    const long long units = (long long)batch * hidden;
    const float per_row = 1.0f / (4 * hidden), per_unit = 1.0f / hidden;

    // As one of four that make gates of units maker + 32 * u.
    const Bend activation(gate);
    float w[HELD][4][PART], gain_r[HELD], bent_gain[HELD];
    bool makes[HELD];
#pragma unroll
    for (int u = 0; u < HELD; ++u) {
        const int unit = maker + 32 * u;
        makes[u] = unit < hidden;
        quarters_of_rows(w[u], weight, unit, part, hidden);
#pragma unroll
        for (int k = 0; k < PART; ++k) {
            const int column = part * PART + k;
            const float mean = makes[u] && column < hidden ? weight_sums[column] * per_row : 0.0f;
#pragma unroll
            for (int j = 0; j < 4; ++j) w[u][j][k] -= mean;
        }
        gain_r[u] = makes[u] ? real_of(gain[gate * hidden + unit]) : 0.0f;
        bent_gain[u] = made_once(activation.bend * gain_r[u]);
    }

    // As one of each warp's 32 that have c and h, of units lane + 32 * u.
    float c[HELD], h[HELD], gain_c[HELD], bias_c[HELD], live[HELD], shift = 0.0f;
    bool exists[HELD];
    for (int i = thread; i < WARPS * 4 * PITCH; i += 32 * WARPS) (&h_of_warps[0][0])[i] = 0.0f;
    __syncthreads();
    float* const handed = &h_of_warps[warp][place_of(lane)];
#pragma unroll
    for (int u = 0; u < HELD; ++u) {
        const int unit = lane + 32 * u;
        const long long own = (long long)sequence * hidden + unit;
        exists[u] = unit < hidden;
        live[u] = exists[u] ? 1.0f : 0.0f;
        c[u] = exists[u] ? cells[(keep && reverse ? steps * units : 0) + own] : 0.0f;
        h[u] = exists[u] ? real_of(state[own]) : 0.0f;
        gain_c[u] = exists[u] ? real_of(gain_cell[unit]) : 0.0f;
        bias_c[u] = exists[u] ? real_of(bias_cell[unit]) : 0.0f;
        if (exists[u]) handed[place_of(32 * u)] = h[u];
    }
    __syncthreads();  // every warp has its first c and h

    // Steps that the sequence has here, of which the last one may be followed by others of another launch.
    const int length = lengths ? lengths[sequence] - first_time : steps, running = min(max(length, 0), steps);
    const int direction = made_once(reverse ? -1 : 1), ahead = made_once(AHEAD * direction);
    int step = reverse ? running - 1 : 0;

    // What a lane reads and writes of a step is this many bytes times the step behind where that of step 0 is.
    const unsigned gate_bytes = 4u * batch * hidden * sizeof(store);
    const long long own_gate = (long long)sequence * 4 * hidden + gate * hidden + maker;
    store* const gate_of_0 = made_once(gates + own_gate);
    store* const r_of_0 = made_once(r + own_gate);
    unsigned kept_steps[HELD];  // the first step whose gates are not kept
    int unread[HELD];           // how many of those that are left are not read ahead
#pragma unroll
    for (int u = 0; u < HELD; ++u) {
        kept_steps[u] = made_once(makes[u] && keep ? running : 0);
        unread[u] = made_once(makes[u] ? AHEAD : INT_MAX - AHEAD);
    }

    // What a warp writes: y, c or h, and what was normalised by.
    const bool to_y = warp == 0, to_cells = warp == 1;
    const unsigned norm_steps = made_once(thread == 96 && keep ? running : 0);
    const unsigned out_size = to_cells ? sizeof(float) : sizeof(store);
    const unsigned out_bytes = made_once((unsigned)batch * (to_y ? y_width : hidden) * out_size);
    const long long slot_of_0 = (1 - reverse) * units + (long long)sequence * hidden + lane;  // of what follows step 0
    char* const of_0 = (to_cells ? (char*)cells : (char*)hiddens) + slot_of_0 * out_size;
    char* const out_of_0 = made_once(to_y ? (char*)(y + (long long)sequence * y_width + y_offset + lane) : of_0);
    float* const norm_of_0 = made_once(norms + 4 * (long long)sequence);
    const unsigned norm_bytes = 16u * batch;
    unsigned written_steps[HELD];
#pragma unroll
    for (int u = 0; u < HELD; ++u) {
        written_steps[u] = made_once(exists[u] && (to_y || (warp < 3 && keep)) ? running : 0);
    }

    // Steps that the sequence does not have leave c and h as they are, and show nothing to who comes after them. What
    // lanes do there is found out there: there are few predicates.
    const auto pass_over = [&](int first, int end) {
        const int writer = afresh(warp), first_unit = afresh(lane);
        for (int idle = first; idle < end; ++idle) {
            const bool shows = writer == 2 && idle + direction < length;
#pragma unroll
            for (int u = 0; u < HELD; ++u) {
                if (first_unit + 32 * u >= hidden || !(writer == 0 || (writer < 3 && keep))) continue;
                write_either(at_step(out_of_0, idle, out_bytes), 32 * u, writer == 1, c[u], shows ? h[u] : 0.0f);
            }
        }
    };
    if (reverse) pass_over(running, steps);

    store next[AHEAD][HELD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        const store* const there = at_step(gate_of_0, step + direction * i, gate_bytes);
#pragma unroll
        for (int u = 0; u < HELD; ++u) next[i][u] = i < running && makes[u] ? there[32 * u] : stored(0.0f);
    }

    float recurrent[HELD];
    const auto multiply = [&]() {
        float4 quarter[QUADS];
        float sum = 0.0f;
#pragma unroll
        for (int q = 0; q < QUADS; ++q) quarter[q] = ((const float4*)(&h_of_warps[warp][part * PITCH]))[q];
#pragma unroll
        for (int u = 0; u < HELD; ++u) {
            recurrent[u] = own_sum_at_once(w[u], quarter);
            sum = u == 0 ? recurrent[u] * recurrent[u] : fmaf(recurrent[u], recurrent[u], sum);
        }
        sum = sum_over_warp(sum);
        if (lane == 0) squares[warp] = sum;
    };

    // What a step leaves is written to memory in the next one, while that waits. Before the first one there is none:
    // its number, -1 or `running`, is none below those that bound it.
    float gates_of_step[HELD], r_of_step[HELD], scale_r = 0.0f, scale_c = 0.0f;
    // Where that is, is found before the barrier.
    store *gate_of, *r_of;
    float* norm;
    char* out_of;
    const auto find = [&](unsigned done) {
        gate_of = made_once(at_step(gate_of_0, done, gate_bytes)), r_of = made_once(at_step(r_of_0, done, gate_bytes));
        norm = made_once(at_step(norm_of_0, done, norm_bytes)), out_of = made_once(at_step(out_of_0, done, out_bytes));
    };
    const auto write = [&](unsigned done) {
        in_global_memory(gate_of), in_global_memory(r_of), in_global_memory(norm), in_global_memory(out_of);
#pragma unroll
        for (int u = 0; u < HELD; ++u) {
            if (done < kept_steps[u]) gate_of[32 * u] = stored(gates_of_step[u]), r_of[32 * u] = stored(r_of_step[u]);
        }
        if (done < norm_steps) norm[1] = scale_r, norm[2] = shift, norm[3] = scale_c;
#pragma unroll
        for (int u = 0; u < HELD; ++u) {
            if (done < written_steps[u]) write_either(out_of, 32 * u, to_cells, c[u], h[u]);
        }
    };
    multiply();
    for (int left = running; left > 0; left -= AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (left <= i) break;
            find(step - direction);
            __syncthreads();  // all sums of squares are there
            const float4 of_warps = *(const float4*)squares;
            __syncwarp();  // what is waited for is read before anything is written
            write(step - direction);
            const float square = (of_warps.x + of_warps.y) + (of_warps.z + of_warps.w);
            scale_r = rsqrtf(square * per_row + NORM_EPSILON);
            float a[HELD];
#pragma unroll
            for (int u = 0; u < HELD; ++u) {
                gates_of_step[u] = fmaf(bent_gain[u] * recurrent[u], scale_r, activation.bend * real_of(next[i][u]));
            }
#pragma unroll
            for (int u = 0; u < HELD; ++u) {
                r_of_step[u] = recurrent[u] * scale_r;
                a[u] = real_of(next[i][u]) + gain_r[u] * r_of_step[u];
                if (left > i + unread[u]) next[i][u] = at_step(gate_of_0, step + ahead, gate_bytes)[32 * u];
            }
            bend_all(gates_of_step, a, activation);
#pragma unroll
            for (int u = 0; u < HELD; ++u) ((float*)gates_now)[thread + 128 * u] = gates_of_step[u];
            __syncthreads();  // all gates are there

            float out[HELD], spread, squared;
#pragma unroll
            for (int u = 0; u < HELD; ++u) {
                const float4 of_unit = gates_now[lane + 32 * u];
                c[u] = fmaf(of_unit.y, c[u], of_unit.x * of_unit.z);
                out[u] = of_unit.w;
            }
            int times = 0;
            do {  // once, as a rule
                const float from = shift;
                float along;
#pragma unroll
                for (int u = 0; u < HELD; ++u) {
                    const float distance = fmaf(c[u], live[u], -from * live[u]);
                    along = u == 0 ? distance : along + distance;
                    squared = u == 0 ? distance * distance : fmaf(distance, distance, squared);
                }
                sums_over_warp(along, squared);
                const float off = along * per_unit;
                shift = from + off, spread = squared - along * off;  // the mean, and what is left of the squares
                scale_c = rsqrtf(spread * per_unit + NORM_EPSILON);
#pragma unroll
                for (int u = 0; u < HELD; ++u) {
                    const float scaled = gain_c[u] * (c[u] - shift);
                    a[u] = fmaf(scaled, scale_c, bias_c[u]);
                    h[u] = fmaf(2.0f * LOG2_E * scaled, scale_c, 2.0f * LOG2_E * bias_c[u]);
                }
                tanh_all(h, a);
            } while (__any_sync(ALL_LANES, spread < 0.1f * squared) && ++times < 3);
#pragma unroll
            for (int u = 0; u < HELD; ++u) {
                h[u] = real_of(stored(h[u] * out[u]));  // 0 without a unit
                handed[place_of(32 * u)] = h[u];
            }
            __syncwarp();
            multiply();
            step += direction;
        }
    }
    find(step - direction), write(step - direction);
    if (!reverse) {
        if (running) pass_over(running - 1, running - 1 + (warp == 2 && running >= length));
        pass_over(running, steps);
    }
    const int writer = afresh(warp), first_unit = afresh(lane);
#pragma unroll
    for (int u = 0; u < HELD; ++u) {
        const int unit = first_unit + 32 * u;
        const long long own = (long long)sequence * hidden + unit;
        if (unit < hidden && writer == 0) state[own] = stored(h[u]);
        if (unit < hidden && writer == 1 && !keep) cells[own] = c[u];
    }
}
