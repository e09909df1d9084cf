// The product that both cluster kernels of 16 bits are made for: weights that stay on the chip, times numbers in the
// block's own shared memory, for 8 * NTILES sequences at once.
//
// A warp holds 16 * MTILES rows x 16 * KTILES columns of the weights as fragments for the tensor cores. The last
// IN_SHARED of the KTILES stand in shared memory, where each thread reads what it wrote itself, 16 bytes at a time; the
// rest stay in registers, 4 * MTILES * (KTILES - IN_SHARED) of a thread. There are 8 warps and not 16: so each has
// twice as many registers, of which the weights can have more, and twice as many rows for what it reads of shared
// memory.
//
// A sequence is a row of words there, two numbers each, with 64 bytes behind it: so that the rows of two neighbouring
// lane groups lie in different banks. The columns' order is permuted such that a thread reads 16 bytes for two tiles.
#pragma once
#include "cluster.cuh"
#include "half_precision.cuh"

#define WARPS 8
#define THREADS (32 * WARPS)
#define KEPT (KTILES - IN_SHARED)              // in registers
#define PARKED (IN_SHARED * MTILES * THREADS)  // fragments in shared memory
#define SEQUENCES (8 * NTILES)
#define ROW (8 * KTILES * PARTS + 16)          // words of a sequence; PARTS warps share out a sum

// words_of(row, word): four words of a row of weights from there on, zeros outside of the matrix; IN_FLIGHT pairs of
// them are on their way at the same time. This lane's first row is `first_row` and its first word `first_word`. `zero`
// is one of which the compiler knows nothing: where words stand depends on what was loaded before, or the addresses and
// halves of all of them would take more registers than there are.
template <int IN_FLIGHT, class WordsOf>
__device__ __forceinline__ void hold_weights(unsigned (&w)[MTILES][KEPT][4], uint4* parked, int first_row,
                                             int first_word, unsigned zero, WordsOf words_of) {
    unsigned loaded = 0, after = 0;
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
        const int row = first_row + 16 * m;
#pragma unroll 2
        for (int pair = (KEPT + 1) / 2; pair < KTILES / 2; ++pair) {
            const uint4 low = words_of(row, first_word + 16 * pair), high = words_of(row + 8, first_word + 16 * pair);
            uint4* place = parked + ((2 * pair - KEPT) * MTILES + m) * THREADS;
            place[0] = make_uint4(low.x, high.x, low.y, high.y);
            place[MTILES * THREADS] = make_uint4(low.z, high.z, low.w, high.w);
        }
#pragma unroll
        for (int pair = 0; pair < (KEPT + 1) / 2; ++pair) {
            const int word = first_word + 16 * pair + (int)after, k = 2 * pair;
            const uint4 low = words_of(row, word), high = words_of(row + 8, word);
            w[m][k][0] = low.x, w[m][k][1] = high.x, w[m][k][2] = low.y, w[m][k][3] = high.y;
            loaded |= low.x | low.y | high.x | high.y;
            if (k + 1 < KEPT) {
                unsigned(&next)[4] = w[m][k + 1 < KEPT ? k + 1 : 0];
                next[0] = low.z, next[1] = high.z, next[2] = low.w, next[3] = high.w;
                loaded |= low.z | low.w | high.z | high.w;
            } else {
                parked[m * THREADS] = make_uint4(low.z, high.z, low.w, high.w);
            }
            if (pair % IN_FLIGHT == IN_FLIGHT - 1 || pair == (KEPT - 1) / 2) after = loaded & zero;
        }
    }
}

// d = this warp's product. `source` is this lane's first word of its first sequence.
__device__ __forceinline__ void multiply(float (&d)[NTILES][MTILES][4], const unsigned (&w)[MTILES][KEPT][4],
                                         const uint4* parked, const unsigned* source) {
#pragma unroll
    for (int n = 0; n < NTILES; ++n) {
#pragma unroll
        for (int m = 0; m < MTILES; ++m) d[n][m][0] = d[n][m][1] = d[n][m][2] = d[n][m][3] = 0.0f;
    }
    uint4 words[NTILES];
#pragma unroll
    for (int k = 0; k < KTILES; ++k) {
#pragma unroll
        for (int n = 0; n < NTILES; ++n) {
            if (k % 2 == 0) words[n] = *(const uint4*)(source + 8 * n * ROW + 8 * k);
        }
#pragma unroll
        for (int m = 0; m < MTILES; ++m) {
            unsigned a[4];
            if (k < KEPT) {
#pragma unroll
                for (int part = 0; part < 4; ++part) a[part] = w[m][k < KEPT ? k : 0][part];
            } else {
                const uint4 fragment = parked[((k - KEPT) * MTILES + m) * THREADS];
                a[0] = fragment.x, a[1] = fragment.y, a[2] = fragment.z, a[3] = fragment.w;
            }
#pragma unroll
            for (int n = 0; n < NTILES; ++n) {
                const unsigned b[2] = {k % 2 ? words[n].z : words[n].x, k % 2 ? words[n].w : words[n].y};
                multiply_add(d[n][m], a, b);
            }
        }
    }
}
