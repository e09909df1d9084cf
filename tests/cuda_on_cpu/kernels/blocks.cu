// Block-wide features: barriers, shared memory, early exit, grids of several dimensions.
typedef REAL real;

// Sums one array per block, by a tree in static shared memory.
extern "C" __global__ void __launch_bounds__(64) block_sum(
    const real* __restrict__ x,  // (blocks, 64)
    real* __restrict__ sums) {   // (blocks,)
    __shared__ real part[64];
    const int t = threadIdx.x;
    part[t] = x[blockIdx.x * 64 + t];
    __syncthreads();  // MARK filled
    for (int half = 32; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();  // MARK folded
    }
    if (t == 0) sums[blockIdx.x] = part[0];
}

// Reverses each block's part, through dynamic shared memory of blockDim.x elements.
extern "C" __global__ void reverse(const real* x, real* y, int offset) {
    extern __shared__ real part[];
    const int t = threadIdx.x;
    part[t + offset] = x[blockIdx.x * blockDim.x + t];
    __syncthreads();  // MARK stored
    y[blockIdx.x * blockDim.x + t] = part[blockDim.x - 1 - t + offset];
}

struct Box {
    real value;
    int position;
};

// Shared variables of several types, one of them inside a template.
template <class T>
__device__ T first_of_block(T value) {
    __shared__ T kept;
    if (threadIdx.x == 0) kept = value;
    __syncthreads();
    const T result = kept;
    __syncthreads();
    return result;
}

extern "C" __global__ void shared_types(const real* x, real* y, int* positions) {
    __shared__ Box box;
    __shared__ real table[2][32];
    const int t = threadIdx.x, last = blockDim.x - 1;
    const real first = first_of_block<real>(x[t]);
    const int number = first_of_block<int>(t + 7);
    if (t == last) {
        box.value = x[t];
        box.position = t;
    }
    table[t / 32][t % 32] = x[t];
    __syncthreads();
    y[t] = first + 10 * box.value + 100 * table[(t / 32 + 1) % 2][t % 32];
    positions[t] = box.position + number;
}

// Half of the threads leave before the barrier; it counts those that are there.
extern "C" __global__ void early_exit(int* seen, int n) {
    __shared__ int sum;
    const int t = threadIdx.x;
    if (t >= n) return;
    if (t == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1);
    __syncthreads();
    seen[t] = sum;
}

extern "C" __global__ void votes(const int* x, int* result) {
    const int t = threadIdx.x;
    const int count = __syncthreads_count(x[t] > 0);
    const int any = __syncthreads_or(x[t] > 5);
    const int all = __syncthreads_and(x[t] > -5);
    result[t] = count * 100 + (any != 0) * 10 + (all != 0);
}

// Writes where a thread of a 3-D launch stands.
extern "C" __global__ void places(unsigned int* where) {
    const unsigned int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned int* own = where + (block * blockDim.x * blockDim.y * blockDim.z + t) * 6;
    own[0] = blockIdx.x, own[1] = blockIdx.y, own[2] = blockIdx.z;
    own[3] = threadIdx.x, own[4] = threadIdx.y, own[5] = threadIdx.z;
}

// The order in which threads come: a ticket for each.
extern "C" __global__ void tickets(int* counter, int* ticket) {
    ticket[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

extern "C" __global__ void uninitialised(real* y) {
    __shared__ real never[2];
    extern __shared__ real nor_this[];
    y[0] = never[0];
    y[1] = nor_this[0];
}

// Not a race to CUDA: each block writes, and the one that comes last reads what all have written.
extern "C" __global__ void last_block_sums(const real* x, real* parts, int* done, real* sum) {
    __shared__ int is_last;
    parts[blockIdx.x] = 2 * x[blockIdx.x];
    __threadfence();  // MARK fence
    is_last = atomicAdd(done, 1) == (int)gridDim.x - 1;
    if (!is_last) return;
    __threadfence();
    real total = 0;
    for (unsigned int i = 0; i < gridDim.x; ++i) total += parts[i];
    *sum = total;
}
