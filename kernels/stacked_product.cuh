// A second product of the persistent kernels of 16 bits: weights times what the layer next to it hands over, for layers
// on top of each other side by side in one launch (-DLAYERS=1).
//
//     forward    W_ih h[t] of the layer below, beside W_hh h[t-1]: what else `gates` would hold before the step
//     backward   W_ih^T da[t] of the layer above, with its W_ih, beside W_hh^T da of the step that came after: what
//                else dy would hold
//
// Either has the shape of the product that it stands beside, and what it reads was handed over anyway, in words each
// with a place of its own for the whole launch: nobody hands over more than without the switch, and nothing is ever
// written twice. A layer waits for itself and for one neighbour, below it forward and above it backward. The layer at
// that end waits for itself alone, so whichever layer waits, one that it waits for goes on.
//
// Of the second matrix' KTILES the first NEXT_KEPT stay in registers, as many as make 64 of a thread (56 where many
// loads are on their way) together with those of the first matrix; the others stand in shared memory. The neighbour is
// ahead, so its numbers have mostly arrived when a step begins. Their products come first, while the block's own
// numbers are on their way; these go on from the same sums. So the order of a sum over the neighbour's and the own columns is:
// in a warp its part of the neighbour's, then its part of the own; then the warps' parts, in their order. One after the
// other the first half is a sum of its own, rounded to 16 bits where it is stored; here it never is.
#pragma once

#include "handed_product.cuh"

#ifndef LAYERS
#define LAYERS 0
#endif

#define MOST_ABOVE 7  // as gpulstm/cuda/stacked_layers.py has it
#define ROOM ((AT_ONCE < 8 ? 16 : 14) / MTILES - KEPT)     // in registers, for so many of the KTILES
#define NEXT_KEPT (ROOM < 0 ? 0 : ROOM < KTILES ? ROOM : KTILES)
#define NEXT_SIZE (NEXT_KEPT ? NEXT_KEPT : 1)              // no array has none
#define NEXT_PARKED (LAYERS ? (KTILES - NEXT_KEPT) * MTILES * THREADS : 0)  // fragments in shared memory, behind PARKED

// The layers above the lowest one, from below: what they have instead of its arguments.
struct LayersAbove {
    const store* input_weight[MOST_ABOVE];  // (4*hidden, hidden) W_ih
    const store* weight[MOST_ABOVE];        // (4*hidden, hidden) W_hh
    const store* bias[MOST_ABOVE];          // (4*hidden,) or null
    store* gates[MOST_ABOVE];               // (steps, batch, 4*hidden) to be written with `keep`, else null
    float* cells[MOST_ABOVE];
    store* hiddens[MOST_ABOVE];
    store* y[MOST_ABOVE];                   // or null, as that of the lowest layer may be
};

struct GradientsAbove {
    const store* input_weight[MOST_ABOVE];  // (4*hidden, hidden) W_ih
    const store* weight[MOST_ABOVE];        // (4*hidden, hidden) W_hh
    store* gates[MOST_ABOVE];
    const float* cells[MOST_ABOVE];
    float* dh[MOST_ABOVE];
    float* dc[MOST_ABOVE];
    unsigned* handed[MOST_ABOVE];           // `exchange`, which the layer below reads too
};

// Where registers are short, pointers are looked up in each step, with layer `afresh`.
template <typename Pointer>
__device__ __forceinline__ Pointer of_layer(Pointer lowest, const Pointer (&above)[MOST_ABOVE], int layer) {
    return layer > 0 ? above[layer - 1] : lowest;
}

// d += this warp's part of the second product. The rest is `multiply_handed_over`'s.
__device__ __forceinline__ void add_from_next(
    float (&d)[NTILES][MTILES][4], const unsigned (&w)[MTILES][NEXT_SIZE][4], const uint4* parked, const Corner& corner,
    const unsigned* source, int length, int sequences, Patience& patience) {
    static_assert(!LAYERS || QUADS % LOADS == 0, "as many loads at once as all of them divide into");
#pragma unroll
    for (int first = 0; first < QUADS; first += LOADS) {
        const unsigned* quads = source + corner.word + 4 * first;
        unsigned words[LOADS][NTILES][4];
#pragma unroll
        for (int v = 0; v < LOADS; ++v) {
#pragma unroll
            for (int n = 0; n < NTILES; ++n) {
                words[v][n][0] = words[v][n][1] = words[v][n][2] = words[v][n][3] = 0;
                if (corner.word + 4 * (first + v) < length && 8 * n < sequences) {
                    load_words(quads + (long long)8 * n * length + 4 * v, words[v][n]);
                }
            }
        }
        patience.begin();
        for (bool missing = true; missing;) {
            missing = false;
#pragma unroll
            for (int v = 0; v < LOADS; ++v) {
#pragma unroll
                for (int n = 0; n < NTILES; ++n) {
                    if (any_missing(words[v][n])) {
                        missing = true;
                        load_words(quads + (long long)8 * n * length + 4 * v, words[v][n]);
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
                unsigned a[4];
                if (tile < NEXT_KEPT) {
#pragma unroll
                    for (int part = 0; part < 4; ++part) a[part] = w[m][tile < NEXT_KEPT ? tile : 0][part];
                } else {
                    const uint4 fragment = parked[((tile - NEXT_KEPT) * MTILES + m) * THREADS];
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
}
