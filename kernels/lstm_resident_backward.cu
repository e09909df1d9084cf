// Backpropagation through all time steps of one small LSTM layer in one launch: the twin of lstm_resident_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t].
//
// Who owns what: a block owns a sequence, and waits for no other block. Four neighbouring lanes own a hidden unit: each
// makes one gate's gradient, and all of them have its dh and dc, with the same bits.
//
// The product: what a multiprocessor reads from shared memory in a step has to be used more than once. So sixteen lanes
// make the dh of their four units together, each with 16 * QUADS weights in registers and QUADS float4 from shared
// memory (sixteenth_products.cuh). da is there twice, so that one barrier per step is enough.
//
// What the gradients are multiplied by does not depend on them. It is prepared ahead, for four steps at once: each of a
// unit's four lanes does so for a step of its own, from what it fetched four steps before that. It lies in shared
// memory until its step comes. So from dh to the barrier there are an addition, two multiply-adds at most and a store.
//
// Steps that a sequence does not have are none here: they get zeros at the end.
//
// Bytes per hidden unit and step, in float32: reads 4 gates + 2 cells (+ 1 dy), writes 4 gates.
//
// hidden is at most 16 * QUADS, and batch * hidden below 2^28; a block has 32 threads for every 8 hidden units. Two
// blocks of 256 threads, or four of 128, share a multiprocessor; one of 384 has it for itself.
//
// FLOAT16, BFLOAT16  (storage.cuh) gates, weights and dy have 16 bits; cells, dc, dh and all sums are float32. da is
//          rounded before the product, as in the other schedules: dh is made of what the weights' gradients are.
//
// OPTIONS  recurrent dropout and zoneout, by the equations of persistent_options.cuh and the formulas of
//          lstm_variant_cell_backward.cu. All of them are linear in dh and dc: what was drawn ends up in the prepared
//          numbers, of which there are three more. The mask of h is in the weights. c[t] is not read: c* comes from
//          the gates. Each of a unit's lanes draws for the step that it is going to prepare.
//
// PEEPHOLES  beside OPTIONS: peepholes and coupled gates too, in the same numbers and two more. Registers are short: a
//          block has its multiprocessor to itself from 256 threads on.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "persistent_options.cuh"
#include "registers.cuh"
#include "sixteenth_products.cuh"
#include "storage.cuh"

#define THREADS (4 * UNITS)

#define TIGHT (PEEPHOLES && QUADS > 4)  // no registers are left while the products' sums come together
#define DRAWS_AT (QUADS == 4 ? 1 : 2)   // of four steps, so as the model of benchmarks/cycles.py has it shortest

#if PEEPHOLES
#define ALONE (QUADS >= 4)
#else
#define ALONE 0
#endif

#if OPTIONS
// In one place, so that one number leads from four steps to the next four.
struct Prepared {
    float4 gates[4][UNITS + 2];   // what gives each gate's gradient from dc, the output gate's from dh
    float4 cell[4][UNITS + 2];    // what of dh and dc is the cell's gradient, and what of them goes to the step before
    float4 hidden[4][UNITS + 2];  // dy, what zoneout keeps of dh for the step before; with PEEPHOLES c[t-1] and c*
};
#endif

#if PEEPHOLES && (FLOAT16 || BFLOAT16)
__device__ __forceinline__ float weight_of(store weight) { return real_of(weight); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS, ALONE ? 1 : 8 / QUADS) lstm_resident_backward(
    store* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const store* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
#if BIDIRECTIONAL  // the same of the second direction, whose columns of dy are behind those of the first
    store* gates_2,
    const store* weight_2,
    const float* cells_2,
    float* dh_2,
    float* dc_2,
#endif
#if OPTIONS
#if PEEPHOLES
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    float* d_peephole,                 // (batch, 3*hidden) their gradients so far, apart for each sequence, or null
#endif
    Options options,
#if BIDIRECTIONAL
#if PEEPHOLES
    const store* peephole_2,
    float* d_peephole_2,
#endif
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
    const bool second = blockIdx.x >= batch;
    const int sequence = second ? blockIdx.x - batch : blockIdx.x;
    if (second) {
#if OPTIONS
        options.stream = stream_2;
#endif
#if PEEPHOLES
        peephole = peephole_2;
#endif
        gates = gates_2, weight = weight_2, cells = cells_2;
        dy_offset += hidden, reverse = !reverse;
    }
#else
    const int sequence = blockIdx.x;
#endif
    __shared__ __align__(16) float da[2][THREADS];
    // What is prepared of four steps and the four after them. Two units more than there can be, so that what four lanes
    // write of a step each has banks of its own.
#if OPTIONS
    __shared__ Prepared prepared[2];
#else
    __shared__ float4 of_gates[2][4][UNITS + 2];  // what gives each gate's gradient from dc, the output gate's from dh
    __shared__ float4 of_cell[2][4][UNITS + 2];   // what of dh is added to dc, what of dc goes to the step before, dy
#endif
    const int thread = threadIdx.x, unit = thread / 4, gate = thread % 4, part = thread % 16;
    const bool exists = unit < hidden;
    const long long at = (long long)sequence * hidden + unit;

    float w[4][4 * QUADS];
    sixteenths_of_columns(w, weight, unit, part, hidden);
#if OPTIONS  // what masks h is in the weights that made use of it
    const float own_mask = hidden_mask(options, draw_for_sequence(options, unit, sequence));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float mask = __shfl_xor_sync(ALL_LANES, own_mask, 4 * j);
#pragma unroll
        for (int k = 0; k < 4 * QUADS; ++k) w[j][k] *= mask;
    }
#endif
    for (int i = thread; i < 2 * THREADS; i += blockDim.x) (&da[0][0])[i] = 0.0f;  // also of units that there are not

    int running = steps;
    if (lengths) running = min(max(lengths[sequence], 0), steps);
    const int direction = reverse ? 1 : -1, first_step = reverse ? 0 : running - 1;
#if BIDIRECTIONAL
    float d_hidden = exists ? (second ? dh_2 : dh)[at] : 0.0f, d_cell = exists ? (second ? dc_2 : dc)[at] : 0.0f;
#else
    float d_hidden = exists ? dh[at] : 0.0f, d_cell = exists ? dc[at] : 0.0f;
#endif
#if PEEPHOLES
    float d_peep = 0.0f;  // of the three of a unit's lanes that have a peephole
#endif

    // What is read and written of a step is this many bytes times the step behind where that of step 0 is.
    const unsigned cell_bytes = 4u * batch * hidden, gate_bytes = 4u * batch * hidden * sizeof(store);
    const unsigned dy_bytes = (unsigned)batch * dy_width * sizeof(store);
    store* const gates_of_0 = made_once(gates + 4 * at - 3 * unit);  // of the unit's first gate
    store* const gate_of_0 = made_once(gates_of_0 + gate * hidden);
#if OPTIONS  // of the cell state that is before the step in time
    const float* const cell_of_0 = made_once(cells + at + (reverse ? batch * hidden : 0));
#else
    const float* const cell_of_0 = made_once(cells + at);
#endif
    const store* const dy_of_0 = dy + (dy ? (long long)sequence * dy_width + dy_offset + unit : 0);

    // What this lane fetches and prepares is of step number first + gate, and four steps further on each time.
    store fetched[4], fetched_dy;
#if OPTIONS
    float before;
#else
    float lower, upper;  // the cell states that are before and after the step in time
#endif
    const auto fetch = [&](int first) {
        const int step = first_step + direction * (first + gate);
        const bool there = exists && first + gate < running;
        const store* const gates_there = at_step(gates_of_0, step, gate_bytes);
        const float* const cell_there = at_step(cell_of_0, step, cell_bytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) fetched[k] = there ? gates_there[k * hidden] : stored(0.0f);
#if OPTIONS
        before = there ? *cell_there : 0.0f;
#else
        lower = there ? cell_there[0] : 0.0f;
        upper = there ? cell_there[batch * hidden] : 0.0f;
#endif
        fetched_dy = there && dy ? *at_step(dy_of_0, step, dy_bytes) : stored(0.0f);
    };
#if OPTIONS
    unsigned drawn;
    const auto draw = [&](int first) {
        const int step = first_step + direction * (first + gate);
        drawn = bits_of_step(options, words_at(options, unit, sequence, options.first_draw + (unsigned)step));
    };
#endif
    const auto prepare = [&](int buffer) {
        const float in = real_of(fetched[0]), forget = real_of(fetched[1]);
        const float candidate = real_of(fetched[2]), out = real_of(fetched[3]), d_output = real_of(fetched_dy);
#if OPTIONS
        const float h_stays = kept_of_h(options, drawn), c_stays = kept_of_c(options, drawn);
        const float mask_now = candidate_mask(options, drawn), written = candidate * mask_now;
        const float c_star = forget * before + in * written, tanh_c = tanhf(c_star);
        float of_i = written * (in * (1.0f - in)), of_f = before * (forget * (1.0f - forget));
#if PEEPHOLES
        if (options.coupled) of_i = (written - before) * (in * (1.0f - in)), of_f = 0.0f;
#endif
        const float of_g = in * mask_now * (1.0f - candidate * candidate);
        const float of_o = (1.0f - h_stays) * tanh_c * (out * (1.0f - out));
        float to_c = (1.0f - h_stays) * out * (1.0f - tanh_c * tanh_c), to_before = forget;
#if PEEPHOLES
        if (peephole && exists) {
            const store* of_unit = peephole + afresh(unit);
            to_c += of_o * weight_of(of_unit[2 * hidden]);
            to_before += of_i * weight_of(of_unit[0]) + of_f * weight_of(of_unit[hidden]);
        }
#endif
        Prepared& here = prepared[buffer];
        here.gates[gate][unit] = make_float4(of_i, of_f, of_g, of_o);
        const float of_c = 1.0f - c_stays;
        here.cell[gate][unit] = make_float4(to_c, of_c, to_c * to_before, fmaf(of_c, to_before, c_stays));
        here.hidden[gate][unit].x = d_output, here.hidden[gate][unit].y = h_stays;
#if PEEPHOLES
        here.hidden[gate][unit].z = before, here.hidden[gate][unit].w = c_star;
#endif
#else
        const float before = reverse ? upper : lower, tanh_c = tanhf(reverse ? lower : upper);
        of_gates[buffer][gate][unit] =
            make_float4(candidate * (in * (1.0f - in)), before * (forget * (1.0f - forget)),
                        in * (1.0f - candidate * candidate), tanh_c * (out * (1.0f - out)));
        of_cell[buffer][gate][unit] = make_float4(out * (1.0f - tanh_c * tanh_c), forget, d_output, 0.0f);
#endif
    };
    int step = first_step;
    fetch(0);
#if OPTIONS
    draw(0);
#endif
    prepare(0);
    fetch(4);
    __syncthreads();

    float4 cell_now;
    float slope;
#if OPTIONS
    float2 hidden_now;
#if PEEPHOLES
    float seen;  // by the gate's peephole
#endif
    const auto take = [&](int buffer, int i) {
        cell_now = prepared[buffer].cell[i][unit], slope = ((const float*)prepared[buffer].gates[i])[thread];
        const float4& hidden = prepared[buffer].hidden[i][unit];
        hidden_now = make_float2(hidden.x, hidden.y);
#if PEEPHOLES
        seen = gate == 3 ? hidden.w : hidden.z;
#endif
    };
#else
    const auto take = [&](int buffer, int i) {
        cell_now = of_cell[buffer][i][unit], slope = ((const float*)of_gates[buffer][i])[thread];
    };
#endif
    take(0, 0);
    // Step number first + i, of four that were prepared together. Before its product it takes what the next one needs.
    const auto run_step = [&](int first, int i, bool prepares) {
        const int buffer = first / 4 % 2;
#if OPTIONS
        d_hidden += hidden_now.x;
        const float d_c = fmaf(d_hidden, cell_now.x, cell_now.y * d_cell);
        const float d_gate = (gate == 3 ? d_hidden : d_c) * slope, h_stays = hidden_now.y;
        d_cell = fmaf(d_hidden, cell_now.z, cell_now.w * d_cell);
#if PEEPHOLES
        d_peep += d_gate * seen;
#endif
#else
        d_hidden += cell_now.z;
        const float d_c = d_cell + d_hidden * cell_now.x;
        const float d_gate = (gate == 3 ? d_hidden : d_c) * slope;
        d_cell = d_c * cell_now.y;
#endif
        if (exists) {
            const store written = stored(d_gate);
            da[i % 2][thread] = real_of(written);
            *at_step(gate_of_0, step, gate_bytes) = written;
        }
        step += direction;
        __syncthreads();
        if (i < 3) take(buffer, i + 1);
        if (i == 3 && prepares) take(buffer ^ 1, 0);
#if OPTIONS
        const float stayed = h_stays != 0.0f ? h_stays * d_hidden : 0.0f;  // 0 times infinity is NaN
        const auto in_between = [&]() {
            if (i == DRAWS_AT && prepares) draw(first + 4);
            if (i == 2 && prepares) {
                prepare(buffer ^ 1);
                fetch(first + 8);
            }
        };
        if (TIGHT) in_between();
        const float sum = sum_of_sixteenths(w, da[i % 2], part, [&]() {
            if (!TIGHT) in_between();
        });
        d_hidden = sum + stayed;
#else
        if (i == 2 && prepares) {
            prepare(buffer ^ 1);
            fetch(first + 8);
        }
        const float sum = sum_of_sixteenths(w, da[i % 2], part);
        d_hidden = sum;
#endif
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
#if BIDIRECTIONAL  // found out only here: registers are short in between
    if (second) {
        dh = dh_2, dc = dc_2;
#if PEEPHOLES
        d_peephole = d_peephole_2;
#endif
    }
#endif
    if (exists) {
        const long long end = (long long)afresh(sequence) * hidden + unit;
        if (gate == 0) dh[end] = d_hidden;
        if (gate == 1) dc[end] = d_cell;
#if PEEPHOLES
        if (peephole && gate != 2) d_peephole[(3ll * sequence + (gate == 3 ? 2 : gate)) * hidden + unit] += d_peep;
#endif
        for (step = running; step < steps; ++step) *at_step(gate_of_0, step, gate_bytes) = stored(0.0f);
    }
}
