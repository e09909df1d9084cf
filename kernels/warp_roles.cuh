// Blocks whose warps have different jobs, in loops of their own that meet at the same number of barriers.
#pragma once
#include "lane_sums.cuh"

// Number of the warp, which the compiler then knows all its lanes to have.
__device__ __forceinline__ int own_warp() { return __shfl_sync(ALL_LANES, (int)threadIdx.x / 32, 0); }

// __syncthreads, for warps that stand at different places of the program. barrier.sync counts warps; that all lanes of
// one stand at the same place is all it asks for (PTX ISA, `barrier.sync.aligned`).
__device__ __forceinline__ void wait_for_all_warps() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.sync.aligned 0;" ::: "memory");
#else
    __syncthreads();
#endif
}
