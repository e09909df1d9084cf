// Sums over the lanes of a warp, each in one fixed order. a + b is b + a, so where several lanes have a sum, all of
// them have the same bits.
#pragma once

#define ALL_LANES 0xFFFFFFFFu  // of a warp: all of them have to come

// Over WIDE neighbouring lanes, of which those STEP apart are added up: STEP sums.
template <int STEP, int WIDE>
__device__ __forceinline__ float sum_over_lanes(float value) {
#pragma unroll
    for (int distance = STEP; distance < WIDE; distance *= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// Over four lanes that are STEP apart, by shuffles that do not wait for each other. The order is that of the lowest
// one, so the lanes need not have the same bits.
template <int STEP>
__device__ __forceinline__ float sum_of_four_lanes(float value) {
    const float b = __shfl_xor_sync(ALL_LANES, value, STEP), c = __shfl_xor_sync(ALL_LANES, value, 2 * STEP);
    const float d = __shfl_xor_sync(ALL_LANES, value, 3 * STEP);
    return (value + b) + (c + d);
}

// The same over eight lanes.
template <int STEP>
__device__ __forceinline__ float sum_of_eight_lanes(float value) {
    const float b = __shfl_xor_sync(ALL_LANES, value, STEP), c = __shfl_xor_sync(ALL_LANES, value, 2 * STEP);
    const float d = __shfl_xor_sync(ALL_LANES, value, 3 * STEP), e = __shfl_xor_sync(ALL_LANES, value, 4 * STEP);
    const float f = __shfl_xor_sync(ALL_LANES, value, 5 * STEP), g = __shfl_xor_sync(ALL_LANES, value, 6 * STEP);
    const float h = __shfl_xor_sync(ALL_LANES, value, 7 * STEP);
    return ((value + b) + (c + d)) + ((e + f) + (g + h));
}

// Reduce-scatter: adds up values[0 .. COUNT - 1] over WIDE neighbouring lanes, of which this is number `lane`. It is
// left with the sum of number lane % COUNT; in which order a sum is made does not depend on COUNT.
template <int WIDE, int COUNT>
__device__ __forceinline__ float reduce_scatter(float (&values)[COUNT], int lane) {
#pragma unroll
    for (int distance = 1; distance < WIDE; distance *= 2) {
        if (distance >= COUNT) {
            values[0] += __shfl_xor_sync(ALL_LANES, values[0], distance);
            continue;
        }
        const bool odd = lane & distance;  // keeps the numbers that have this bit, and hands on the others
#pragma unroll
        for (int i = 0; i < COUNT / (2 * distance); ++i) {
            const float kept = odd ? values[2 * i + 1] : values[2 * i];
            const float given = odd ? values[2 * i] : values[2 * i + 1];
            values[i] = kept + __shfl_xor_sync(ALL_LANES, given, distance);
        }
    }
    return values[0];
}
