// Several sums over the rows of matrices in one fixed order, without floating-point atomics: what column_sum.cu does
// for the elements of one matrix.
//
// A block owns COLUMNS_PER_BLOCK neighbouring columns and one slab of rows. A thread adds up every ROW_LANES-th row of
// its column in the slab; the lanes are then folded by a tree in shared memory. A launch over several slabs leaves
// partial sums of each, and a launch of column_sum over that small matrix finishes. The order depends on the shape
// alone, so the same input gives the same bits.
#pragma once
#include "common.cuh"

#define COLUMNS_PER_BLOCK 32
#define ROW_LANES 8

// add(row, column, sums) adds what a row has to the COUNT sums of a column. `sums` (slabs, COUNT, columns) receives
// them, slabs = gridDim.y. ``lanes`` is shared memory.
template <int COUNT, class Add>
__device__ __forceinline__ void sum_columns(real (&lanes)[COUNT][ROW_LANES][COLUMNS_PER_BLOCK], real* sums,
                                            long long rows, int columns, long long rows_per_slab, Add add) {
    const int lane = threadIdx.y;
    const int column = blockIdx.x * COLUMNS_PER_BLOCK + threadIdx.x;
    const long long first = blockIdx.y * rows_per_slab;
    const long long end = first + rows_per_slab < rows ? first + rows_per_slab : rows;

    real own[COUNT];
#pragma unroll
    for (int which = 0; which < COUNT; ++which) own[which] = real(0);
    if (column < columns)
        for (long long row = first + lane; row < end; row += ROW_LANES) add(row, column, own);
#pragma unroll
    for (int which = 0; which < COUNT; ++which) lanes[which][lane][threadIdx.x] = own[which];
    __syncthreads();

    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        if (lane < half)
            for (int which = 0; which < COUNT; ++which)
                lanes[which][lane][threadIdx.x] += lanes[which][lane + half][threadIdx.x];
        __syncthreads();
    }
    const int which = COUNT > 1 ? lane : 0;
    if (lane < COUNT && column < columns)
        sums[(COUNT * (long long)blockIdx.y + which) * columns + column] = lanes[which][0][threadIdx.x];
}
