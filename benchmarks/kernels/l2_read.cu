// Reads device memory past L1, 16 bytes a load, as fast as it comes: bytes read = blocks * vectors * 16 * passes.
// A thread has LOADS loads under way at a time. With an odd number of passes the exclusive or of all of a block's sums
// is that of the words of its part.

#include "words.cuh"

const int THREADS = 1024;
const int LOADS = 4;

extern "C" __global__ void __launch_bounds__(THREADS) l2_read(
    const uint4* data,
    unsigned* sums,  // (blocks, THREADS)
    int vectors,     // that each block reads in a pass
    int stride,      // vectors from a block's part to the next block's; 0: all read the same
    int passes
) {
    const uint4* const part = data + (size_t)blockIdx.x * stride;
    unsigned sum = 0;
    for (int pass = 0; pass < passes; ++pass) {
        for (int first = threadIdx.x; first < vectors; first += LOADS * THREADS) {
            uint4 got[LOADS];
#pragma unroll
            for (int k = 0; k < LOADS; ++k) {
                const int index = first + k * THREADS;
                got[k] = index < vectors ? load_relaxed(part + index) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int k = 0; k < LOADS; ++k) sum ^= xor_of(got[k]);
        }
    }
    sums[blockIdx.x * THREADS + threadIdx.x] = sum;
}
