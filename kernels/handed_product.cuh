// The product that both persistent kernels of 16 bits are made for: weights that stay on the chip, times numbers that
// other blocks hand over (handover.cuh), for 8 * NTILES sequences at a time.
//
// A block has ROWS rows of weights. Of its 16 warps, SPLIT share out the sum, and 16 / SPLIT the rows: a warp holds
// 16 * MTILES rows x 16 * KTILES columns as fragments for the tensor cores, and reads the words of its columns; the row
// groups read them once each. The last IN_SHARED of the KTILES stand in shared memory, where each thread reads what it
// wrote itself, 16 bytes at a time; the rest stay in registers, 4 * MTILES * (KTILES - IN_SHARED) of a thread. The
// order of the columns within a warp is permuted such that the words that a thread needs of a sequence follow each
// other.
#pragma once
#include "half_precision.cuh"
#include "handover.cuh"
#include "registers.cuh"

#define WARPS 16
#define THREADS (32 * WARPS)
#define KEPT (KTILES - IN_SHARED)                           // in registers
#define PARKED (IN_SHARED * MTILES * THREADS)               // fragments in shared memory
#define ROWS (16 * MTILES * WARPS / SPLIT)                  // of weights
#define COLUMNS (8 * NTILES)                                // sequences at a time
#define STRIDE (ROWS + 4)                                   // of the sums of one sequence: no two lanes share a bank
#define OUTPUTS ((ROWS * COLUMNS + THREADS - 1) / THREADS)  // sums that a thread adds up
#define QUADS (KTILES / 2)                                  // 16-byte loads of a thread for one sequence
#define LOADS (AT_ONCE / NTILES)                            // of them on their way together

// Where a thread stands in the product.
struct Corner {
    int row;    // of the block's rows: the first of its warp's
    int word;   // of a sequence's words: the first that it loads, 2 * KTILES in all
    int part;   // of the sum: its warp's
    int g, t;   // of its lane

    __device__ __forceinline__ explicit Corner(int thread) {
        const int warp = thread / 32, lane = thread % 32;
        g = lane / 4, t = lane % 4, part = warp % SPLIT;
        row = warp / SPLIT * 16 * MTILES;
        word = part * 8 * KTILES + t * 2 * KTILES;
    }
};

// word_of(row, word): two neighbouring columns of a row of weights, zeros outside of the matrix. `zero` is one of which
// the compiler knows nothing. Each fragment's place depends on what was loaded before it: with all of them on their way
// at once, their addresses and halves would take more registers than there are, and weights would go to memory.
// `kept` of the KTILES are to stay in w.
template <int kept, int size, class WordOf>
__device__ __forceinline__ void hold_weights(unsigned (&w)[MTILES][size][4], uint4* parked, const Corner& corner,
                                             unsigned zero, WordOf word_of) {
    int after = 0;
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
        const int row = corner.row + 16 * m + corner.g;
#pragma unroll
        for (int k = 0; k < kept; ++k) {
            const int word = corner.word + 2 * k + after;
#pragma unroll
            for (int part = 0; part < 4; ++part) w[m][k][part] = word_of(row + 8 * (part % 2), word + part / 2);
            after = (int)((w[m][k][0] ^ w[m][k][1] ^ w[m][k][2] ^ w[m][k][3]) & zero);
        }
#pragma unroll 1
        for (int k = kept; k < KTILES; ++k) {
            const int word = corner.word + 2 * k;
            parked[((k - kept) * MTILES + m) * THREADS] = make_uint4(
                word_of(row, word), word_of(row + 8, word), word_of(row, word + 1), word_of(row + 8, word + 1));
        }
    }
}

struct Nothing {  // to begin with
    __device__ __forceinline__ void operator()(float (&)[NTILES][MTILES][4]) const {}
};

// sums = this warp's part of the product, [COLUMNS][STRIDE]. `source` has `length` words for each sequence, and is that
// of this lane's first one; `sequences` from there on are the block's. Words that do not arrive by themselves are not
// waited for. begin(d) may give the fragments of the sums something to begin with.
template <class Begin = Nothing>
__device__ __forceinline__ void multiply_handed_over(
    float* sums, const unsigned (&w)[MTILES][KEPT][4], const uint4* parked, const Corner& corner,
    const unsigned* source, int length, int sequences, bool arrive, Patience& patience, Begin begin = Begin()) {
    float d[NTILES][MTILES][4];
#pragma unroll
    for (int n = 0; n < NTILES; ++n) {
#pragma unroll
        for (int m = 0; m < MTILES; ++m) d[n][m][0] = d[n][m][1] = d[n][m][2] = d[n][m][3] = 0.0f;
    }
    begin(d);
#pragma unroll
    for (int first = 0; first < QUADS; first += LOADS) {
        unsigned words[LOADS][NTILES][4];
#pragma unroll
        for (int v = 0; v < LOADS; ++v) {
#pragma unroll
            for (int n = 0; n < NTILES; ++n) {
                const int word = corner.word + 4 * (first + v);
                words[v][n][0] = words[v][n][1] = words[v][n][2] = words[v][n][3] = 0;
                if (first + v < QUADS && word < length && 8 * n < sequences) {
                    load_words(source + (long long)8 * n * length + word, words[v][n]);
                }
            }
        }
        patience.begin();
        for (bool missing = arrive; missing;) {  // all that are missing are on their way again before one is looked at
            missing = false;
#pragma unroll
            for (int v = 0; v < LOADS; ++v) {
#pragma unroll
                for (int n = 0; n < NTILES; ++n) {
                    if (any_missing(words[v][n])) {
                        missing = true;
                        load_words(source + (long long)8 * n * length + corner.word + 4 * (first + v), words[v][n]);
                    }
                }
            }
            if (missing && patience.ends()) break;
        }
        __syncwarp();
#pragma unroll
        for (int k = 0; k < 2 * LOADS; ++k) {
#pragma unroll
            for (int m = 0; m < MTILES; ++m) {
                const int tile = 2 * first + k;
                if (tile >= KTILES) continue;
                unsigned a[4];
                if (tile < KEPT) {
#pragma unroll
                    for (int part = 0; part < 4; ++part) a[part] = w[m][tile < KEPT ? tile : 0][part];
                } else {
                    const uint4 fragment = parked[((tile - KEPT) * MTILES + m) * THREADS];
                    a[0] = fragment.x, a[1] = fragment.y, a[2] = fragment.z, a[3] = fragment.w;
                }
#pragma unroll
                for (int n = 0; n < NTILES; ++n) {
                    const unsigned b[2] = {words[k / 2][n][k % 2 * 2], words[k / 2][n][k % 2 * 2 + 1]};
                    multiply_add(d[n][m], a, b);
                }
            }
        }
    }
#pragma unroll
    for (int n = 0; n < NTILES; ++n) {
#pragma unroll
        for (int m = 0; m < MTILES; ++m) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int row = corner.row + 16 * m + corner.g + 8 * (part / 2);
                sums[(8 * n + 2 * corner.t + part % 2) * STRIDE + row] = d[n][m][part];
            }
        }
    }
}

// One row's sum for one sequence, from all warps' parts [SPLIT][COLUMNS][STRIDE], in a fixed order.
__device__ __forceinline__ float whole_sum(const float* parts, int row, int column) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < SPLIT; ++part) sum += parts[(part * COLUMNS + column) * STRIDE + row];
    return sum;
}
