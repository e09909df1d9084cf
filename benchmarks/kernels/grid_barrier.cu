// A barrier of the whole grid in every step: store, fence, count, poll, load.
// A thread owns one value and takes over that of the next block, plus one: after all steps each value is `steps`.
//
// Two slots are enough: a block that writes a slot again has passed the barrier of the step between, at which every
// block arrived with a value computed from what it had read from that slot.
// All blocks must be resident: launch at most one for each multiprocessor.

#include "words.cuh"

extern "C" __global__ void grid_barrier(
    unsigned* arrived,  // (1,) zero before the launch
    unsigned* values,   // (2, blocks, threads) scratch
    unsigned* result,   // (blocks, threads)
    unsigned* failed,   // (1,) set where a wait gave up
    int steps
) {
    __shared__ int gave_up;
    if (threadIdx.x == 0) gave_up = 0;
    const unsigned mine = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned theirs = (blockIdx.x + 1) % gridDim.x * blockDim.x + threadIdx.x;
    unsigned value = 0;
    for (int step = 0; step < steps; ++step) {
        unsigned* const slot = values + (step & 1) * gridDim.x * blockDim.x;
        store_relaxed(slot + mine, value + 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            const unsigned all = (step + 1) * gridDim.x;
            unsigned tries = 0;
            while (load_acquire(arrived) < all && tries < MOST_TRIES) ++tries;
            if (tries == MOST_TRIES) gave_up = 1;
        }
        __syncthreads();
        if (gave_up) break;  // nobody writes it before the next __syncthreads, so all threads read the same
        value = load_relaxed(slot + theirs);
    }
    result[mine] = value;
    if (threadIdx.x == 0 && gave_up) *failed = 1;
}
