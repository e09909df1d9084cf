// Each kernel is wrong in one way.
typedef REAL real;

extern "C" __global__ void barrier_against_shuffle(int* y) {
    if (threadIdx.x % 32 < 16)
        __syncthreads();
    else
        y[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
    y[threadIdx.x] = 2;
}

extern "C" __global__ void waits_for_ever(int* y) {
    if (threadIdx.x % 2) __syncwarp(0x55555555u | 1u << threadIdx.x % 32);
    y[threadIdx.x] = 1;
    __syncthreads();
}

extern "C" __global__ void divergent_barrier(int* y) {
    if (threadIdx.x < 4)
        __syncthreads();
    else
        __syncthreads();
    y[threadIdx.x] = 1;
}

extern "C" __global__ void not_in_mask(int* y) { y[threadIdx.x] = __shfl_sync(2u, 1, 1); }

// Every thread copies one element; n is the caller's idea of how many there are.
extern "C" __global__ void copy(const real* x, real* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}

extern "C" __global__ void copy_from(const real* x, real* y, int first) {
    y[threadIdx.x] = x[int(threadIdx.x) + first];
}

// Four elements at a time, which needs an address that is a multiple of 16.
extern "C" __global__ void copy_by_fours(const real* x, real* y) {
    reinterpret_cast<float4*>(y)[threadIdx.x] = reinterpret_cast<const float4*>(x)[threadIdx.x];
}

// Reads `ahead` elements further in a row of the caller's static table.
extern "C" __global__ void shared_overrun(real* y, int ahead) {
    __shared__ real part[32];
    part[threadIdx.x] = real(1);
    __syncthreads();
    y[threadIdx.x] = part[threadIdx.x + ahead];
}

extern "C" __global__ void overflow(const int* x, int* y) { y[0] = x[0] + x[1]; }

// Neighbours in different blocks write the same element.
extern "C" __global__ void racing_blocks(int* y) { y[0] = blockIdx.x; }
