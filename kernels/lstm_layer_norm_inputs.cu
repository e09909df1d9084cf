// What layer norm does to the products of x, p = W_ih x, for all time steps at once: it does not depend on h. The
// kernels that run all time steps in one launch (lstm_*_layer_norm_*.cu) come between forward and backward here.
//
//     n = (p - mean) / sqrt(variance + epsilon)       gates = gain * n + bias        mean and variance over 4*hidden
//     d = dgates * gain        dp = (d - mean(d) - n * mean(d * n)) / sqrt(variance + epsilon)
//     dgain = sum of dgates * n over time and batch
//
// forward and backward: one block owns one row, a thread every blockDim.x-th element of it. gain_gradient:
// column_sums.cuh says which thread adds up what. All sums have an order that depends on the shape alone.
//
// Bytes per element, in units of sizeof(store): forward reads 3, two of them from cache, writes 1, in training 2;
// backward reads 4, two of them from cache, writes 1; gain_gradient reads 2.
#include "block_sums.cuh"
#include "column_sums.cuh"
#include "storage.cuh"

extern "C" __global__ void lstm_layer_norm_inputs_forward(
    store* p,             // (rows, columns) products of x, rows = steps * batch; with norms n in place
    store* gates,         // (rows, columns) receives gain * n + bias; may be p where norms is null
    const store* gain,    // (columns,)
    const store* bias,    // (columns,) or null
    real* norms,          // (rows, 4) in training: the first of each row receives 1/std; else null
    int columns) {        // 4*hidden
    __shared__ real partial[1][MAX_WARPS];
    const long long first = (long long)blockIdx.x * columns;

    real mean[1] = {real(0)};
    for (int column = threadIdx.x; column < columns; column += blockDim.x) mean[0] += real_of(p[first + column]);
    block_sums(mean, partial);
    mean[0] /= real(columns);

    real scale[1] = {real(0)};
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const real distance = real_of(p[first + column]) - mean[0];
        scale[0] += distance * distance;
    }
    block_sums(scale, partial);
    scale[0] = real(1) / sqrt(scale[0] / real(columns) + NORM_EPSILON);

    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const real normal = (real_of(p[first + column]) - mean[0]) * scale[0];
        if (norms != nullptr) p[first + column] = stored(normal);
        gates[first + column] =
            stored(real_of(gain[column]) * normal + (bias == nullptr ? real(0) : real_of(bias[column])));
    }
    if (norms != nullptr && threadIdx.x == 0) norms[4 * (long long)blockIdx.x] = scale[0];
}

extern "C" __global__ void lstm_layer_norm_inputs_backward(
    const store* __restrict__ gates, // (rows, columns) gradients of the pre-activations
    store* __restrict__ p,           // (rows, columns) n; becomes dp, zero where a sequence is over
    const store* __restrict__ gain,  // (columns,)
    const real* __restrict__ norms,  // (rows, 4) the first of each row is 1/std
    const int* __restrict__ lengths, // (batch,) steps that a sequence has, or null
    int batch,
    int columns) {
    __shared__ real partial[2][MAX_WARPS];
    const long long row = blockIdx.x, first = row * columns;
    if (lengths != nullptr && row / batch >= lengths[row % batch]) {
        for (int column = threadIdx.x; column < columns; column += blockDim.x) p[first + column] = stored(real(0));
        return;
    }
    real along[2] = {real(0), real(0)};  // sums of d, and of d * n
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const real d = real_of(gates[first + column]) * real_of(gain[column]);
        along[0] += d;
        along[1] += d * real_of(p[first + column]);
    }
    block_sums(along, partial);
    along[0] /= real(columns);
    along[1] /= real(columns);
    const real scale = norms[4 * row];
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const real d = real_of(gates[first + column]) * real_of(gain[column]);
        p[first + column] = stored(scale * (d - along[0] - real_of(p[first + column]) * along[1]));
    }
}

extern "C" __global__ void lstm_layer_norm_gain_gradient(
    const store* __restrict__ gates, // (rows, columns) gradients of the pre-activations
    const store* __restrict__ p,     // (rows, columns) n
    const int* __restrict__ lengths, // (batch,) steps that a sequence has, or null: what is beyond does not count
    real* __restrict__ sums,         // (slabs, columns), slabs = gridDim.y
    long long rows,
    int batch,
    int columns,
    long long rows_per_slab) {
    __shared__ real lanes[1][ROW_LANES][COLUMNS_PER_BLOCK];
    sum_columns(lanes, sums, rows, columns, rows_per_slab, [=](long long row, int column, real(&sum)[1]) {
        if (lengths != nullptr && row / batch >= lengths[row % batch]) return;
        sum[0] += real_of(gates[row * columns + column]) * real_of(p[row * columns + column]);
    });
}
