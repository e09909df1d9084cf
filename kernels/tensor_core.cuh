// A product of small tiles by one warp on the tensor cores, in float32 accuracy.
//
// The tensor cores take float32 words of which they read the upper 19 bits (TF32: 8 of exponent, 10 of mantissa). A
// float32 is therefore handed over in two parts, high + low, and three of the four products of parts are added up:
//
//     a b = (a_high + a_low)(b_high + b_low) ~ a_high b_high + a_high b_low + a_low b_high
//
// What is left out is below 2^-21 of a b. An infinite factor has no low part and gives NaN. That the other bits of a
// word are dropped, and nothing is rounded, the PTX ISA says of `wgmma` alone; `mma` did so on compute capability 9.0.
// Where one rounds, errors would be some 2^-11, so from compute capability 10.0 on, where nobody has looked, a word's
// other bits are cleared before (`shown`). A low part has 13 bits, of which either way 2^-11 is lost.
//
// With -DTF32=1 both factors are rounded to TF32 instead, by `operand`, and there is one product: three times as fast,
// and off by up to 2^-10 of a b.
//
// Layout of a fragment (mma.sync.m16n8k8, lane = 4 * g + t): a[0] is A[g][t], a[1] A[g + 8][t], a[2] A[g][t + 4], a[3]
// A[g + 8][t + 4]; b[0] is B[t][g], b[1] B[t + 4][g]; d[0], d[1] are D[g][2t], D[g][2t + 1], d[2], d[3] the same of row
// g + 8.
#pragma once

#include "registers.cuh"

#ifndef TF32
#define TF32 0
#endif

__device__ __forceinline__ void multiply_add_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    host_cuda::mma_m16n8k8_tf32(d, a, b);
#endif
}

#define HIGH_BITS 0xFFFFE000u  // that the tensor cores read

// A factor as `multiply_add` takes it: itself, or the nearest TF32.
__device__ __forceinline__ unsigned operand(unsigned word) {
#if !TF32
    return word;
#elif defined(__CUDA_ARCH__)
    unsigned nearest;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(nearest) : "f"(__uint_as_float(word)));
    return nearest;
#else
    return (word & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFFFFFFu : (word + 0x1000u) & HIGH_BITS;
#endif
}

// What the tensor cores drop of a word.
__device__ __forceinline__ unsigned low_part(unsigned word) {
    return __float_as_uint(__uint_as_float(word) - __uint_as_float(word & HIGH_BITS));
}

// What the tensor cores get to see of a word whose upper bits are `high`, where its low part is multiplied apart. Words
// that stay where they are save registers, so on devices whose `mma` is known to drop the other bits, they do.
__device__ __forceinline__ unsigned shown(unsigned word, unsigned high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    return high;
#else
    return word;
#endif
}

// Which bits the tensor cores read, from where the compiler cannot look it up: were it a constant, the low parts of
// what stays the same from step to step would be computed once and kept, in twice the registers.
__device__ __forceinline__ unsigned high_bits_of(const volatile unsigned* place) { return *place; }

// d += A B. A comes whole, B with its low parts.
__device__ __forceinline__ void multiply_add(
    float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const unsigned (&b_low)[2], unsigned high_bits) {
#if TF32
    multiply_add_tf32(d, a, b);
#else
    unsigned a_part[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) a_part[i] = __float_as_uint(__uint_as_float(a[i]) - __uint_as_float(a[i] & high_bits));
    const unsigned b_high[2] = {shown(b[0], b[0] & HIGH_BITS), shown(b[1], b[1] & HIGH_BITS)};
    multiply_add_tf32(d, a_part, b_high);  // the small terms first
    // With the constant, or the compiler would keep what it has masked above until here: up to ten registers.
#pragma unroll
    for (int i = 0; i < 4; ++i) a_part[i] = shown(a[i], a[i] & HIGH_BITS);
    multiply_add_tf32(d, a_part, b_low);
    multiply_add_tf32(d, a_part, b_high);
#endif
}
