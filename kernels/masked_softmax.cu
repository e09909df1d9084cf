// Attention weights from scores, and back: the softmax over the source steps that a sequence has.
//
//     w[k] = exp(x[k] - largest) / sum        for k < length, else 0        largest, sum: softmax.cuh
//     dx[k] = w[k] (dw[k] - sum over j < length of w[j] dw[j])             for k < length, else 0
//
// Weights replace scores, and dx replaces dw. A sequence of length 0 has no weights but zeros. What stands at or behind
// a sequence's length is not read.
//
// A block owns a row, a thread every blockDim.x-th element of it. The sums' order depends on the shape alone.
//
// Bytes per element, in units of sizeof(real): forward reads 1 from memory and 1 more, mostly from cache, writes 1;
// backward reads 2 and 2 more, mostly from cache, writes 1.
#include "softmax.cuh"

// The elements of this block's row that its sequence has.
__device__ __forceinline__ int length_of_row(const int* lengths, int columns, int rows_per_sequence) {
    return lengths == nullptr ? columns : lengths[blockIdx.x / rows_per_sequence];
}

extern "C" __global__ void masked_softmax(
    real* scores,        // (batch, rows_per_sequence, columns) weights in place
    const int* lengths,  // (batch,) elements of a row that count, or null
    int rows_per_sequence,
    int columns) {
    __shared__ real partial[1][MAX_WARPS];
    real* x = scores + (long long)blockIdx.x * columns;
    const int length = length_of_row(lengths, columns, rows_per_sequence);
    SoftmaxRow softmax;
    for (int k = threadIdx.x; k < length; k += blockDim.x) softmax.take(x[k]);
    softmax.join(partial);
    const real scale = real(1) / softmax.sum;
    for (int k = threadIdx.x; k < columns; k += blockDim.x)
        x[k] = k < length ? exp(x[k] - softmax.largest) * scale : real(0);
}

extern "C" __global__ void masked_softmax_backward(
    const real* __restrict__ weights,  // (batch, rows_per_sequence, columns)
    real* dweights,                    // (batch, rows_per_sequence, columns) gradient of the scores in place
    const int* lengths,                // (batch,) elements of a row that count, or null
    int rows_per_sequence,
    int columns) {
    __shared__ real partial[1][MAX_WARPS];
    const long long start = (long long)blockIdx.x * columns;
    const real* w = weights + start;
    real* dw = dweights + start;
    const int length = length_of_row(lengths, columns, rows_per_sequence);
    real sum[1] = {real(0)};
    for (int k = threadIdx.x; k < length; k += blockDim.x) sum[0] += w[k] * dw[k];
    block_sums(sum, partial);
    for (int k = threadIdx.x; k < columns; k += blockDim.x) dw[k] = k < length ? w[k] * (dw[k] - sum[0]) : real(0);
}
