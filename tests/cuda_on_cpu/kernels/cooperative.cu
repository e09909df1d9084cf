// Blocks that wait for each other, to test the harness itself: not part of the library.
#define NOT_THERE 0xFFFFFFFFu
#define THREADS (2 * (16 + 4))

__device__ __forceinline__ unsigned wait_for(const unsigned* word) {
    unsigned value;
    while ((value = host_cuda::load_relaxed(word)) == NOT_THERE) host_cuda::yield();
    return value;
}

// words[round][block] becomes 1, 2, 3, ... along the ring. Thread `first` of each block passes on; the others wait.
extern "C" __global__ void __launch_bounds__(THREADS, (1 + (2 - 1))) ring(unsigned* words, int rounds, int missing) {
    __shared__ unsigned passed;
    extern __shared__ unsigned kept[];  // [rounds]
    const int block = blockIdx.x, blocks = gridDim.x, first = block % blockDim.x;
    for (int round = 0; round < rounds; ++round) {
        const int at = round * blocks + block;
        if ((int)threadIdx.x == first) {
            passed = at == 0 ? 0 : wait_for(words + at - 1);
            kept[round] = passed;
            if (at != missing) host_cuda::store_relaxed(words + at, passed + 1);
        }
        __syncthreads();
        if (passed != (unsigned)at || kept[round] != (unsigned)at) __trap();
        __syncthreads();
    }
}

// The same with a plain load where it matters, which a compiler may take out of the loop, or split.
extern "C" __global__ void racy_ring(unsigned* words) {
    const int block = blockIdx.x;
    if (threadIdx.x) return;
    while (block && *(volatile unsigned*)(words + block - 1) == NOT_THERE) __nanosleep(20);
    host_cuda::store_relaxed(words + block, (unsigned)block);
}

// values[round + 1][block] = values[round][block] + values[round][the next block], a barrier of the grid in between.
// Without WAIT, a block goes on when it has arrived itself.
extern "C" __global__ void rounds_of_sums(int* values, unsigned* arrived, int rounds) {
    const int blocks = gridDim.x, block = blockIdx.x;
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x == blockDim.x - 1) {
            const int* from = values + round * blocks;
            values[(round + 1) * blocks + block] = from[block] + from[(block + 1) % blocks];
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
#if WAIT
            while (atomicCAS(arrived, 0u, 0u) < (unsigned)(blocks * (round + 1))) host_cuda::yield();
#endif
            __threadfence();
        }
        __syncthreads();
    }
}

// Block 0 makes a number; block 1 takes it, and waits for it or not.
extern "C" __global__ void hand_over(unsigned* word, unsigned* taken, int waits) {
    if (threadIdx.x) return;
    if (blockIdx.x == 0) host_cuda::store_relaxed(word, 7u);
    if (blockIdx.x == 1) *taken = waits ? wait_for(word) : host_cuda::load_relaxed(word);
}

// In which order the threads come: order[block of the grid][thread] is a number drawn at the beginning.
extern "C" __global__ void draw_numbers(int* next, int* order) {
    const int block = blockIdx.x + gridDim.x * blockIdx.y;
    order[block * blockDim.x + threadIdx.x] = atomicAdd(next, 1);
    __syncthreads();
}

// Thread 0 waits for the last thread of its own block, which no cooperative launch is needed for.
extern "C" __global__ void within_a_block(unsigned* word, int missing) {
    if (threadIdx.x == 0) wait_for(word + blockIdx.x);
    if (threadIdx.x == blockDim.x - 1 && !missing) host_cuda::store_relaxed(word + blockIdx.x, 1u);
}

extern "C" __global__ void load_four(const unsigned* words, unsigned* sum, int offset) {
    unsigned four[4];
    host_cuda::load_relaxed_v4(words + offset, four);
    *sum = four[0] + 10 * four[1] + 100 * four[2] + 1000 * four[3];
}

extern "C" __global__ void store_at(unsigned* words, int at) { host_cuda::store_relaxed(words + at, 1u); }

extern "C" __global__ void trap_at(int thread) {
    if ((int)threadIdx.x == thread) __trap();
    __syncthreads();
}

// What kernels of this kind need beside all that.
extern "C" __global__ void helpers(float* floats, unsigned long long* longs, int* numbers) {
    float4* vectors = (float4*)floats;
    const float4 v = __ldcg(vectors);
    __stcg(vectors + 1, make_float4(v.w, v.z, v.y, v.x));
    const uint2 pair = make_uint2(__float_as_uint(1.0f), __float_as_int(2.0f));
    const uint4 four = make_uint4(pair.x, pair.y, 3u, 4u);
    vectors[2] = make_float4(__uint_as_float(four.x), __int_as_float((int)four.y), (float)four.z, (float)four.w);
    host_cuda::store_relaxed(longs, host_cuda::load_relaxed(longs) + 1);
    atomicAdd(longs + 1, 5ull);
    atomicExch(longs + 2, 6ull);
    atomicCAS(longs + 3, 0ull, 7ull);
    atomicOr(longs + 4, 8ull);
    const long long before = clock64();
    numbers[0] = clock64() > before;
    numbers[1] = atomicOr(numbers + 2, 4);
}
