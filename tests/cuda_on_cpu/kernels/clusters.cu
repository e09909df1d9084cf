// Clusters of blocks, to test the harness itself: not part of the library.

__device__ __forceinline__ void cluster_barrier() {
    host_cuda::cluster_arrive();
    host_cuda::cluster_wait();
}

// sums[round][block] = what the block and the next one of its cluster had in the round before. Two slots in turn.
// Without FIRST, nobody waits until all blocks have begun; without EACH, until the others have written.
extern "C" __global__ void __launch_bounds__(64, 1) __cluster_dims__(CLUSTER, 1, 1)
    ring(const int* first, int* sums, int rounds) {
    __shared__ int own[2][64];
    __shared__ int other[2][64];
    const int rank = (int)host_cuda::cluster_rank(), block = blockIdx.x, threads = blockDim.x, thread = threadIdx.x;
    own[0][thread] = first[block * threads + thread];
#if FIRST
    cluster_barrier();
#endif
    for (int round = 0; round < rounds; ++round) {
        const int slot = round % 2;
        host_cuda::store_cluster(&other[slot][thread], (unsigned)(rank + 1) % CLUSTER, own[slot][thread]);
#if EACH
        cluster_barrier();
#endif
        own[1 - slot][thread] = own[slot][thread] + other[slot][thread];
        sums[(round * gridDim.x + block) * threads + thread] = own[1 - slot][thread];
    }
    cluster_barrier();
}

// All words of dynamic shared memory, from the block with the next rank; half of the threads return beforehand.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) read_next(unsigned* words, int count) {
    extern __shared__ unsigned kept[];
    const unsigned rank = host_cuda::cluster_rank();
    if ((int)threadIdx.x < count) kept[threadIdx.x] = 100 * blockIdx.x + threadIdx.x;
    host_cuda::cluster_arrive();
    if ((int)threadIdx.x >= count) return;
    host_cuda::cluster_wait();
    words[blockIdx.x * count + threadIdx.x] = host_cuda::load_cluster(kept + threadIdx.x, (rank + 1) % CLUSTER);
    cluster_barrier();
}

// One mistake each, by one thread in each block.
extern "C" __global__ void __cluster_dims__(2, 1, 1) wrong(unsigned* words, int mistake) {
    __shared__ unsigned inbox;
    __shared__ float wide[4];
    const unsigned rank = host_cuda::cluster_rank();
    inbox = 0;
    if (mistake == 0) host_cuda::store_cluster(&inbox, 1 - rank, 1u);  // before all have begun
    cluster_barrier();
    if (mistake == 1) host_cuda::store_cluster(&inbox, 2, 1u);
    if (mistake == 2) host_cuda::store_cluster(words, 1 - rank, 1u);
    if (mistake == 3) host_cuda::store_cluster((double*)(wide + 1), 1 - rank, 1.0);
    if (mistake == 4) host_cuda::cluster_arrive(), host_cuda::cluster_arrive();
    if (mistake == 5) host_cuda::cluster_wait();
    if (mistake == 6 && rank == 1) return;
    if (mistake == 6) {
        while (host_cuda::load_relaxed(words) == 0) {
            host_cuda::yield();
            host_cuda::store_cluster(&inbox, 1, 1u);  // the other block returns in the meantime
        }
    }
    if (mistake == 7 && rank == 0) {
        while (host_cuda::load_relaxed(words) == 0) host_cuda::yield();
    }
    cluster_barrier();
}

extern "C" __global__ void no_cluster(unsigned* words) {
    words[0] = 0;
    host_cuda::cluster_arrive();
}
