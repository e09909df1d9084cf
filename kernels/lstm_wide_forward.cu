// All time steps of one LSTM layer in one launch, in float32, where the recurrent weights do not fit on the chip: what
// registers and shared memory do not hold is read from L2 in each step (wide_weights.cuh).
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: the batch is split into groups of sequences that never wait for each other. Within a group a block
// owns 16 hidden units, and each of its warps one of them, all four gates, for all sequences of the group. The lanes of
// a warp share out the sum over h: of every 128 columns a lane has four in a row, so that a warp reads 512 bytes of a
// row of W_hh at once, as they stand in memory.
//
// A pass of a block, over SEQUENCES sequences: ask for the first weights that are not on the chip, and for what else
// does not depend on h; wait for h[t-1] (handover.cuh), a part of it in each thread, and put it into shared memory for
// all warps; multiply, in float32; add up over the lanes, such that the four gates of a sequence end in neighbouring
// lanes; publish h[t]. Sums are made in the same order for any SEQUENCES, KEPT and PARKED.
//
// Bytes per hidden unit and step: reads 4 gates + 1 cell, writes 1 cell + 1 h + 1 y, and with `keep` 4 gates; each
// block reads the group's h[t-1] from L2, and in each pass STREAMED * 16 bytes of weights for each of its 512 threads.
//
// hidden is a multiple of 4, and at most 128 * QUADS.
//
// OPTIONS  the equations are those of persistent_options.cuh, `hiddens` and `state` as in lstm_persistent_forward.cu.
#include "handover.cuh"
#include "lane_sums.cuh"
#include "own_gate.cuh"
#include "persistent_options.cuh"
#include "registers.cuh"
#include "wide_weights.cuh"

#define ROW (32 * QUADS)                                   // four neighbouring h's each, of one sequence
#define LOADS ((SEQUENCES * ROW + THREADS - 1) / THREADS)  // of them that a thread fetches

// The gate of a sequence that a lane finishes.
struct Output {
    int gate, unit, sequence;
    bool there;

    __device__ __forceinline__ Output(int thread, int first_unit, int hidden, int sequence0, int end_sequence) {
        gate = thread % 4, unit = first_unit + thread / 32, sequence = sequence0 + thread % 32 / 4;
        there = thread % 32 < 4 * SEQUENCES && sequence < end_sequence && unit < hidden;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_wide_forward(
    float* gates,                      // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const float* __restrict__ weight, // (4*hidden, hidden) W_hh
    const float* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* hiddens,                   // (steps + 1, batch, hidden): the initial h, and all ones elsewhere
    float* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
    unsigned* failed,                 // becomes 1 if a block waited in vain
#if OPTIONS
    float* state,                     // (batch, hidden) the initial h; becomes the final one
    const float* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    Options options,
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all cell states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time,                   // the time of step 0, to compare with lengths
    int blocks,                       // of a group
    int share) {                      // sequences of a group
    extern __shared__ float4 shared[];  // [SEQUENCES][ROW] h, then [PARKED][THREADS] weights
    float4* const h_now = shared;
    const int thread = threadIdx.x, lane = thread % 32, first_unit = blockIdx.x % blocks * UNITS;
    const int first_sequence = blockIdx.x / blocks * share;
    const int end_sequence = first_sequence + share < batch ? first_sequence + share : batch;

    const int quads = hidden / 4 - lane;  // from this lane's first one on
    const int own_unit = first_unit + thread / 32;
    const Fragments fragments = {weight, hidden, own_unit * hidden + 4 * lane, 128,
                                 own_unit < hidden && quads > 0 ? (quads + 31) / 32 : 0};
    const unsigned zero = unknown_zero(failed);
    Weights w;
    w.hold(fragments, shared + SEQUENCES * ROW, zero);

    if (blocks_are_missing(blocks, batch, share, failed)) return;
    Patience patience = {0, failed};
    for (int count = 0; count < steps; ++count) {
        for (int sequence0 = first_sequence; sequence0 < end_sequence; sequence0 += SEQUENCES) {
            w.ask(fragments, count & zero);
            float input = 0.0f, c = 0.0f;
            const Output early(afresh(thread), first_unit, hidden, sequence0, end_sequence);
            const int step = reverse ? steps - 1 - count : count;
#if OPTIONS
            float h_old = 0.0f;
            const unsigned drawn =
                draw_in_four_lanes(options, early.unit, early.sequence, step, early.gate, thread % 32 & ~3);
#endif
            if (early.there) {
                const long long row = (long long)step * batch + early.sequence;
                input = gates[row * 4 * hidden + early.gate * hidden + early.unit];
                if (bias) input += bias[early.gate * hidden + early.unit];
                const long long slot = keep ? (long long)(step + reverse) * batch : 0;
                c = cells[(slot + early.sequence) * hidden + early.unit];
#if OPTIONS
                h_old = state[(long long)early.sequence * hidden + early.unit];
                if (peephole && early.gate < 2) input += peephole[early.gate * hidden + early.unit] * c;
#endif
            }

            const long long row_before = (long long)(step + reverse) * batch;
            unsigned words[LOADS][4];
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {  // all of them on their way before the first is looked at
                const int which = thread + i * THREADS, from = sequence0 + which / ROW, column = 4 * (which % ROW);
                const bool there = which < SEQUENCES * ROW && from < end_sequence && column < hidden;
                words[i][0] = words[i][1] = words[i][2] = words[i][3] = 0;
                if (there) load_words((const unsigned*)hiddens + (row_before + from) * hidden + column, words[i]);
            }
            patience.begin();
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                const int which = thread + i * THREADS, from = sequence0 + which / ROW, column = 4 * (which % ROW);
                while (count > 0 && any_missing(words[i]) && !patience.ends()) {
                    load_words((const unsigned*)hiddens + (row_before + from) * hidden + column, words[i]);
                }
            }
            __syncthreads();  // nobody reads the h of the last pass any more
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                const int which = thread + i * THREADS;
                if (which >= SEQUENCES * ROW) continue;
                h_now[which] = make_float4(__uint_as_float(words[i][0]), __uint_as_float(words[i][1]),
                                           __uint_as_float(words[i][2]), __uint_as_float(words[i][3]));
            }
            __syncthreads();

            float sums[4 * SEQUENCES];  // number 4 * s + q is gate q of sequence s
#pragma unroll
            for (int j = 0; j < 4 * SEQUENCES; ++j) sums[j] = 0.0f;
            w.for_each_quad(fragments, zero, count, [&](int k, unsigned nothing, const float4(&of_gates)[4]) {
                const float4* of_quad = h_now + lane + nothing;
                unsigned bits = 0;
#pragma unroll
                for (int s = 0; s < SEQUENCES; ++s) {
                    const float4 h = of_quad[s * ROW + 32 * k];
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        float& sum = sums[4 * s + q];
                        sum = fmaf(of_gates[q].x, h.x, sum);
                        sum = fmaf(of_gates[q].y, h.y, sum);
                        sum = fmaf(of_gates[q].z, h.z, sum);
                        sum = fmaf(of_gates[q].w, h.w, sum);
                        bits |= __float_as_uint(sum);
                    }
                }
                return bits;
            });

            const int self = afresh(thread);  // what depends on it is computed again: registers are short above
            const float a = reduce_scatter<32>(sums, self) + input;

            const Output out(self, first_unit, hidden, sequence0, end_sequence);
            const int gate = out.gate, unit = out.unit, sequence = out.sequence, first_lane = self % 32 & ~3;
            float activated = activated_gate(gate, a);
            const float i = __shfl_sync(0xFFFFFFFFu, activated, first_lane);
            const float f = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 1);
            const float candidate = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 2);
#if OPTIONS
            const float forget = options.coupled ? 1.0f - i : f;
            const float c_star = fmaf(forget, c, i * (candidate * candidate_mask(options, drawn)));
            if (gate == 1) activated = forget;
            if (peephole && gate == 3 && unit < hidden) {
                activated = activated_gate(gate, a + peephole[2 * hidden + unit] * c_star);
            }
            const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
            const float c_next = zoned_c(options, drawn, c, c_star);
            const float h_next = zoned_h(options, drawn, h_old, o * tanhf(c_star));
#else
            const float o = __shfl_sync(0xFFFFFFFFu, activated, first_lane + 3);
            const float c_next = fmaf(f, c, i * candidate);
            const float h_next = o * tanhf(c_next);
#endif
            if (out.there) {
                const int now = reverse ? steps - 1 - afresh(count) : afresh(count);
                const bool runs = !lengths || first_time + now < lengths[sequence];
                const int after = now + 1 - reverse;
                const long long row = (long long)now * batch + sequence;
#if !OPTIONS
                const int before = now + reverse;
                const long long from = ((long long)before * batch + sequence) * hidden + unit;
#endif
                const long long to = ((long long)after * batch + sequence) * hidden + unit;
                if (gate == 0) {
#if OPTIONS
                    const bool next_runs = !lengths || first_time + now + 1 - 2 * reverse < lengths[sequence];
                    const float h_now = runs ? h_next : h_old;
                    state[(long long)sequence * hidden + unit] = h_now;
                    const unsigned word = next_runs ? __float_as_uint(h_now * hidden_mask(options, drawn)) : 0u;
#else
                    const unsigned word = runs ? __float_as_uint(h_next) : ((const unsigned*)hiddens)[from];
#endif
                    store_word((unsigned*)hiddens + to, to_hand_over(word));
                }
                if (gate == 1) y[row * y_width + y_offset + unit] = runs ? h_next : 0.0f;
                if (gate == 2) cells[keep ? to : (long long)sequence * hidden + unit] = runs ? c_next : c;
                if (keep && runs) gates[row * 4 * hidden + gate * hidden + unit] = activated;
            }
            __syncwarp();  // c was written by one lane of four, and all four read it in the next step; so was `state`
        }
    }
}
