// The LSTM's gates where each of neighbouring lanes makes one of a hidden unit's four: 0 to 3 are i, f, g and o.
#pragma once

// A gate's value from its pre-activation, one tanh for all four: sigmoid(a) = tanh(a / 2) / 2 + 1 / 2.
__device__ __forceinline__ float activated_gate(int gate, float a) {
    const float scale = gate == 2 ? 1.0f : 0.5f;
    const float tanh_a = tanhf(scale * a);
    return gate == 2 ? tanh_a : 0.5f * tanh_a + 0.5f;
}
