// The cell and the hidden update from activated gates, and its backward: gpulstm.ops.cell_update.
//
//     c' = f * c + i * g        h = o * tanh(c')
//
// One thread owns one hidden unit of one row. Bytes per unit, in units of sizeof(real): forward reads 5, writes 2;
// backward reads 8, writes 5. An output may be the same array as the input of its own shape.
#include "common.cuh"

extern "C" __global__ void cell_update(
    const real* gates,  // (rows, 4*hidden) activated, order i, f, g, o
    const real* c,      // (rows, hidden) cell state before
    real* c_next,       // (rows, hidden)
    real* h,            // (rows, hidden)
    long long units,    // rows * hidden
    int hidden) {
    const long long index = flat_thread_index();
    if (index >= units) return;
    const real* gate = gates + index / hidden * 4 * hidden + index % hidden;
    const real cell = gate[hidden] * c[index] + gate[0] * gate[2 * hidden];
    c_next[index] = cell;
    h[index] = gate[3 * hidden] * tanh(cell);
}

extern "C" __global__ void cell_update_backward(
    const real* gates,    // (rows, 4*hidden) activated, order i, f, g, o
    const real* c,        // (rows, hidden) cell state before
    const real* c_next,   // (rows, hidden) cell state after
    const real* dc_next,  // (rows, hidden) gradient of c_next, beside what reaches it through h
    const real* dh,       // (rows, hidden)
    real* dgates,         // (rows, 4*hidden) gradient of the activated gates
    real* dc,             // (rows, hidden)
    long long units,      // rows * hidden
    int hidden) {
    const long long index = flat_thread_index();
    if (index >= units) return;
    const long long first = index / hidden * 4 * hidden + index % hidden;
    const real i = gates[first];
    const real f = gates[first + hidden];
    const real g = gates[first + 2 * hidden];
    const real o = gates[first + 3 * hidden];
    const real tanh_c = tanh(c_next[index]);
    const real d_cell = dc_next[index] + dh[index] * o * tanh_slope(tanh_c);
    dgates[first] = d_cell * g;
    dgates[first + hidden] = d_cell * c[index];
    dgates[first + 2 * hidden] = d_cell * i;
    dgates[first + 3 * hidden] = dh[index] * tanh_c;
    dc[index] = d_cell * f;
}
