// Where a block of four warps has a hidden unit's LANES_OF_UNIT lanes a quarter or half of a warp apart, and sixteen
// lanes make the dh = W_hh^T da of their OUTPUTS = 2 * QUADS units together: lane `part`, 0 to 15, has a sixteenth of
// the sum over all 4*hidden pre-activations, the gates of every sixteenth unit. As in sixteenth_products.cuh its sum
// number j is for unit j ^ (its own one).
//
// da stands in shared memory as a float4 for each unit, its four gates.
#pragma once
#include "lane_sums.cuh"
#include "storage.cuh"

#define UNITS (16 * QUADS)             // that a block can have
#define UNITS_OF_WARP (4 * QUADS)
#define LANES_OF_UNIT (8 / QUADS)
#define OUTPUTS (2 * QUADS)            // units of sixteen lanes

// The number of a lane among the sixteen that have the units that it has.
__device__ __forceinline__ int part_of(int lane) { return lane % OUTPUTS + lane / UNITS_OF_WARP * OUTPUTS; }

// The lane's weights, of W_hh (4*hidden, hidden); zero where there are none.
__device__ __forceinline__ void columns_of_group(
    float (&w)[OUTPUTS][4 * QUADS], const store* weight, int unit, int part, int hidden) {
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
        const int output = unit ^ j;
#pragma unroll
        for (int k = 0; k < 4 * QUADS; ++k) {
            const int source = k / 4 * 16 + part, row = k % 4 * hidden + source;  // times hidden below 2^16
            w[j][k] = output < hidden && source < hidden ? real_of(weight[row * hidden + output]) : 0.0f;
        }
    }
}

// dh of the lane's own unit, in all of its lanes with the same bits. A whole warp has to come.
__device__ __forceinline__ float sum_of_group(
    const float (&w)[OUTPUTS][4 * QUADS], const float4 (&da)[QUADS]) {
    float sums[OUTPUTS];
#pragma unroll
    for (int first = OUTPUTS - 4; first >= 0; first -= 4) {  // those that are sent first
#pragma unroll
        for (int j = first; j < first + 4; ++j) sums[j] = w[j][0] * da[0].x;
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
#pragma unroll
            for (int j = first; j < first + 4; ++j) sums[j] = q ? fmaf(w[j][4 * q], da[q].x, sums[j]) : sums[j];
#pragma unroll
            for (int j = first; j < first + 4; ++j) sums[j] = fmaf(w[j][4 * q + 1], da[q].y, sums[j]);
#pragma unroll
            for (int j = first; j < first + 4; ++j) sums[j] = fmaf(w[j][4 * q + 2], da[q].z, sums[j]);
#pragma unroll
            for (int j = first; j < first + 4; ++j) sums[j] = fmaf(w[j][4 * q + 3], da[q].w, sums[j]);
        }
#pragma unroll
        for (int j = first; j < first + 4; ++j) sums[j] = j ? __shfl_xor_sync(ALL_LANES, sums[j], j) : sums[j];
    }
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
#if QUADS == 4
    sum = ((sums[4] + sums[5]) + (sums[6] + sums[7])) + sum;
    return sum + __shfl_xor_sync(ALL_LANES, sum, UNITS_OF_WARP);
#else
    return sum_of_four_lanes<UNITS_OF_WARP>(sum);
#endif
}
