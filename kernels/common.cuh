// Shared by every kernel: the type to compute with, the two non-linearities and the flat thread index.
//
// REAL is chosen when a kernel is compiled (-DREAL=float or -DREAL=double), so one body serves both types. Arrays are
// of this type too, but for kernels that include storage.cuh.
#pragma once

typedef REAL real;

// The logistic function through tanh: it never overflows, and it is the formula of the NumPy engine too.
__device__ __forceinline__ real sigmoid_of(real x) { return real(0.5) * tanh(real(0.5) * x) + real(0.5); }

// Slopes written in the function's own value, which is what the forward pass leaves behind.
__device__ __forceinline__ real sigmoid_slope(real value) { return value * (real(1) - value); }
__device__ __forceinline__ real tanh_slope(real value) { return real(1) - value * value; }

// What the LSTM's layer norm adds to a variance before the root is taken: that of gpulstm/variants.py.
#define NORM_EPSILON real(1e-5)

// 64 bits wide, because (steps * batch * 4 * hidden) outgrows an int long before it outgrows the memory.
__device__ __forceinline__ long long flat_thread_index() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}
