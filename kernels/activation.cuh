// The non-linearities that a gate, the candidate or the cell can go through, chosen when a kernel is launched: a branch
// that all threads take alike. gpulstm/activations.py has the same formulas, and says what alpha and beta default to.
#pragma once
#include "storage.cuh"

// Numbered as ACTIVATION_NUMBERS in gpulstm/engines/cupy_variant_engine.py.
#define SIGMOID 0
#define TANH 1
#define RELU 2
#define HARD_SIGMOID 3
#define SOFTSIGN 4
#define AFFINE 5

// Between low and high; NaN stays NaN, which fmin and fmax would not grant.
__device__ __forceinline__ real between(real x, real low, real high) {
    return x < low ? low : (x > high ? high : x);
}

// What goes into an activation. A limit of 0 stands for none.
__device__ __forceinline__ real bounded(real x, real limit) {
    return limit == real(0) ? x : between(x, -limit, limit);
}

struct Activation {
    int kind;
    real alpha, beta;

    __device__ __forceinline__ real operator()(real x) const {
        switch (kind) {
            case SIGMOID: return sigmoid_of(x);
            case TANH: return tanh(x);
            case RELU: return x < real(0) ? real(0) : x;
            case HARD_SIGMOID: return between(alpha * x + beta, real(0), real(1));
            case SOFTSIGN: return x / (real(1) + fabs(x));
            default: return alpha * x + beta;
        }
    }

    // The derivative where the function has this value.
    __device__ __forceinline__ real slope(real value) const {
        switch (kind) {
            case SIGMOID: return sigmoid_slope(value);
            case TANH: return tanh_slope(value);
            case RELU: return value > real(0) ? real(1) : real(0);
            case HARD_SIGMOID: return value > real(0) && value < real(1) ? alpha : real(0);
            case SOFTSIGN: return (real(1) - fabs(value)) * (real(1) - fabs(value));
            default: return alpha;
        }
    }
};

// The slope by a bounded argument: zero where the bound held it, which the value tells because every one of the
// functions is monotonic. The value is one that was stored, so the bounds are rounded as it was.
struct BoundedSlope {
    Activation activation;
    bool is_bounded;
    real low, high;

    __device__ __forceinline__ BoundedSlope(const Activation& f, real limit)
        : activation(f), is_bounded(limit != real(0)), low(0), high(0) {
        if (is_bounded) {
            const real at_low = f(-limit), at_high = f(limit);
            low = real_of(stored(at_low < at_high ? at_low : at_high));  // a negative alpha turns them around
            high = real_of(stored(at_low < at_high ? at_high : at_low));
        }
    }
    __device__ __forceinline__ real operator()(real value) const {
        const real slope = activation.slope(value);
        return !is_bounded || (value > low && value < high) ? slope : real(0);
    }
};
