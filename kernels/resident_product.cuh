// A lane's part of the recurrent product in the resident kernels: 4 * QUADS weights in its registers, times as many
// numbers in shared memory.
#pragma once

// The product of `w` and the numbers from `source` on, and with it sums[0] + .. + sums[3], as which four chains are
// added up: each addition waits for the one before it.
__device__ __forceinline__ float add_product(float (&sums)[4], const float (&w)[4 * QUADS], const float* source) {
#pragma unroll
    for (int q = 0; q < QUADS; ++q) {
        const float4 four = ((const float4*)source)[q];
        sums[0] += w[4 * q] * four.x;
        sums[1] += w[4 * q + 1] * four.y;
        sums[2] += w[4 * q + 2] * four.z;
        sums[3] += w[4 * q + 3] * four.w;
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
