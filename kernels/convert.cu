// Numbers of 16 bits to float32 and back: cell states and gradients on their way in and out of a layer whose arrays
// have 16 bits, and the weights' gradients, which are summed in float32 and rounded once.
//
// One thread owns one element. Bytes per element: 6. Source and target are different arrays.
#include "storage.cuh"

extern "C" __global__ void widen(
    const store* __restrict__ source,  // (size,)
    real* __restrict__ target,         // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) target[index] = real_of(source[index]);
}

extern "C" __global__ void narrow(
    const real* __restrict__ source,  // (size,)
    store* __restrict__ target,       // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) target[index] = stored(source[index]);
}
