// The two non-linearities as array functions, each followed by its backward: gpulstm.ops.sigmoid and .tanh.
// One thread owns one element. Bytes per element, in units of sizeof(real): forward reads 1, writes 1;
// backward reads 2, writes 1. Input and output may be the same array.
#include "common.cuh"

// y = 1 / (1 + exp(-x))
extern "C" __global__ void sigmoid(
    const real* x,  // (size,)
    real* y,        // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) y[index] = sigmoid_of(x[index]);
}

// dx = dy * y * (1 - y)
extern "C" __global__ void sigmoid_backward(
    const real* y,   // (size,) sigmoid(x)
    const real* dy,  // (size,)
    real* dx,        // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) dx[index] = dy[index] * sigmoid_slope(y[index]);
}

// y = tanh(x), named apart from the function that it calls
extern "C" __global__ void tanh_forward(
    const real* x,  // (size,)
    real* y,        // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) y[index] = tanh(x[index]);
}

// dx = dy * (1 - y^2)
extern "C" __global__ void tanh_backward(
    const real* y,   // (size,) tanh(x)
    const real* dy,  // (size,)
    real* dx,        // (size,)
    long long size) {
    const long long index = flat_thread_index();
    if (index < size) dx[index] = dy[index] * tanh_slope(y[index]);
}
