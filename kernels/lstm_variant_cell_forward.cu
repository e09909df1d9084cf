// One time step of the LSTM with its options after its matrix products: gpulstm.variants.step.
//
//     a = W_ih x + W_hh h_in + b             or with LAYERNORM: a = gain_p * norm(p) + gain_r * norm(r) + b
//     a_i += w_i * c[t-1]                    a_f += w_f * c[t-1]                             peepholes
//     i = gate(clamp(a_i))                   f = gate(clamp(a_f)), or 1 - i if coupled
//     g = candidate(clamp(a_g)) * mask       c* = f * c[t-1] + i * g                         candidate dropout
//     a_o += w_o * c*                        o = gate(clamp(a_o))
//     m = o * cell(clamp(n))                 n = c*, or with LAYERNORM: gain_c * norm(c*) + bias_c
//     c[t] = zone * c[t-1] + (1 - zone) * c*                                                 zoneout
//
// Without a projection m is h*, and lstm_variant_hidden.cuh follows; with one, m is written for the product.
//
// A column of blocks owns one sequence; with LAYERNORM it is one block, since the norms are sums over the sequence's
// row. A thread owns every (gridDim.y * blockDim.x)-th hidden unit, all four gates of it. Options that are off cost a
// branch that all threads take alike: a null pointer, a limit or a probability of zero.
//
// Bytes per hidden unit and step, in units of sizeof(store), a cell counting twice in 16 bits: reads 4 parts + 1 cell;
// writes 1 cell + 1 h + 1 y, in training 4 gates + 1 h_in, with zoneout of c 1 c*. With LAYERNORM it
// reads p and r three times (from cache, if a row of 8*hidden fits) and writes both in training; c* is written once and
// read twice. Weights, biases and gains come from cache: up to 4 + 3 + 8 + 2 per unit.
//
// LAYERNORM  the products of x and h come apart, and each is normalised over its 4*hidden, c* over its hidden
// REPLAYED   for a captured graph, whose launches have the same arguments in each replay: where random words come from
//            is read from memory, 16 bytes, which replay_arguments.cu writes before
#include "activation.cuh"
#include "block_sums.cuh"
#include "lstm_variant_hidden.cuh"
#include "storage.cuh"

extern "C" __global__ void lstm_variant_cell_forward(
    store* inputs,               // (steps, batch, 4*hidden) the products of x and h added up; with LAYERNORM x's, p
    store* recurrents,           // (slots, batch, 4*hidden) with LAYERNORM the products of h, r; not read without
    store* gates,                // (steps, batch, 4*hidden) activated in training, else room; may be inputs
    const store* bias,           // (4*hidden,) or null
    const store* peephole,       // (3*hidden,) w_i, w_f, w_o, or null
    const store* gain_input,     // (4*hidden,), and so are the next; the last two (hidden,). Read with LAYERNORM
    const store* gain_recurrent,
    const store* gain_cell,
    const store* bias_cell,
    real* cells,                 // (slots, batch, hidden) cell states; a slot is one time, or all of them
    real* c_star,                // (slots, batch, star_width) cell states before zoneout, or null if nobody reads them
    real* norms,                 // (steps, batch, 4) 1/std of p and of r, mean and 1/std of c*; null in inference
    store* m,                    // (steps, batch, m_width) what is projected, or null
    store* h,                    // (batch, hidden) hidden state, replaced by this step's; not touched where m is given
    store* y,                    // (steps, batch, y_width) output, likewise; these columns start at y_offset
    store* h_in,                 // (steps, batch, hidden) what each step's product reads, likewise; null in inference
    const int* lengths,          // (batch,) steps that a sequence has, or null
    int step,                    // index into inputs, gates, norms, m and y
    int time,                    // the same step counted from the sequence's beginning, to compare with lengths
    int next_step,               // the step that comes next, or -1
    int recurrent_slot,
    int cell_from,               // slot that holds c[t-1]
    int cell_to,                 // slot that receives c[t]; may be the same
    int star_slot,
    int batch,
    int hidden,
    int star_width,              // from one row of c_star to the next
    int m_width,
    int y_width,
    int y_offset,
    int gate_kind,
    int candidate_kind,
    int cell_kind,
    real gate_alpha,
    real gate_beta,
    real candidate_alpha,
    real candidate_beta,
    real cell_alpha,
    real cell_beta,
    real limit,                  // of what goes into an activation, or 0
    int coupled,
    int keep,                    // training: activated gates are written
#if REPLAYED
    const unsigned int* draw,    // (4,) instead of the four numbers that follow
#else
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int first_time,
#endif
    unsigned int candidate_threshold,
    real candidate_scale,
    unsigned int zone_c_threshold,
    real zone_c_share,
    unsigned int zone_h_threshold,
    real zone_h_share,
    unsigned int dropout_threshold,
    real dropout_scale) {
    const int sequence = blockIdx.x;
    const int first = blockIdx.y * blockDim.x + threadIdx.x;
    const int stride = gridDim.y * blockDim.x;
    const long long row = (long long)step * batch + sequence;
    const real* c_before = cells + ((long long)cell_from * batch + sequence) * hidden;
    real* c_after = cells + ((long long)cell_to * batch + sequence) * hidden;
    store* to_project = m == nullptr ? nullptr : m + row * m_width;
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    const HiddenForward output = {
        h, y, h_in, lengths, step, time, next_step, batch, hidden, y_width, y_offset,
        draws, {zone_h_threshold, zone_h_share}, {dropout_threshold, dropout_scale}};

    if (lengths != nullptr && time >= lengths[sequence]) {
        for (int unit = first; unit < hidden; unit += stride) {
            c_after[unit] = c_before[unit];
            if (to_project != nullptr) to_project[unit] = stored(real(0));
            else output.put(sequence, unit, false, real(0));
        }
        return;
    }

    const Activation gate_of = {gate_kind, gate_alpha, gate_beta};
    const Activation candidate_of = {candidate_kind, candidate_alpha, candidate_beta};
    const Activation cell_of = {cell_kind, cell_alpha, cell_beta};
    const Dropout candidate_dropout = {candidate_threshold, candidate_scale};
    const Zoneout zone_c = {zone_c_threshold, zone_c_share};
    store* p = inputs + row * 4 * hidden;
    store* gate = gates + row * 4 * hidden;
    real* star = c_star == nullptr ? nullptr : c_star + ((long long)star_slot * batch + sequence) * star_width;

#if LAYERNORM
    __shared__ real partial[2][MAX_WARPS];
    store* r = recurrents + ((long long)recurrent_slot * batch + sequence) * 4 * hidden;
    real mean[2] = {real(0), real(0)};  // of p and of r
    for (int column = first; column < 4 * hidden; column += stride) {
        mean[0] += real_of(p[column]);
        mean[1] += real_of(r[column]);
    }
    block_sums(mean, partial);
    mean[0] /= real(4 * hidden);
    mean[1] /= real(4 * hidden);
    real scale[2] = {real(0), real(0)};
    for (int column = first; column < 4 * hidden; column += stride) {
        const real centred_p = real_of(p[column]) - mean[0], centred_r = real_of(r[column]) - mean[1];
        scale[0] += centred_p * centred_p;
        scale[1] += centred_r * centred_r;
    }
    block_sums(scale, partial);
    scale[0] = real(1) / sqrt(scale[0] / real(4 * hidden) + NORM_EPSILON);
    scale[1] = real(1) / sqrt(scale[1] / real(4 * hidden) + NORM_EPSILON);
    real mean_c[1] = {real(0)};
#endif

    for (int unit = first; unit < hidden; unit += stride) {
        real a[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int column = k * hidden + unit;
#if LAYERNORM
            const real normal_p = (real_of(p[column]) - mean[0]) * scale[0];
            const real normal_r = (real_of(r[column]) - mean[1]) * scale[1];
            if (keep) {
                p[column] = stored(normal_p);
                r[column] = stored(normal_r);
            }
            a[k] = real_of(gain_input[column]) * normal_p + real_of(gain_recurrent[column]) * normal_r;
#else
            a[k] = real_of(p[column]);
#endif
            if (bias != nullptr) a[k] += real_of(bias[column]);
        }
        const real c_previous = c_before[unit];
        if (peephole != nullptr) {
            a[0] += real_of(peephole[unit]) * c_previous;
            a[1] += real_of(peephole[hidden + unit]) * c_previous;
        }
        const real i = gate_of(bounded(a[0], limit));
        const real f = coupled ? real(1) - i : gate_of(bounded(a[1], limit));
        const real g = candidate_of(bounded(a[2], limit));
        Words words = {0, 0, 0, 0};
        if (candidate_dropout.is_on() || zone_c.threshold != 0) words = step_words(draws, unit, sequence, step);
        const real written = candidate_dropout.is_on() ? g * candidate_dropout.factor(words.x2) : g;
        const real c = f * c_previous + i * written;
        if (peephole != nullptr) a[3] += real_of(peephole[2 * hidden + unit]) * c;
        const real o = gate_of(bounded(a[3], limit));

        if (keep) {
            gate[unit] = stored(i);
            gate[hidden + unit] = stored(f);
            gate[2 * hidden + unit] = stored(g);
        }
        real c_next = c;
        if (zone_c.is_on()) {
            const real kept = zone_c.kept(words.x1);
            c_next = kept * c_previous + (real(1) - kept) * c;
        }
        c_after[unit] = c_next;
        if (star != nullptr) star[unit] = c;
#if LAYERNORM
        gate[3 * hidden + unit] = stored(o);
        mean_c[0] += c;
    }
    block_sums(mean_c, partial);
    mean_c[0] /= real(hidden);
    real scale_c[1] = {real(0)};
    for (int unit = first; unit < hidden; unit += stride) {
        const real centred = star[unit] - mean_c[0];
        scale_c[0] += centred * centred;
    }
    block_sums(scale_c, partial);
    scale_c[0] = real(1) / sqrt(scale_c[0] / real(hidden) + NORM_EPSILON);
    if (norms != nullptr && first == 0) {
        norms[4 * row] = scale[0];
        norms[4 * row + 1] = scale[1];
        norms[4 * row + 2] = mean_c[0];
        norms[4 * row + 3] = scale_c[0];
    }
    for (int unit = first; unit < hidden; unit += stride) {
        const real o = real_of(gate[3 * hidden + unit]);
        const real normal_c = (star[unit] - mean_c[0]) * scale_c[0];
        const real n = real_of(gain_cell[unit]) * normal_c + real_of(bias_cell[unit]);
#else
        if (keep) gate[3 * hidden + unit] = stored(o);
        const real n = c;
#endif
        const real value = o * cell_of(bounded(n, limit));
        if (to_project != nullptr) to_project[unit] = stored(value);
        else output.put(sequence, unit, true, value);
    }
}
