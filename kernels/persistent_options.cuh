// What the kernels that run all time steps in one launch need for the LSTM's options, beyond the plain LSTM:
//
//     h_in = h * hidden_mask               a_i += w_i * c[t-1]        a_f += w_f * c[t-1]        f = 1 - i if coupled
//     c* = f * c[t-1] + i * g * mask       a_o += w_o * c*            h* = o * tanh(c*)
//     c[t] = zone_c * c[t-1] + (1 - zone_c) * c*                      h[t] = zone_h * h[t-1] + (1 - zone_h) * h*
//
// Random masks are drawn again wherever they are needed, while a block waits for the others: philox.cuh gives the same
// bits as for the loop's kernels. What was drawn for one hidden unit of one sequence at one step is kept as four bits.
#pragma once
#include "philox.cuh"

// As _OPTIONS in gpulstm/engines/cupy_one_launch_options.py. Thresholds and scales are those of Dropout and Zoneout in
// philox.cuh: 0 and 1 without dropout, 0 and 0 without zoneout. Of two directions in a launch the second one has a
// stream of its own, and all else in common with the first.
struct Options {
    unsigned int seed_low;
    unsigned int seed_high;
    unsigned int stream;
    unsigned int first_draw;  // the time at which step 0 draws
    unsigned int hidden_threshold;
    float hidden_scale;
    unsigned int candidate_threshold;
    float candidate_scale;
    unsigned int zone_h_threshold;
    float zone_h_share;
    unsigned int zone_c_threshold;
    float zone_c_share;
    int coupled;
};

// What is set where a word is below its threshold. Where nothing is drawn, no bit is.
#define HIDDEN_DROPS 1u
#define CANDIDATE_DROPS 2u
#define H_STAYS 4u
#define C_STAYS 8u
#define LATER_STEP_RAN 16u  // set by the backward kernel itself

__device__ __forceinline__ bool draws_at_each_step(const Options& options) {
    return (options.candidate_threshold | options.zone_h_threshold | options.zone_c_threshold) != 0;
}

__device__ __forceinline__ Words words_at(const Options& options, int unit, int sequence, unsigned int time) {
    const Stream stream = {options.seed_low, options.seed_high, options.stream, 0};
    return philox(stream, unit, sequence, time);
}

__device__ __forceinline__ unsigned bits_of_step(const Options& options, const Words& words) {
    return (words.x0 < options.zone_h_threshold ? H_STAYS : 0u) | (words.x1 < options.zone_c_threshold ? C_STAYS : 0u) |
           (words.x2 < options.candidate_threshold ? CANDIDATE_DROPS : 0u);
}

__device__ __forceinline__ unsigned draw_for_step(const Options& options, int unit, int sequence, int step) {
    if (!draws_at_each_step(options)) return 0;
    return bits_of_step(options, words_at(options, unit, sequence, options.first_draw + (unsigned)step));
}

__device__ __forceinline__ unsigned draw_for_sequence(const Options& options, int unit, int sequence) {
    if (options.hidden_threshold == 0) return 0;
    return words_at(options, unit, sequence, WHOLE_SEQUENCE).x0 < options.hidden_threshold ? HIDDEN_DROPS : 0u;
}

// By four neighbouring lanes with the same arguments but their `part`, 0 to 3: the first one draws for the sequence,
// the others for the step, so that each draws once. A whole warp has to come.
__device__ __forceinline__ unsigned draw_in_four_lanes(
    const Options& options, int unit, int sequence, int step, int part, int first_lane) {
    if (options.hidden_threshold == 0 && !draws_at_each_step(options)) return 0;
    const unsigned time = part == 0 ? WHOLE_SEQUENCE : options.first_draw + (unsigned)step;
    const Words words = words_at(options, unit, sequence, time);
    const unsigned own =
        part == 0 ? (words.x0 < options.hidden_threshold ? HIDDEN_DROPS : 0u) : bits_of_step(options, words);
    return __shfl_sync(0xFFFFFFFFu, own, first_lane) | __shfl_sync(0xFFFFFFFFu, own, first_lane + 1);
}

// By four neighbouring lanes for TOGETHER outputs, 1, 2 or 4, that they have in common: what lane `part`, 0 to 3, draws
// for output part * TOGETHER / 4, whose unit and sequence these are. Four lanes draw for an output each, fewer outputs
// leave some of them for the sequence and some for the step. `drawn_together` puts it together.
template <int TOGETHER>
__device__ __forceinline__ unsigned draw_together(const Options& options, int unit, int sequence, int step, int part) {
    if (TOGETHER == 4) return draw_for_sequence(options, unit, sequence) | draw_for_step(options, unit, sequence, step);
    if (options.hidden_threshold == 0 && !draws_at_each_step(options)) return 0;
    const bool of_sequence = part % (4 / TOGETHER) == 0;
    const unsigned time = of_sequence ? WHOLE_SEQUENCE : options.first_draw + (unsigned)step;
    const Words words = words_at(options, unit, sequence, time);
    if (!of_sequence) return bits_of_step(options, words);
    return words.x0 < options.hidden_threshold ? HIDDEN_DROPS : 0u;
}

// What was drawn for one of these outputs. A whole warp has to come.
template <int TOGETHER>
__device__ __forceinline__ unsigned drawn_together(unsigned own, int output, int first_lane) {
    const int lane = first_lane + output * (4 / TOGETHER);
    const unsigned drawn = __shfl_sync(0xFFFFFFFFu, own, lane);
    return TOGETHER == 4 ? drawn : drawn | __shfl_sync(0xFFFFFFFFu, own, lane + 1);
}

__device__ __forceinline__ float hidden_mask(const Options& options, unsigned drawn) {
    return drawn & HIDDEN_DROPS ? 0.0f : options.hidden_scale;
}

__device__ __forceinline__ float candidate_mask(const Options& options, unsigned drawn) {
    return drawn & CANDIDATE_DROPS ? 0.0f : options.candidate_scale;
}

// Zoneout: how much of the old state stays, all or nothing in training, a share in inference. Where it is off, neither
// the old state nor its gradient takes part: 0 times infinity is NaN.
__device__ __forceinline__ float zoned(
    unsigned threshold, float share, bool stays, float before, float after) {
    if (threshold == 0 && share == 0.0f) return after;
    const float kept = threshold != 0 ? (stays ? 1.0f : 0.0f) : share;
    return fmaf(kept, before, (1.0f - kept) * after);
}

// The gradient d of the new state becomes that of what the step made; returns that of the old state.
__device__ __forceinline__ float zone_takes(unsigned threshold, float share, bool stays, float& d) {
    if (threshold == 0 && share == 0.0f) return 0.0f;
    const float kept = threshold != 0 ? (stays ? 1.0f : 0.0f) : share, taken = kept * d;
    d *= 1.0f - kept;
    return taken;
}

// How much of the old h and of the old c stays.
__device__ __forceinline__ float kept_of_h(const Options& options, unsigned drawn) {
    return options.zone_h_threshold != 0 ? (drawn & H_STAYS ? 1.0f : 0.0f) : options.zone_h_share;
}

__device__ __forceinline__ float kept_of_c(const Options& options, unsigned drawn) {
    return options.zone_c_threshold != 0 ? (drawn & C_STAYS ? 1.0f : 0.0f) : options.zone_c_share;
}

__device__ __forceinline__ float zoned_h(const Options& options, unsigned drawn, float before, float after) {
    return zoned(options.zone_h_threshold, options.zone_h_share, drawn & H_STAYS, before, after);
}

__device__ __forceinline__ float zoned_c(const Options& options, unsigned drawn, float before, float after) {
    return zoned(options.zone_c_threshold, options.zone_c_share, drawn & C_STAYS, before, after);
}

__device__ __forceinline__ float zone_h_takes(const Options& options, unsigned drawn, float& d) {
    return zone_takes(options.zone_h_threshold, options.zone_h_share, drawn & H_STAYS, d);
}

__device__ __forceinline__ float zone_c_takes(const Options& options, unsigned drawn, float& d) {
    return zone_takes(options.zone_c_threshold, options.zone_c_share, drawn & C_STAYS, d);
}

// The same where a step has no instruction to spare: what stays is a share of the old state, all of it in training, at
// the steps at which the bit is set, in inference all of them. Where it does not stay, the old state is left out.
struct Zones {
    unsigned always;  // bits that are set whatever is drawn
    float h_share, c_share;
    __device__ __forceinline__ explicit Zones(const Options& options)
        : always((options.zone_h_share != 0.0f ? H_STAYS : 0u) | (options.zone_c_share != 0.0f ? C_STAYS : 0u)),
          h_share(options.zone_h_threshold != 0 ? 1.0f : options.zone_h_share),
          c_share(options.zone_c_threshold != 0 ? 1.0f : options.zone_c_share) {}
};

// A peephole's weight as it is computed with; half_precision.cuh has the same of 16 bits.
__device__ __forceinline__ float weight_of(float weight) { return weight; }

// One step back for one hidden unit of one sequence. d_h and d_c, the gradients of h[t] and c[t], become what passes by
// the step and through the cell to h[t-1] and c[t-1]; d_gate receives those of the pre-activations. ``peephole``
// may be null. Returns c*.
template <class Weight>
__device__ __forceinline__ float step_back(
    const Options& options, unsigned drawn, const float (&gates)[4], float c_before, const Weight* peephole, int unit,
    int hidden, float& d_h, float& d_c, float (&d_gate)[4]) {
    const float i = gates[0], f = gates[1], candidate = gates[2], o = gates[3];
    const float mask = candidate_mask(options, drawn), written = candidate * mask;
    const float c_star = f * c_before + i * written, tanh_c = tanhf(c_star);
    const float h_stays = zone_h_takes(options, drawn, d_h), c_stays = zone_c_takes(options, drawn, d_c);
    d_gate[3] = d_h * tanh_c * (o * (1.0f - o));
    d_c += d_h * o * (1.0f - tanh_c * tanh_c);
    if (peephole) d_c += d_gate[3] * weight_of(peephole[2 * hidden + unit]);
    float d_i = d_c * written, d_f = d_c * c_before;
    if (options.coupled) {
        d_i -= d_f;
        d_f = 0.0f;
    }
    d_gate[0] = d_i * (i * (1.0f - i));
    d_gate[1] = d_f * (f * (1.0f - f));
    d_gate[2] = d_c * i * mask * (1.0f - candidate * candidate);
    d_h = h_stays;
    d_c = d_c * f + c_stays;
    if (peephole) d_c += d_gate[0] * weight_of(peephole[unit]) + d_gate[1] * weight_of(peephole[hidden + unit]);
    return c_star;
}
