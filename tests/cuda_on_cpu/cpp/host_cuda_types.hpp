// Built-in vector types and variables.
#pragma once

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define HOST_CUDA_VECTOR(T, NAME)                                                             \
    struct __attribute__((aligned(2 * sizeof(T)))) NAME##2 { T x, y; };                       \
    struct __attribute__((aligned(sizeof(T) == 4 ? 16 : 2 * sizeof(T)))) NAME##4 { T x, y, z, w; }; \
    inline NAME##2 make_##NAME##2(T x, T y) { return NAME##2{x, y}; }                         \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return NAME##4{x, y, z, w}; }
HOST_CUDA_VECTOR(float, float)
HOST_CUDA_VECTOR(double, double)
HOST_CUDA_VECTOR(int, int)
HOST_CUDA_VECTOR(unsigned, uint)
#undef HOST_CUDA_VECTOR

#ifdef HOST_CUDA_THREADS
#define HOST_CUDA_PER_THREAD __thread
#else
#define HOST_CUDA_PER_THREAD  // one OS thread runs all fibers and sets these at every switch
#endif
extern HOST_CUDA_PER_THREAD uint3 threadIdx;
extern HOST_CUDA_PER_THREAD uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
