// One time step of the LSTM after its matrix products: gate activations, cell update and hidden update, fused.
//
//     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)        a = W_ih x + W_hh h + b
//     c[t] = f * c[t-1] + i * g                                 h[t] = o * tanh(c[t])
//
// One thread owns one hidden unit of one sequence, all four gates of it: neighbouring threads own neighbouring
// units, so every access is coalesced. Gate order along the 4*hidden axis is i, f, g, o.
//
// Bytes per hidden unit and step, in units of sizeof(store): reads 4 gates + 1 cell (+ 4 bias, from cache);
// writes 1 cell + 1 h + 1 y, and with KEEP 4 gates. A cell state is a `real` even where the rest has 16 bits: it adds
// up over all steps, and counts twice then.
//
// BIAS     add bias to the pre-activations
// LENGTHS  a sequence past its end keeps its state and puts out zero
// KEEP     write the activated gates back for the backward pass
#include "storage.cuh"

extern "C" __global__ void lstm_forward_step(
    store* __restrict__ gates,        // (steps, batch, 4*hidden) pre-activations; activated in place with KEEP
    const store* __restrict__ bias,   // (4*hidden,), not read without BIAS
    real* cells,                      // (slots, batch, hidden) cell states; a slot is one time, or all of them
    store* h,                         // (slots, batch, hidden) hidden states, in the same slots
    store* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, not read without LENGTHS
    int step,                         // index into gates and y
    int time,                         // the same step counted from the sequence's beginning, to compare with lengths
    int slot_from,                    // slot that holds c[t-1] and h[t-1]
    int slot_to,                      // slot that receives c[t] and h[t]; may be the same
    int batch,
    int hidden,
    int y_width,
    int y_offset) {
    const long long index = flat_thread_index();
    const long long units = (long long)batch * hidden;
    if (index >= units) return;
    const int sequence = int(index / hidden);
    const int unit = int(index % hidden);

    const real c_previous = cells[slot_from * units + index];
    const long long row = (long long)step * batch + sequence;
    store* out = y + row * y_width + y_offset + unit;
#if LENGTHS
    if (time >= lengths[sequence]) {
        cells[slot_to * units + index] = c_previous;
        h[slot_to * units + index] = h[slot_from * units + index];
        *out = stored(real(0));
        return;
    }
#endif
    store* gate = gates + row * 4 * hidden + unit;
    real a_i = real_of(gate[0]);
    real a_f = real_of(gate[hidden]);
    real a_g = real_of(gate[2 * hidden]);
    real a_o = real_of(gate[3 * hidden]);
#if BIAS
    a_i += real_of(bias[unit]);
    a_f += real_of(bias[hidden + unit]);
    a_g += real_of(bias[2 * hidden + unit]);
    a_o += real_of(bias[3 * hidden + unit]);
#endif
    const real i = sigmoid_of(a_i);
    const real f = sigmoid_of(a_f);
    const real g = tanh(a_g);
    const real o = sigmoid_of(a_o);
    const real c = f * c_previous + i * g;
    const store hidden_state = stored(o * tanh(c));

    cells[slot_to * units + index] = c;
    h[slot_to * units + index] = hidden_state;
    *out = hidden_state;
#if KEEP
    gate[0] = stored(i);
    gate[hidden] = stored(f);
    gate[2 * hidden] = stored(g);
    gate[3 * hidden] = stored(o);
#endif
}
