// Random words for masks, the same bits as `gpulstm.philox` and `kernels/philox.cuh`: Philox4x32-10, a counter of unit,
// sequence, time and stream, vectors of units at a time.
//
// Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
#pragma once

#include <stdint.h>

#include "lanes.h"

typedef uint64_t wide __attribute__((vector_size(VECTOR_BYTES)));  // a word in the lower half of each lane
typedef uint32_t word __attribute__((vector_size(VECTOR_BYTES)));

#define LOW 0xffffffffull

// The products of the lower halves. What the upper halves hold does not matter, which saves clearing them.
#if defined(__AVX512F__)
#include <immintrin.h>
INLINE wide times(wide a, uint32_t b) { return (wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b)); }
#elif defined(__AVX2__)
#include <immintrin.h>
INLINE wide times(wide a, uint32_t b) { return (wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
#elif defined(__SSE2__) && VECTOR_BYTES == 16
#include <emmintrin.h>
INLINE wide times(wide a, uint32_t b) { return (wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b)); }
#else
INLINE wide times(wide a, uint32_t b) { return (a & LOW) * (uint64_t)b; }
#endif

typedef struct {
    uint64_t seed;
    uint32_t stream;
} Generator;

// The first three words of each counter, in the lower halves of the lanes.
INLINE void words(Generator generator, wide unit, uint32_t sequence, uint32_t time, wide* first, wide* second,
                  wide* third) {
    const wide zero = {0};
    uint32_t key0 = (uint32_t)generator.seed, key1 = (uint32_t)(generator.seed >> 32);
    wide c0 = unit, c1 = zero + sequence, c2 = zero + time, c3 = zero + generator.stream;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const wide p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ (uint64_t)key0;
        c2 = (p0 >> 32) ^ c3 ^ (uint64_t)key1;
        c1 = p1;
        c3 = p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    *first = c0;
    *second = c1;
    *third = c2;
}

// For each word of a counter, the lanes whose word is below a threshold: all bits of them, as a comparison's.
typedef struct {
    ivec first, second, third;
} Below;

#ifdef FLOAT64
INLINE ivec below(wide words, uint32_t threshold) { return (ivec)((ivec)(words & LOW) < (long long)threshold); }

INLINE Below draw(Generator generator, long unit, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide units = {0}, first, second, third;
    for (int lane = 0; lane < LANES; ++lane) units[lane] = unit + lane;
    words(generator, units, sequence, time, &first, &second, &third);
    return (Below){below(first, thresholds[0]), below(second, thresholds[1]), below(third, thresholds[2])};
}
#else
// Units of even and of odd number were drawn apart: one goes into the lower half of a lane, the other into the upper.
INLINE ivec below(wide even, wide odd, uint32_t threshold) {
    return (ivec)((word)((even & LOW) | (odd << 32)) < threshold);
}

INLINE Below draw(Generator generator, long unit, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide units = {0}, a[3], b[3];
    for (int lane = 0; lane < LANES / 2; ++lane) units[lane] = unit + 2 * lane;
    words(generator, units, sequence, time, a, a + 1, a + 2);
    words(generator, units + 1, sequence, time, b, b + 1, b + 2);
    return (Below){below(a[0], b[0], thresholds[0]), below(a[1], b[1], thresholds[1]),
                   below(a[2], b[2], thresholds[2])};
}
#endif

// Dropout of an array (rows, columns), whose row is sequence row % batch at time first_time + row / batch.
typedef struct {
    real* out;
    const real* in;  // or null: then ones, and out is the mask
    long rows, columns, batch;
    uint64_t seed;
    uint32_t stream, first_time, threshold;
    int threads;
    double scale;  // of what is not dropped
} Dropout;

static void drop(const Dropout* p) {
    const Generator generator = {p->seed, p->stream};
    const uint32_t thresholds[3] = {p->threshold, 0, 0};
    const vec zero = {0}, kept = zero + (real)p->scale;
#pragma omp parallel for num_threads(p->threads) schedule(static)
    for (long row = 0; row < p->rows; ++row) {
        const uint32_t time = p->first_time + (uint32_t)(row / p->batch);
        for (long column = 0; column < p->columns; column += LANES) {
            const long count = p->columns - column < LANES ? p->columns - column : LANES;
            const ivec dropped = draw(generator, column, row % p->batch, time, thresholds).first;
            const long at = row * p->columns + column;
            const vec factor = choose(dropped, zero, kept);
            store_part(p->out + at, p->in ? load_part(p->in + at, count) * factor : factor, count);
        }
    }
}
