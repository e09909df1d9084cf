// The product that both cluster kernels of 16 bits are made for: weights that stay on the chip, times numbers in the
// block's own shared memory, for 8 * NTILES sequences at once.
//
// A warp holds 16 * MTILES rows x 16 * KTILES columns of the weights as fragments for the tensor cores. The last
// IN_SHARED of the KTILES stand in shared memory, where each thread reads what it wrote itself, 16 bytes at a time; the
// rest stay in registers, 4 * MTILES * (KTILES - IN_SHARED) of a thread. There are 8 warps and not 16: so each has twice
// as many registers, of which the weights can have more, and twice as many rows for what it reads of shared memory.
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
#define TOGETHER 4                             // fragments whose weights are on their way at the same time

// word_of(row, word): two neighbouring columns of a row of weights, zeros outside of the matrix. This lane's first row is
// `first_row` and its first word `first_word`. `zero` is one of which the compiler knows nothing: where a fragment stands
// depends on what was loaded before, or addresses and halves of all of them would take more registers than there are.
template <class WordOf>
__device__ __forceinline__ void hold_weights(unsigned (&w)[MTILES][KEPT][4], uint4* parked, int first_row,
                                             int first_word, unsigned zero, WordOf word_of) {
    unsigned after = 0;
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
        const int row = first_row + 16 * m;
#pragma unroll
        for (int k = 0; k < KEPT; ++k) {
            const int word = first_word + 16 * (k / 2) + k % 2 * 2 + (int)after;
#pragma unroll
            for (int part = 0; part < 4; ++part) w[m][k][part] = word_of(row + 8 * (part % 2), word + part / 2);
            if (k % TOGETHER == TOGETHER - 1 || k == KEPT - 1) {
                after = 0;
#pragma unroll
                for (int i = k / TOGETHER * TOGETHER; i <= k; ++i) {
                    after |= (w[m][i][0] ^ w[m][i][1] ^ w[m][i][2] ^ w[m][i][3]) & zero;
                }
            }
        }
#pragma unroll 1
        for (int k = KEPT; k < KTILES; ++k) {
            const int word = first_word + 16 * (k / 2) + k % 2 * 2;
            parked[((k - KEPT) * MTILES + m) * THREADS] =
                make_uint4(word_of(row, word), word_of(row + 8, word), word_of(row, word + 1), word_of(row + 8, word + 1));
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
