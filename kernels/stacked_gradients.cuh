// A warp's part of dy = W_ih^T da in float32 (or TF32), where da and W_ih are those of the layer above and its blocks
// hand da over: the backward pass of stacked layers side by side in one launch (-DLAYERS=1). Whoever includes it
// defines WARPS, MTILES, JTILES, COLUMNS and UNITS.
//
// da is handed over word by word, each with a place of its own for the whole launch, so nothing is ever written twice.
// A layer waits for the layers above it alone, and for itself, and the uppermost one never waits for another.
//
// The block's UNITS columns of W_ih stay in shared memory, as fragments that each thread reads again where it wrote
// them: registers are full. Its warps share out the sum over the 4*hidden rows: of every 16 * WARPS rows each warp
// takes 16, of which a thread has 4 that follow each other, for 16 sequences at a time. So a product's sequences are
// its rows, its units its columns.
#pragma once

#include "handover.cuh"
#include "tensor_core.cuh"

#define MOST_ABOVE 7            // as gpulstm/cuda/stacked_layers.py has it
#define PIECES (4 * JTILES)     // of 16 rows of W_ih that a warp holds
#define UNIT_TILES (MTILES / 2) // of 8 units
#define FRAGMENTS (PIECES * 2 * UNIT_TILES)  // a thread's, of two words each
#define AT_ONCE (COLUMNS > 8 || MTILES * JTILES > 2 ? 2 : 4)  // pieces on their way before the first is looked at

// The layers above the lowest one, from below: what they have instead of its arguments.
struct GradientsAbove {
    const float* input_weight[MOST_ABOVE];  // (4*hidden, hidden) W_ih
    const float* weight[MOST_ABOVE];        // (4*hidden, hidden) W_hh
    float* gates[MOST_ABOVE];
    const float* cells[MOST_ABOVE];
    float* dh[MOST_ABOVE];
    float* dc[MOST_ABOVE];
    unsigned* handed[MOST_ABOVE];           // (steps, batch, 4*hidden) da for the layer below; all ones at first
};

template <typename Pointer>
__device__ __forceinline__ Pointer of_layer(Pointer lowest, const Pointer (&above)[MOST_ABOVE], int layer) {
    return layer > 0 ? above[layer - 1] : lowest;
}

// A thread's fragments of the columns from `first_unit` on. `fragments` points to its warp's, [FRAGMENTS][32][2].
__device__ __forceinline__ void put_input_weight(
    const float* weight, int first_unit, int hidden, int warp, int lane, unsigned* fragments) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int p = 0; p < PIECES; ++p) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
#pragma unroll
            for (int n = 0; n < UNIT_TILES; ++n) {
                const int row = (p * WARPS + warp) * 16 + 4 * t + part, unit = first_unit + 8 * n + g;
                const bool inside = row < 4 * hidden && unit < hidden;
                const float value = inside ? weight[(long long)row * hidden + unit] : 0.0f;
                const int fragment = (p * 2 + part / 2) * UNIT_TILES + n;
                fragments[(fragment * 32 + lane) * 2 + part % 2] = operand(__float_as_uint(value));
            }
        }
    }
}

// `da` points to the first of `count` sequences at this step, each `columns` words long; the others up to COLUMNS are
// zero. out[s * UNITS + u] receives the warp's part of unit u's dy.
__device__ __forceinline__ void multiply_rows_from_above(
    const unsigned* da, int count, int columns, int warp, int lane, const unsigned* fragments,
    const volatile unsigned* mask, Patience& patience, float* out) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll 1
    for (int first = 0; first < COLUMNS; first += 16) {
        const bool there[2] = {first + g < count, COLUMNS > 8 && first + g + 8 < count};
        const unsigned* rows = da + (long long)afresh(first + g) * columns + afresh(16 * warp + 4 * t);
        float d[UNIT_TILES][4];
#pragma unroll
        for (int n = 0; n < UNIT_TILES; ++n) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
#pragma unroll 1
        for (int p0 = 0; p0 < PIECES; p0 += AT_ONCE) {
            unsigned words[AT_ONCE][2][4];  // of this sequence, and of that 8 further on
#pragma unroll
            for (int p = 0; p < AT_ONCE; ++p) {
                const int column = (p0 + p) * WARPS * 16;  // and the warp's and the thread's offset, a multiple of 4
                const bool inside = column + 16 * warp < columns;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    unsigned(&four)[4] = words[p][half];
                    four[0] = four[1] = four[2] = four[3] = 0;
                    if (there[half] && inside) load_words(rows + half * 8LL * columns + column, four);
                }
            }
            patience.begin();
#pragma unroll
            for (int p = 0; p < AT_ONCE; ++p) {
                const int column = (p0 + p) * WARPS * 16;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    while (any_missing(words[p][half]) && !patience.ends()) {
                        load_words(rows + half * 8LL * columns + column, words[p][half]);
                    }
                }
            }
            __syncwarp();
            const unsigned high_bits = high_bits_of(mask);
#pragma unroll
            for (int p = 0; p < AT_ONCE; ++p) {
#pragma unroll
                for (int q = 0; q < 2; ++q) {
                    const unsigned a[4] = {operand(words[p][0][2 * q]), operand(words[p][1][2 * q]),
                                           operand(words[p][0][2 * q + 1]), operand(words[p][1][2 * q + 1])};
#pragma unroll
                    for (int n = 0; n < UNIT_TILES; ++n) {
                        const int fragment = ((p0 + p) * 2 + q) * UNIT_TILES + n;
                        const unsigned long long both =
                            *(const unsigned long long*)(fragments + (fragment * 32 + lane) * 2);
                        const unsigned b[2] = {(unsigned)both, (unsigned)(both >> 32)};
                        const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
                        multiply_add(d[n], a, b, b_low, high_bits);
                    }
                }
            }
        }
#pragma unroll
        for (int n = 0; n < UNIT_TILES; ++n) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int sequence = first + g + 8 * (part / 2);
                if (sequence < COLUMNS) out[sequence * UNITS + 8 * n + 2 * afresh(t) + part % 2] = d[n][part];
            }
        }
    }
}
