// Products on the tensor cores, to test the harness itself: not part of the library.

// One product per warp; fragments [warp][lane][...]. kind: 0 TF32, 1 half, 2 bfloat16.
extern "C" __global__ void product(const unsigned* a_words, const unsigned* b_words, float* d_numbers, int kind) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; ++i) a[i] = a_words[4 * thread + i];
    for (int i = 0; i < 2; ++i) b[i] = b_words[2 * thread + i];
    for (int i = 0; i < 4; ++i) d[i] = d_numbers[4 * thread + i];
    if (kind == 0) host_cuda::mma_m16n8k8_tf32(d, a, b);
    if (kind == 1) host_cuda::mma_m16n8k16_f16(d, a, b);
    if (kind == 2) host_cuda::mma_m16n8k16_bf16(d, a, b);
    for (int i = 0; i < 4; ++i) d_numbers[4 * thread + i] = d[i];
}

__device__ void multiply_zeros() {
    float d[4] = {0, 0, 0, 0};
    const unsigned a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    host_cuda::mma_m16n8k8_tf32(d, a, b);
}

extern "C" __global__ void lane_returns(int lane) {
    if ((int)threadIdx.x == lane) return;
    multiply_zeros();
}
extern "C" __global__ void lane_waits_elsewhere(int lane) {
    if ((int)threadIdx.x == lane) __syncthreads();
    multiply_zeros();
}
extern "C" __global__ void lane_shuffles(int lane) {
    if ((int)threadIdx.x == lane) {
        __shfl_sync(0xFFFFFFFFu, 1, 0);
    } else {
        multiply_zeros();
    }
}
extern "C" __global__ void lane_multiplies_halves(int lane) {
    float d[4] = {0, 0, 0, 0};
    const unsigned a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    if ((int)threadIdx.x == lane) {
        host_cuda::mma_m16n8k16_f16(d, a, b);
    } else {
        host_cuda::mma_m16n8k8_tf32(d, a, b);
    }
}
// A product orders no memory: what a lane wrote before it is not there for another.
extern "C" __global__ void product_is_no_barrier(float* x) {
    __shared__ float mine[32];
    mine[threadIdx.x] = x[threadIdx.x];
    multiply_zeros();
#if BARRIER
    __syncwarp();
#endif
    x[threadIdx.x] = mine[31 - threadIdx.x];
}
