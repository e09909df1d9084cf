// One time step of backpropagation through time between its matrix products: the twin of lstm_forward_step.
//
//     dh  = dy[t] + dh                       what the output and the later step ask of h[t]
//     dc  = dc + dh * o * (1 - tanh(c)^2)    what h[t] and the later step ask of c[t]
//     da_o = dh * tanh(c) * o (1 - o)        da_i = dc * g * i (1 - i)
//     da_f = dc * c[t-1]  * f (1 - f)        da_g = dc * i * (1 - g^2)
//     dc  = dc * f                           handed to the step before
//
// The gradients of the pre-activations replace the activated gates; a GEMM then makes dh for the step before.
// One thread owns one hidden unit of one sequence, as in the forward step.
//
// Bytes per hidden unit and step, in units of sizeof(store): reads 4 gates + 2 cells + 1 dh + 1 dc (+ 1 dy);
// writes 4 gates + 1 dc, and with LENGTHS 1 dh. Cells, dh and dc are `real`s even where the rest has 16 bits, and count
// twice then.
//
// DY       there is a gradient of the output
// LENGTHS  a sequence past its end has no gate gradients and keeps dh and dc. The GEMM that follows then adds onto dh,
//          which is why an active sequence leaves zero there
#include "storage.cuh"

extern "C" __global__ void lstm_backward_step(
    store* __restrict__ gates,        // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const real* __restrict__ cells,   // (steps + 1, batch, hidden) cell states of all times
    const store* __restrict__ dy,     // (steps, batch, dy_width) gradient of the output, not read without DY
    real* __restrict__ dh,            // (batch, hidden) gradient of h[t] that comes from the step after
    real* __restrict__ dc,            // (batch, hidden) gradient of c[t] from the step after; replaced by c[t-1]'s
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, not read without LENGTHS
    int step,                         // index into gates and dy, and the time that lengths are compared with
    int slot_from,                    // slot of c[t-1]
    int slot_to,                      // slot of c[t]
    int batch,
    int hidden,
    int dy_width,
    int dy_offset) {
    const long long index = flat_thread_index();
    const long long units = (long long)batch * hidden;
    if (index >= units) return;
    const int sequence = int(index / hidden);
    const int unit = int(index % hidden);

    const long long row = (long long)step * batch + sequence;
    store* gate = gates + row * 4 * hidden + unit;
#if LENGTHS
    if (step >= lengths[sequence]) {
        gate[0] = gate[hidden] = gate[2 * hidden] = gate[3 * hidden] = stored(real(0));
        return;
    }
#endif
    const real i = real_of(gate[0]);
    const real f = real_of(gate[hidden]);
    const real g = real_of(gate[2 * hidden]);
    const real o = real_of(gate[3 * hidden]);
    const real tanh_c = tanh(cells[slot_to * units + index]);

    real d_hidden = dh[index];
#if DY
    d_hidden += real_of(dy[row * dy_width + dy_offset + unit]);
#endif
    const real d_cell = dc[index] + d_hidden * o * tanh_slope(tanh_c);

    gate[0] = stored(d_cell * g * sigmoid_slope(i));
    gate[hidden] = stored(d_cell * cells[slot_from * units + index] * sigmoid_slope(f));
    gate[2 * hidden] = stored(d_cell * i * tanh_slope(g));
    gate[3 * hidden] = stored(d_hidden * tanh_c * sigmoid_slope(o));
    dc[index] = d_cell * f;
#if LENGTHS
    dh[index] = real(0);
#endif
}
