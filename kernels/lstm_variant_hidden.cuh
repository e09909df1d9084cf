// What follows the cell for one feature of the hidden state, forward and backward. Without a projection the cell
// kernels do it themselves, with one it is kernels of its own, behind the product with weight_hr.
//
// In 16 bits (storage.cuh) a hidden state is rounded once, before its mask, and what is handed back in time has 32.
#pragma once
#include "philox.cuh"
#include "storage.cuh"

// h' = zone * h + (1 - zone) * h*        y = h'        h_in = h' * hidden_mask, for the step that comes next
struct HiddenForward {
    store* h;            // (batch, width) hidden state, replaced by this step's
    store* y;            // (steps, batch, y_width) output; this direction's columns start at y_offset
    store* h_in;         // (steps, batch, width) what each step's product reads, or null: then that is h
    const int* lengths;  // (batch,) or null
    int step, time;      // index into y, and the same step counted from the sequence's beginning
    int next_step;       // the step that comes next, or -1
    int batch, width, y_width, y_offset;
    Stream stream;
    Zoneout zone;
    Dropout dropout;

    __device__ __forceinline__ void put(int sequence, int feature, bool running, real after) const {
        const long long index = (long long)sequence * width + feature;
        store* out = y + ((long long)step * batch + sequence) * y_width + y_offset + feature;
        store state;
        if (running) {
            real mixed = after;
            if (zone.is_on()) {
                const real kept = zone.kept(step_words(stream, feature, sequence, step).x0);
                mixed = kept * real_of(h[index]) + (real(1) - kept) * after;
            }
            state = stored(mixed);
            h[index] = state;
            *out = state;
        } else {
            state = h[index];
            *out = stored(real(0));
        }
        if (h_in != nullptr && next_step >= 0) {
            // Zero where the next step does nothing: 0 * NaN would spoil the weights' gradient.
            if (lengths != nullptr && next_step >= lengths[sequence]) {
                state = stored(real(0));
            } else if (dropout.is_on()) {
                state = stored(real_of(state) * dropout.factor(philox(stream, feature, sequence, WHOLE_SEQUENCE).x0));
            }
            h_in[(long long)next_step * (batch * (long long)width) + index] = state;
        }
    }
};

// dh = dh + product * hidden_mask + dy        dh* = (1 - zone) * dh        dh = zone * dh, handed to the step before
struct HiddenBackward {
    real* dh;             // (batch, width) gradient of h[t] that does not come through the later step's product
    const real* product;  // (batch, width) the later step's dr @ weight_hh
    const store* dy;      // (steps, batch, dy_width) gradient of the output, or null
    const int* lengths;   // (batch,) or null
    int step;
    int later_step;       // the step that was done before this one, backward; INT_MAX if there is none
    int batch, width, dy_width, dy_offset;
    Stream stream;
    Zoneout zone;
    Dropout dropout;

    // dh with what the later step asks, if that step was one of the sequence's.
    __device__ __forceinline__ real total(int sequence, int feature) const {
        const long long index = (long long)sequence * width + feature;
        if (later_step == 0x7fffffff || (lengths != nullptr && later_step >= lengths[sequence])) return dh[index];
        real asked = product[index];
        if (dropout.is_on()) asked *= dropout.factor(philox(stream, feature, sequence, WHOLE_SEQUENCE).x0);
        return dh[index] + asked;
    }

    // Gives dh*, and leaves in dh what passes by the step.
    __device__ __forceinline__ real take(int sequence, int feature, bool running) const {
        const long long index = (long long)sequence * width + feature;
        real d = total(sequence, feature);
        if (!running) {
            dh[index] = d;
            return real(0);
        }
        if (dy != nullptr) d += real_of(dy[((long long)step * batch + sequence) * dy_width + dy_offset + feature]);
        if (!zone.is_on()) {
            dh[index] = real(0);
            return d;
        }
        const real kept = zone.kept(step_words(stream, feature, sequence, step).x0);
        dh[index] = kept * d;
        return (real(1) - kept) * d;
    }
};
