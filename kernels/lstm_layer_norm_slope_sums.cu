// Four sums over the hidden units of each time step that the backward pass with layer norm needs and that do not depend
// on it, for all steps at once:
//
//     s_i = g * i (1 - i) * gain_i        s_f = c[t-1] * f (1 - f) * gain_f        s_g = i * (1 - g^2) * gain_g
//     S = s_i + s_f + s_g                 N = s_i n_i + s_f n_f + s_g n_g          n = norm(r), m = norm(c[t])
//     sums of S, S * m, N, N * m
//
// S is what the sum over the gradients d of the normalised products grows by with a unit's dc, and N the same of the
// sum over d * n. dc has two sums over all units in it. With these four, the sums over d and d * n are known as soon as
// those two are, and do not have to wait for dc (lstm_persistent_layer_norm_backward,
// lstm_resident_layer_norm_backward).
//
// One block owns one row, a time step of a sequence; a thread every blockDim.x-th hidden unit of it. Rows that their
// sequence does not have are left alone.
//
// Bytes per hidden unit and step, in units of sizeof(store), a cell counting twice in 16 bits: reads 3 gates + 3 r +
// 2 cells, and 3 gains from cache.
//
// OPTIONS  with the options of persistent_options.cuh but for peepholes: the candidate has its mask in them, the forget
//          gate is what coupled gates make it, and m is norm(c*).
#include "block_sums.cuh"
#include "persistent_options.cuh"
#include "storage.cuh"

extern "C" __global__ void lstm_layer_norm_slope_sums(
    const store* __restrict__ gates,   // (steps, batch, 4*hidden) activated gates
    const store* __restrict__ r,       // (steps, batch, 4*hidden) norm(r)
    const real* __restrict__ norms,    // (steps, batch, 4) behind the second: mean and 1/std of c
    const real* __restrict__ cells,    // (steps + 1, batch, hidden)
    const store* __restrict__ gain,    // (4*hidden,) gain_r
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    real* __restrict__ slope_sums,     // (steps, batch, 4)
#if OPTIONS
    const unsigned char* __restrict__ drawn,  // (steps, batch, hidden) of lstm_draw_options, or null
    const real* __restrict__ c_star,   // (steps, batch, hidden) c* with zoneout of c, else null
    const Options options,
#endif
    int batch,
    int hidden,
    int reverse) {                     // 1: the forward pass went from the last step to the first
    __shared__ real partial[4][MAX_WARPS];
    const long long row = blockIdx.x, step = row / batch;
    if (lengths != nullptr && step >= lengths[row % batch]) return;
    const store* gate = gates + row * 4 * hidden;
    const store* normal = r + row * 4 * hidden;
    const real* c_before = cells + (row + (long long)reverse * batch) * hidden;
    const real* c_after = cells + (row + (long long)(1 - reverse) * batch) * hidden;
    const real mean = norms[4 * row + 2], scale = norms[4 * row + 3];
    real sums[4] = {real(0), real(0), real(0), real(0)};
    for (int unit = threadIdx.x; unit < hidden; unit += blockDim.x) {
        const real i = real_of(gate[unit]), f = real_of(gate[hidden + unit]);
        const real candidate = real_of(gate[2 * hidden + unit]);
#if OPTIONS
        const real mask = candidate_mask(options, drawn == nullptr ? 0u : drawn[row * hidden + unit]);
        const real off = options.coupled ? c_before[unit] : real(0);
        const real c = c_star == nullptr ? c_after[unit] : c_star[row * hidden + unit];
#else
        const real mask = real(1), off = real(0), c = c_after[unit];
#endif
        const real of_i = (candidate * mask - off) * (i * (real(1) - i)) * real_of(gain[unit]);
        const real of_f = (c_before[unit] - off) * (f * (real(1) - f)) * real_of(gain[hidden + unit]);
        const real of_g = i * mask * (real(1) - candidate * candidate) * real_of(gain[2 * hidden + unit]);
        const real slope = of_i + of_f + of_g, m = (c - mean) * scale;
        const real along = of_i * real_of(normal[unit]) + of_f * real_of(normal[hidden + unit]) +
                           of_g * real_of(normal[2 * hidden + unit]);
        sums[0] += slope;
        sums[1] += slope * m;
        sums[2] += along;
        sums[3] += along * m;
    }
    block_sums(sums, partial);
    if (threadIdx.x == 0) {
        for (int k = 0; k < 4; ++k) slope_sums[4 * row + k] = sums[k];
    }
}
