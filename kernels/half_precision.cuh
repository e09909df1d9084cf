// Numbers of 16 bits (storage.cuh) two in a word, and their products on the tensor cores, summed in float32.
//
// A fragment's word has two numbers that follow each other in a row of A or a column of B, the first in its lower half.
// Layout (mma.sync.m16n8k16, lane = 4 * g + t), counted in words: a[0] is A[g][t], a[1] A[g + 8][t], a[2] A[g][t + 4],
// a[3] A[g + 8][t + 4]; b[0] is B[t][g], b[1] B[t + 4][g]; d[0], d[1] are D[g][2t], D[g][2t + 1], d[2], d[3] the same
// of row g + 8. Which columns of A the words stand for does not matter as long as B agrees.
#pragma once

#include "storage.cuh"

// Two neighbours as a word.
__device__ __forceinline__ unsigned pair_of(store first, store second) {
    return first.bits | (unsigned)second.bits << 16;
}
__device__ __forceinline__ store first_of(unsigned pair) { return store{(unsigned short)pair}; }
__device__ __forceinline__ store second_of(unsigned pair) { return store{(unsigned short)(pair >> 16)}; }

// A weight of a peephole (persistent_options.cuh).
__device__ __forceinline__ float weight_of(store weight) { return real_of(weight); }

// A word that is handed over: all ones would say that it is not there yet.
__device__ __forceinline__ unsigned present(unsigned word) { return word == 0xFFFFFFFFu ? 0x7FFF7FFFu : word; }

// d += A B, of 16 x 16 and 16 x 8 numbers.
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDA_ARCH__
#if BFLOAT16
#define FACTORS "bf16.bf16"
#else
#define FACTORS "f16.f16"
#endif
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32." FACTORS ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif BFLOAT16
    host_cuda::mma_m16n8k16_bf16(d, a, b);
#else
    host_cuda::mma_m16n8k16_f16(d, a, b);
#endif
}
