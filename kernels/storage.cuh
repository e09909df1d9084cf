// How numbers lie in memory, and what they are computed with: the same type, or 16 bits and float32.
//
// `store` is what an array holds, `real` what a thread computes with; real_of() and stored() lead from one to the
// other. Without FLOAT16 and BFLOAT16 the two are one type. With one of them REAL is float, and `store` is a struct of
// two bytes, so that the compiler refuses to take its bits for a number.
//
//             exponent  mantissa   largest   rounding error, relative
//     float16    5         10       65504        2^-11
//     bfloat16   8          7       3e38         2^-8
//
// Both conversions to 16 bits round to the nearest, ties to even. What is too large becomes infinite. A NaN becomes
// 0x7FFF, so no number that was computed is ever 0xFFFF. Subnormal numbers are kept.
//
// No header of CUDA's is needed: where CuPy comes from pip alone, the compiler has none.
#pragma once
#include "common.cuh"

#if FLOAT16

struct Float16 {
    unsigned short bits;
};
typedef Float16 store;

__device__ __forceinline__ real real_of(store value) {
#if defined(__CUDA_ARCH__)
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(value.bits));
    return number;
#else
    return host_cuda::float_of_f16(value.bits);
#endif
}

__device__ __forceinline__ store stored(real value) {
#if defined(__CUDA_ARCH__)
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return store{bits};
#else
    return store{host_cuda::f16_of_float(value)};
#endif
}

#else
#if BFLOAT16

struct BFloat16 {  // the upper half of a float
    unsigned short bits;
};
typedef BFloat16 store;

__device__ __forceinline__ real real_of(store value) { return __uint_as_float((unsigned int)value.bits << 16); }

__device__ __forceinline__ store stored(real value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return store{bits};
#else
    // Half a unit less one, and one more where the bit above is odd: halfway goes to even. Infinity stays as it is.
    const unsigned int word = __float_as_uint(value);
    const unsigned int rounded = (word + 0x7FFFu + (word >> 16 & 1u)) >> 16;
    return store{(unsigned short)(value != value ? 0x7FFFu : rounded)};
#endif
}

#else

typedef real store;

__device__ __forceinline__ real real_of(store value) { return value; }
__device__ __forceinline__ store stored(real value) { return value; }

#endif
#endif
