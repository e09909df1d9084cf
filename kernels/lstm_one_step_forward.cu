// One whole time step of the LSTM for a few sequences: both matrix products, activations, cell and hidden update.
//
//     a = W_ih x + W_hh h + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c' = f * c + i * g             h' = o * tanh(c')
//
// For a model that is asked for one step at a time, where two launches of a matrix product take the CPU longer than
// the GPU needs for all of it. A warp owns one hidden unit of SEQUENCES sequences: its lanes go through the four rows
// of each weight side by side, so that every access is coalesced, and add up their parts by shuffles in a fixed order.
//
// Bytes per hidden unit, in units of sizeof(real): reads 4 * (inputs + hidden) weights for each SEQUENCES sequences,
// and for each sequence 1 cell (+ 4 bias, x and h from cache); writes 1 cell + 1 h + 1 y.
//
// SEVERAL  four sequences to a warp instead of one
#include "common.cuh"

#define WARPS 4  // of a block
#if SEVERAL
#define SEQUENCES 4
#else
#define SEQUENCES 1
#endif

// sums[gate][s] += this lane's part of weight[gate * hidden + unit] . vectors[row[s]]
__device__ __forceinline__ void add_products(
    real (&sums)[4][SEQUENCES],
    const real* __restrict__ weight,   // (4*hidden, width), from the unit's first row on
    const real* __restrict__ vectors,  // (batch, width)
    const int (&row)[SEQUENCES],
    int hidden,
    int width) {
    const long long gate_rows = (long long)hidden * width;
#pragma unroll 4
    for (int k = threadIdx.x % 32; k < width; k += 32) {
        real w[4];
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) w[gate] = weight[gate * gate_rows + k];
#pragma unroll
        for (int s = 0; s < SEQUENCES; ++s) {
            const real v = vectors[(long long)row[s] * width + k];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) sums[gate][s] += w[gate] * v;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) lstm_one_step_forward(
    const real* __restrict__ x,           // (batch, inputs)
    const real* __restrict__ weight_ih,   // (4*hidden, inputs)
    const real* __restrict__ weight_hh,   // (4*hidden, hidden)
    const real* __restrict__ bias,        // (4*hidden,) or null
    const real* __restrict__ h_before,    // (slots, batch, hidden) or null for zeros
    const real* __restrict__ c_before,    // (slots, batch, hidden) or null for zeros
    real* __restrict__ y,                 // (batch, y_width) or null; this direction's columns start at y_offset
    real* __restrict__ h,                 // (slots, batch, hidden)
    real* __restrict__ c,                 // (slots, batch, hidden)
    int batch,
    int inputs,
    int hidden,
    int y_width,
    int y_offset,
    int slot) {                           // which layer and direction this is
    const int lane = threadIdx.x % 32;
    const int unit = blockIdx.x * WARPS + threadIdx.x / 32;
    if (unit >= hidden) return;  // with its whole warp
    const int first = blockIdx.y * SEQUENCES;
    const long long state = (long long)slot * batch * hidden;

    int row[SEQUENCES];
    real sums[4][SEQUENCES];
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
        row[s] = first + s < batch ? first + s : batch - 1;  // the last group may have fewer: some are computed twice
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) sums[gate][s] = real(0);
    }
    add_products(sums, weight_ih + (long long)unit * inputs, x, row, hidden, inputs);
    if (h_before) add_products(sums, weight_hh + (long long)unit * hidden, h_before + state, row, hidden, hidden);

    real a[4] = {real(0), real(0), real(0), real(0)};
#pragma unroll
    for (int s = 0; s < SEQUENCES; ++s) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) {
            real sum = sums[gate][s];
            for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
            if (lane == s) a[gate] = sum;  // lane s goes on with sequence s
        }
    }
    if (lane >= SEQUENCES || first + lane >= batch) return;
    if (bias) {
#pragma unroll
        for (int gate = 0; gate < 4; ++gate) a[gate] += bias[gate * hidden + unit];
    }
    const long long at = state + (long long)(first + lane) * hidden + unit;
    const real c_previous = c_before ? c_before[at] : real(0);
    const real c_now = sigmoid_of(a[1]) * c_previous + sigmoid_of(a[0]) * tanh(a[2]);
    const real h_now = sigmoid_of(a[3]) * tanh(c_now);
    c[at] = c_now;
    h[at] = h_now;
    if (y) y[(long long)(first + lane) * y_width + y_offset + unit] = h_now;
}
