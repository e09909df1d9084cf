// Sums over a block in one fixed order, known to every thread afterwards. All threads of the block must come, and the
// block must be whole warps, at most MAX_WARPS of them.
#pragma once
#include "common.cuh"

#define MAX_WARPS 8

// Replaces each of COUNT values by its sum over the block. ``partial`` is shared memory, [COUNT or more][MAX_WARPS].
// What threads wrote to memory before, all of them see afterwards.
template <int COUNT>
__device__ __forceinline__ void block_sums(real (&values)[COUNT], real (*partial)[MAX_WARPS]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
    for (int k = 0; k < COUNT; ++k)
        for (int distance = 16; distance > 0; distance /= 2)  // a + b is b + a: every lane gets the same bits
            values[k] += __shfl_xor_sync(0xffffffffu, values[k], distance);
    __syncthreads();  // the sums before these have been read
    if (lane == 0)
        for (int k = 0; k < COUNT; ++k) partial[k][warp] = values[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        values[k] = partial[k][0];
        for (int other = 1; other < warps; ++other) values[k] += partial[k][other];
    }
}
