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

// What `ring` computes, but each block waits for the words of the one before it only, at an mbarrier for each slot. A block
// that runs ahead may send into a slot that is still read, so a word goes back to say that it has been. Without EACH,
// nobody waits for the words.
extern "C" __global__ void __launch_bounds__(64, 1) __cluster_dims__(CLUSTER, 1, 1)
    ring_async(const int* first, int* sums, int rounds, int extra_bytes) {
    __shared__ int other[2][64];
    __shared__ int read;
    __shared__ unsigned long long arrived[2];
    __shared__ unsigned long long free_again;
    const unsigned rank = host_cuda::cluster_rank(), after = (rank + 1) % CLUSTER, before = (rank + CLUSTER - 1) % CLUSTER;
    const int block = blockIdx.x, threads = blockDim.x, thread = threadIdx.x;
    int own = first[block * threads + thread];
    if (thread == 0) {
        host_cuda::mbarrier_init(&arrived[0], 1);
        host_cuda::mbarrier_init(&arrived[1], 1);
        host_cuda::mbarrier_init(&free_again, 1);
    }
    cluster_barrier();
    for (int round = 0; round < rounds; ++round) {
        const int slot = round % 2;
        host_cuda::store_async(&other[slot][thread], &arrived[slot], after, own);
        if (thread == 0) host_cuda::mbarrier_arrive_expect(&arrived[slot], 4 * threads + extra_bytes);
#if EACH
        while (!host_cuda::mbarrier_passed(&arrived[slot], round / 2 & 1)) host_cuda::yield();
#endif
        own += other[slot][thread];
        sums[(round * gridDim.x + block) * threads + thread] = own;
        __syncthreads();
        if (thread == 0) {
            host_cuda::store_async(&read, &free_again, before, round);
            host_cuda::mbarrier_arrive_expect(&free_again, 4);
        }
        while (!host_cuda::mbarrier_passed(&free_again, round & 1)) host_cuda::yield();
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
