// Warp-wide features and atomics.
typedef REAL real;
#define ALL 0xffffffffu

// Inclusive prefix sum of each warp's 32 values.
extern "C" __global__ void warp_scan(const real* x, real* y) {
    const int t = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % warpSize;
    real value = x[t];
    for (int distance = 1; distance < 32; distance *= 2) {
        const real left = __shfl_up_sync(ALL, value, distance);
        if (lane >= distance) value += left;
    }
    y[t] = value;
}

// Each warp's sum, in all of its lanes by xor, and in lane 0 by down; segments of 8 lanes by down.
extern "C" __global__ void warp_sums(const real* x, real* by_xor, real* by_down, real* by_eight) {
    const int t = threadIdx.x;
    real a = x[t], b = x[t], c = x[t];
    for (int distance = 16; distance > 0; distance /= 2) {
        a += __shfl_xor_sync(ALL, a, distance);
        b += __shfl_down_sync(ALL, b, distance);
    }
    for (int distance = 4; distance > 0; distance /= 2) c += __shfl_down_sync(ALL, c, distance, 8);
    by_xor[t] = a;
    by_down[t] = b;
    by_eight[t] = c;
}

extern "C" __global__ void warp_votes(const int* x, unsigned int* ballot, int* any_all, int* from_third) {
    const int t = threadIdx.x;
    ballot[t] = __ballot_sync(ALL, x[t] > 0);
    any_all[t] = (__any_sync(ALL, x[t] > 0) != 0) * 2 + (__all_sync(ALL, x[t] > 0) != 0);
    from_third[t] = __shfl_sync(ALL, x[t], 3);
}

// The two halves of a warp shuffle apart from each other.
extern "C" __global__ void half_warps(const int* x, int* y) {
    const int t = threadIdx.x;
    if (t % 32 < 16)
        y[t] = __shfl_sync(0x0000ffffu, x[t], 5);
    else
        y[t] = __shfl_sync(0xffff0000u, x[t], 20) + __shfl_sync(0xffff0000u, x[t], 21);
}

// Lanes from n on leave after a first shuffle; the others' second one neither waits for them nor sees their values.
extern "C" __global__ void leaving_lanes(const int* x, int* y, int n) {
    const int t = threadIdx.x;
    const int first = __shfl_xor_sync(ALL, x[t], 1);
    if (t >= n) return;
    y[t] = __shfl_down_sync(ALL, x[t] + first, 1);
}

// Neighbours exchange through memory, which needs __syncwarp: a shuffle in its place orders nothing.
extern "C" __global__ void warp_exchange(const int* x, int* y) {
    __shared__ int kept[64];
    const int t = threadIdx.x;
    kept[t] = x[t];
    __syncwarp();  // MARK exchange
    y[t] = kept[t ^ 1];
}

extern "C" __global__ void atomics(
    int* ints, unsigned int* unsigneds, unsigned long long* longs, float* floats, double* doubles) {
    const int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&ints[0], t);
    atomicMax(&ints[1], t);
    atomicMin(&ints[2], -t);
    atomicCAS(&ints[3], 5, 6);
    atomicExch(&ints[4], 9);
    atomicAdd(&unsigneds[0], 3u);
    atomicMax(&unsigneds[1], (unsigned int)t);
    atomicAdd(&longs[0], 1ull << 33);
    atomicAdd(&floats[0], 0.5f);
    atomicAdd(&doubles[0], 0.25);
}

extern "C" __global__ void arithmetic(const real* x, real* y) {
    y[0] = tanh(x[0]) + exp(x[0]) + fabs(x[1]) + fmax(x[0], x[1]);
    y[1] = min(x[0], x[1]) + max(x[0], x[1]) + max(1, 2) + min(3ll, 2ll);
    y[2] = __ldg(&x[2]) + rsqrt(x[2]);
    y[3] = real(warpSize) + sizeof(tanh(x[0])) / sizeof(real);
}
