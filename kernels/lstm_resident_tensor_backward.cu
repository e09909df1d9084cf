// Backpropagation through all time steps of one small LSTM layer in one launch, in float16 or bfloat16, on the tensor
// cores: the twin of lstm_resident_tensor_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t].
//
// Who owns what: a block owns up to 4 * PAIRS sequences, and waits for no other block. A warp owns 16 hidden units: it
// has all that W_hh^T has in their rows, in registers, and makes their dh and da. So no sum crosses from warp to warp,
// and one barrier per step is enough, with da in shared memory twice. A lane owns two neighbouring units of PAIRS
// sequences, whose da are a word for each gate: in memory, in shared memory, and as the product reads them.
//
// The product (half_precision.cuh) has room for eight columns. With PAIRS=2 they are the sequences, and the 16 rows of
// a tile are the warp's units. With PAIRS=1 they are four sequences twice, in two PARTS of the sum: a tile's rows are
// eight units twice, with the weights of either part, and of the product only what has rows and columns of one part is
// looked at. That is as many products as for eight sequences, and half as much to read from shared memory and half as
// many cells, for which eight sequences wait longer than for their products.
//
// What the gradients are multiplied by does not depend on them. A lane fetches it AHEAD steps early and prepares it
// while the tensor cores are at work on the step before.
//
// Steps that a sequence does not have are none here: it begins with its own last one, and gets zeros at the end. Where
// it has fewer than others of its block, it keeps its gradients while they go on.
//
// Bytes per hidden unit and step: reads 4 gates and dy of 2, 1 cell of 4, writes 4 gates of 2.
//
// hidden is even and at most 16 * WARPS, and batch * hidden below 2^28; a block has a warp for every 16 hidden units.
// gates, weights and dy are read two numbers at a time, from multiples of 4 bytes, and cells from multiples of 8.
// How many sequences a block has is in the number of blocks: the batch is split evenly.
//
// OPTIONS  the equations are those of persistent_options.cuh, the formulas those of lstm_resident_backward.cu: what was
//          drawn ends up in the prepared numbers, and c* comes from the gates instead of c[t]. What peepholes need
//          beside, and their gradients, are in shared memory: each thread reads what it has written itself.
//
// EACH_STEP  beside OPTIONS: all of them but a mask of h, which costs a multiplication. Without it peephole and
//          d_peephole are null, and of the options that mask alone is looked at.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "half_precision.cuh"
#include "persistent_options.cuh"
#include "registers.cuh"
#include "storage.cuh"
#include "tensor_gradients.cuh"

#define AHEAD (PAIRS == 2 ? 1 : WARPS < 6 ? (EACH_STEP ? 2 : 4) : OPTIONS ? 1 : 2)  // steps: registers are short
#define UNROLLED (AHEAD < 2 ? 2 : AHEAD)  // steps: even, since two buffers take turns
#define COLUMNS (4 * PAIRS)               // sequences
#define PITCH (8 * WARPS + 2)             // pairs of a sequence's da: lanes that are served together share no bank
#define SECOND (4 * PITCH + 4)            // from a lane's first sequence to its second one
#define PLACES (COLUMNS * PITCH + 4)
#define BLOCKS_TOGETHER (WARPS <= 4 ? 8 / WARPS : 1)  // that the registers of a multiprocessor hold

extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS_TOGETHER) lstm_resident_tensor_backward(
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
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    float* d_peephole,                 // (batch, 3*hidden) their gradients so far, apart for each sequence, or null
    Options options,
#if BIDIRECTIONAL
    const store* peephole_2,
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
    const int blocks = gridDim.x / 2;
    const bool second = blockIdx.x >= blocks;
    const int block = second ? blockIdx.x - blocks : blockIdx.x;
    if (second) {
#if OPTIONS
        peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, cells = cells_2;
        dy_offset += hidden, reverse = !reverse;
    }
#else
    const int blocks = gridDim.x, block = blockIdx.x;
#endif
    const int share = (batch + blocks - 1) / blocks, first_sequence = block * share;
    const int end_sequence = min(first_sequence + share, batch);
    __shared__ uint4 da[2][PLACES];
#if EACH_STEP
    __shared__ float4 of_peephole[PAIRS][32 * WARPS];  // c[t-1] and c* of both units
    __shared__ float d_peep[PAIRS][2][3][32 * WARPS];
#endif
    const int thread = threadIdx.x, g = thread % 32 / 4, t = thread % 4;
    const int unit = thread / 32 * 16 + 2 * g;  // the first of the lane's two

    unsigned w[PARTS][2 * READS][4];
    const unsigned zero = unknown_zero(cells);
    hold_columns(w, made_once(weight), unit, t, hidden, zero);
    for (int i = thread; i < 2 * PLACES; i += blockDim.x) (&da[0][0])[i] = make_uint4(0, 0, 0, 0);

    // Where the lane reads, of a column that is a sequence and, with PAIRS=1, a part of the sum; and where it writes.
    const int column = g % COLUMNS, of_column = column / 2 + column % 2 * (COLUMNS / 2);
    const int read_at = made_once(of_column % 4 * PITCH + of_column / 4 * SECOND + g / COLUMNS * (4 * READS) + t);
    const int write_at = made_once(t * PITCH + unit / 2);

    int longest = 0;  // steps of any of the block's sequences
    for (int s = first_sequence; s < end_sequence; ++s) {
        longest = max(longest, lengths ? min(lengths[s], steps) : steps);
    }
    int running[PAIRS], first_step[PAIRS], last[PAIRS];  // steps of a sequence; the first one in time; the last number
    float d_hidden[PAIRS][2], d_cell[PAIRS][2];
#if OPTIONS
    float mask[PAIRS][2];
#else
    float c_after[PAIRS][2];
#endif
    const int direction = reverse ? 1 : -1;
    const unsigned cell_bytes = 4u * batch * hidden, gate_bytes = 8u * batch * hidden, dy_bytes = 2u * batch * dy_width;
    unsigned* gates_of_0[PAIRS];  // step 0's
    const float2* cell_of_0[PAIRS];
    const unsigned* dy_of_0[PAIRS];
#pragma unroll
    for (int j = 0; j < PAIRS; ++j) {
        const int sequence = first_sequence + t + 4 * j;
        const bool exists = unit < hidden && sequence < end_sequence;
        running[j] = !exists ? 0 : lengths ? min(max(lengths[sequence], 0), steps) : steps;
        last[j] = max(running[j] - 1, 0), first_step[j] = reverse ? 0 : last[j];
        // Lanes without a sequence or a unit read what nobody writes to.
        const int own_unit = exists ? unit : 0, row = exists ? sequence : 0;
        const long long at = (long long)row * hidden + own_unit;
        gates_of_0[j] = made_once(exists ? (unsigned*)(gates + 4 * at - 3 * own_unit) : (unsigned*)cells);
        cell_of_0[j] = made_once((const float2*)(cells + at + (reverse ? (long long)batch * hidden : 0)));
        dy_of_0[j] = made_once((const unsigned*)(dy + (dy ? (long long)row * dy_width + dy_offset + own_unit : 0)));
#if !OPTIONS
        const float* const after = cells + (long long)(first_step[j] + 1 - reverse) * batch * hidden + at;
#endif
#pragma unroll
        for (int u = 0; u < 2; ++u) {
#if BIDIRECTIONAL
            d_hidden[j][u] = exists ? (second ? dh_2 : dh)[at + u] : 0.0f;
            d_cell[j][u] = exists ? (second ? dc_2 : dc)[at + u] : 0.0f;
#else
            d_hidden[j][u] = exists ? dh[at + u] : 0.0f;
            d_cell[j][u] = exists ? dc[at + u] : 0.0f;
#endif
#if OPTIONS
            mask[j][u] = hidden_mask(options, draw_for_sequence(options, unit + u, sequence));
#if EACH_STEP
#pragma unroll
            for (int k = 0; k < 3; ++k) d_peep[j][u][k][thread] = 0.0f;
#endif
#else
            c_after[j][u] = longest > 0 ? after[u] : 0.0f;
#endif
        }
    }

    // Of step number n. Behind the last one it is that one again: nobody looks at what comes of it.
    const auto step_number = [&](int j, int n) { return first_step[j] + direction * min(n, last[j]); };
    const auto fetch = [&](Fetched& fetched, int j, int n) {
        const int step = step_number(j, n);
        const unsigned* const gates_there = at_step(gates_of_0[j], step, gate_bytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) fetched.gates[k] = gates_there[k * (hidden / 2)];
        fetched.before = *at_step(cell_of_0[j], step, cell_bytes);
        fetched.dy = dy ? *at_step(dy_of_0[j], step, dy_bytes) : 0u;
    };
    Fetched fetched[AHEAD][PAIRS];
    Prepared prepared[PAIRS][2];
#if OPTIONS  // what of h and of c stays; returns the mask of the candidate
    const auto draw = [&](Prepared& of, int j, int u, int n) {
        const int sequence = first_sequence + t + 4 * j;
        const unsigned drawn = draw_for_step(options, unit + u, sequence, step_number(j, n));
        of.h_stays = kept_of_h(options, drawn), of.c_stays = kept_of_c(options, drawn);
        return candidate_mask(options, drawn);
    };
#endif
    // Of step number n, from what was fetched of it.
    const auto prepare = [&](const Fetched& of_pair, int j, int u, int n) {
        float gate[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) gate[k] = real_of(u ? second_of(of_pair.gates[k]) : first_of(of_pair.gates[k]));
        const float in = gate[0], forget = gate[1], candidate = gate[2], out = gate[3];
        const float before = u ? of_pair.before.y : of_pair.before.x;
        Prepared& of = prepared[j][u];
        of.dy = real_of(u ? second_of(of_pair.dy) : first_of(of_pair.dy));
#if OPTIONS
        const float mask_now = EACH_STEP ? draw(of, j, u, n) : 1.0f, written = candidate * mask_now;
        const float c_star = forget * before + in * written, tanh_c = tanh_near(c_star);
        const float of_h = EACH_STEP ? 1.0f - of.h_stays : 1.0f;  // what of h is the step's own
        of.of_gate[0] = (EACH_STEP && options.coupled ? written - before : written) * slope_of(in);
        of.of_gate[1] = EACH_STEP && options.coupled ? 0.0f : before * slope_of(forget);
        of.of_gate[2] = in * mask_now * (1.0f - candidate * candidate);
        of.of_gate[3] = of_h * tanh_c * slope_of(out);
        of.to_c = of_h * out * (1.0f - tanh_c * tanh_c), of.to_before = forget;
#if EACH_STEP
        if (peephole) {
            float* const states = (float*)&of_peephole[j][thread] + 2 * u;
            states[0] = before, states[1] = c_star;
            const store* const of_unit = peephole + min(unit, hidden - 2) + u;
            of.to_c += of.of_gate[3] * weight_of(of_unit[2 * hidden]);
            of.to_before += of.of_gate[0] * weight_of(of_unit[0]) + of.of_gate[1] * weight_of(of_unit[hidden]);
        }
#endif
#else
        const float tanh_c = tanh_near(c_after[j][u]);
        c_after[j][u] = before;
        of.of_gate[0] = candidate * slope_of(in), of.of_gate[1] = before * slope_of(forget);
        of.of_gate[2] = in * (1.0f - candidate * candidate), of.of_gate[3] = tanh_c * slope_of(out);
        of.to_c = out * (1.0f - tanh_c * tanh_c), of.to_before = forget;
#endif
        return made_by_now(of);
    };
    // Step number n, which is i in turn.
    const auto run_step = [&](int n, int i) {
        unsigned words[PAIRS][4];
#if OPTIONS
        float h_stayed[PAIRS][2];
#endif
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            const bool runs = n < running[j];
            float d_gate[2][4];
#pragma unroll
            for (int u = 0; u < 2; ++u) {
                const Prepared& of = prepared[j][u];
                const float d_h = d_hidden[j][u] + of.dy;
#if OPTIONS  // what does not stay is left out: 0 times infinity is NaN
                const float of_c = EACH_STEP ? of.c_stays : 0.0f, of_h = EACH_STEP ? of.h_stays : 0.0f;
                const float d_c = (1.0f - of_c) * d_cell[j][u] + d_h * of.to_c;
                const float stayed = of_c == 0.0f ? 0.0f : of_c * d_cell[j][u];
                h_stayed[j][u] = of_h == 0.0f ? 0.0f : of_h * d_h;
                if (runs) d_cell[j][u] = d_c * of.to_before + stayed;
#else
                const float d_c = d_cell[j][u] + d_h * of.to_c;
                if (runs) d_cell[j][u] = d_c * of.to_before;
#endif
#pragma unroll
                for (int k = 0; k < 4; ++k) d_gate[u][k] = (k == 3 ? d_h : d_c) * of.of_gate[k];
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) words[j][k] = pair_of(stored(d_gate[0][k]), stored(d_gate[1][k]));
            const uint4 of_pair = make_uint4(words[j][0], words[j][1], words[j][2], words[j][3]);
            if (runs) da[i % 2][write_at + j * SECOND] = of_pair;
#if EACH_STEP
            if (peephole && runs) {
                const float4 states = of_peephole[j][thread];
#pragma unroll
                for (int u = 0; u < 2; ++u) {
                    const float before = u ? states.z : states.x, c_star = u ? states.w : states.y;
                    d_peep[j][u][0][thread] += d_gate[u][0] * before;
                    d_peep[j][u][1][thread] += d_gate[u][1] * before;
                    d_peep[j][u][2][thread] += d_gate[u][3] * c_star;
                }
            }
#endif
        }
        __syncthreads();

        const uint4* const all = da[i % 2] + read_at;
        float d[PARTS][CHAINS][4];
#pragma unroll
        for (int k = 0; k < 4 * PARTS * CHAINS; ++k) (&d[0][0][0])[k] = 0.0f;
        uint4 of_pair = all[0];
        unsigned after = 0;
#pragma unroll
        for (int q = 0; q < READS; ++q) {
            const unsigned b[2][2] = {{of_pair.x, of_pair.y}, {of_pair.z, of_pair.w}};
#pragma unroll
            for (int k = 2 * q; k < 2 * q + 2; ++k) {
#pragma unroll
                for (int m = 0; m < PARTS; ++m) multiply_add(d[m][k % CHAINS], w[m][k], b[k % 2]);
            }
            if (q + 1 < READS) of_pair = all[4 * (q + 1) + after];
            // While the tensor cores are at work, what they do not need is done, bit by bit. What they need next waits
            // for it: left to itself, the compiler would do all of it at the end, where everybody waits.
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; ++k) {
                if (q != k * READS / (2 * PAIRS + 1)) continue;
                const int j = k / 2, next = (i + 1) % AHEAD;
                const unsigned bits = prepare(fetched[next][j], j, k % 2, n + 1);
                if (WARPS > 4) after = bits & zero;
                if (k % 2) {
                    fetch(fetched[next][j], j, n + 1 + AHEAD);
                } else {
                    unsigned* const gates_there = at_step(gates_of_0[j], first_step[j] + direction * n, gate_bytes);
#pragma unroll
                    for (int gate = 0; gate < 4; ++gate) {
                        store_if(n < running[j], gates_there + gate * (hidden / 2), words[j][gate]);
                    }
                }
            }
        }
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            float sums[PAIRS];
            finish_sums(sums, d, u, t);
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) {
#if OPTIONS
                if (n < running[j]) d_hidden[j][u] = h_stayed[j][u] + sums[j] * mask[j][u];
#else
                if (n < running[j]) d_hidden[j][u] = sums[j];
#endif
            }
        }
    };
    if (longest > 0) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) fetch(fetched[i][j], j, i);
        }
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
#pragma unroll
            for (int u = 0; u < 2; ++u) prepare(fetched[0][j], j, u, 0);
            fetch(fetched[0][j], j, AHEAD);
        }
    }
    __syncthreads();
    // Up to UNROLLED - 1 steps more than there are, in which nobody runs: apart from the others those that are left
    // over would be twice as much code, and a way out would have to be looked for at each step.
    longest = made_once((longest + UNROLLED - 1) / UNROLLED * UNROLLED);
    for (int n = 0; n + UNROLLED <= longest; n += UNROLLED) {
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) run_step(n + i, i);
    }

#if BIDIRECTIONAL  // found out only here: registers are short in between
    if (blockIdx.x >= blocks) {
        dh = dh_2, dc = dc_2;
#if EACH_STEP
        d_peephole = d_peephole_2;
#endif
    }
#endif
#pragma unroll
    for (int j = 0; j < PAIRS; ++j) {
        const int sequence = first_sequence + t + 4 * j;
        if (unit >= hidden || sequence >= end_sequence) continue;
        const long long at = (long long)afresh(sequence) * hidden + unit;
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            dh[at + u] = d_hidden[j][u], dc[at + u] = d_cell[j][u];
#if EACH_STEP
            for (int k = 0; peephole && k < 3; ++k) {
                d_peephole[(3ll * sequence + k) * hidden + unit + u] += d_peep[j][u][k][thread];
            }
#endif
        }
        for (int step = running[j]; step < steps; ++step) {
            unsigned* const gates_there = at_step(gates_of_0[j], step, gate_bytes);
            for (int gate = 0; gate < 4; ++gate) gates_there[gate * (hidden / 2)] = 0u;
        }
    }
}
