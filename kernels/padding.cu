// What variable lengths ask for before and after the time steps: nothing that stands behind a sequence's end, and
// nothing of a sequence that has no step at all, may get into a sum. NaN there would be NaN everywhere: 0 * NaN is NaN.
//
// One thread owns one element. Bytes per element: reads sizeof(store) at most, writes sizeof(store).
#include "storage.cuh"

// y[t] = x[t] while the sequence runs, then zero.
extern "C" __global__ void without_padding(
    const store* __restrict__ x,      // (steps, batch, width)
    store* __restrict__ y,            // (steps, batch, width)
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has
    int steps,
    int batch,
    int width) {
    const long long index = flat_thread_index();
    if (index >= (long long)steps * batch * width) return;
    const long long row = index / width;
    y[index] = row / batch < lengths[row % batch] ? x[index] : stored(real(0));
}

// The state of the sequences that have a step, and another one, or zero, of those that have none. The arrays may be
// the same.
extern "C" __global__ void state_of_running(
    const store* running,             // (batch, width)
    const store* empty,               // (batch, width) or null for zeros
    store* state,                     // (batch, width)
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has
    int batch,
    int width) {
    const long long index = flat_thread_index();
    if (index >= (long long)batch * width) return;
    const bool runs = lengths[index / width] > 0;
    state[index] = runs ? running[index] : (empty ? empty[index] : stored(real(0)));
}

// The hidden states that a step past a sequence's end would start from become zero: their gradients of the weights are
// zero times these, which must be zero. A slot is one time, as in gpulstm.engines.slots. Nothing is read but lengths.
extern "C" __global__ void clear_inputs(
    store* __restrict__ hiddens,      // (slots, batch, width)
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has
    int reverse,                      // a step at time t starts from slot t + 1, not t
    int slots,
    int batch,
    int width) {
    const long long index = flat_thread_index();
    if (index >= (long long)slots * batch * width) return;
    const long long row = index / width;
    if (row / batch - reverse >= lengths[row % batch]) hiddens[index] = stored(real(0));
}
