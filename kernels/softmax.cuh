// The largest value of a row and the sum of exp(x - largest), found in one pass over the row by a whole block.
#pragma once
#include "block_sums.cuh"

struct SoftmaxRow {
    real largest;  // so far
    real sum;      // of exp(x - largest)

    // log(0) is minus infinity, for which NVRTC has no name.
    __device__ __forceinline__ SoftmaxRow() : largest(log(real(0))), sum(real(0)) {}

    // One more value. Equal values count one without a subtraction, for inf - inf is not a number. A NaN is larger than
    // nothing and stays in the sum.
    __device__ __forceinline__ void take(real x) {
        if (x > largest) {
            sum = sum * exp(largest - x) + real(1);
            largest = x;
        } else {
            sum += x == largest ? real(1) : exp(x - largest);
        }
    }

    // From what each thread took to what all of them took, known to every thread afterwards; `block_sums` says who must
    // come. Where the largest is infinite the sum becomes NaN: whoever found it has exp(inf - inf).
    __device__ __forceinline__ void join(real (*partial)[MAX_WARPS]) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
        const real own = largest;
        for (int distance = 16; distance > 0; distance /= 2) {
            const real other = __shfl_xor_sync(0xffffffffu, largest, distance);
            largest = other > largest ? other : largest;
        }
        __syncthreads();  // what stood in partial has been read
        if (lane == 0) partial[0][warp] = largest;
        __syncthreads();
        for (int other = 0; other < warps; ++other) largest = partial[0][other] > largest ? partial[0][other] : largest;

        real sums[1] = {sum * exp(own - largest)};
        block_sums(sums, partial);
        sum = sums[0];
    }
};
