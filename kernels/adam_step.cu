// One step of Adam or AdamW on every parameter of a model, in one launch:
//
//     m = beta1 m + (1 - beta1) g
//     v = beta2 v + (1 - beta2) g^2
//     p = keep p - step_size m / (sqrt(v) / root_correction + epsilon)
//
// with step_size = learning_rate / (1 - beta1^t), root_correction = sqrt(1 - beta2^t) at step t, and
// keep = 1 - learning_rate * weight_decay, which is 1 for Adam.
//
// A block owns a chunk of one tensor, a thread every blockDim.x-th element of it.
// Bytes per element, in units of sizeof(real): reads 4 (p, g, m, v), writes 3 (p, m, v).
#include "tensor_table.cuh"

extern "C" __global__ void adam_step(
    const TensorTable table,  // target p, gradient g, first m, second v; one block per chunk
    real beta1,
    real new_share1,  // 1 - beta1, rounded once
    real beta2,
    real new_share2,  // 1 - beta2
    real step_size,
    real root_correction,
    real epsilon,
    real keep) {
    const Chunk chunk = chunk_of(table, blockIdx.x);
    real* p = table.target[chunk.tensor];
    const real* g = table.gradient[chunk.tensor];
    real* m = table.first[chunk.tensor];
    real* v = table.second[chunk.tensor];
#pragma unroll 4
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) {
        const real gradient = g[i];
        const real mean = beta1 * m[i] + new_share1 * gradient;
        const real square = beta2 * v[i] + new_share2 * (gradient * gradient);
        m[i] = mean;
        v[i] = square;
        p[i] = keep * p[i] - step_size * mean / (sqrt(square) / root_correction + epsilon);
    }
}
