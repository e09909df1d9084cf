// One step of backpropagation through one hidden unit of one sequence, without options, in float32: the formulas of
// lstm_backward_step.cu. step_back of persistent_options.cuh is the same with them.
#pragma once

// The gradients of the pre-activations from those of h[t] and c[t]; `gates` are i, f, g and o. Returns the gradient of
// c[t-1]. That of h[t-1] comes from the pre-activations alone.
__device__ __forceinline__ float cell_back(
    const float (&gates)[4], float c_before, float c_after, float d_h, float d_c, float (&d_gate)[4]) {
    const float i = gates[0], f = gates[1], candidate = gates[2], o = gates[3], tanh_c = tanhf(c_after);
    d_c += d_h * o * (1.0f - tanh_c * tanh_c);
    d_gate[0] = d_c * candidate * (i * (1.0f - i));
    d_gate[1] = d_c * c_before * (f * (1.0f - f));
    d_gate[2] = d_c * i * (1.0f - candidate * candidate);
    d_gate[3] = d_h * tanh_c * (o * (1.0f - o));
    return d_c * f;
}
