// A warp's part of W_ih x + W_hh h in float32 (or TF32) for 8 sequences, where x is the hidden state of the layer below
// and other blocks hand over both: stacked layers side by side in one launch (-DLAYERS=1) share it. They define MTILES
// and KTILES, and WORDS, CHUNK and STRIDE from them.
//
// A layer waits for the layers below it alone, and for itself: the lowest one never waits for another, so whichever
// layer waits, one that it waits for goes on.
#pragma once

#include "handover.cuh"
#include "tensor_core.cuh"

#define MOST_ABOVE 7  // as gpulstm/cuda/stacked_layers.py has it

// The layers above the lowest one, from below: what they have instead of its arguments.
struct LayersAbove {
    const float* input_weight[MOST_ABOVE];  // (4*hidden, hidden) W_ih
    const float* weight[MOST_ABOVE];        // (4*hidden, hidden) W_hh
    const float* bias[MOST_ABOVE];          // (4*hidden,) or null
    float* gates[MOST_ABOVE];               // (steps, batch, 4*hidden) to be written with `keep`, else null
    float* cells[MOST_ABOVE];
    float* hiddens[MOST_ABOVE];
    float* y[MOST_ABOVE];                   // or null, as that of the lowest layer may be
};

__device__ __forceinline__ void ask_for_row(
    const unsigned* source, bool there, int first_column, int hidden, unsigned (&row)[WORDS]) {
#pragma unroll
    for (int v = 0; v < WORDS; v += 4) {
        const int column = CHUNK < 4 ? first_column & ~3 : first_column + v;
        unsigned(&words)[4] = *(unsigned(*)[4])(row + v);
        words[0] = words[1] = words[2] = words[3] = 0;
        if (there && column < hidden) load_words(source + column, words);
    }
}

__device__ __forceinline__ void wait_for_row(
    const unsigned* source, bool wait, int first_column, int t, Patience& patience, unsigned (&row)[WORDS]) {
    patience.begin();
#pragma unroll
    for (int v = 0; v < WORDS; v += 4) {
        const int column = CHUNK < 4 ? first_column & ~3 : first_column + v;
        unsigned(&words)[4] = *(unsigned(*)[4])(row + v);
        while (any_missing(words) && wait && !patience.ends()) load_words(source + column, words);
    }
    if (CHUNK < 4 && t % 2) row[0] = row[2], row[1] = row[3];
    __syncwarp();
}

__device__ __forceinline__ void multiply_row(
    const unsigned (&row)[WORDS], const unsigned (&w)[MTILES][KTILES][4], unsigned high_bits, float (&d)[MTILES][4]) {
#pragma unroll
    for (int k = 0; k < KTILES; ++k) {
        const unsigned b[2] = {operand(row[2 * k]), operand(row[2 * k + 1])};
        const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
#pragma unroll
        for (int m = 0; m < MTILES; ++m) multiply_add(d[m], w[m][k], b, b_low, high_bits);
    }
}

// As multiply_rows_when_there of handed_rows.cuh, with the row of the layer below in front if there is one. That one
// may well have been there for a step by now, so its products are made while the own row is on its way.
__device__ __forceinline__ void multiply_both_rows_when_there(
    const unsigned* below, const unsigned* own, bool there, bool wait, int first_column, int hidden, int g, int t,
    const unsigned (&w_input)[MTILES][KTILES][4], const unsigned (&w)[MTILES][KTILES][4], const volatile unsigned* mask,
    Patience& patience, float* out) {
    unsigned row[WORDS], row_below[WORDS];
    float d[MTILES][4];
#pragma unroll
    for (int m = 0; m < MTILES; ++m) d[m][0] = d[m][1] = d[m][2] = d[m][3] = 0.0f;
    if (below) ask_for_row(below, there, first_column, hidden, row_below);
    ask_for_row(own, there, first_column, hidden, row);
    if (below) {  // all of the block alike
        wait_for_row(below, true, first_column, t, patience, row_below);
        multiply_row(row_below, w_input, high_bits_of(mask), d);
    }
    wait_for_row(own, wait, first_column, t, patience, row);
    multiply_row(row, w, high_bits_of(mask), d);
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            out[(2 * t + part % 2) * STRIDE + 16 * m + g + 8 * (part / 2)] = d[m][part];
        }
    }
}
