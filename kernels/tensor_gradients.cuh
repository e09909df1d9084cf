// What one step back of lstm_resident_tensor_backward is made of: a lane's weights and sums, and what its two units'
// gradients are multiplied by.
#pragma once

#include "half_precision.cuh"
#include "quick_activations.cuh"
#include "registers.cuh"

#define PARTS (2 / PAIRS)          // of the sum over all 4*hidden pre-activations
#define READS (2 * WARPS / PARTS)  // of 16 bytes of da, a pair's four gates: a lane's share of two tiles of the sum
#define CHAINS (WARPS < 8 ? 4 / PARTS : 2)  // of products, none of which waits for those of another

// What a step reads of two units of a sequence.
struct Fetched {
    unsigned gates[4], dy;
    float2 before;  // cell states, before the step in time
};

// What a step multiplies a unit's gradients by.
struct Prepared {
    float of_gate[4];           // what gives each gate's gradient from dc, the output gate's from dh
    float to_c, to_before, dy;  // what of dh is added to dc, what of dc goes to the step before
#if OPTIONS
    float h_stays, c_stays;     // what zoneout keeps for the step before
#endif
};

// Off by some 2^-22 of 1: of what it is multiplied with, 16 bits are kept.
__device__ __forceinline__ float tanh_near(float x) {
    return fmaf(-2.0f, reciprocal(1.0f + power_of_two(2.88539008f * x)), 1.0f);
}
// x (1 - x)
__device__ __forceinline__ float slope_of(float x) { return fmaf(-x, x, x); }

// Without a branch, which the compiler would not move anything across.
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

// The numbers are there when this has been passed, not only when they are needed: the compiler would put them off.
// Returns a number that it takes them to find out.
__device__ __forceinline__ unsigned made_by_now(Prepared& of) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(of.of_gate[0]), "+f"(of.of_gate[1]), "+f"(of.of_gate[2]), "+f"(of.of_gate[3]));
    asm volatile("" : "+f"(of.to_c), "+f"(of.to_before), "+f"(of.dy));
#endif
    return __float_as_uint(of.of_gate[0]) | __float_as_uint(of.of_gate[1]) | __float_as_uint(of.of_gate[2]) |
           __float_as_uint(of.of_gate[3]) | __float_as_uint(of.to_c);
}

// The lane's fragments of W_hh^T. A word stands for two neighbouring units of one gate, as da has them: rows of W_hh,
// of which a word has both of the lane's units. `unit` is the first of these, t is lane % 4. `weight` is at a multiple
// of 4 bytes, and `zero` one of which the compiler knows nothing.
__device__ __forceinline__ void hold_columns(
    unsigned (&w)[PARTS][2 * READS][4], const store* weight, int unit, int t, int hidden, unsigned zero) {
    int after[4 / PARTS] = {};  // 32 loads are on their way at once
#pragma unroll
    for (int q = 0; q < READS; ++q) {
        int& ready = after[q % (4 / PARTS)];
        unsigned loaded = 0;
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                const int source = 8 * q + 2 * t + part * (8 * READS) + ready;
                const bool inside = unit < hidden && source < hidden;  // and their neighbours: hidden is even
                const int place = (gate * hidden + source) * hidden + unit;  // below 2^16
                const unsigned* const rows = (const unsigned*)in_global_memory(weight + place);
                const unsigned upper = inside ? rows[0] : 0u, lower = inside ? rows[hidden / 2] : 0u;
                unsigned(&first)[4] = w[0][2 * q + gate / 2], (&last)[4] = w[PARTS - 1][2 * q + gate / 2];
                first[gate % 2 * 2 + (PARTS == 1 ? 0 : part)] = pair_of(first_of(upper), first_of(lower));
                last[gate % 2 * 2 + (PARTS == 1 ? 1 : part)] = pair_of(second_of(upper), second_of(lower));
                loaded |= upper | lower;
            }
        }
        ready = (int)(loaded & zero);
    }
}

// dh of number u of the lane's two units, of each of its sequences. With PAIRS=1 the lane two further on, or two
// before, has the other part of the sum, and the other sequence of the two. A whole warp has to come.
__device__ __forceinline__ void finish_sums(
    float (&sums)[PAIRS], const float (&d)[PARTS][CHAINS][4], int u, int t) {
    float of_parts[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const float(&chains)[CHAINS][4] = d[u % PARTS];
        of_parts[k] = chains[0][k] + chains[1][k];
        if (CHAINS == 4) of_parts[k] += chains[2 % CHAINS][k] + chains[3 % CHAINS][k];
    }
    if (PAIRS == 2) {
        sums[0] = of_parts[2 * u], sums[PAIRS - 1] = of_parts[2 * u + 1];
    } else {
        const float kept = t >= 2 ? of_parts[3] : of_parts[0], given = t >= 2 ? of_parts[2] : of_parts[1];
        sums[0] = kept + __shfl_xor_sync(0xFFFFFFFFu, given, 2);
    }
}
