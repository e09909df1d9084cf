// Sums over a warp by its tensor core, in two products with ones instead of five shuffles: in all lanes with the same
// bits. The tensor core reads the upper 19 bits of a word, so each number is handed over in two parts (tensor_core.cuh),
// and what is left out is below 2^-22 of it. A sum of numbers one of which is infinite is NaN. A whole warp has to come.
#pragma once
#include "tensor_core.cuh"

#define ONE 0x3F800000u

// Over four neighbouring lanes, then of two such sums: lane t of any four has that of lanes 8t to 8t + 7.
__device__ __forceinline__ float sum_of_eight_neighbours(float number) {
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned ones[4] = {ONE, ONE, ONE, ONE}, word = __float_as_uint(number);
    const unsigned parts[2] = {word, low_part(word)};
    multiply_add_tf32(d, ones, parts);
    return d[0] + d[1];
}

__device__ __forceinline__ void sums_over_warp(float& first, float& second) {
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned one = __float_as_uint(sum_of_eight_neighbours(first));
    const unsigned other = __float_as_uint(sum_of_eight_neighbours(second));
    const unsigned ones[2] = {ONE, ONE}, parts[4] = {one, other, low_part(one), low_part(other)};
    multiply_add_tf32(d, parts, ones);
    first = d[0], second = d[2];
}

__device__ __forceinline__ float sum_over_warp(float number) {
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const unsigned ones[4] = {ONE, ONE, ONE, ONE}, word = __float_as_uint(sum_of_eight_neighbours(number));
    const unsigned parts[2] = {word, low_part(word)};
    multiply_add_tf32(d, ones, parts);  // the same numbers in each column
    return d[0];
}
