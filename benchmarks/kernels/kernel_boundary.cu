// One link of a chain of dependent kernels: out[i] = in[i + one block, wrapped around] + 1.
// A thread owns one value, and reads one that another block of the kernel before has written.

extern "C" __global__ void next_value(
    const float* __restrict__ in,  // (blocks, threads)
    float* __restrict__ out        // (blocks, threads)
) {
    const int neighbour = (blockIdx.x + 1) % gridDim.x;
    out[blockIdx.x * blockDim.x + threadIdx.x] = in[neighbour * blockDim.x + threadIdx.x] + 1.0f;
}
