// The LSTM's non-linearities where a lane has many of them to make in a step and nothing else would be so slow: two
// instructions of the unit for special functions each, and a few others, instead of the twenty of tanhf.
//
// A sigmoid is off by less than 2^-20 of itself for arguments down to -8, and by less than |a| / 2^23 of itself below;
// a tanh by less than 2^-19 of itself. That is far below what 16 bits can tell. Infinity gives 0, 1 and -1, and NaN
// gives NaN.
#pragma once

#include "special_functions.cuh"

// 1 / (1 + e^-a)
__device__ __forceinline__ float quick_sigmoid(float a) {
    return reciprocal(1.0f + power_of_two(-1.44269504f * a));
}

// 2 sigmoid(2 a) - 1, of which few digits would be left near zero: there it is a - a^3 / 3 + 2 a^5 / 15, whose next
// term is below 2^-22 of it.
__device__ __forceinline__ float quick_tanh(float a) {
    const float squared = a * a;
    const float small = fmaf(fmaf(squared, 0.13333333f, -0.33333333f) * squared, a, a);
    const float large = fmaf(2.0f, reciprocal(1.0f + power_of_two(-2.88539008f * a)), -1.0f);
    return fabsf(a) < 0.125f ? small : large;
}

// A gate's value from its pre-activation where each lane makes one of the four, 0 to 3 being i, f, g and o: with the
// bits of the two functions above, and two special functions for all lanes together.
__device__ __forceinline__ float quick_gate(int gate, float a) {
    const float squared = a * a;
    const float small = fmaf(fmaf(squared, 0.13333333f, -0.33333333f) * squared, a, a);
    const float sigmoid = reciprocal(1.0f + power_of_two((gate == 2 ? -2.88539008f : -1.44269504f) * a));
    const float large = gate == 2 ? fmaf(2.0f, sigmoid, -1.0f) : sigmoid;
    return gate == 2 && fabsf(a) < 0.125f ? small : large;
}
