// Sums the columns of a matrix in one fixed order: the bias gradient, without floating-point atomics. column_sums.cuh
// says which thread adds up what.
//
// Bytes per element of the matrix: reads sizeof(store); writes one sum per column and slab, a `real`.
#include "column_sums.cuh"
#include "storage.cuh"

extern "C" __global__ void column_sum(
    const store* __restrict__ matrix,  // (rows, columns)
    real* __restrict__ sums,           // (slabs, columns), slabs = gridDim.y
    long long rows,
    int columns,
    long long rows_per_slab) {
    __shared__ real lanes[1][ROW_LANES][COLUMNS_PER_BLOCK];
    sum_columns(lanes, sums, rows, columns, rows_per_slab, [=](long long row, int column, real(&sum)[1]) {
        sum[0] += real_of(matrix[row * columns + column]);
    });
}
