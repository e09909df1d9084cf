// Random masks from a counter instead of a state: Philox4x32-10, bit for bit what gpulstm/philox.py gives.
//
// A word is a function of the seed and of a counter (unit, sequence, time, stream); gpulstm/masks.py says what is drawn
// where. So the backward pass draws again what the forward pass drew, and no mask is kept.
//
// Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
#pragma once
#include "common.cuh"

// Recurrent dropout of h draws at this time, which no step has, so that its mask stays the same along a sequence.
#define WHOLE_SEQUENCE 0xffffffffu

struct Words {
    unsigned int x0, x1, x2, x3;
};

// Whose numbers: the 64-bit seed of a call, and a layer and direction's stream in it. Step 0 of a launch is first_time.
struct Stream {
    unsigned int seed_low, seed_high, number, first_time;
};

// The same where the four stand in memory: a captured graph has the arguments of its launches for good.
__device__ __forceinline__ Stream stream_at(const unsigned int* words) {
    return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ Words philox(
    const Stream& stream, unsigned int unit, unsigned int sequence, unsigned int time) {
    unsigned int c0 = unit, c1 = sequence, c2 = time, c3 = stream.number;
    unsigned int key0 = stream.seed_low, key1 = stream.seed_high;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned int high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned int high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ key0;
        c2 = high0 ^ c3 ^ key1;
        c1 = low1;
        c3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

// The words of one time step.
__device__ __forceinline__ Words step_words(const Stream& stream, unsigned int unit, unsigned int sequence, int step) {
    return philox(stream, unit, sequence, stream.first_time + (unsigned int)step);
}

// A dropout mask: 0 where a word is below the threshold, else the scale, 1 / (1 - probability).
struct Dropout {
    unsigned int threshold;
    real scale;
    // A tiny probability rounds to threshold 0 and still scales. Without dropout the two are 0 and 1.
    __device__ __forceinline__ bool is_on() const { return threshold != 0 || scale != real(1); }
    __device__ __forceinline__ real factor(unsigned int word) const { return word < threshold ? real(0) : scale; }
};

// Zoneout. In training a state is kept where a word is below the threshold; in inference, where the threshold is 0,
// ``share`` of it is kept everywhere. Without zoneout both are 0.
struct Zoneout {
    unsigned int threshold;
    real share;
    __device__ __forceinline__ bool is_on() const { return threshold != 0 || share != real(0); }
    __device__ __forceinline__ real kept(unsigned int word) const {
        return threshold != 0 ? (word < threshold ? real(1) : real(0)) : share;
    }
};
