// The activations that are not the plain LSTM's, as `gpulstm.activations` has them: values, and slopes in the values.
#pragma once

#include "layer.h"

enum { SIGMOID, TANH, RELU, HARD_SIGMOID, SOFTSIGN, AFFINE };  // in the order of `activations.DEFAULTS`
enum { OF_GATES, OF_CANDIDATE, OF_CELL };

NOINLINE vec activated(const Options* o, int which, vec a) {
    const vec zero = {0}, one = zero + 1, alpha = zero + (real)o->alphas[which], beta = zero + (real)o->betas[which];
    switch (o->kinds[which]) {
        case SIGMOID: return tanh_of(a * 0.5f) * 0.5f + 0.5f;
        case TANH: return tanh_of(a);
        case RELU: return choose((ivec)(a <= zero), zero, a);  // NaN stays NaN
        case HARD_SIGMOID: return larger_of(zero, smaller(one, alpha * a + beta));
        case SOFTSIGN: return a / (one + larger_of(a, -a));
        default: return alpha * a + beta;
    }
}

NOINLINE vec slope_at(const Options* o, int which, vec value) {
    const vec zero = {0}, one = zero + 1, alpha = zero + (real)o->alphas[which];
    const vec rest = one - larger_of(value, -value);
    switch (o->kinds[which]) {
        case SIGMOID: return value * (one - value);
        case TANH: return one - value * value;
        case RELU: return choose((ivec)(value > zero), one, zero);
        case HARD_SIGMOID: return choose((ivec)(value > zero) & (ivec)(value < one), alpha, zero);
        case SOFTSIGN: return rest * rest;
        default: return alpha;
    }
}
