// How the blocks of one launch hand numbers to each other: each 32-bit word says itself whether it has arrived.
//
// A reader loads the words that it needs, past its L1 cache, and loads again those that are not there yet. No barrier,
// no counter, no fence: nothing but the word itself is ever inferred from its arrival. All blocks of the launch must be
// resident (a cooperative launch), and a reader gives up after SPINS loads: it then sets *failed and goes on with what
// it has, so that the launch ends.
#pragma once

#ifndef BIDIRECTIONAL
#define BIDIRECTIONAL 0  // 1: both directions of a layer run in one launch
#endif

#ifndef SPINS
// Twenty seconds or more: a load takes 0.13 us at least, the way to L2 and back. That is not for the other blocks'
// arithmetic, but for kernels of other streams and processes that may keep some of them from beginning.
#define SPINS 160000000
#endif

__device__ __forceinline__ void load_words(const unsigned* source, unsigned (&words)[4]) {
#ifdef __CUDA_ARCH__
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(source)
                 : "memory");
#else
    host_cuda::load_relaxed_v4(source, words);
#endif
}

__device__ __forceinline__ void store_word(unsigned* target, unsigned word) {
#ifdef __CUDA_ARCH__
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(target), "r"(word) : "memory");
#else
    host_cuda::store_relaxed(target, word);
#endif
}

__device__ __forceinline__ void store_words(unsigned* target, unsigned first, unsigned second) {
#ifdef __CUDA_ARCH__
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(target), "r"(first), "r"(second) : "memory");
#else
    host_cuda::store_relaxed(target, first);
    host_cuda::store_relaxed(target + 1, second);
#endif
}

__device__ __forceinline__ void store_words(unsigned* target, const unsigned (&words)[4]) {
#ifdef __CUDA_ARCH__
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(words[0]), "r"(words[1]),
                 "r"(words[2]), "r"(words[3])
                 : "memory");
#else
    for (int i = 0; i < 4; ++i) host_cuda::store_relaxed(target + i, words[i]);
#endif
}

// A float32 as it is handed over where all ones say that a word is not there yet: such a NaN becomes another one.
__device__ __forceinline__ unsigned to_hand_over(unsigned word) { return word == 0xFFFFFFFFu ? 0x7FFFFFFFu : word; }
__device__ __forceinline__ unsigned to_hand_over(float value) { return to_hand_over(__float_as_uint(value)); }

// Words that have not been written yet are all ones: a NaN that no arithmetic makes.
__device__ __forceinline__ bool any_missing(const unsigned (&words)[4]) {
    return words[0] == 0xFFFFFFFFu || words[1] == 0xFFFFFFFFu || words[2] == 0xFFFFFFFFu || words[3] == 0xFFFFFFFFu;
}

// Of a slot that is used again and again: words whose lowest bit is not yet that of this use.
__device__ __forceinline__ bool any_early(const unsigned (&words)[4], unsigned bit) {
    return ((words[0] ^ bit) | (words[1] ^ bit) | (words[2] ^ bit) | (words[3] ^ bit)) & 1u;
}

// Where CuPy itself launches (gpulstm/cuda/packed.py), it leaves out blocks that do not fit on the device, with a
// warning. Whoever waited for one of them would wait long.
__device__ __forceinline__ bool blocks_are_missing(int blocks, int batch, int share, unsigned* failed) {
    const int groups = (BIDIRECTIONAL ? 2 : 1) * ((batch + share - 1) / share);
    if ((int)gridDim.x == blocks * groups) return false;
    if (threadIdx.x == 0) store_word(failed, 1u);
    return true;
}

// Counts one thread's loads in vain. Who has given up once does not wait again.
struct Patience {
    unsigned spins;
    unsigned* failed;

    __device__ __forceinline__ void begin() {
        if (spins < SPINS) spins = 0;
    }
    __device__ __forceinline__ bool ends() {
#ifndef __CUDA_ARCH__
        host_cuda::yield();
#endif
        if (spins >= SPINS) return true;
        if (++spins < SPINS) return false;
        store_word(failed, 1u);
        return true;
    }
};
