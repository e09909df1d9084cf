// Dropout of whole arrays: layers' outputs, weights, and masks for their own sake.
#pragma once

#include "draws.h"

#define ROWS_DRAWN 8  // rows that are gone through at once: what only their units decide is worked out once for them

// Dropout of an array (rows, columns), whose row is sequence row % batch at time first_time + row / batch.
typedef struct {
    real* out;
    const real* in;   // or null: then ones, and out is the mask
    uint8_t* record;  // (rows, columns), what was dropped: written, or with `recorded` read instead of drawn; or null
    long rows, columns, batch;
    uint64_t seed;
    uint32_t stream, first_time, threshold;
    int recorded, threads;
    double scale;  // of what is not dropped
} Dropout;

INLINE void drop_block(const Dropout* p, const Generator* generator, long first, long end, long column, long count) {
    const uint32_t thresholds[3] = {p->threshold, 0, 0};
    const vec zero = {0}, kept = zero + (real)p->scale;
    uint32_t time = p->first_time + (uint32_t)(first / p->batch);
    Block units = block_of(generator, column, time);
    for (long row = first, sequence = first % p->batch; row < end; ++row, ++sequence) {
        const long at = row * p->columns + column;
        if (sequence == p->batch) {
            sequence = 0;
            units = block_of(generator, column, ++time);
        }
        ivec dropped;
        if (p->recorded) {
            dropped = (ivec)(load_bits(p->record + at, count) != 0);
        } else {
            dropped = draw(generator, units, sequence, time, thresholds).first;
            if (p->record) store_bits(p->record + at, dropped & 1, count);
        }
        const vec factor = choose(dropped, zero, kept);
        store_part(p->out + at, p->in ? load_part(p->in + at, count) * factor : factor, count);
    }
}

static void drop(const Dropout* p) {
    const Generator generator = generator_of(p->seed, p->stream);
    const long groups = (p->rows + ROWS_DRAWN - 1) / ROWS_DRAWN;
#pragma omp parallel for num_threads(p->threads) schedule(static)
    for (long group = 0; group < groups; ++group) {
        const long first = group * ROWS_DRAWN, end = p->rows - first < ROWS_DRAWN ? p->rows : first + ROWS_DRAWN;
        long column = 0;
        for (; column + LANES <= p->columns; column += LANES) drop_block(p, &generator, first, end, column, LANES);
        if (column < p->columns) drop_block(p, &generator, first, end, column, p->columns - column);
    }
}
