// Blocks of a cluster: their barrier, and stores into each other's shared memory. Compute capability 9.0 and up.
//
// What the PTX documents promise, and what these kernels build on:
// - All blocks of a cluster run at the same time, so a barrier of the cluster is never waited for in vain.
// - barrier.cluster.wait waits for all threads of the cluster that have not returned to arrive. Arriving releases, and
//   waiting acquires, at the scope of the cluster: what a thread wrote before it arrived, into whichever block's shared
//   memory, every thread of the cluster reads after it has waited.
// - Another block's shared memory exists from when that block has begun, which a first barrier makes sure of, until it
//   has returned: after the last store into it there has to be another barrier.
#pragma once

__device__ __forceinline__ int cluster_rank() {
#ifdef __CUDA_ARCH__
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
#else
    return (int)host_cuda::cluster_rank();
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#else
    host_cuda::cluster_arrive();
#endif
}

__device__ __forceinline__ void cluster_wait() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
    host_cuda::cluster_wait();
#endif
}

// A place in some block's shared memory: an address of the cluster's, of which no C++ pointer can be made without
// cost, or on the host the same place in the own block and the rank of the other one.
struct Remote {
#ifdef __CUDA_ARCH__
    unsigned address;
#else
    float* own;
    int rank;
#endif
};

// The place in block `rank` where `own` is in this block.
__device__ __forceinline__ Remote remote(float* own, int rank) {
#ifdef __CUDA_ARCH__
    Remote result;
    const unsigned address = (unsigned)__cvta_generic_to_shared(own);
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result.address) : "r"(address), "r"(rank));
    return result;
#else
    return {own, rank};
#endif
}

// Stores `value` so many floats behind that place.
__device__ __forceinline__ void store(Remote to, int floats, float value) {
#ifdef __CUDA_ARCH__
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(to.address + 4 * floats), "f"(value) : "memory");
#else
    host_cuda::store_cluster(to.own + floats, (unsigned)to.rank, value);
#endif
}

// Adds up values[0 .. COUNT - 1] over WIDE neighbouring lanes, of which this is number `lane`. It is left with the sum
// of number lane % COUNT; in which order a sum is made does not depend on COUNT.
template <int WIDE, int COUNT>
__device__ __forceinline__ float sum_over_lanes(float (&values)[COUNT], int lane) {
#pragma unroll
    for (int distance = 1; distance < WIDE; distance *= 2) {
        if (distance >= COUNT) {
            values[0] += __shfl_xor_sync(0xFFFFFFFFu, values[0], distance);
            continue;
        }
        const bool odd = lane & distance;  // keeps the numbers that have this bit, and hands on the others
#pragma unroll
        for (int i = 0; i < COUNT / (2 * distance); ++i) {
            const float kept = odd ? values[2 * i + 1] : values[2 * i];
            const float given = odd ? values[2 * i] : values[2 * i + 1];
            values[i] = kept + __shfl_xor_sync(0xFFFFFFFFu, given, distance);
        }
    }
    return values[0];
}

// The number itself, of which the compiler knows nothing: what is made of it is made again at every step, instead of
// being kept in registers that the weights need.
__device__ __forceinline__ int made_again(int number) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(number));
#endif
    return number;
}
