// Vectors of floats as wide as the processor's registers, and the two functions of an LSTM that need more than + and *.
#pragma once

#include <string.h>

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
#define LANES (VECTOR_BYTES / 4)
#define PANEL (4 * LANES)  // columns of a tile

typedef float vec __attribute__((vector_size(VECTOR_BYTES)));
typedef int ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef float unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float* from) { return *(const unaligned_vec*)from; }
INLINE void store(float* to, vec v) { *(unaligned_vec*)to = v; }

// The first `count` lanes; the others are zero, and are left alone.
INLINE vec load_part(const float* from, long count) {
    if (count == LANES) return load(from);
    vec v = {0};
    memcpy(&v, from, count * sizeof(float));
    return v;
}
INLINE void store_part(float* to, vec v, long count) {
    if (count == LANES) {
        store(to, v);
    } else {
        memcpy(to, &v, count * sizeof(float));
    }
}

// mask ? a : b, lane by lane; a mask is the outcome of a comparison.
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

// x, but not beyond the bound on either side; a NaN is neither above nor below.
INLINE vec within(vec x, float bound) {
    const vec zero = {0}, high = zero + bound;
    x = choose(x > high, high, x);
    return choose(x < -high, -high, x);
}

// tanh(x) = x P(x^2) / Q(x^2), with coefficients that make the largest relative error for |x| <= 9 as small as such
// fractions can have it, 1.3e-9: what is left is rounding, at most half a dozen units in the last place.
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
    *numerator = y * p;
    *denominator = q;
}

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
