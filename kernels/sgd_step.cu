// One step of gradient descent on every parameter of a model, in one launch:
//
//     d = g + weight_decay p
//     b = momentum b + d             with momentum
//     d = b, or d + momentum b       plain, or Nesterov's
//     p = p - learning_rate d
//
// A block owns a chunk of one tensor, a thread every blockDim.x-th element of it.
// Bytes per element, in units of sizeof(real): reads 2 (p, g), writes 1 (p), with momentum 1 + 1 more (b).
#include "tensor_table.cuh"

extern "C" __global__ void sgd_step(
    const TensorTable table,  // target p, gradient g, first b or null without momentum; one block per chunk
    real learning_rate,
    real momentum,
    real weight_decay,
    int nesterov) {
    const Chunk chunk = chunk_of(table, blockIdx.x);
    real* p = table.target[chunk.tensor];
    const real* g = table.gradient[chunk.tensor];
    real* b = table.first[chunk.tensor];
#pragma unroll 4
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) {
        real direction = g[i];
        if (weight_decay != real(0)) direction += weight_decay * p[i];  // 0 times infinity would be NaN
        if (b) {
            const real velocity = momentum * b[i] + direction;
            b[i] = velocity;
            direction = nesterov ? direction + momentum * velocity : velocity;
        }
        p[i] -= learning_rate * direction;
    }
}
