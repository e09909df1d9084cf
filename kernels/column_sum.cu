// Sums the columns of a matrix in one fixed order: the bias gradient, without floating-point atomics.
//
// A block owns COLUMNS_PER_BLOCK neighbouring columns and one slab of rows. Each thread adds up every
// ROW_LANES-th row of its column in the slab; the lanes are then folded by a tree in shared memory. A launch over
// several slabs leaves one row of partial sums per slab, and a second launch over that small matrix finishes.
// The order depends on the shape alone, so the same input gives the same bits.
//
// Bytes per element of the matrix: reads sizeof(store); writes one sum per column and slab, a `real`.
#include "storage.cuh"

#define COLUMNS_PER_BLOCK 32
#define ROW_LANES 8

extern "C" __global__ void column_sum(
    const store* __restrict__ matrix,  // (rows, columns)
    real* __restrict__ sums,           // (slabs, columns), slabs = gridDim.y
    long long rows,
    int columns,
    long long rows_per_slab) {
    __shared__ real lanes[ROW_LANES][COLUMNS_PER_BLOCK];
    const int lane = threadIdx.y;
    const int column = blockIdx.x * COLUMNS_PER_BLOCK + threadIdx.x;
    const long long first = blockIdx.y * rows_per_slab;
    const long long end = first + rows_per_slab < rows ? first + rows_per_slab : rows;

    real sum = real(0);
    if (column < columns)
        for (long long row = first + lane; row < end; row += ROW_LANES) sum += real_of(matrix[row * columns + column]);
    lanes[lane][threadIdx.x] = sum;
    __syncthreads();

    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        if (lane < half) lanes[lane][threadIdx.x] += lanes[lane + half][threadIdx.x];
        __syncthreads();
    }
    if (lane == 0 && column < columns) sums[(long long)blockIdx.y * columns + column] = lanes[0][threadIdx.x];
}
