// Where four neighbouring lanes own a hidden unit, each a quarter of the sums over h of its four gates: lane `part`,
// 0 to 3, has the hidden states from PART * part on. Its sum number j is for gate j ^ part, so that what the others
// need of it has the same number in each lane, and adding up takes no choice: number 0 is its own gate's.
#pragma once
#include "storage.cuh"

#define PART (4 * QUADS)   // hidden states in a quarter
#define PITCH (PART + 4)   // from one quarter to the next in shared memory: those that a warp reads at once are in
                           // banks of their own
// Blocks that the 65536 registers of a multiprocessor hold, with at most 128 for each thread where there are several.
#define BLOCKS_TOGETHER (QUADS <= 4 ? 8 / QUADS : 1)

// Where the hidden state of a unit stands in shared memory.
__device__ __forceinline__ int place_of(int unit) { return unit + unit / PART * (PITCH - PART); }

// The lane's weights, of W_hh (4*hidden, hidden); zero where there are none.
__device__ __forceinline__ void quarters_of_rows(
    float (&w)[4][PART], const store* weight, int unit, int part, int hidden) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const store* row = weight + ((j ^ part) * hidden + unit) * hidden;  // below 2^16
#pragma unroll
        for (int k = 0; k < PART; ++k) {
            const int column = part * PART + k;
            w[j][k] = unit < hidden && column < hidden ? real_of(row[column]) : 0.0f;
        }
    }
}

// W_hh h of the lane's own gate, and on top of it `own`, and what lane part ^ 2 has as `of_other`. A whole warp has to
// come.
__device__ __forceinline__ float own_sum(float own, float of_other, const float (&w)[4][PART], const float* quarter) {
    float sums[4] = {own, 0.0f, of_other, 0.0f};
#pragma unroll
    for (int q = 0; q < QUADS; ++q) {
        const float4 four = ((const float4*)quarter)[q];
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q] * four.x;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 1] * four.y;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 2] * four.z;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 3] * four.w;
    }
    sums[0] += __shfl_xor_sync(0xFFFFFFFFu, sums[1], 1);
    sums[2] += __shfl_xor_sync(0xFFFFFFFFu, sums[3], 1);
    return sums[0] + __shfl_xor_sync(0xFFFFFFFFu, sums[2], 2);
}

// The same with no sum to begin with, of hidden states that are in registers already. None of the shuffles waits for
// another one.
__device__ __forceinline__ float own_sum_at_once(const float (&w)[4][PART], const float4 (&quarter)[QUADS]) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int q = 0; q < QUADS; ++q) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q] * quarter[q].x;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 1] * quarter[q].y;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 2] * quarter[q].z;
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[j] += w[j][4 * q + 3] * quarter[q].w;
    }
    const float by_1 = __shfl_xor_sync(0xFFFFFFFFu, sums[1], 1), by_2 = __shfl_xor_sync(0xFFFFFFFFu, sums[2], 2);
    return (sums[0] + by_1) + (by_2 + __shfl_xor_sync(0xFFFFFFFFu, sums[3], 3));
}
