// Vectors of numbers as wide as the processor's registers, and the two functions of an LSTM that need more than + and *.
//
// Everything here is compiled twice: with FLOAT64 numbers are double, otherwise float.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifdef FLOAT64
typedef double real;
typedef long long integer;  // as wide as a number
#define REAL_BYTES 8
#define NAME(of) of##_float64
#define SQUARE_ROOT sqrt
#else
typedef float real;
typedef int integer;
#define REAL_BYTES 4
#define NAME(of) of##_float32
#define SQUARE_ROOT sqrtf
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 6  // rows of a tile: 4 * ROWS sums, 4 factors and a spare stay in registers
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 3
#else
#define VECTOR_BYTES 16
#define ROWS 2
#endif
#define LANES (VECTOR_BYTES / REAL_BYTES)
#define PANEL (4 * LANES)  // columns of a tile

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef real unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLLED _Pragma("GCC unroll 4")  // before a loop over what is to stay in registers; -O2 leaves it as it is

INLINE vec load(const real* from) { return *(const unaligned_vec*)from; }
INLINE void store(real* to, vec v) { *(unaligned_vec*)to = v; }

// The first `count` lanes; the others are zero, and are left alone.
INLINE vec load_part(const real* from, long count) {
    if (count == LANES) return load(from);
    vec v = {0};
    memcpy(&v, from, count * sizeof(real));
    return v;
}
INLINE void store_part(real* to, vec v, long count) {
    if (count == LANES) {
        store(to, v);
    } else {
        memcpy(to, &v, count * sizeof(real));
    }
}

// A byte for each lane, of what fits into one. GCC 12 would widen it lane by lane, which takes longer than a cell.
#if defined(__AVX512F__) && !defined(FLOAT64)
INLINE ivec widened(bytes narrow) { return (ivec)_mm512_cvtepu8_epi32((__m128i)narrow); }
#elif defined(__AVX512F__)
INLINE ivec widened(bytes narrow) { return (ivec)_mm512_cvtepu8_epi64(_mm_cvtsi64_si128((long long)narrow)); }
#elif defined(__AVX2__) && !defined(FLOAT64)
INLINE ivec widened(bytes narrow) { return (ivec)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)narrow)); }
#else
INLINE ivec widened(bytes narrow) { return __builtin_convertvector(narrow, ivec); }
#endif
INLINE void store_bits(uint8_t* to, ivec bits, long count) {
    const bytes narrow = __builtin_convertvector(bits, bytes);
    if (count == LANES) {
        memcpy(to, &narrow, LANES);
    } else {
        memcpy(to, &narrow, count);
    }
}
INLINE ivec load_bits(const uint8_t* from, long count) {
    bytes narrow = {0};
    if (count == LANES) {
        memcpy(&narrow, from, LANES);
    } else {
        memcpy(&narrow, from, count);
    }
    return widened(narrow);
}

// The sum of all lanes: halves are added to each other.
#if defined(__AVX512F__) && !defined(FLOAT64)
INLINE real total_of(vec v) { return _mm512_reduce_add_ps((__m512)v); }
#elif defined(__AVX512F__)
INLINE real total_of(vec v) { return _mm512_reduce_add_pd((__m512d)v); }
#else
INLINE real total_of(vec v) {
    real x[LANES];
    memcpy(x, &v, sizeof x);
#if VECTOR_BYTES >= 32
    real a __attribute__((vector_size(16))), b __attribute__((vector_size(16)));
    memcpy(&a, x, sizeof a);
    memcpy(&b, x + 16 / REAL_BYTES, sizeof b);
    a += b;
    memcpy(x, &a, sizeof a);
#endif
    return REAL_BYTES == 8 ? x[0] + x[1] : (x[0] + x[1]) + (x[2 % LANES] + x[3 % LANES]);
}
#endif

// mask ? a : b, lane by lane; a mask is the outcome of a comparison.
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

// The smaller and the larger of two, and b where one is NaN: what one instruction of x86 does, and compilers do not see.
#if defined(__AVX512F__)
#define OF_X86(operation, a, b) BY_TYPE(_mm512_##operation, a, b)
#elif defined(__AVX__)
#define OF_X86(operation, a, b) BY_TYPE(_mm256_##operation, a, b)
#elif defined(__SSE2__)
#define OF_X86(operation, a, b) BY_TYPE(_mm_##operation, a, b)
#endif
#ifdef FLOAT64
#define BY_TYPE(operation, a, b) operation##_pd(a, b)
#else
#define BY_TYPE(operation, a, b) operation##_ps(a, b)
#endif
#ifdef OF_X86
INLINE vec smaller(vec a, vec b) { return (vec)OF_X86(min, a, b); }
INLINE vec larger_of(vec a, vec b) { return (vec)OF_X86(max, a, b); }
#else
INLINE vec smaller(vec a, vec b) { return choose((ivec)(a < b), a, b); }
INLINE vec larger_of(vec a, vec b) { return choose((ivec)(a > b), a, b); }
#endif

// x, but not beyond the bound on either side; a NaN is neither above nor below.
INLINE vec within(vec x, real bound) {
    const vec zero = {0}, high = zero + bound;
    return larger_of(-high, smaller(high, x));
}

#ifdef FLOAT64
// tanh(x) = e / (e + 2) with e = exp(2x) - 1. With 2x = k ln 2 + r and |r| <= ln(2) / 2, e is 2^k (exp(r) - 1) + 2^k - 1,
// and exp(r) - 1 a polynomial: Taylor's, whose first term left out is less than 2e-17 of it. What is left is rounding: it
// would leave a gradient to a gate that has none, so what x has beyond 20 comes on top.
INLINE void fraction(vec x, vec* numerator, vec* denominator) {
    const vec y = within(x, 20.0), z = 2.0 * y;  // from 20 on tanh is 1
    const double shift = 0x1.8p52;        // a sum with it has no room for fractions: its last bits are an integer
    const vec shifted = z * 0x1.71547652b82fep0 + shift, k = shifted - shift;
    const vec r = (z - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;  // ln 2 in two parts, the first times k exact
    vec p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * (r * r) + r;
    const vec power = (vec)(((ivec)shifted << 52) + (1023LL << 52));  // 2^k
    const vec e = p * power + (power - 1.0);
    *numerator = e - (y - x) * 1e18;
    *denominator = e + 2.0;
}
#else
// tanh(x) = x P(x^2) / Q(x^2), with coefficients that make the largest relative error for |x| <= 9 as small as such
// fractions can have it, 1.3e-9: what is left is rounding, at most half a dozen units in the last place. At 9 it would
// leave less than 1, and so a gradient to a cell that has none; what x has beyond 9 makes up for it.
INLINE void fraction(vec x, vec* numerator, vec* denominator) {
    const vec y = within(x, 9.0f), z = y * y;  // from 9 on tanh is 1
    vec p = z * -1.23369090396e-11f + 3.07646725528e-08f;
    p = p * z + 2.80821067207e-05f;
    p = p * z + 3.8720260951e-03f;
    p = p * z + 0.136828662014f;
    p = p * z + 0.999999998829f;
    vec q = z * 1.29258382813e-06f + 3.94515255454e-04f;
    q = q * z + 2.72593730343e-02f;
    q = q * z + 0.470161983741f;
    q = q * z + 1.0f;
    *numerator = y * p - (y - x) * 1000.0f;  // -0.0 stays what it is
    *denominator = q;
}
#endif

INLINE vec tanh_of(vec x) {
    vec p, q;
    fraction(x, &p, &q);
    return within(p / q, 1.0f);
}

// Both become their tanh, with one division, which costs more than all the rest of it.
INLINE void two_tanhs(vec* a, vec* b) {
    vec p_a, q_a, p_b, q_b;
    fraction(*a, &p_a, &q_a);
    fraction(*b, &p_b, &q_b);
    const vec one_over = 1.0f / (q_a * q_b);
    *a = within(p_a * q_b * one_over, 1.0f);
    *b = within(p_b * q_a * one_over, 1.0f);
}
