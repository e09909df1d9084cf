// Sigmoid on the input, forget and output gate and tanh on the candidate, and its backward:
// gpulstm.ops.gate_activations. Gate order along the last axis is i, f, g, o.
// One thread owns one element of one gate. Bytes per element, in units of sizeof(real): forward reads 1, writes 1;
// backward reads 2, writes 1. Input and output may be the same array.
#include "common.cuh"

// The third quarter of a row holds the candidate g.
__device__ __forceinline__ bool is_candidate(long long index, int hidden) {
    return index / hidden % 4 == 2;
}

extern "C" __global__ void gate_activations(
    const real* preactivations,  // (rows, 4*hidden)
    real* gates,                 // (rows, 4*hidden)
    long long size,              // rows * 4 * hidden
    int hidden) {
    const long long index = flat_thread_index();
    if (index >= size) return;
    const real a = preactivations[index];
    gates[index] = is_candidate(index, hidden) ? tanh(a) : sigmoid_of(a);
}

extern "C" __global__ void gate_activations_backward(
    const real* gates,      // (rows, 4*hidden) activated gates
    const real* dgates,     // (rows, 4*hidden) their gradient
    real* dpreactivations,  // (rows, 4*hidden)
    long long size,         // rows * 4 * hidden
    int hidden) {
    const long long index = flat_thread_index();
    if (index >= size) return;
    const real value = gates[index];
    const real slope = is_candidate(index, hidden) ? tanh_slope(value) : sigmoid_slope(value);
    dpreactivations[index] = dgates[index] * slope;
}
