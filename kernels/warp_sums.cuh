// Sums over a warp by its tensor core, in two products with ones instead of five shuffles: in all lanes with the same
// bits. The tensor core reads the upper 19 bits of a word, so each number is handed over in two parts
// (tensor_core.cuh), and what is left out is below 2^-22 of it. A sum of numbers one of which is infinite is NaN. A
// whole warp has to come.
//
// Below compute capability 8.0, whose tensor cores do not take such words, it is shuffles after all.
#pragma once
#include "lane_sums.cuh"
#include "tensor_core.cuh"

#define ONE 0x3F800000u
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define IN_TENSOR_CORE 1
#else
#define IN_TENSOR_CORE 0
#endif

// Of each eight neighbours: lane t of any four has that of lanes 8t to 8t + 7.
__device__ __forceinline__ float sum_of_eight_neighbours(float number) {
#if IN_TENSOR_CORE
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned ones[4] = {ONE, ONE, ONE, ONE}, word = __float_as_uint(number);
    const unsigned parts[2] = {shown(word, word & HIGH_BITS), low_part(word)};
    multiply_add_tf32(d, ones, parts);  // columns 2t and 2t + 1, which are lanes 8t to 8t + 3 and 8t + 4 to 8t + 7
    return d[0] + d[1];
#else
    return __shfl_sync(ALL_LANES, sum_of_eight_lanes<1>(number), threadIdx.x % 4 * 8);
#endif
}

__device__ __forceinline__ float sum_over_warp(float number) {
    const float of_eight = sum_of_eight_neighbours(number);
#if IN_TENSOR_CORE
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned ones[4] = {ONE, ONE, ONE, ONE}, word = __float_as_uint(of_eight);
    const unsigned parts[2] = {shown(word, word & HIGH_BITS), low_part(word)};
    multiply_add_tf32(d, ones, parts);  // the same numbers in each column
    return d[0];
#else
    return sum_of_four_lanes<1>(of_eight);
#endif
}

// Two at a time, with one product less.
__device__ __forceinline__ void sums_over_warp(float& first, float& second) {
#if IN_TENSOR_CORE
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned one = __float_as_uint(sum_of_eight_neighbours(first));
    const unsigned other = __float_as_uint(sum_of_eight_neighbours(second));
    const unsigned ones[2] = {ONE, ONE};
    const unsigned parts[4] = {
        shown(one, one & HIGH_BITS), shown(other, other & HIGH_BITS), low_part(one), low_part(other)};
    multiply_add_tf32(d, parts, ones);  // the same numbers in each row, below the eighth those of `second`
    first = d[0], second = d[2];
#else
    first = sum_over_warp(first), second = sum_over_warp(second);
#endif
}
