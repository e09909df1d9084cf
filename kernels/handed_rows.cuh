// A warp's part of W_hh h in float32 (or TF32) for 8 sequences, where other blocks hand h over: the persistent forward
// kernels share it, with and without layer norm.
#pragma once

#include "handover.cuh"
#include "row_fragments.cuh"
#include "storage.cuh"

#define COLUMNS (8 * NTILES)                 // sequences at a time
#define WORDS (CHUNK < 4 ? 4 : CHUNK)        // h's that a thread loads, 4 at a time
#define OUTPUTS ((ROWS * COLUMNS + 32 * WARPS - 1) / (32 * WARPS))  // gates of one step that a thread finishes

// h as a factor. One that is stored in 16 bits is a number of TF32.
__device__ __forceinline__ unsigned factor_of(unsigned h) { return sizeof(store) < sizeof(float) ? h : operand(h); }

// source[j] is h of this lane's sequence if it is `there`, of which the lane takes part from `first_column` on; with
// `wait` once it has arrived. w are the warp's fragments of W_hh, lane / 4 is g, lane % 4 is t, and `out` receives row
// r of sequence s at out[s * STRIDE + r].
__device__ __forceinline__ void multiply_rows_when_there(
    const unsigned* source, bool there, bool wait, int first_column, int hidden, int g, int t,
    const unsigned (&w)[MTILES][KTILES][4], const volatile unsigned* mask, Patience& patience, float* out) {
    unsigned h[WORDS];
#pragma unroll
    for (int v = 0; v < WORDS; v += 4) {  // all of them on their way before the first is looked at
        const int column = CHUNK < 4 ? first_column & ~3 : first_column + v;
        unsigned(&words)[4] = *(unsigned(*)[4])(h + v);
        words[0] = words[1] = words[2] = words[3] = 0;
        if (there && column < hidden) load_words(source + column, words);
    }
    patience.begin();
#pragma unroll
    for (int v = 0; v < WORDS; v += 4) {
        const int column = CHUNK < 4 ? first_column & ~3 : first_column + v;
        unsigned(&words)[4] = *(unsigned(*)[4])(h + v);
        while (wait && any_missing(words) && !patience.ends()) load_words(source + column, words);
    }
    if (CHUNK < 4 && t % 2) h[0] = h[2], h[1] = h[3];
    __syncwarp();

    const unsigned high_bits = high_bits_of(mask);
    float d[MTILES][4];
#pragma unroll
    for (int m = 0; m < MTILES; ++m) d[m][0] = d[m][1] = d[m][2] = d[m][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < KTILES; ++k) {
        const unsigned b[2] = {factor_of(h[2 * k]), factor_of(h[2 * k + 1])};
        const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
#pragma unroll
        for (int m = 0; m < MTILES; ++m) multiply_add(d[m], w[m][k], b, b_low, high_bits);
    }
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            out[(2 * t + part % 2) * STRIDE + 16 * m + g + 8 * (part / 2)] = d[m][part];
        }
    }
}

// A row's sum for a sequence, from all warps' parts [WARPS][COLUMNS][STRIDE], of which `part` is the first. The order
// is fixed.
__device__ __forceinline__ float sum_over_warps(const float* part) {
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += part[warp * COLUMNS * STRIDE];
    return sum;
}
