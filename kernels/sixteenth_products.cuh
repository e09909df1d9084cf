// Where four neighbouring lanes own a hidden unit, and sixteen make the dh = W_hh^T da of their four units together:
// lane `part`, 0 to 15, has a sixteenth of the sum over all 4*hidden pre-activations, the gates of every sixteenth
// unit. Its sum number j is for unit j ^ (its own one), so that what others have for its own unit has the same number
// in each lane, and adding up takes no choice.
//
// da stands in shared memory in the order of the threads that make it, four gates of a unit next to each other. Sixteen
// lanes read sixteen float4 in a row, the other half of the warp the same ones, so no bank is asked twice at a time.
#pragma once
#include "lane_sums.cuh"
#include "storage.cuh"

#define UNITS (16 * QUADS)  // that a block can have

// The lane's weights, of W_hh (4*hidden, hidden); zero where there are none.
__device__ __forceinline__ void sixteenths_of_columns(
    float (&w)[4][4 * QUADS], const store* weight, int unit, int part, int hidden) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const int output = unit ^ j;
#pragma unroll
        for (int k = 0; k < 4 * QUADS; ++k) {
            const int source = k / 4 * 16 + part, row = k % 4 * hidden + source;  // times hidden below 2^16
            w[j][k] = output < hidden && source < hidden ? real_of(weight[row * hidden + output]) : 0.0f;
        }
    }
}

// dh of the lane's own unit, in all four of its lanes with the same bits. None of either three shuffles waits for
// another. A whole warp has to come. `meanwhile` is done while the first of them are on their way.
template <class Meanwhile>
__device__ __forceinline__ float sum_of_sixteenths(
    const float (&w)[4][4 * QUADS], const float* da, int part, const Meanwhile& meanwhile) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int q = 0; q < QUADS; ++q) {
        const float4 of_source = ((const float4*)da)[16 * q + part];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            sums[j] += w[j][4 * q] * of_source.x;
            sums[j] += w[j][4 * q + 1] * of_source.y;
            sums[j] += w[j][4 * q + 2] * of_source.z;
            sums[j] += w[j][4 * q + 3] * of_source.w;
        }
    }
    const float by_4 = __shfl_xor_sync(ALL_LANES, sums[1], 4), by_8 = __shfl_xor_sync(ALL_LANES, sums[2], 8);
    const float by_12 = __shfl_xor_sync(ALL_LANES, sums[3], 12);
    meanwhile();
    return sum_of_four_lanes<1>((sums[0] + by_4) + (by_8 + by_12));
}

__device__ __forceinline__ float sum_of_sixteenths(const float (&w)[4][4 * QUADS], const float* da, int part) {
    return sum_of_sixteenths(w, da, part, []() {});
}
