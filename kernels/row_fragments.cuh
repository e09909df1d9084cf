// Rows of W_hh in a block's registers, as fragments for the tensor cores (tensor_core.cuh): all four gates of UNITS
// hidden units, row r being gate r % 4 of unit r / 4. The block's 16 warps share out the sum over h: each has all rows
// of the block and 8 * KTILES columns, whose order is permuted such that those of a thread follow each other.
#pragma once

#include "tensor_core.cuh"

#define WARPS 16
#define UNITS (4 * MTILES)
#define ROWS (16 * MTILES)
#define CHUNK (2 * KTILES)  // columns that a thread holds of each of its rows
#define STRIDE (ROWS + 4)   // of the sums of one sequence in shared memory: no two lanes share a bank

// Of a matrix (4*hidden, hidden), of which weight_at(place, column) is the weight at this place, in this column. The
// thread's first column is `first_column`, and g is lane / 4.
template <class WeightAt>
__device__ __forceinline__ void hold_rows(
    unsigned (&w)[MTILES][KTILES][4], int first_unit, int first_column, int hidden, int g, WeightAt weight_at) {
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
#pragma unroll
        for (int k = 0; k < KTILES; ++k) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int row = 16 * m + g + 8 * (part % 2), unit = first_unit + row / 4;
                const int column = first_column + 2 * k + part / 2;
                const bool inside = unit < hidden && column < hidden;
                const long long place = ((long long)(row % 4) * hidden + unit) * hidden + column;
                w[m][k][part] = operand(__float_as_uint(inside ? weight_at(place, column) : 0.0f));
            }
        }
    }
}

// Of two such matrices in turns: one after the other, they would take more registers than there are.
template <class WeightAt, class OtherAt>
__device__ __forceinline__ void hold_rows_of_two(
    unsigned (&w)[MTILES][KTILES][4], unsigned (&other)[MTILES][KTILES][4], int first_unit, int first_column,
    int hidden, int g, WeightAt weight_at, OtherAt other_at) {
#pragma unroll
    for (int m = 0; m < MTILES; ++m) {
#pragma unroll
        for (int k = 0; k < KTILES; ++k) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int row = 16 * m + g + 8 * (part % 2), unit = first_unit + row / 4;
                const int column = first_column + 2 * k + part / 2;
                const bool inside = unit < hidden && column < hidden;
                const long long place = ((long long)(row % 4) * hidden + unit) * hidden + column;
                w[m][k][part] = operand(__float_as_uint(inside ? weight_at(place, column) : 0.0f));
                other[m][k][part] = operand(__float_as_uint(inside ? other_at(place, column) : 0.0f));
            }
        }
    }
}
