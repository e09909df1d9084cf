// What all blocks of a group contribute to a block's part of W_hh^T da in float32 (or TF32), handed over word by word:
// the persistent backward kernels share it. They define THREADS, MTILES, UNITS and COLUMNS.
#pragma once

#include "handover.cuh"
#include "lane_sums.cuh"

#define READERS (THREADS / COLUMNS)          // threads that collect one sequence's contributions
#define LANES (READERS < 32 ? READERS : 32)  // of them in one warp
#define PARTS (READERS / LANES)
#ifndef BATCH
#define BATCH 4                              // loads in flight per thread
#endif

// Adds up a sequence's contributions if it is `there`, `pieces` times four from `source` on, each once its lowest bit
// is `arrival_bit`. parts[p * UNITS + u] receives unit u's sum over the readers of part p.
__device__ __forceinline__ void collect(const unsigned* source, bool there, int pieces, unsigned arrival_bit,
                                        Patience& patience, float* parts) {
    const int lane = threadIdx.x % 32, reader = threadIdx.x % READERS;
    float sum[4] = {0, 0, 0, 0};
    if (there) {
        for (int first = reader; first < pieces; first += BATCH * READERS) {
            unsigned words[BATCH][4];
#pragma unroll
            for (int b = 0; b < BATCH; ++b) {  // all of them on their way before the first is looked at
                const int piece = first + b * READERS;
                words[b][0] = words[b][1] = words[b][2] = words[b][3] = arrival_bit;
                if (piece < pieces) load_words(source + 4 * piece, words[b]);
            }
            patience.begin();
#pragma unroll
            for (int b = 0; b < BATCH; ++b) {
                while (any_early(words[b], arrival_bit) && !patience.ends()) {
                    load_words(source + 4 * (first + b * READERS), words[b]);
                }
            }
#pragma unroll
            for (int b = 0; b < BATCH; ++b) {
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    if (first + b * READERS < pieces) sum[v] += __uint_as_float(words[b][v] & ~1u);
                }
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (int v = 0; v < 4; ++v) {
        const float whole = sum_over_lanes<MTILES, LANES>(sum[v]);
        // Of READERS threads with the same sequence, thread q < MTILES of each warp has units 4q .. 4q + 3.
        if (lane % LANES < MTILES) parts[reader / LANES * UNITS + 4 * (lane % LANES) + v] = whole;
    }
}
