// What a block's own rows of W_hh contribute to every dh of its group, in float32 (or TF32): the product that the
// persistent backward kernels are made for, with and without layer norm. contributions.cuh is what becomes of it.
//
// A block has UNITS hidden units, row r of its weights being gate r % 4 of unit r / 4. Its 16 warps share out the
// outputs, 16 * JTILES each, whose weights they hold as fragments for the tensor cores (tensor_core.cuh).
#pragma once

#include "handover.cuh"
#include "storage.cuh"
#include "tensor_core.cuh"

#define WARPS 16
#define THREADS (32 * WARPS)
#define UNITS (4 * MTILES)
#define ROWS (16 * MTILES)
#define COLUMNS (8 * NTILES)                     // sequences at a time
#define STRIDE (COLUMNS + (NTILES % 2 ? 0 : 8))  // of a row's gradients: no two lanes of a fragment share a bank

#include "contributions.cuh"

// W_hh^T, outputs x own rows, from W_hh (4*hidden, hidden). `first_output` is the warp's, g is lane / 4 and t lane % 4.
__device__ __forceinline__ void hold_outputs(unsigned (&w)[JTILES][ROWS / 8][4], const store* weight, int first_unit,
                                             int first_output, int hidden, int g, int t) {
#pragma unroll
    for (int j = 0; j < JTILES; ++j) {
#pragma unroll
        for (int k = 0; k < ROWS / 8; ++k) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int output = first_output + 16 * j + g + 8 * (part % 2);
                const int row = 8 * k + t + 4 * (part / 2), unit = first_unit + row / 4;
                const bool inside = unit < hidden && output < hidden;
                const long long at = ((long long)(row % 4) * hidden + unit) * hidden + output;
                w[j][k][part] = operand(__float_as_uint(inside ? real_of(weight[at]) : 0.0f));
            }
        }
    }
}

// Multiplies the weights by the gradients [ROWS][STRIDE] of COLUMNS sequences from `sequence0` on, and hands the
// products over, with `departure_bit` for their lowest one. `departures` are the group's places in this slot of
// `exchange`, `region` words for each of its blocks, of which this is number `block`.
__device__ __forceinline__ void contribute(
    const unsigned (&w)[JTILES][ROWS / 8][4], const float* gradients, const volatile unsigned* mask,
    unsigned* departures, long long region, unsigned departure_bit, int block, int blocks, int first_output,
    int sequence0, int first_sequence, int end_sequence, int g, int t) {
#pragma unroll 1
    for (int n = 0; n < NTILES; ++n) {
        const int output0 = afresh(first_output) + g;
        const unsigned high_bits = high_bits_of(mask);
        float d[JTILES][4];
#pragma unroll
        for (int j = 0; j < JTILES; ++j) d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < ROWS / 8; ++k) {
            const float* fragment = gradients + (8 * k + t) * STRIDE + 8 * n + g;
            const unsigned b[2] = {operand(__float_as_uint(fragment[0])),
                                   operand(__float_as_uint(fragment[4 * STRIDE]))};
            const unsigned b_low[2] = {low_part(b[0]), low_part(b[1])};
#pragma unroll
            for (int j = 0; j < JTILES; ++j) multiply_add(d[j], w[j][k], b, b_low, high_bits);
        }
#pragma unroll
        for (int j = 0; j < JTILES; ++j) {
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int output = output0 + 16 * j + 8 * (part / 2);
                const int to = sequence0 + 8 * n + 2 * t + part % 2;
                if (output < blocks * UNITS && to < end_sequence) {
                    const long long place = (long long)(to - first_sequence) * blocks * UNITS + block * UNITS;
                    store_word(departures + output / UNITS * region + place + output % UNITS,
                               (__float_as_uint(d[j][part]) & ~1u) | departure_bit);
                }
            }
        }
    }
}
