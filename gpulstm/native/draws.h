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
INLINE wide times(wide a, uint32_t b) { return (wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b)); }
#elif defined(__AVX2__)
INLINE wide times(wide a, uint32_t b) { return (wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
#elif defined(__SSE2__) && VECTOR_BYTES == 16
INLINE wide times(wide a, uint32_t b) { return (wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b)); }
#else
INLINE wide times(wide a, uint32_t b) { return (a & LOW) * (uint64_t)b; }
#endif

typedef struct {
    uint64_t seed;
    uint32_t stream;
} Generator;

// What a vector of units comes to in the first two rounds whatever the sequence and the time.
typedef struct {
    wide low, product;  // of unit * 0xD2511F53, and of the second round's other word
} Units;

INLINE Units prepared(Generator generator, wide unit) {
    const wide low = times(unit, 0xD2511F53u);
    const uint32_t key = (uint32_t)(generator.seed >> 32);
    return (Units){low, times((low >> 32) ^ (uint64_t)(generator.stream ^ key), 0xCD9E8D57u)};
}

// The first three words of each counter, in the lower halves of the lanes.
INLINE void words(Generator generator, Units unit, uint32_t sequence, uint32_t time, wide* first, wide* second,
                  wide* third) {
    const wide zero = {0};
    const uint32_t seed0 = (uint32_t)generator.seed, seed1 = (uint32_t)(generator.seed >> 32);
    uint32_t key0 = seed0 + 0x9E3779B9u, key1 = seed1 + 0xBB67AE85u;
    // Two rounds, in which half of the words are the same for all units.
    const uint64_t of_time = time * 0xCD9E8D57ull;
    const uint64_t of_sequence = ((uint32_t)(of_time >> 32) ^ sequence ^ seed0) * 0xD2511F53ull;
    wide c0 = (unit.product >> 32) ^ (uint64_t)((uint32_t)of_time ^ key0), c1 = unit.product;
    wide c2 = unit.low ^ (uint64_t)((uint32_t)(of_sequence >> 32) ^ key1), c3 = zero + of_sequence;
#pragma GCC unroll 8
    for (int round = 2; round < 10; ++round) {
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
        const wide p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ (uint64_t)key0;
        c2 = (p0 >> 32) ^ c3 ^ (uint64_t)key1;
        c1 = p1;
        c3 = p0;
    }
    *first = c0;
    *second = c1;
    *third = c2;
}

// 0, 1, 2, ... from memory: put together lane by lane they would be waited for.
INLINE wide counted(void) {
    static const uint64_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
    wide found;
    memcpy(&found, numbers, sizeof found);
    return found;
}

// For each word of a counter, the lanes whose word is below a threshold: all bits of them, as a comparison's.
typedef struct {
    ivec first, second, third;
} Below;

#ifdef FLOAT64
typedef Units Block;  // as many units as a vector has lanes

INLINE Block block_of(Generator generator, long unit) { return prepared(generator, counted() + (uint64_t)unit); }

INLINE ivec below(wide words, uint32_t threshold) { return (ivec)((ivec)(words & LOW) < (long long)threshold); }

INLINE Below draw(Generator generator, Block units, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide first, second, third;
    words(generator, units, sequence, time, &first, &second, &third);
    return (Below){below(first, thresholds[0]), below(second, thresholds[1]), below(third, thresholds[2])};
}
#else
typedef struct {  // units of even and of odd number are drawn apart
    Units even, odd;
} Block;

INLINE Block block_of(Generator generator, long unit) {
    const wide even = (counted() << 1) + (uint64_t)unit;
    return (Block){prepared(generator, even), prepared(generator, even + 1)};
}

INLINE ivec below(wide even, wide odd, uint32_t threshold) {
    return (ivec)((word)((even & LOW) | (odd << 32)) < threshold);
}

INLINE Below draw(Generator generator, Block units, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide a[3], b[3];
    words(generator, units.even, sequence, time, a, a + 1, a + 2);
    words(generator, units.odd, sequence, time, b, b + 1, b + 2);
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
            const Block units = block_of(generator, column);
            const ivec dropped = draw(generator, units, row % p->batch, time, thresholds).first;
            const long at = row * p->columns + column;
            const vec factor = choose(dropped, zero, kept);
            store_part(p->out + at, p->in ? load_part(p->in + at, count) * factor : factor, count);
        }
    }
}
