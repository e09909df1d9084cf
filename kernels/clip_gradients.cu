// Gradient clipping on all gradients of a model: by their joint norm in two launches, or by value in one.
//
//     sum_of_squares    partials[block] = sum of x^2 over the block's chunks
//     scale_to_norm     norm = sqrt(sum of partials);  x *= min(1, max_norm / (norm + 1e-6))
//     clip_values       x = min(max(x, -limit), limit), and NaN stays NaN
//
// A block takes every gridDim.x-th chunk, a thread every blockDim.x-th element of it. The order of every sum depends on
// the sizes and the grid alone: the same gradients give the same bits. Each block of scale_to_norm adds up all partials
// itself, in the same order, so nobody waits for another block or for the host.
//
// Bytes per element, in units of sizeof(real): sum_of_squares reads 1; scale_to_norm reads 1 and writes 1, or nothing
// where the norm is small enough; clip_values reads 1, writes 1. Blocks are whole warps, at most MAX_WARPS of them.
#include "block_sums.cuh"
#include "tensor_table.cuh"

extern "C" __global__ void sum_of_squares(
    const TensorTable table,  // target x
    real* partials,           // (partial_count,), this launch writes gridDim.x of them
    int first_partial) {
    __shared__ real partial[1][MAX_WARPS];
    real sum[1] = {real(0)};
    for (int number = blockIdx.x; number < table.chunks; number += gridDim.x) {
        const Chunk chunk = chunk_of(table, number);
        const real* x = table.target[chunk.tensor];
        for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) sum[0] += x[i] * x[i];
    }
    block_sums(sum, partial);
    if (threadIdx.x == 0) partials[first_partial + blockIdx.x] = sum[0];
}

extern "C" __global__ void scale_to_norm(
    const TensorTable table,  // target x
    const real* partials,     // (partial_count,)
    real* norm,               // (), the norm before, which every launch of a call writes alike
    int partial_count,
    real max_norm) {
    __shared__ real partial[1][MAX_WARPS];
    real sum[1] = {real(0)};
    for (int i = threadIdx.x; i < partial_count; i += blockDim.x) sum[0] += partials[i];
    block_sums(sum, partial);
    const real before = sqrt(sum[0]);
    if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = before;
    const real factor = max_norm / (before + real(1e-6));
    if (factor >= real(1)) return;  // not where it is NaN
    for (int number = blockIdx.x; number < table.chunks; number += gridDim.x) {
        const Chunk chunk = chunk_of(table, number);
        real* x = table.target[chunk.tensor];
        for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) x[i] *= factor;
    }
}

extern "C" __global__ void clip_values(
    const TensorTable table,  // target x
    real limit) {
    for (int number = blockIdx.x; number < table.chunks; number += gridDim.x) {
        const Chunk chunk = chunk_of(table, number);
        real* x = table.target[chunk.tensor];
        for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x)
            x[i] = x[i] < -limit ? -limit : x[i] > limit ? limit : x[i];
    }
}
