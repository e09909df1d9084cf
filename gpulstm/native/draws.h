// Random words for masks, the same bits as `gpulstm.philox` and `kernels/philox.cuh`: Philox4x32-10, a counter of unit,
// sequence, time and stream, vectors of units at a time.
//
// Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
#pragma once

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

// The upper halves in the place of the lower ones, and anything in theirs. A shift would wait for the port that
// multiplies.
#if defined(__AVX512F__)
INLINE wide upper(wide a) { return (wide)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_DDBB); }
#elif defined(__AVX2__)
INLINE wide upper(wide a) { return (wide)_mm256_shuffle_epi32((__m256i)a, 0xf5); }
#else
INLINE wide upper(wide a) { return a >> 32; }
#endif

#define ROUNDS 10

// The keys of all rounds, in memory: there an operation on a vector finds them without a register of its own.
typedef struct {
    uint64_t key0[ROUNDS], key1[ROUNDS];
    uint32_t stream;
} Generator;

INLINE Generator generator_of(uint64_t seed, uint32_t stream) {
    Generator made = {.stream = stream};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        made.key0[round] = key0;
        made.key1[round] = key1;
    }
    return made;
}

// What a vector of units comes to in three rounds whatever the sequence: two words of the second round, and of the
// third one's the product, and what is left of it in the next word.
typedef struct {
    wide low, second, product, high;
} Units;

INLINE Units prepared(const Generator* generator, wide unit, uint32_t time) {
    const wide low = times(unit, 0xD2511F53u);
    const wide second = times(upper(low) ^ (generator->stream ^ generator->key1[0]), 0xCD9E8D57u);
    const uint64_t of_time = (uint32_t)(time * 0xCD9E8D57u) ^ generator->key0[1];
    const wide product = times(upper(second) ^ of_time, 0xD2511F53u);
    return (Units){low, second, product, upper(product) ^ generator->key1[2]};
}

// The first three words of each counter, in the lower halves of the lanes. Who uses fewer of them need not say so.
INLINE void words(const Generator* generator, Units unit, uint32_t sequence, uint32_t time, wide* first, wide* second,
                  wide* third) {
    // What is the same for all units, and the third round.
    const uint64_t of_time = time * 0xCD9E8D57ull;
    const uint64_t of_sequence = ((uint32_t)(of_time >> 32) ^ sequence ^ (uint32_t)generator->key0[0]) * 0xD2511F53ull;
    wide c1 = times(unit.low ^ ((of_sequence >> 32) ^ generator->key1[1]), 0xCD9E8D57u), c3 = unit.product;
    wide c0 = upper(c1) ^ unit.second ^ generator->key0[2], c2 = unit.high ^ of_sequence;
#pragma GCC unroll 8
    for (int round = 3; round < ROUNDS; ++round) {
        const wide p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
        c0 = upper(p1) ^ c1 ^ generator->key0[round];
        c2 = upper(p0) ^ c3 ^ generator->key1[round];
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
typedef Units Block;  // as many units as a vector has lanes, at one time

INLINE Block block_of(const Generator* generator, long unit, uint32_t time) {
    return prepared(generator, counted() + (uint64_t)unit, time);
}

INLINE ivec below(wide words, uint32_t threshold) { return (ivec)((ivec)(words & LOW) < (long long)threshold); }

INLINE Below draw(const Generator* generator, Block units, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide first, second, third;
    words(generator, units, sequence, time, &first, &second, &third);
    return (Below){below(first, thresholds[0]), below(second, thresholds[1]), below(third, thresholds[2])};
}
#else
typedef struct {  // units of even and of odd number are drawn apart
    Units even, odd;
} Block;

INLINE Block block_of(const Generator* generator, long unit, uint32_t time) {
    const wide even = (counted() << 1) + (uint64_t)unit;
    return (Block){prepared(generator, even, time), prepared(generator, even + 1, time)};
}

INLINE ivec below(wide even, wide odd, uint32_t threshold) {
    return (ivec)((word)((even & LOW) | (odd << 32)) < threshold);
}

INLINE Below draw(const Generator* generator, Block units, long sequence, uint32_t time, const uint32_t thresholds[3]) {
    wide a[3], b[3];
    words(generator, units.even, sequence, time, a, a + 1, a + 2);
    words(generator, units.odd, sequence, time, b, b + 1, b + 2);
    return (Below){below(a[0], b[0], thresholds[0]), below(a[1], b[1], thresholds[1]),
                   below(a[2], b[2], thresholds[2])};
}
#endif
