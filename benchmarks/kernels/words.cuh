// What the kernels of the hand-over share: words of global memory that are read and written past L1, bounded waiting,
// and the values that are handed over.

#pragma once

// A wait gives up after so many loads: a mistake then ends in an error, not in a kernel that never ends.
// 2^18 loads from L2 take about 0.2 s; no wait that succeeds takes more than some microseconds.
const unsigned MOST_TRIES = 1u << 18;
const unsigned UNWRITTEN = 0xFFFFFFFFu;

__device__ __forceinline__ unsigned load_relaxed(const unsigned* word) {
    unsigned value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

__device__ __forceinline__ unsigned load_acquire(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

// Four loads of one word each, in any order: each word says by itself whether it has arrived.
__device__ __forceinline__ uint4 load_relaxed(const uint4* vector) {
    uint4 value;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(vector)
                 : "memory");
    return value;
}

__device__ __forceinline__ void store_relaxed(unsigned* word, unsigned value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

// UNWRITTEN is the largest of all words, so the largest of four is UNWRITTEN exactly if one of them is.
__device__ __forceinline__ bool any_unwritten(const uint4& v) { return max(max(v.x, v.y), max(v.z, v.w)) == UNWRITTEN; }

// Word `index` of step `step`, never UNWRITTEN; benchmarks/handover.py computes the same to check what arrived.
__device__ __forceinline__ unsigned word_of(unsigned step, unsigned index) {
    return (step * 0x9E3779B1u + index * 0x85EBCA6Bu) >> 1;
}

__device__ __forceinline__ unsigned xor_of(const uint4& v) { return v.x ^ v.y ^ v.z ^ v.w; }

__device__ __forceinline__ unsigned multiprocessor() {
    unsigned id;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
    return id;
}
