// All time steps of one small LSTM layer in one launch, in float16 or bfloat16, on the tensor cores: a block has the
// whole of W_hh in its registers.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Stored in 16 bits: gates, weights, bias, h and y, each rounded once to the nearest. In float32: products' sums, what
// a step computes, and the cell state.
//
// Who owns what: a block owns one sequence or up to four, SEQUENCES, and waits for no other block. A warp owns eight
// hidden units, of which it has 32 rows of weights as two fragments of the tensor cores (half_precision.cuh): rows g
// and g + 8 of the first are the gates i and f of its unit number g, those of the second g and o. So a lane gets all
// four sums of a unit. The hidden states are in shared memory, twice, so that one barrier per step is enough; a
// thread's 8 * KTILES words of weights are in registers.
//
// The product has eight columns; lane 4 * g + t has columns 2 * t and 2 * t + 1 of it. With SEQUENCES=4 both are
// sequence t, and the lane makes this cell by itself. With SEQUENCES=1 all of them are the one sequence, and a unit's
// four lanes make a gate each. Both give the same bits. Columns of one sequence do not look at those of another.
//
// Words of h and of the weights are permuted alike, so that a lane reads those of two tiles of the product at once, 16
// bytes; a sequence's words are followed by four, so that what lanes read or write at once is in banks of their own.
//
// A step of a block: make the cells from the sums, hand h over, meet at the barrier, and begin the next step's product.
// What a step has made is written to memory beside that product, by every other warp of a scheduler before its own and
// by the others after it: so some make cells while others multiply. What a later step needs is asked for AHEAD steps
// before it is used. None of it is on the way from h to h.
//
// Bytes per hidden unit and step: reads 4 gates of 2, writes y of 2, and with `keep` 4 gates and h of 2 and c of 4.
//
// hidden is at most 16 * KTILES; a block has 32 threads for every 8 hidden units. How many sequences a block has is in
// the number of blocks: the batch is split evenly.
//
// OPTIONS  the equations are those of persistent_options.cuh. A unit's four lanes draw for four steps at once, one step
//          each, for each of the block's sequences. With `keep` `hiddens` then receives what the products read, h with
//          its mask and zero where a step does nothing, rounded once more; h itself is in `state`.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "half_precision.cuh"
#include "persistent_options.cuh"
#include "quick_activations.cuh"
#include "registers.cuh"
#include "storage.cuh"

#define UNROLLED 4                                   // steps: as many as lanes draw for, and even, for two buffers
#define GATES (SEQUENCES == 1 ? 1 : 4)               // that a lane makes
// Where registers are short: what is fetched that many steps ahead, and fragments that stand in shared memory instead.
#define AHEAD (KTILES < 8 ? (SEQUENCES > 1 && OPTIONS ? 2 : 4) : (SEQUENCES > 1 ? 2 : 4) / (1 + OPTIONS))
#define PARKED (KTILES == 8 && SEQUENCES > 1 && OPTIONS ? 4 : 0)
#ifndef LATE  // benchmarks/cycles.py says it for all warps alike
#define LATE (thread / 128 % 2)                      // which warps of a scheduler multiply after the others
#endif
#define CHAINS (KTILES == 8 ? 1 : 2)                 // sums of a product that do not wait for each other
#define LOADS (KTILES / 2)                           // of h, of 16 bytes each
#define PITCH (8 * KTILES + 4)                       // words of h of a sequence
// Blocks that the 65536 registers of a multiprocessor hold, with 128 for each thread where there are several.
#define BLOCKS_TOGETHER (KTILES <= 4 ? 8 / KTILES : 1)

// The lane's words of the four gates' rows of its unit: of load v 16 * v + 4 * t and the three after it. Zero where
// there are no weights.
__device__ __forceinline__ void hold_rows(
    unsigned (&w)[4][LOADS][4], const store* weight, int unit, int t, int hidden) {
    const bool in_words = ((size_t)weight | hidden * sizeof(store)) % 16 == 0;
    int after = 0;
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
        for (int v = 0; v < LOADS; ++v) {
            const int column = 32 * v + 8 * t + after;
            const store* first = weight + (gate * hidden + unit) * hidden + column;  // below 2^16
            if (in_words) {
                uint4 words = make_uint4(0, 0, 0, 0);
                if (unit < hidden && column < hidden) words = *(const uint4*)first;
                w[gate][v][0] = words.x, w[gate][v][1] = words.y, w[gate][v][2] = words.z, w[gate][v][3] = words.w;
            } else {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    store pair[2];
#pragma unroll
                    for (int p = 0; p < 2; ++p) {
                        const bool there = unit < hidden && column + 2 * k + p < hidden;
                        pair[p] = there ? first[2 * k + p] : stored(0.0f);
                    }
                    w[gate][v][k] = pair_of(pair[0], pair[1]);
                }
                after = (int)((w[gate][v][0] ^ w[gate][v][1] ^ w[gate][v][2] ^ w[gate][v][3]) & unknown_zero(weight));
            }
        }
    }
}

// The lane's words of two gates as a fragment, of the half k of a load.
__device__ __forceinline__ void fragment(unsigned (&a)[4], const unsigned (&w)[4][LOADS][4], int m, int v, int k) {
    a[0] = w[2 * m][v][2 * k], a[1] = w[2 * m + 1][v][2 * k];
    a[2] = w[2 * m][v][2 * k + 1], a[3] = w[2 * m + 1][v][2 * k + 1];
}

// W_hh h of the unit's four gates, from the words of h of the lane's column. The last PARKED fragments are in shared
// memory.
__device__ __forceinline__ void multiply(
    float (&sums)[4], const unsigned (&w)[4][LOADS][4], const uint4* parked, const uint4* words) {
    float d[CHAINS][2][4] = {};
#pragma unroll
    for (int v = 0; v < LOADS; ++v) {
        const uint4 four = words[4 * v];
        const unsigned b[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
        for (int k = 0; k < 2; ++k) {
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                unsigned a[4];
                const int number = 2 * (1 - m) + k;
                if (v == LOADS - 1 && number < PARKED) {
                    const uint4 of_thread = parked[64 * KTILES * number];
                    a[0] = of_thread.x, a[1] = of_thread.y, a[2] = of_thread.z, a[3] = of_thread.w;
                } else {
                    fragment(a, w, m, v, k);
                }
                multiply_add(d[k % CHAINS][m], a, b[k]);
            }
        }
    }
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
        sums[gate] = d[0][gate / 2][gate % 2 * 2];
        if (CHAINS == 2) sums[gate] += d[CHAINS - 1][gate / 2][gate % 2 * 2];
    }
}

extern "C" __global__ void __launch_bounds__(64 * KTILES, BLOCKS_TOGETHER) lstm_resident_tensor_forward(
    store* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight, // (4*hidden, hidden) W_hh
    const store* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* hiddens,                   // the same of h
    store* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
#if BIDIRECTIONAL  // the same of the second direction, which writes the columns of y behind those of the first
    store* gates_2,
    const store* weight_2,
    const store* bias_2,
    float* cells_2,
    store* hiddens_2,
#endif
#if OPTIONS
    store* state,                     // (batch, hidden) the initial h; becomes the final one
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
    Options options,
#if BIDIRECTIONAL
    store* state_2,
    const store* peephole_2,
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
    const int groups = gridDim.x / 2;
    const bool second = blockIdx.x >= groups;
    const int number = second ? blockIdx.x - groups : blockIdx.x;
    if (second) {
#if OPTIONS
        state = state_2, peephole = peephole_2, options.stream = stream_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y_offset += hidden, reverse = !reverse;
    }
#else
    const int groups = gridDim.x, number = blockIdx.x;
#endif
    const int share = (batch + groups - 1) / groups;  // at most SEQUENCES
    const int first_sequence = number * share, own = min(share, batch - first_sequence);

    __shared__ __align__(16) unsigned h_now[2][SEQUENCES][PITCH];
    const int thread = threadIdx.x, lane = thread % 32, g = lane / 4, t = lane % 4, unit = thread / 32 * 8 + g;
    const int column = SEQUENCES == 1 ? 0 : t;  // of the block's sequences, the lane's
    const bool exists = unit < hidden && column < own;
    // Lanes without a cell read what another one reads, and write nothing.
    const int there = min(unit, hidden - 1), sequence = first_sequence + min(column, own - 1);
    const long long units = (long long)batch * hidden, at = (long long)sequence * hidden + there;

    unsigned w[4][LOADS][4];
    hold_rows(w, weight, unit, t, hidden);
    __shared__ uint4 all_parked[PARKED ? PARKED * 64 * KTILES : 1];
    uint4* const parked = all_parked + (PARKED ? thread : 0);  // each thread reads what it writes itself
#pragma unroll
    for (int i = 0; i < PARKED; ++i) {
        unsigned a[4];
        fragment(a, w, 1 - i / 2, LOADS - 1, i % 2);
        parked[64 * KTILES * i] = make_uint4(a[0], a[1], a[2], a[3]);
    }
    store b[GATES];
#pragma unroll
    for (int k = 0; k < GATES; ++k) b[k] = bias ? bias[(SEQUENCES == 1 ? t : k) * hidden + there] : stored(0.0f);
    const unsigned biases[2] = {made_once(pair_of(b[0], b[1 % GATES])), made_once(pair_of(b[2 % GATES], b[3 % GATES]))};
#if OPTIONS
    const bool drops = draw_for_sequence(options, unit, sequence);  // h before the products
    const store* const peep = peephole ? peephole + (SEQUENCES == 1 ? min(t, 2) * hidden : 0) + there : 0;
    unsigned drawn = 0;  // for one of four steps, each lane its own: four bits for each sequence
#endif

    const long long first_slot = keep && reverse ? steps * units : 0;
    float c = cells[first_slot + at];
#if OPTIONS
    store h = state[at];
#else
    store h = hiddens[first_slot + at];
#endif
    for (int i = thread; i < 2 * SEQUENCES * PITCH; i += blockDim.x) (&h_now[0][0][0])[i] = 0;
    __syncthreads();
    const bool hands = exists && (SEQUENCES > 1 || t == 0);
    store* const handed = (store*)h_now[0][column] + unit;
    const uint4* const words = (const uint4*)(h_now[0][SEQUENCES == 1 ? 0 : g / 2] + 4 * t);
#if OPTIONS
    if (hands) *handed = stored(real_of(h) * (drops ? 0.0f : options.hidden_scale));
#else
    if (hands) *handed = h;
#endif

    // What a lane reads and writes of a step is this many bytes times the step behind where that of step 0 is. Of four
    // lanes that have the same h and c each writes it somewhere else, if anywhere; a lane that has them alone writes
    // them everywhere.
    const unsigned half_bytes = (unsigned)batch * hidden * sizeof(store);  // of a number for each unit
    const unsigned y_bytes = (unsigned)batch * y_width * sizeof(store);
    store* const gate_of_0 =
        made_once(gates + (long long)sequence * 4 * hidden + (SEQUENCES == 1 ? t * hidden : 0) + there);
    store* const y_of_0 = made_once(y + (long long)sequence * y_width + y_offset + there);
    store* const hidden_of_0 = made_once(hiddens + at + (1 - reverse) * units);  // of what follows step 0
    float* const cell_of_0 = made_once(cells + at + (1 - reverse) * units);
    const bool to_y = exists && (SEQUENCES > 1 || t == 1), keeps = exists && keep;
    const bool to_hiddens = keeps && (SEQUENCES > 1 || t == 2), to_cells = keeps && (SEQUENCES > 1 || t == 3);

    const bool late = !(KTILES == 8 && OPTIONS) && LATE;  // registers are short
    const int direction = made_once(reverse ? -1 : 1);
    int step = reverse ? steps - 1 : 0;
    const int length = lengths ? lengths[sequence] - first_time : steps;
    store next[AHEAD][GATES] = {};
    const auto fetch = [&](store(&fetched)[GATES], int later) {
        const store* const of_step = at_step(gate_of_0, later, 4 * half_bytes);
#pragma unroll
        for (int k = 0; k < GATES; ++k) fetched[k] = of_step[k * hidden];
    };
    float inputs[GATES], sums[4];
    const auto take = [&](const store(&fetched)[GATES]) {
#pragma unroll
        for (int k = 0; k < GATES; ++k) {
            const unsigned two = biases[k / 2];
            inputs[k] = real_of(fetched[k]) + real_of(k % 2 ? second_of(two) : first_of(two));
        }
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        if (i < steps) fetch(next[i], step + direction * i);
    }
    __syncthreads();
    multiply(sums, w, parked, words);
    take(next[0]);
    if (steps > AHEAD) fetch(next[0], step + direction * AHEAD);

#if OPTIONS
    const auto draw = [&](int first) {
        if (SEQUENCES == 1) {
            drawn = draw_for_step(options, unit, first_sequence, first + direction * t);
        } else if (draws_at_each_step(options)) {
            drawn = 0;
#pragma unroll 2
            for (int s = 0; s < own; ++s) {
                drawn |= draw_for_step(options, unit, first_sequence + s, first + direction * t) << 4 * s;
            }
        }
    };
    draw(step);
#endif
    for (int left = steps; left > 0; left -= UNROLLED) {
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) {
            if (left <= i) break;
            const bool runs = step < length;
            float in, forget, candidate, out, c_star;
            unsigned made[2];  // the gates as they are stored, two in a word; or the lane's own
#if OPTIONS
            const unsigned now = __shfl_sync(0xFFFFFFFFu, drawn, i, 4) >> 4 * column;
            const float written = candidate_mask(options, now);
#endif
            if (SEQUENCES == 1) {
                float a = (t < 2 ? t == 0 ? sums[0] : sums[1] : t == 2 ? sums[2] : sums[3]) + inputs[0];
#if OPTIONS
                if (peephole && t < 2) a = fmaf(real_of(*peep), c, a);
#endif
                float activated = quick_gate(t, a);
                in = __shfl_sync(0xFFFFFFFFu, activated, 0, 4);
                forget = __shfl_sync(0xFFFFFFFFu, activated, 1, 4);
                candidate = __shfl_sync(0xFFFFFFFFu, activated, 2, 4);
#if OPTIONS
                if (options.coupled) forget = 1.0f - in;
                if (t == 1) activated = forget;
                c_star = fmaf(forget, c, in * (candidate * written));
                if (peephole && t == 3) activated = quick_sigmoid(fmaf(real_of(*peep), c_star, a));
#else
                c_star = fmaf(forget, c, in * candidate);
#endif
                out = __shfl_sync(0xFFFFFFFFu, activated, 3, 4);
                made[0] = made[1] = stored(activated).bits;
            } else {
                float a[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) a[k] = sums[k] + inputs[k % GATES];
#if OPTIONS
                if (peephole) a[0] = fmaf(real_of(peep[0]), c, a[0]), a[1] = fmaf(real_of(peep[hidden]), c, a[1]);
#endif
                in = quick_sigmoid(a[0]), forget = quick_sigmoid(a[1]), candidate = quick_tanh(a[2]);
#if OPTIONS
                if (options.coupled) forget = 1.0f - in;
                c_star = fmaf(forget, c, in * (candidate * written));
                if (peephole) a[3] = fmaf(real_of(peep[2 * hidden]), c_star, a[3]);
#else
                c_star = fmaf(forget, c, in * candidate);
#endif
                out = quick_sigmoid(a[3]);
                made[0] = pair_of(stored(in), stored(forget)), made[1] = pair_of(stored(candidate), stored(out));
            }
#if OPTIONS
            const float c_new = zoned_c(options, now, c, c_star);
            const store h_new = stored(zoned_h(options, now, real_of(h), out * quick_tanh(c_star)));
#else
            const float c_new = c_star;
            const store h_new = stored(out * quick_tanh(c_star));
#endif
            if (runs) c = c_new, h = h_new;
#if OPTIONS
            const store masked = stored(real_of(h) * (drops ? 0.0f : options.hidden_scale));
            const store shown = step + direction < length ? masked : stored(0.0f);
#else
            const store masked = h, shown = h;
#endif
            if (hands) handed[(i + 1) % 2 * SEQUENCES * 2 * PITCH] = masked;
            __syncthreads();
            const store y_now = store{(unsigned short)(runs ? h.bits : 0)};
            const bool writes_gates = keeps && runs;
            const auto beside = [&] {
                if (to_y) *at_step(y_of_0, step, y_bytes) = y_now;
                if (to_hiddens) *at_step(hidden_of_0, step, half_bytes) = shown;
                if (to_cells) *at_step(cell_of_0, step, 2 * half_bytes) = c;
#pragma unroll
                for (int k = 0; k < GATES; ++k) {
                    const store one = k % 2 ? second_of(made[k / 2]) : first_of(made[k / 2]);
                    if (writes_gates) at_step(gate_of_0, step, 4 * half_bytes)[k * hidden] = one;
                }
            };
#if OPTIONS
            if (i == UNROLLED - 1) draw(step + direction);  // whoever has drawn multiplies while others draw
#endif
            if (late) beside();
            multiply(sums, w, parked, words + (i + 1) % 2 * (SEQUENCES * PITCH / 4));  // at the end for nothing
            take(next[(i + 1) % AHEAD]);
            if (left > i + 1 + AHEAD) fetch(next[(i + 1) % AHEAD], step + (1 + AHEAD) * direction);
            if (!late) beside();
            step += direction;
        }
    }
    if (!hands) return;
    const long long end = (long long)afresh(sequence) * hidden + afresh(unit);
#if OPTIONS
    state[end] = h;
    if (!keep) cells[end] = c;
#else
    if (!keep) hiddens[end] = h, cells[end] = c;
#endif
}
