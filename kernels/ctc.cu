// Connectionist temporal classification (Graves et al. 2006): the loss of each sequence and its gradient with respect
// to the logits, in the log domain.
//
// A labelling of L labels becomes 2 L + 1 positions, blank label blank ... label blank: position s is blank where s is
// even, else label s / 2. A path stays, goes one position on, or goes two on from a label to another one.
//
//     log y[t, k] = logits[t, k] - normaliser[t]                  normaliser[t] = log(sum over k of exp(logits[t, k]))
//     alpha[t, s] = log y[t, label s] + logsumexp(alpha[t-1, s], alpha[t-1, s-1], alpha[t-1, s-2] if it may skip)
//     beta[t, s]  = log y[t, label s] + before[t, s]
//     before[t, s] = logsumexp(beta[t+1, s], beta[t+1, s+1], beta[t+1, s+2] if it may skip)
//     loss = -total                                             total = logsumexp of alpha at the end's two positions
//     occupancy[t, s] = exp(alpha[t, s] + before[t, s] - total)
//     gradient[t, k] = weight (y[t, k] - sum of occupancy[t, s] over the positions s of class k, in their order)
//
// Three kernels. `ctc_log_normaliser`: a warp owns one time step of one sequence. `ctc_forward_backward`: a block owns
// a sequence, a thread every blockDim.x-th position; one barrier between time steps. `ctc_gradient`: a thread owns one
// class of one time step; the positions of a class are a linked list that the kernel before has made, so each sum has
// one owner and one order, and no atomic is needed.
//
// Where there is no path the loss is infinite. Where a target length or a label is none, it is NaN; nothing is read for
// it outside of the arrays. The gradient is then NaN, or for an infinite loss 0 if asked for.
//
// Bytes in units of sizeof(real): the normaliser reads each logit twice, once from cache. Forward and backward per
// position and step 7 reads + 3 writes, mostly through cache. The gradient per logit 1 + 1, and per position and
// step 1.
#include "common.cuh"

// One sequence's positions.
struct Positions {
    const int* labels;
    int count;
    int blank;

    __device__ __forceinline__ int label(int s) const { return s % 2 ? labels[s / 2] : blank; }
    // Whether a path may come to s from s - 2: two equal labels need the blank between them.
    __device__ __forceinline__ bool skips_to(int s) const {
        return s % 2 && s >= 3 && labels[s / 2] != labels[s / 2 - 1];
    }
};

// log(0) is minus infinity, for which NVRTC has no name.
__device__ __forceinline__ real impossible() { return log(real(0)); }

// A NaN comes out as NaN: it is larger than nothing and stays in the sum.
__device__ __forceinline__ real log_sum_exp(real a, real b, real c) {
    real largest = a > b ? a : b;
    largest = c > largest ? c : largest;
    if (largest == impossible()) largest = real(0);
    return largest + log(exp(a - largest) + exp(b - largest) + exp(c - largest));
}

extern "C" __global__ void ctc_log_normaliser(
    const real* __restrict__ logits,   // (steps, batch, classes)
    const int* __restrict__ lengths,   // (batch,)
    real* __restrict__ normaliser,     // (steps, batch), not written where a sequence is over
    int batch,
    int classes) {
    const long long row = flat_thread_index() / 32;
    const int lane = threadIdx.x % 32;
    if (row / batch >= lengths[row % batch]) return;  // whole warps; a row past the last is past all ends
    const real* x = logits + row * classes;
    real largest = impossible(), sum = real(0);
    for (int k = lane; k < classes; k += 32) largest = x[k] > largest ? x[k] : largest;
    for (int distance = 16; distance > 0; distance /= 2) {
        const real other = __shfl_xor_sync(0xffffffffu, largest, distance);
        largest = other > largest ? other : largest;
    }
    for (int k = lane; k < classes; k += 32) sum += exp(x[k] - largest);
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane == 0) normaliser[row] = largest + log(sum);
}

// The positions of each class as a list: first_position of the class, next_position of each, -1 at the end.
__device__ __forceinline__ void list_positions(const Positions& positions, int* first, int* next, int classes) {
    for (int k = threadIdx.x; k < classes; k += blockDim.x) first[k] = -1;
    __syncthreads();
    for (int s = threadIdx.x; s < positions.count; s += blockDim.x) {
        const int label = positions.label(s);
        int before = s - 2, after = s + 2;
        while (before >= 0 && positions.label(before) != label) before -= 2;
        while (after < positions.count && positions.label(after) != label) after += 2;
        next[s] = after < positions.count ? after : -1;
        if (before < 0) first[label] = s;
    }
}

extern "C" __global__ void ctc_forward_backward(
    const real* __restrict__ logits,         // (steps, batch, classes)
    const real* __restrict__ normaliser,     // (steps, batch)
    const int* __restrict__ target,          // (batch, longest)
    const int* __restrict__ lengths,         // (batch,)
    const int* __restrict__ target_lengths,  // (batch,)
    real* occupancy,                         // (batch, steps, positions), alpha on the way; positions = 2 * longest + 1
    real* betas,                             // (batch, 2, positions) scratch: of this time step and of the one behind
    int* first_position,                     // (batch, classes)
    int* next_position,                      // (batch, positions)
    real* losses,                            // (batch,)
    int steps,
    int batch,
    int classes,
    int longest,
    int blank) {
    const long long n = blockIdx.x, width = 2 * (long long)longest + 1;
    const int length = lengths[n], labels = target_lengths[n];
    const bool fits = labels >= 0 && labels <= longest;
    const Positions positions = {target + n * longest, fits ? 2 * labels + 1 : 0, blank};

    int wrong = !fits;
    for (int k = threadIdx.x; k < positions.count / 2; k += blockDim.x) {
        const int label = positions.labels[k];
        if (label < 0 || label >= classes || label == blank) wrong = 1;
    }
    wrong = __syncthreads_or(wrong);
    if (wrong || length == 0) {
        if (threadIdx.x == 0) losses[n] = wrong ? real(nan("")) : labels ? -impossible() : real(0);
        return;
    }
    list_positions(positions, first_position + n * classes, next_position + n * width, classes);

    real* alpha = occupancy + n * steps * width;  // of this time step
    for (int t = 0; t < length; ++t, alpha += width) {
        __syncthreads();  // all of the step before has been written
        const long long row = (long long)t * batch + n;
        for (int s = threadIdx.x; s < positions.count; s += blockDim.x) {
            real sum = s < 2 ? real(0) : impossible();
            if (t > 0) {
                const real* last = alpha - width;
                sum = log_sum_exp(last[s], s >= 1 ? last[s - 1] : impossible(),
                                  positions.skips_to(s) ? last[s - 2] : impossible());
            }
            alpha[s] = sum + (logits[row * classes + positions.label(s)] - normaliser[row]);
        }
    }
    __syncthreads();
    alpha -= width;
    const real total = log_sum_exp(alpha[positions.count - 1], labels ? alpha[positions.count - 2] : impossible(),
                                   impossible());
    if (threadIdx.x == 0) losses[n] = real(0) - total;
    if (!(total - total == real(0))) return;  // infinite or NaN: there are no occupancies

    for (int t = length - 1; t >= 0; --t, alpha -= width) {
        __syncthreads();  // the total has been read, and all of the step behind has been written
        const long long row = (long long)t * batch + n;
        real* beta = betas + (2 * n + t % 2) * width;
        const real* behind = betas + (2 * n + (t + 1) % 2) * width;
        for (int s = threadIdx.x; s < positions.count; s += blockDim.x) {
            real before = s >= positions.count - 2 ? real(0) : impossible();
            if (t < length - 1) {
                const bool on = s + 1 < positions.count, skips = s + 2 < positions.count && positions.skips_to(s + 2);
                before = log_sum_exp(behind[s], on ? behind[s + 1] : impossible(),
                                     skips ? behind[s + 2] : impossible());
            }
            alpha[s] = exp(alpha[s] + before - total);
            beta[s] = before + (logits[row * classes + positions.label(s)] - normaliser[row]);
        }
    }
}

extern "C" __global__ void ctc_gradient(
    const real* __restrict__ logits,           // (steps, batch, classes)
    const real* __restrict__ normaliser,       // (steps, batch)
    const real* __restrict__ occupancy,        // (batch, steps, positions)
    const int* __restrict__ first_position,    // (batch, classes)
    const int* __restrict__ next_position,     // (batch, positions)
    const int* __restrict__ lengths,           // (batch,)
    const real* __restrict__ losses,           // (batch,)
    const real* __restrict__ weights,          // (batch,) what each sequence's loss is multiplied by
    real* __restrict__ gradient,               // (steps, batch, classes)
    long long count,                           // steps * batch * classes
    int steps,
    int batch,
    int classes,
    int longest,
    int zero_infinity) {
    const long long index = flat_thread_index();
    if (index >= count) return;
    const long long row = index / classes, t = row / batch, n = row % batch, width = 2 * (long long)longest + 1;
    const int k = (int)(index % classes);
    const real loss = losses[n];
    if (t >= lengths[n]) {
        gradient[index] = real(0);
    } else if (!(loss - loss == real(0))) {
        gradient[index] = zero_infinity && loss > real(0) ? real(0) : real(nan(""));
    } else {
        real value = exp(logits[index] - normaliser[row]);
        const real* occupied = occupancy + (n * steps + t) * width;
        for (int s = first_position[n * classes + k]; s >= 0; s = next_position[n * width + s]) value -= occupied[s];
        gradient[index] = weights[n] * value;
    }
}
