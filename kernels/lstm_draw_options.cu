// What the random options of an LSTM layer draw for every hidden unit, sequence and time step, as bits: HIDDEN_DROPS
// and its neighbours of persistent_options.cuh. Kernels in which registers are short, or many blocks need the same
// bits, read them here instead of drawing for themselves.
//
// One thread owns one hidden unit of one sequence at one step. Bytes per element: one written.
#include "persistent_options.cuh"

extern "C" __global__ void lstm_draw_options(
    unsigned char* __restrict__ drawn,  // (steps, batch, hidden)
    const Options options,
    long long count,                    // steps * batch * hidden
    int batch,
    int hidden) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int unit = (int)(at % hidden), sequence = (int)(at / hidden % batch);
    const int step = (int)(at / hidden / batch);
    const unsigned bits = draw_for_sequence(options, unit, sequence) | draw_for_step(options, unit, sequence, step);
    drawn[at] = (unsigned char)bits;
}
