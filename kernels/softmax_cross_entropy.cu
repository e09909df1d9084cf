// The mean cross-entropy of rows of logits and its gradient, without the probabilities ever being stored.
//
//     p = softmax(x)        q = (1 - smoothing) * [k == target] + smoothing / classes
//     loss = mean over counted rows of -sum_k q[k] log p[k] = log(sum) - sum_k q[k] (x[k] - largest)
//     gradient = (p - q) / counted rows, zero in the others        largest, sum: softmax.cuh
//
// A row does not count where its target is `ignored` or its time step is past its sequence's end. A counted row whose
// target is no class makes the loss and its own gradient NaN; nothing is read for it outside of the row.
//
// A block owns every gridDim.x-th row, a thread every blockDim.x-th class of them; the block leaves the sum of its
// rows' losses, and `softmax_cross_entropy_mean`, one block, adds those up. The grid depends on the shape alone, so
// does the order of the sums. `softmax_cross_entropy_count` adds integers, whose order does not matter.
//
// Bytes per logit, in units of sizeof(real): reads 1 from memory and 1 more, mostly from cache; writes 1. A row that
// does not count is not read. Per row 8 for the target.
#include "softmax.cuh"

// Which rows count. Row r is time step (r / step_stride) % steps of sequence (r / sequence_stride) % batch.
struct Counting {
    const long long* target;
    const int* lengths;
    int ignores;
    long long ignored;
    long long steps, batch, step_stride, sequence_stride;

    __device__ __forceinline__ bool has(long long row) const {
        if (lengths != nullptr && row / step_stride % steps >= lengths[row / sequence_stride % batch]) return false;
        return !ignores || target[row] != ignored;
    }
};

extern "C" __global__ void softmax_cross_entropy_count(
    const long long* __restrict__ target,  // (rows,)
    const int* __restrict__ lengths,       // (batch,) steps that a sequence has, or null
    unsigned long long* counted,           // (1,) rows that count, zero before
    long long rows,
    int ignores,        // whether there is a target that does not count
    long long ignored,  // and which
    long long steps,
    long long batch,
    long long step_stride,
    long long sequence_stride) {
    const Counting counting = {target, lengths, ignores, ignored, steps, batch, step_stride, sequence_stride};
    const long long row = flat_thread_index();
    const int here = __syncthreads_count(row < rows && counting.has(row));
    if (threadIdx.x == 0) atomicAdd(counted, (unsigned long long)here);
}

extern "C" __global__ void softmax_cross_entropy(
    const real* __restrict__ logits,        // (rows, classes)
    const long long* __restrict__ target,   // (rows,) the class of each row
    const int* __restrict__ lengths,        // (batch,) steps that a sequence has, or null
    const unsigned long long* __restrict__ counted,  // (1,) rows that count, or null: then `count` says it
    real* __restrict__ gradient,            // (rows, classes)
    real* __restrict__ losses,              // (gridDim.x,) sum over each block's rows
    long long rows,
    int classes,
    long long count,
    real smoothing,
    int ignores,        // whether there is a target that does not count
    long long ignored,  // and which
    long long steps,
    long long batch,
    long long step_stride,
    long long sequence_stride) {
    __shared__ real partial[1][MAX_WARPS];
    const Counting counting = {target, lengths, ignores, ignored, steps, batch, step_stride, sequence_stride};
    const real share = real(1) / real(counted == nullptr ? count : *counted);
    const real every = smoothing / classes, more = real(1) - smoothing;  // q of each class, and on top for the target
    real loss = real(0);

    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const real* x = logits + row * classes;
        real* dx = gradient + row * classes;
        if (!counting.has(row)) {
            for (int k = threadIdx.x; k < classes; k += blockDim.x) dx[k] = real(0);
            continue;
        }
        SoftmaxRow softmax;
        for (int k = threadIdx.x; k < classes; k += blockDim.x) softmax.take(x[k]);
        softmax.join(partial);
        const long long label = target[row];
        const bool is_class = label >= 0 && label < classes;
        if (!is_class) softmax.sum = real(nan(""));

        const real scale = share / softmax.sum;
        real below[1] = {real(0)};  // sum of x - largest
        for (int k = threadIdx.x; k < classes; k += blockDim.x) {
            const real shifted = x[k] - softmax.largest;
            below[0] += shifted;
            dx[k] = exp(shifted) * scale - (k == label ? every + more : every) * share;
        }
        loss += log(softmax.sum) - (is_class ? more * (x[label] - softmax.largest) : real(0));
        if (smoothing > real(0)) {  // else an infinite x would make 0 * inf
            block_sums(below, partial);
            loss -= every * below[0];
        }
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

extern "C" __global__ void softmax_cross_entropy_mean(
    const real* __restrict__ losses,        // (blocks,)
    const unsigned long long* __restrict__ counted,  // (1,) or null, as above
    real* __restrict__ loss,                // (1,) NaN where no row counts
    int blocks,
    long long count) {
    __shared__ real partial[1][MAX_WARPS];
    real sum[1] = {real(0)};
    for (int k = threadIdx.x; k < blocks; k += blockDim.x) sum[0] += losses[k];
    block_sums(sum, partial);
    if (threadIdx.x == 0) *loss = sum[0] / real(counted == nullptr ? count : *counted);
}
