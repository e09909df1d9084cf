// The hand-over of a time step without arithmetic: each block writes the words of its hidden units for all sequences,
// then reads the words of all units. A word that is not UNWRITTEN has arrived; the others are loaded again.
// A block owns hidden/blocks units (rounded either way); a thread checks VECTORS vectors of 16 bytes.
//
// Each step has its own slot, so nothing is ever overwritten. __syncthreads_or stands where the step's arithmetic would
// wait for all of the block's words, and makes all threads leave together where one gave up.
// All blocks must be resident: launch at most one for each multiprocessor, and at most `hidden`.
//
// VECTORS: at least sequences * hidden / 4 / THREADS.

#include "words.cuh"

const int THREADS = 512;

extern "C" __global__ void __launch_bounds__(THREADS) flag_all_to_all(
    unsigned* states,     // (steps, sequences, hidden) all UNWRITTEN
    unsigned* checksums,  // (blocks, THREADS) exclusive or of all words that the thread has read
    unsigned* failed,     // (1,) set where a wait gave up
    int sequences,
    int hidden,           // a multiple of 4
    int steps
) {
    const int first = hidden * (int)blockIdx.x / (int)gridDim.x;
    const int units = hidden * ((int)blockIdx.x + 1) / (int)gridDim.x - first;
    const int first_sequence = threadIdx.x / units;
    const int first_unit = threadIdx.x % units;
    const int sequence_stride = THREADS / units;
    const int unit_stride = THREADS % units;
    const int vectors = sequences * hidden / 4;
    unsigned checksum = 0;
    for (int step = 0; step < steps; ++step) {
        unsigned* const slot = states + (size_t)step * sequences * hidden;
        int sequence = first_sequence, unit = first_unit;
        while (sequence < sequences) {
            const int word = sequence * hidden + first + unit;
            store_relaxed(slot + word, word_of(step, word));
            sequence += sequence_stride;
            unit += unit_stride;
            if (unit >= units) {
                unit -= units;
                ++sequence;
            }
        }

        const uint4* const in = (const uint4*)slot;
        uint4 got[VECTORS];
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const int index = threadIdx.x + k * THREADS;
            got[k] = index < vectors ? load_relaxed(in + index) : make_uint4(0, 0, 0, 0);
        }
        unsigned tries = 0;
        bool missing;
        do {
            missing = false;
#pragma unroll
            for (int k = 0; k < VECTORS; ++k) {
                if (any_unwritten(got[k])) {
                    missing = true;
                    got[k] = load_relaxed(in + threadIdx.x + k * THREADS);
                }
            }
        } while (missing && ++tries < MOST_TRIES);
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) checksum ^= xor_of(got[k]);
        if (__syncthreads_or(missing)) {
            if (threadIdx.x == 0) *failed = 1;
            break;
        }
    }
    checksums[blockIdx.x * THREADS + threadIdx.x] = checksum;
}
