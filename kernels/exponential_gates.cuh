// The LSTM's non-linearities from what is already multiplied by log2(e), for kernels where all else waits for them:
//
//     sigmoid(a) = 1 / (1 + 2^z), z = -log2(e) a          tanh(a) = 1 - 2 / (1 + 2^z), z = 2 log2(e) a
//
// Neither needs a sign or a bound taken care of: where 2^z is infinite, its reciprocal is 0. For small a, tanh is a
// polynomial instead, whose error is relative to a; it is made while 2^z is under way. Both are off by a few units in
// the last place.
#pragma once

#include "registers.cuh"
#include "special_functions.cuh"

#define LOG2_E 1.4426950408889634f
#define SMALL 0.6f

// tanh(a) for |a| below SMALL: those coefficients with which its error is least there, below 2^-22 of it.
__device__ __forceinline__ float tanh_of_small(float a) {
    const float square = a * a;
    float factor = fmaf(square, 0.015739681f, -0.052303962f);
    factor = fmaf(square, factor, 0.13315298f);
    factor = fmaf(square, factor, -0.33332768f);
    return fmaf(a * square, factor, a);
}

// What makes one of a hidden unit's gates, 0 to 3 for i, f, g and o: factor * 1 / (1 + 2^z) + offset, z = bend * a.
struct Bend {
    float bend, factor, offset, small;

    __device__ __forceinline__ explicit Bend(int gate)
        : bend(made_once(gate == 2 ? 2.0f * LOG2_E : -LOG2_E)), factor(made_once(gate == 2 ? -2.0f : 1.0f)),
          offset(made_once(gate == 2 ? 1.0f : 0.0f)), small(made_once(gate == 2 ? SMALL : -1.0f)) {}
};

// Of COUNT numbers at a time, step by step, so that each one's way is as long as that of all. Replaces z.
template <int COUNT>
__device__ __forceinline__ void bend_all(float (&z)[COUNT], const float (&a)[COUNT], const Bend& of) {
    float if_small[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) z[k] = power_of_two(z[k]);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) if_small[k] = made_once(tanh_of_small(a[k]));  // in any case, not in a branch
#pragma unroll
    for (int k = 0; k < COUNT; ++k) z[k] = reciprocal(1.0f + z[k]);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        const float found = fmaf(of.factor, z[k], of.offset);
        z[k] = fabsf(a[k]) < of.small ? if_small[k] : found;
    }
}

// tanh(a), z = 2 log2(e) a.
template <int COUNT>
__device__ __forceinline__ void tanh_all(float (&z)[COUNT], const float (&a)[COUNT]) {
    float if_small[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) z[k] = power_of_two(z[k]);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) if_small[k] = made_once(tanh_of_small(a[k]));
#pragma unroll
    for (int k = 0; k < COUNT; ++k) z[k] = reciprocal(1.0f + z[k]);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        const float found = fmaf(-2.0f, z[k], 1.0f);
        z[k] = fabsf(a[k]) < SMALL ? if_small[k] : found;
    }
}
