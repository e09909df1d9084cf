// Backpropagation through all time steps of one small LSTM layer in one launch, in float16 or bfloat16, on the tensor
// cores: the twin of lstm_resident_tensor_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t].
//
// Who owns what: a block owns SEQUENCES sequences, and waits for no other block. A warp owns 16 hidden units: it has
// all that W_hh^T has in their rows, in registers, and makes their dh and da. So nothing of a sum crosses from warp to
// warp, and one barrier per step is enough, with da in shared memory twice. A lane owns two neighbouring units of one
// sequence, or of two, whose da are a word of each gate: in memory, in shared memory, and as the product reads them.
//
// The product (half_precision.cuh) has room for eight columns. With eight sequences they are the sequences, and the 16
// rows of a tile are the warp's units. With four they are the sequences twice, in two PARTS of the sum: a tile's rows
// are eight units twice, the weights of either part, and of the product only what has rows and columns of one part is
// looked at. That takes as many products as eight sequences do, and half as many words of shared memory, which eight
// sequences wait for; and a lane has half as many cells.
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
// gates, weight and dy are read two numbers at a time.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
#include "half_precision.cuh"
#include "lane_sums.cuh"
#include "registers.cuh"

#define PARTS (8 / SEQUENCES)         // of the sum over all 4*hidden pre-activations
#define PAIRS (SEQUENCES / 4)         // of units that a lane has, each of another sequence
#define READS (2 * WARPS / PARTS)     // of 16 bytes of da, a pair's four gates: a lane's share of two tiles of the sum
#define CHAINS (4 / PARTS)            // of products, none of which waits for those of another
#ifndef AHEAD
#define AHEAD (WARPS == 8 ? 8 / SEQUENCES : 16 / SEQUENCES)  // steps
#endif
#ifndef TAKE_TURNS
#define TAKE_TURNS 0
#endif
#ifndef WHEN
#define WHEN(k) ((k) * READS / (2 * PAIRS + 1))
#endif
#define AT_ONCE (AHEAD < 2 ? 2 : AHEAD)
#ifndef EARLY
#define EARLY 2
#endif
#define ROW (8 * WARPS + 2)           // of a sequence's da: pairs. No two lanes that are served together share a bank.
#define PLACES (SEQUENCES * ROW + 4)  // behind the first four sequences is a gap of four

// What a step reads of a pair of units; and what is made of it.
struct Fetched {
    unsigned gates[4], dy;
    float2 before;  // cell states, before the step in time
};
struct Prepared {
    float of_gate[4];          // what gives each gate's gradient from dc, the output gate's from dh
    float to_c, to_before, dy;  // what of dh is added to dc, what of dc goes to the step before
};

// To 2^-22 of 1: without what tanhf does for small arguments, of whose result 16 bits are left.
__device__ __forceinline__ float tanh_of(float x) { return 1.0f - 2.0f * __fdividef(1.0f, 1.0f + __expf(2.0f * x)); }

// x (1 - x), rounded once
__device__ __forceinline__ float slope_of(float x) { return fmaf(-x, x, x); }

// What was computed so far is computed here: not later, where it is needed first.
__device__ __forceinline__ void here(Prepared& of) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(of.of_gate[0]), "+f"(of.of_gate[1]), "+f"(of.of_gate[2]), "+f"(of.of_gate[3]));
    asm volatile("" : "+f"(of.to_c), "+f"(of.to_before), "+f"(of.dy));
#endif
}

__device__ __forceinline__ unsigned bits_of(const Prepared& of) {
    return __float_as_uint(of.of_gate[0]) | __float_as_uint(of.of_gate[1]) | __float_as_uint(of.of_gate[2]) |
           __float_as_uint(of.of_gate[3]) | __float_as_uint(of.to_c);
}

__device__ __forceinline__ void store_if(bool there, unsigned* place, unsigned word) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n"
        ".reg .pred there;\n"
        "setp.ne.s32 there, %2, 0;\n"
        "@there st.global.u32 [%0], %1;\n"
        "}" ::"l"(place), "r"(word), "r"((int)there) : "memory");
#else
    if (there) *place = word;
#endif
}

// Two numbers as a word, each of them rounded.
__device__ __forceinline__ unsigned rounded_pair(float first, float second) {
    return pair_of(stored(first), stored(second));
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, WARPS >= 6 ? 1 : 8 / WARPS) lstm_resident_tensor_backward(
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
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse) {                     // 1: the forward pass went from the last step to the first
#if BIDIRECTIONAL
    const int blocks = gridDim.x / 2;
    const bool second = blockIdx.x >= blocks;
    const int first_sequence = SEQUENCES * (second ? blockIdx.x - blocks : blockIdx.x);
    if (second) {
        gates = gates_2, weight = weight_2, cells = cells_2;
        dh = dh_2, dc = dc_2;
        dy_offset += hidden, reverse = !reverse;
    }
#else
    const int first_sequence = SEQUENCES * blockIdx.x;
#endif
    __shared__ uint4 da[2][PLACES];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int unit = 16 * warp + 2 * g;  // the first of the lane's two

    // The fragments of W_hh^T. A word stands for two neighbouring units of one gate, as da has them.
    unsigned w[PARTS][2 * READS][4];
#pragma unroll
    for (int m = 0; m < PARTS; ++m) {
#pragma unroll
        for (int k = 0; k < 2 * READS; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int lower = i % 2, gate = k % 2 * 2 + i / 2;  // lower: of the rows of D
                const int output = unit + (PARTS == 1 ? lower : m);
                const int source = 8 * (k / 2) + 2 * t + (PARTS == 1 ? 0 : lower * (8 * READS));
                const int row = gate * hidden + source;  // times hidden below 2^16
                const bool inside = output < hidden && source < hidden;  // and its neighbour: hidden is even
                const store* place = weight + row * hidden + output;
                w[m][k][i] = inside ? pair_of(place[0], place[hidden]) : 0u;
            }
        }
    }
    for (int i = threadIdx.x; i < 2 * PLACES; i += blockDim.x) (&da[0][0])[i] = make_uint4(0, 0, 0, 0);

    // A column of B is a sequence, and a part of the sum.
    const int column = g % SEQUENCES, of_column = column / 2 + column % 2 * (SEQUENCES / 2);
    const int read_at = made_once(of_column * ROW + of_column / 4 * 4 + g / SEQUENCES * (4 * READS) + t);
    const int write_at = made_once(t * ROW + unit / 2);  // of the first pair; of the second one 4 * ROW + 4 further on

    int longest = 0;
    for (int s = first_sequence; s < min(first_sequence + SEQUENCES, batch); ++s) {
        longest = max(longest, lengths ? min(lengths[s], steps) : steps);
    }
    int running[PAIRS], first_step[PAIRS], last[PAIRS];  // steps that a sequence has; in time, and how many are before
    float d_hidden[PAIRS][2], d_cell[PAIRS][2], c_after[PAIRS][2];
    const int direction = reverse ? 1 : -1;
    const unsigned cell_bytes = 4u * batch * hidden, gate_bytes = 8u * batch * hidden, dy_bytes = 2u * batch * dy_width;
    unsigned* gates_of_0[PAIRS];
    const float2* cell_of_0[PAIRS];
    const unsigned* dy_of_0[PAIRS];
#pragma unroll
    for (int j = 0; j < PAIRS; ++j) {
        const int sequence = first_sequence + t + 4 * j;
        const bool exists = unit < hidden && sequence < batch;
        running[j] = !exists ? 0 : lengths ? min(max(lengths[sequence], 0), steps) : steps;
        last[j] = max(running[j] - 1, 0), first_step[j] = reverse ? 0 : last[j];
        const int own_unit = exists ? unit : 0, row = exists ? sequence : 0;  // reads go somewhere in any case
        const long long at = (long long)row * hidden + own_unit;
        gates_of_0[j] = made_once((unsigned*)(gates + 4 * at - 3 * own_unit));
        cell_of_0[j] = made_once((const float2*)(cells + at + (reverse ? (long long)batch * hidden : 0)));
        dy_of_0[j] = made_once((const unsigned*)(dy + (dy ? (long long)row * dy_width + dy_offset + own_unit : 0)));
        const float* const after = cells + (long long)(first_step[j] + 1 - reverse) * batch * hidden + at;
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            d_hidden[j][u] = exists ? dh[at + u] : 0.0f;
            d_cell[j][u] = exists ? dc[at + u] : 0.0f;
            c_after[j][u] = longest ? after[u] : 0.0f;
        }
    }

    // Of a pair's step number n. Behind its last one, that one again: nobody looks at what comes of it.
    const auto fetch = [&](Fetched& fetched, int j, int n) {
        const int step = first_step[j] + direction * min(n, last[j]);
        const unsigned* const gates_there = at_step(gates_of_0[j], step, gate_bytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) fetched.gates[k] = gates_there[k * (hidden / 2)];
        fetched.before = *at_step(cell_of_0[j], step, cell_bytes);
        fetched.dy = dy ? *at_step(dy_of_0[j], step, dy_bytes) : 0u;
    };
    const auto prepare = [&](Prepared& of, float& c_after, const Fetched& fetched, int u) {
        float gate[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) gate[k] = real_of(u ? second_of(fetched.gates[k]) : first_of(fetched.gates[k]));
        const float in = gate[0], forget = gate[1], candidate = gate[2], out = gate[3];
        const float before = u ? fetched.before.y : fetched.before.x, tanh_c = tanh_of(c_after);
        of.of_gate[0] = candidate * slope_of(in), of.of_gate[1] = before * slope_of(forget);
        of.of_gate[2] = in * (1.0f - candidate * candidate), of.of_gate[3] = tanh_c * slope_of(out);
        of.to_c = out * (1.0f - tanh_c * tanh_c), of.to_before = forget;
        of.dy = real_of(u ? second_of(fetched.dy) : first_of(fetched.dy));
        c_after = before;
        here(of);
    };
    Fetched fetched[AHEAD][PAIRS];
    Prepared prepared[PAIRS][2];
    if (longest) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) fetch(fetched[i][j], j, i);
        }
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
#pragma unroll
            for (int u = 0; u < 2; ++u) prepare(prepared[j][u], c_after[j][u], fetched[0][j], u);
            fetch(fetched[0][j], j, AHEAD);
        }
    }
    __syncthreads();

#if TAKE_TURNS
    const bool is_second = warp >= 4;
#endif
    const unsigned zero = unknown_zero(gates);
    // The step number n, which is i in turn.
    const auto run_step = [&](int n, int i) {
        unsigned words[PAIRS][4];
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            float d_gate[2][4];
#pragma unroll
            for (int u = 0; u < 2; ++u) {
                const Prepared& of = prepared[j][u];
                const float d_h = d_hidden[j][u] + of.dy, d_c = d_cell[j][u] + d_h * of.to_c;
#pragma unroll
                for (int k = 0; k < 4; ++k) d_gate[u][k] = (k == 3 ? d_h : d_c) * of.of_gate[k];
                if (n < running[j]) d_cell[j][u] = d_c * of.to_before;
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) words[j][k] = rounded_pair(d_gate[0][k], d_gate[1][k]);
            const uint4 of_pair = make_uint4(words[j][0], words[j][1], words[j][2], words[j][3]);
            if (n < running[j]) da[i % 2][write_at + j * (4 * ROW + 4)] = of_pair;
        }
        __syncthreads();

        // What the product does not need: half of the work of a pair, of two.
        const auto work = [&](int j, int u) {
            prepare(prepared[j][u], c_after[j][u], fetched[(i + 1) % AHEAD][j], u);
            if (u == 0) {
                unsigned* const gates_there = at_step(gates_of_0[j], first_step[j] + direction * n, gate_bytes);
#pragma unroll
                for (int k = 0; k < 4; ++k) store_if(n < running[j], gates_there + k * (hidden / 2), words[j][k]);
            } else {
                fetch(fetched[(i + 1) % AHEAD][j], j, n + 1 + AHEAD);
            }
        };
#if TAKE_TURNS
        if (is_second) {
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; ++k) work(k / 2, k % 2);
        }
#endif
        const uint4* const all = da[i % 2] + read_at;
        float d[PARTS][CHAINS][4];
#pragma unroll
        for (int k = 0; k < 4 * PARTS * CHAINS; ++k) (&d[0][0][0])[k] = 0.0f;
        uint4 of_pairs[EARLY];
        unsigned after = 0;
#pragma unroll
        for (int q = 0; q < EARLY; ++q) of_pairs[q] = all[4 * q];
#pragma unroll
        for (int q = 0; q < READS; ++q) {
            const uint4 of_pair = of_pairs[q % EARLY];
            const unsigned b[2][2] = {{of_pair.x, of_pair.y}, {of_pair.z, of_pair.w}};
#pragma unroll
            for (int k = 2 * q; k < 2 * q + 2; ++k) {
#pragma unroll
                for (int m = 0; m < PARTS; ++m) multiply_add(d[m][k % CHAINS], w[m][k], b[k % 2]);
            }
            if (q + EARLY < READS) of_pairs[q % EARLY] = all[4 * (q + EARLY) + after];
#if !TAKE_TURNS
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; ++k) {
                if (q == WHEN(k)) {
                    work(k / 2, k % 2);
                    after = bits_of(prepared[k / 2][k % 2]) & zero;
                }
            }
#endif
        }
#if SEQUENCES == 8
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
#pragma unroll
            for (int u = 0; u < 2; ++u) {
                const int k = 2 * u + j;
                const float sum = (d[0][0][k] + d[0][1][k]) + (d[0][2][k] + d[0][3][k]);
                if (n < running[j]) d_hidden[j][u] = sum;
            }
        }
#else  // the lane two further on has the other part, and the other sequence
#pragma unroll
        for (int u = 0; u < 2; ++u) {
            float sums[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[k] = d[u][0][k] + d[u][1][k];
            const float kept = t >= 2 ? sums[3] : sums[0], given = t >= 2 ? sums[2] : sums[1];
            const float sum = kept + __shfl_xor_sync(ALL_LANES, given, 2);
            if (n < running[0]) d_hidden[0][u] = sum;
        }
#endif
#if TAKE_TURNS
        if (!is_second) {
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; ++k) work(k / 2, k % 2);
        }
#endif
    };
    int n = 0;
    for (; n + AT_ONCE <= longest; n += AT_ONCE) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) run_step(n + i, i);
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE - 1; ++i) {
        if (n + i < longest) run_step(n + i, i);
    }

#pragma unroll
    for (int j = 0; j < PAIRS; ++j) {
        const int sequence = first_sequence + t + 4 * j;
        if (unit >= hidden || sequence >= batch) continue;
        const long long at = (long long)afresh(sequence) * hidden + unit;
#pragma unroll
        for (int u = 0; u < 2; ++u) dh[at + u] = d_hidden[j][u], dc[at + u] = d_cell[j][u];
        for (int later = running[j]; later < steps; ++later) {
            unsigned* const gates_there = at_step(gates_of_0[j], later, gate_bytes);
            for (int k = 0; k < 4; ++k) gates_there[k * (hidden / 2)] = 0u;
        }
    }
}
