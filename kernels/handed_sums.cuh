// Sums over all hidden units in a launch whose blocks each own some of them: each block hands over what it has added
// up, and whoever needs the sum adds up what all blocks handed over, in a fixed order.
//
// A row of words belongs to one sequence at one step. It is written once in a launch, so words that have not been
// written yet are all ones, as in handover.cuh.
#pragma once
#include "handover.cuh"
#include "lane_sums.cuh"

// Four words of a row, the first `count` of which are there or will be; the others count as zero. Without waiting.
__device__ __forceinline__ void look_at(const unsigned* source, int count, unsigned (&words)[4]) {
    words[0] = words[1] = words[2] = words[3] = 0;
    if (count <= 0) return;
    load_words(source, words);
    if (count < 2) words[1] = 0;
    if (count < 3) words[2] = 0;
    if (count < 4) words[3] = 0;
}

// The same until they are there, when `look_at` has been there before.
__device__ __forceinline__ void wait_for(const unsigned* source, int count, unsigned (&words)[4], Patience& patience) {
    while (any_missing(words) && !patience.ends()) look_at(source, count, words);
}

// Into the L2 cache, without a register that waits for it: registers are short in a product.
__device__ __forceinline__ void prefetch(const void* place) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(place));
#endif
}
