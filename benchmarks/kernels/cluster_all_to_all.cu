// The hand-over of a time step inside clusters, without arithmetic: each block sends the words of its hidden/CLUSTER
// units for all sequences to every block of its cluster (itself too), then reads all words from its own shared memory.
// A thread sends and reads up to VECTORS vectors of 16 bytes. Every cluster does the same work by itself.
//
// Two slots are enough. A block sends into a slot again, at step + 2, after it has received all of step + 1, which every
// block sent only after all of its threads had read that slot (__syncthreads_or). For the same reason a barrier is
// never a phase ahead of a thread that waits for it: its next phase needs the words of that thread's own block.
// A block that gives up stops sending, so that all blocks give up and meet at the last barrier.
//
// CLUSTER: blocks in a cluster. VECTORS: at least sequences * hidden / 4 / THREADS.

#include "cluster.cuh"
#include "words.cuh"

const int THREADS = 512;

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS) cluster_all_to_all(
    unsigned* checksums,  // (blocks, THREADS) exclusive or of all words that the thread has read
    unsigned* failed,     // (1,) set where a wait gave up
    int sequences,
    int hidden,           // a multiple of 4 * CLUSTER
    int steps
) {
    extern __shared__ uint4 received[];  // (2, sequences, hidden / 4)
    __shared__ unsigned long long arrived[2];
    const int vectors = sequences * hidden / 4;
    const int own_vectors = hidden / 4 / CLUSTER;  // of one sequence
    const int to_one_block = sequences * own_vectors;
    const unsigned slot_bytes = vectors * (unsigned)sizeof(uint4);
    const int first_vector = (int)cluster_rank() * own_vectors;

    unsigned word[VECTORS], target[VECTORS], target_barrier[VECTORS];
#pragma unroll
    for (int k = 0; k < VECTORS; ++k) {
        const int item = threadIdx.x + k * THREADS;
        const int block = min(item / to_one_block, CLUSTER - 1);
        const int sequence = item % to_one_block / own_vectors;
        const int vector = sequence * (hidden / 4) + first_vector + item % own_vectors;
        word[k] = vector * 4;
        target[k] = remote_address(shared_address(received) + vector * (unsigned)sizeof(uint4), block);
        target_barrier[k] = remote_address(shared_address(arrived), block);
    }
    if (threadIdx.x == 0) {
        barrier_init(shared_address(&arrived[0]));
        barrier_init(shared_address(&arrived[1]));
    }
    cluster_barrier();

    unsigned checksum = 0;
    for (int step = 0; step < steps; ++step) {
        const unsigned slot = step & 1;
        const unsigned own_barrier = shared_address(&arrived[slot]);
        if (threadIdx.x == 0) barrier_expect(own_barrier, slot_bytes);
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            if (threadIdx.x + k * THREADS < vectors) {
                const uint4 words = make_uint4(word_of(step, word[k]), word_of(step, word[k] + 1),
                                               word_of(step, word[k] + 2), word_of(step, word[k] + 3));
                store_async(target[k] + slot * slot_bytes, words, target_barrier[k] + slot * 8);
            }
        }
        const bool came = barrier_wait(own_barrier, (step >> 1) & 1);
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const int index = threadIdx.x + k * THREADS;
            if (index < vectors) checksum ^= xor_of(received[slot * vectors + index]);
        }
        if (__syncthreads_or(!came)) {
            if (threadIdx.x == 0) *failed = 1;
            break;
        }
    }
    checksums[blockIdx.x * THREADS + threadIdx.x] = checksum;
    cluster_barrier();
}
