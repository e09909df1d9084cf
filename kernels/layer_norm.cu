// Layer norm of each row of a matrix, and its gradients.
//
//     n = (x - mean) / sqrt(variance + epsilon)        mean and variance over a row, both divided by its size
//     out = weight * n + bias
//     g = dout * weight
//     dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + epsilon)
//     dweight = sum of dout * n over all rows          dbias = sum of dout over all rows
//
// forward and backward: one block owns one row, a thread every blockDim.x-th element of it. The variance is the mean of
// the squared distances from the mean, which come from a second look at the row.
// parameter_gradient: column_sums.cuh says which thread adds up what. Slabs are added up by column_sum.
// All sums have an order that depends on the shape alone.
//
// Bytes per element, in units of sizeof(real): forward reads 3, backward 4, two of each from cache if a row fits; both
// write 1. parameter_gradient reads 2 and writes two sums per column and slab.
#include "block_sums.cuh"
#include "column_sums.cuh"

extern "C" __global__ void layer_norm_forward(
    const real* __restrict__ x,       // (rows, size), rows = gridDim.x
    const real* __restrict__ weight,  // (size,)
    const real* __restrict__ bias,    // (size,)
    real* __restrict__ out,           // (rows, size)
    real* __restrict__ moments,       // (rows, 2) mean and 1 / sqrt(variance + epsilon)
    int size,
    real epsilon) {
    __shared__ real partial[1][MAX_WARPS];
    const long long first = (long long)blockIdx.x * size;

    real sum[1] = {real(0)};
    for (int k = threadIdx.x; k < size; k += blockDim.x) sum[0] += x[first + k];
    block_sums(sum, partial);
    const real mean = sum[0] / real(size);

    real squares[1] = {real(0)};
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        const real distance = x[first + k] - mean;
        squares[0] += distance * distance;
    }
    block_sums(squares, partial);
    const real scale = real(1) / sqrt(squares[0] / real(size) + epsilon);

    for (int k = threadIdx.x; k < size; k += blockDim.x)
        out[first + k] = (x[first + k] - mean) * scale * weight[k] + bias[k];
    if (threadIdx.x == 0) {
        moments[2 * (long long)blockIdx.x] = mean;
        moments[2 * (long long)blockIdx.x + 1] = scale;
    }
}

extern "C" __global__ void layer_norm_backward(
    const real* __restrict__ x,        // (rows, size), rows = gridDim.x
    const real* __restrict__ weight,   // (size,)
    const real* __restrict__ moments,  // (rows, 2) as the forward pass left them
    const real* __restrict__ dout,     // (rows, size)
    real* __restrict__ dx,             // (rows, size)
    int size) {
    __shared__ real partial[2][MAX_WARPS];
    const long long first = (long long)blockIdx.x * size;
    const real mean = moments[2 * (long long)blockIdx.x], scale = moments[2 * (long long)blockIdx.x + 1];

    real sums[2] = {real(0), real(0)};  // of g and of g * n
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        const real g = dout[first + k] * weight[k];
        sums[0] += g;
        sums[1] += g * ((x[first + k] - mean) * scale);
    }
    block_sums(sums, partial);
    const real mean_g = sums[0] / real(size), mean_gn = sums[1] / real(size);

    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        const real n = (x[first + k] - mean) * scale;
        dx[first + k] = (dout[first + k] * weight[k] - mean_g - n * mean_gn) * scale;
    }
}

extern "C" __global__ void layer_norm_parameter_gradient(
    const real* __restrict__ x,        // (rows, size)
    const real* __restrict__ moments,  // (rows, 2)
    const real* __restrict__ dout,     // (rows, size)
    real* __restrict__ sums,           // (slabs, 2, size) of dweight and dbias, slabs = gridDim.y
    long long rows,
    int size,
    long long rows_per_slab) {
    __shared__ real lanes[2][ROW_LANES][COLUMNS_PER_BLOCK];
    sum_columns(lanes, sums, rows, size, rows_per_slab, [=](long long row, int column, real(&sum)[2]) {
        const real gradient = dout[row * size + column];
        sum[0] += gradient * ((x[row * size + column] - moments[2 * row]) * moments[2 * row + 1]);
        sum[1] += gradient;
    });
}
