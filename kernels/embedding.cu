// A table's rows by their numbers, and the table's gradient without floating-point atomics.
//
//     forward     out[r] = weight[token[r]], or NaN where there is no such row
//     gradient    dweight[t] = sum of dout[r] over all r with token[r] = t, in the order of r
//
// For the gradient the positions r are sorted by their token, so that each token is one run of positions. The sorted
// positions are cut into chunks of equal length, and the order of all sums depends on the tokens alone:
//   1. embedding_gradient_chunks adds up the runs inside each chunk. A run that lies inside one chunk is done; the
//      parts of a run that goes across chunks are kept.
//   2. embedding_gradient_join adds up the parts of each such run.
// A token that is everywhere, such as a space, then costs a chunk's length plus the number of chunks, both about the
// square root of the number of positions.
//
// One thread owns one element of out; in the gradient, one column of one chunk.
// Bytes per element of out or dout, in units of sizeof(real): forward 1 + 1; chunks 1 + 1 per run and chunk; join 1 + 1
// of those kept. The tokens and positions, 8 bytes each, are read once for each row, and by the other columns from
// cache.
#include "common.cuh"

extern "C" __global__ void embedding_forward(
    const real* __restrict__ weight,      // (count, size)
    const long long* __restrict__ token,  // (rows,)
    real* __restrict__ out,               // (rows, size)
    long long elements,                   // rows * size
    long long count,
    int size) {
    const long long index = flat_thread_index();
    if (index >= elements) return;
    const long long row = token[index / size];
    out[index] = row >= 0 && row < count ? weight[row * size + index % size] : real(nan(""));
}

// Where a chunk lies among the sorted positions, and which runs it shares with its neighbours.
struct Chunk {
    long long first, end;  // [first, end)
    bool began_before;     // its first run goes on from the chunk before
    bool goes_on;          // its last run goes on in the chunk behind
};

__device__ __forceinline__ Chunk chunk_at(
    const long long* token, const long long* order, long long chunk, long long length, long long rows) {
    const long long first = chunk * length;
    const long long end = first + length < rows ? first + length : rows;
    return {
        first, end, first > 0 && token[order[first - 1]] == token[order[first]],
        end < rows && token[order[end - 1]] == token[order[end]]};
}

// The gradient of a row that the table does not have, or that is not trained, goes nowhere.
__device__ __forceinline__ void store(
    real* dweight, long long row, int column, real sum, long long count, long long padding, int size) {
    if (row >= 0 && row < count && row != padding) dweight[row * size + column] = sum;
}

extern "C" __global__ void embedding_gradient_chunks(
    const real* __restrict__ dout,        // (rows, size)
    const long long* __restrict__ token,  // (rows,)
    const long long* __restrict__ order,  // (rows,) positions sorted by token, those of one token ascending
    real* __restrict__ dweight,           // (count, size) zeros before
    real* __restrict__ kept,              // (chunks, size) a chunk's part of the run that ...
    real* __restrict__ started,           // (chunks, size) ... it goes on with; of the one that it starts and hands on
    long long rows,
    long long length,                     // positions of a chunk
    long long chunks,
    long long count,
    long long padding,                    // the row that is not trained, or -1
    int size) {
    const long long index = flat_thread_index();
    if (index >= chunks * size) return;
    const int column = (int)(index % size);
    const Chunk chunk = chunk_at(token, order, index / size, length, rows);

    bool began_before = chunk.began_before;
    long long row = token[order[chunk.first]];
    real sum = real(0);
    for (long long place = chunk.first; place < chunk.end; ++place) {
        const long long position = order[place], next = token[position];
        if (next != row) {
            if (began_before)
                kept[index] = sum;
            else
                store(dweight, row, column, sum, count, padding, size);
            began_before = false;
            row = next;
            sum = real(0);
        }
        sum += dout[position * size + column];
    }
    if (began_before)
        kept[index] = sum;
    else if (chunk.goes_on)
        started[index] = sum;
    else
        store(dweight, row, column, sum, count, padding, size);
}

extern "C" __global__ void embedding_gradient_join(
    const long long* __restrict__ token,   // (rows,)
    const long long* __restrict__ order,   // (rows,) as above, and so are the next
    real* __restrict__ dweight,            // (count, size)
    const real* __restrict__ kept,         // (chunks, size)
    const real* __restrict__ started,      // (chunks, size)
    long long rows,
    long long length,
    long long chunks,
    long long count,
    long long padding,
    int size) {
    const long long index = flat_thread_index();
    if (index >= chunks * size) return;
    const long long first = index / size;
    Chunk chunk = chunk_at(token, order, first, length, rows);
    if (!chunk.goes_on) return;
    const long long row = token[order[chunk.end - 1]];
    if (chunk.began_before && token[order[chunk.first]] == row) return;  // the chunk where it started joins it

    real sum = started[index];
    for (long long next = first + 1; next < chunks; ++next) {
        sum += kept[next * size + index % size];
        const long long end = (next + 1) * length;
        if (end >= rows || token[order[end]] != row) break;
    }
    store(dweight, row, (int)(index % size), sum, count, padding, size);
}
