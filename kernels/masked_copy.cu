// A copy with a dropout mask on it: target = source * mask, and mask is 0 or 1 / (1 - probability).
//
// It serves weight drop (weight_hh, and its gradient), dropout between layers (a layer's output, and its gradient) and
// recurrent dropout (the initial h). The mask's counter is (column, row % batch, row / batch + first_time, stream), of
// which the first word counts: see philox.cuh.
//
// One thread owns one element. Bytes per element, in units of sizeof(store): reads 1, writes 1.
// Source and target may be the same array.
#include "philox.cuh"
#include "storage.cuh"

extern "C" __global__ void masked_copy(
    const store* source,  // (rows, columns), rows = times * batch
    store* target,        // (rows, columns)
    long long size,       // rows * columns
    int columns,
    int batch,
    unsigned int first_time,
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int threshold,  // words below it drop their element
    real scale) {            // of those that stay
    const long long index = flat_thread_index();
    if (index >= size) return;
    const long long row = index / columns;
    const Stream draws = {seed_low, seed_high, stream, 0};
    const unsigned int time = first_time + (unsigned int)(row / batch);
    const Words words = philox(draws, (unsigned int)(index % columns), (unsigned int)(row % batch), time);
    target[index] = stored(real_of(source[index]) * Dropout{threshold, scale}.factor(words.x0));
}
