// What the GPU's compiler makes of arithmetic, and accesses to memory that only the PTX shows: to test the harness itself.

#ifndef __CUDA_ARCH__  // the host's compiler reads this file for the types of the parameters alone
static int __mulhi(int, int) { return 0; }
static long long __mul64hi(long long, long long) { return 0; }
static unsigned __byte_perm(unsigned, unsigned, unsigned) { return 0; }
#endif

extern "C" __global__ void integers(const int* a, const int* b, int* of_signed, unsigned* of_unsigned, long long* of_long) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, x = a[i], y = b[i];
    const unsigned u = x, v = y;
    const int of[] = {x / y, x % y, __mulhi(x, y), x * y, min(x, y), max(x, y), x >> (v & 31), abs(x), x == y ? 3 : x < y};
    const unsigned words[] = {u / v, u % v, __umulhi(u, v), u << (v & 31), u >> (v & 31), min(u, v), max(u, v),
                              __byte_perm(u, v, 0x7531), __byte_perm(u, v, 0x0246), u & v, u | v, u ^ v, ~u};
    const long long w = (long long)x * y, z = ((long long)x << 32) + v;
    const long long longs[] = {w, z / y, z % y, w + z, w - z, z >> (v & 31), __mul64hi(z, w), min(w, z)};
#pragma unroll
    for (int k = 0; k < 9; ++k) of_signed[i * 9 + k] = of[k];
#pragma unroll
    for (int k = 0; k < 13; ++k) of_unsigned[i * 13 + k] = words[k];
#pragma unroll
    for (int k = 0; k < 8; ++k) of_long[i * 8 + k] = longs[k];
}

extern "C" __global__ void floats(const float* a, const float* b, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float u = a[i], v = b[i];
    const float of[] = {u + v, u - v, u * v, u / v, fmaf(u, v, u), fminf(u, v), fmaxf(u, v), sqrtf(fabsf(u)), 1.0f / u, -u};
#pragma unroll
    for (int k = 0; k < 10; ++k) y[i * 10 + k] = of[k];
}

extern "C" __global__ void comparisons(const float* a, const float* b, int* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float u = a[i], v = b[i];
    const bool of[] = {u < v, u <= v, u > v, u >= v, u == v, u != v, !(u < v), !(u <= v), !(u > v), !(u >= v)};
#pragma unroll
    for (int k = 0; k < 10; ++k) y[i * 10 + k] = of[k];
}

extern "C" __global__ void functions(const float* a, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float u = a[i];
    const float of[] = {expf(u), tanhf(u), logf(fabsf(u)), __expf(u), __fdividef(1.0f, u), rsqrtf(fabsf(u)), rintf(u)};
#pragma unroll
    for (int k = 0; k < 7; ++k) y[i * 7 + k] = of[k];
}

extern "C" __global__ void doubles(const double* a, const double* b, double* y, float* narrow) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const double u = a[i], v = b[i];
    const double of[] = {u + v, u * v, u / v, fma(u, v, u), sqrt(fabs(u)), exp(u), tanh(u), log(fabs(u))};
#pragma unroll
    for (int k = 0; k < 8; ++k) y[i * 8 + k] = of[k];
    narrow[i] = (float)u;
}

// Promises through __restrict__ that nobody writes x, so that it is read past the caches that see writes.
extern "C" __global__ void promises(const float* __restrict__ x, float* y) { y[threadIdx.x] = x[threadIdx.x] + 1.0f; }

// Block 1 reads what block 0 has written; with FENCE it has made sure to see it.
extern "C" __global__ void hears_of_it(unsigned* place, float* numbers) {
    volatile unsigned* flag = place;
    if (blockIdx.x == 0) {
        numbers[0] = 3.0f;
        __threadfence();
        *flag = 1;
    } else {
        while (*flag != 1) __nanosleep(20);
#if FENCE
        __threadfence();
#endif
        numbers[1] = numbers[0];
    }
}

extern "C" __global__ void __launch_bounds__(32) bounded(float* y) { y[threadIdx.x] = 1.0f; }
