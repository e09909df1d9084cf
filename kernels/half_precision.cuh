// Numbers stored in 16 bits, -DBFLOAT16=0 for float16 or 1 for bfloat16, and their products on the tensor cores. Sums
// are float32.
//
// A fragment's word has two numbers that follow each other in a row of A or a column of B, the first in its lower half.
// Layout (mma.sync.m16n8k16, lane = 4 * g + t), counted in words: a[0] is A[g][t], a[1] A[g + 8][t], a[2] A[g][t + 4],
// a[3] A[g + 8][t + 4]; b[0] is B[t][g], b[1] B[t + 4][g]; d[0], d[1] are D[g][2t], D[g][2t + 1], d[2], d[3] the same
// of row g + 8. Which columns of A the words stand for does not matter as long as B agrees.
#pragma once

typedef unsigned short bits16;

// The number that 16 bits stand for; exact.
__device__ __forceinline__ float wide(bits16 bits) {
#if BFLOAT16
    return __uint_as_float((unsigned)bits << 16);
#elif defined(__CUDA_ARCH__)
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
    return number;
#else
    const unsigned size = bits & 0x7FFFu, sign = (bits & 0x8000u) << 16;
    if (size >= 0x7C00u) return __uint_as_float(sign | 0x7F800000u | (size & 0x3FFu) << 13);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(size << 13) * 0x1p112f));  // 127 - 15
#endif
}

// The nearest number of 16 bits, of two the even one. NaN becomes 0x7FFF.
__device__ __forceinline__ bits16 rounded(float number) {
#ifdef __CUDA_ARCH__
    bits16 bits;
#if BFLOAT16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(number));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
#endif
    return bits;
#else
    const unsigned word = __float_as_uint(number), size = word & 0x7FFFFFFFu, sign = word >> 16 & 0x8000u;
    if (size > 0x7F800000u) return 0x7FFFu;
#if BFLOAT16
    return (bits16)(sign | (size + 0x7FFFu + (size >> 16 & 1u)) >> 16);
#else
    if (size >= 0x477FF000u) return (bits16)(sign | 0x7C00u);  // 65520 and beyond
    // Below the smallest normal number, 2^-14, all steps are 2^-24, and the addition to 1/2 rounds to them.
    if (size < 0x38800000u) return (bits16)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3F000000u));
    return (bits16)(sign | ((size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13));
#endif
#endif
}

// Two neighbours as a word.
__device__ __forceinline__ unsigned pair_of(bits16 first, bits16 second) { return first | (unsigned)second << 16; }

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
