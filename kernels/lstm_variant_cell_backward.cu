// One time step of backpropagation through the LSTM with its options, between its matrix products:
// gpulstm.variants.step_backward, the twin of lstm_variant_cell_forward.
//
//     dn = dm * o * cell'(n)                               zero where the limit held n
//     dc* = (1 - zone) * dc + dn                           or with LAYERNORM: ... + norm_backward(dn * gain_c)
//     da_o = dm * cell(n) * gate'(o)                       dc* += da_o * w_o
//     da_i = dc* * g * mask * gate'(i)                     coupled: (dc* * g * mask - dc* * c[t-1]) * gate'(i)
//     da_f = dc* * c[t-1] * gate'(f)                       coupled: 0
//     da_g = dc* * i * mask * candidate'(g)
//     dc = dc* * f + zone * dc + da_i * w_i + da_f * w_f   handed to the step before
//     dp = norm_backward(da * gain_p)                      dr = norm_backward(da * gain_r)
//
//     norm_backward(d) = 1/std * (d - mean(d) - normal * mean(d * normal))
//
// The gradients of the pre-activations replace the activated gates, and with LAYERNORM dp and dr replace what was
// normalised; a GEMM then makes dr @ weight_hh for the step before. Without a projection dm is dh*, which
// lstm_variant_hidden.cuh gives; with one, a GEMM made it.
//
// Gradients of the peepholes, the gains and the cell's bias are added up over time here, apart for each sequence, and
// over the batch by column_sum: the order is fixed.
//
// Blocks and threads own what they own in the forward kernel. With LAYERNORM a thread owns every blockDim.x-th of the
// 4*hidden columns in the part behind the gates' gradients.
//
// Bytes per hidden unit and step, in units of sizeof(store), of which cells, sums and what is handed back in time count
// twice in 16 bits: reads 4 gates + 2 cells + 1 dc + 1 dh + 1 product (+ 1 dy); writes 4 gates + 1 dc + 1 dh. With
// peepholes 3 + 3 more. With LAYERNORM it also reads 8 + 8 (from cache), writes 8, and adds onto 10 sums: 10 + 10; dn
// and da_o go through memory once more.
//
// LAYERNORM, REPLAYED  as in the forward kernel
#include "activation.cuh"
#include "block_sums.cuh"
#include "lstm_variant_hidden.cuh"
#include "storage.cuh"

extern "C" __global__ void lstm_variant_cell_backward(
    store* gates,                // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    store* normal_input,         // (steps, batch, 4*hidden) with LAYERNORM norm(p); dp in place
    store* normal_recurrent,     // (steps, batch, 4*hidden) with LAYERNORM norm(r); dr in place
    const real* norms,           // (steps, batch, 4) with LAYERNORM 1/std of p and of r, mean and 1/std of c*
    const store* peephole,       // (3*hidden,) w_i, w_f, w_o, or null
    const store* gain_input,     // (4*hidden,), and so is the next; the last two (hidden,). Read with LAYERNORM
    const store* gain_recurrent,
    const store* gain_cell,
    const store* bias_cell,
    const real* cells,           // (steps + 1, batch, hidden) cell states of all times
    const real* c_star,          // (slots, batch, hidden) cell states before zoneout; without LAYERNORM null: made anew
    real* dm,                    // (batch, hidden) with a projection gradient of m; with LAYERNORM room for dn
    real* dc,                    // (batch, hidden) gradient of c[t] from the step after; replaced by c[t-1]'s
    real* d_peephole,            // (batch, 3*hidden) gradients so far, or null
    real* d_norm,                // (batch, 10*hidden) with LAYERNORM of gain_input, gain_recurrent, gain_cell and
                                 // bias_cell
    real* dh,                    // (batch, hidden) without a projection, as in lstm_variant_output_backward; so are:
    const real* product,         // (batch, hidden)
    const store* dy,             // (steps, batch, dy_width)
    const int* lengths,          // (batch,) steps that a sequence has, or null
    int step,
    int later_step,
    int cell_from,               // slot of c[t-1]
    int star_slot,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int is_projected,            // dm is given, and dh, product and dy are not touched
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
    store* gate = gates + row * 4 * hidden;
#if LAYERNORM
    store* p = normal_input + row * 4 * hidden;
    store* r = normal_recurrent + row * 4 * hidden;
#endif
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    const HiddenBackward output = {
        dh, product, dy, lengths, step, later_step, batch, hidden, dy_width, dy_offset,
        draws, {zone_h_threshold, zone_h_share}, {dropout_threshold, dropout_scale}};

    if (lengths != nullptr && step >= lengths[sequence]) {
        for (int column = first; column < 4 * hidden; column += stride) {
            gate[column] = stored(real(0));
#if LAYERNORM
            p[column] = r[column] = stored(real(0));
#endif
        }
        if (!is_projected)
            for (int unit = first; unit < hidden; unit += stride) output.take(sequence, unit, false);
        return;
    }

    const Activation cell_of = {cell_kind, cell_alpha, cell_beta};
    const BoundedSlope gate_slope({gate_kind, gate_alpha, gate_beta}, limit);
    const BoundedSlope candidate_slope({candidate_kind, candidate_alpha, candidate_beta}, limit);
    const Dropout candidate_dropout = {candidate_threshold, candidate_scale};
    const Zoneout zone_c = {zone_c_threshold, zone_c_share};
    const long long own = (long long)sequence * hidden;
    const real* c_before = cells + (long long)cell_from * batch * hidden + own;
    const real* star = c_star == nullptr ? nullptr : c_star + (long long)star_slot * batch * hidden + own;

#if LAYERNORM
    __shared__ real partial[4][MAX_WARPS];
    const real mean_c = norms[4 * row + 2], scale_c = norms[4 * row + 3];
    real* d_gain_cell = d_norm + (long long)sequence * 10 * hidden + 8 * hidden;
    real along_c[2] = {real(0), real(0)};  // sums of dn * gain_c, and of the same times norm(c*)
#endif
    for (int unit = first; unit < hidden; unit += stride) {
#if LAYERNORM
        const real c = star[unit];
        const real normal_c = (c - mean_c) * scale_c;
        const real gain_c = real_of(gain_cell[unit]), n = gain_c * normal_c + real_of(bias_cell[unit]);
#else
        Words words = {0, 0, 0, 0};
        if (candidate_dropout.is_on() || zone_c.threshold != 0) words = step_words(draws, unit, sequence, step);
        const real mask = candidate_dropout.is_on() ? candidate_dropout.factor(words.x2) : real(1);
        const real made = real_of(gate[hidden + unit]) * c_before[unit] +
                          real_of(gate[unit]) * (real_of(gate[2 * hidden + unit]) * mask);
        const real c = star == nullptr ? made : star[unit];
        const real n = c;
#endif
        const real d_m = is_projected ? dm[own + unit] : output.take(sequence, unit, true);
        const real o = real_of(gate[3 * hidden + unit]);
        const real squashed = cell_of(bounded(n, limit));
        real dn = d_m * o * cell_of.slope(squashed);
        if (limit != real(0) && !(fabs(n) < limit)) dn = real(0);
        const real da_o = d_m * squashed * gate_slope(o);
#if LAYERNORM
        along_c[0] += dn * gain_c;
        along_c[1] += dn * gain_c * normal_c;
        d_gain_cell[unit] += dn * normal_c;
        d_gain_cell[hidden + unit] += dn;
        dm[own + unit] = dn;
        gate[3 * hidden + unit] = stored(da_o);
    }
    block_sums(along_c, partial);

    for (int unit = first; unit < hidden; unit += stride) {
        const real c = star[unit];
        const real normal_c = (c - mean_c) * scale_c;
        const real da_o = real_of(gate[3 * hidden + unit]);
        const real through_m = scale_c * (dm[own + unit] * real_of(gain_cell[unit]) - along_c[0] / real(hidden) -
                                          normal_c * along_c[1] / real(hidden));
        Words words = {0, 0, 0, 0};
        if (candidate_dropout.is_on() || zone_c.threshold != 0) words = step_words(draws, unit, sequence, step);
        const real mask = candidate_dropout.is_on() ? candidate_dropout.factor(words.x2) : real(1);
#else
        const real through_m = dn;
#endif
        real d_star = dc[own + unit], d_kept = real(0);
        if (zone_c.is_on()) {
            const real kept = zone_c.kept(words.x1);
            d_kept = kept * d_star;
            d_star = (real(1) - kept) * d_star;
        }
        d_star += through_m;
        if (peephole != nullptr) d_star += da_o * real_of(peephole[2 * hidden + unit]);

        const real i = real_of(gate[unit]);
        const real f = real_of(gate[hidden + unit]);
        const real g = real_of(gate[2 * hidden + unit]);
        const real c_previous = c_before[unit];
        real d_i = d_star * (g * mask), d_f = d_star * c_previous;
        if (coupled) {
            d_i -= d_f;
            d_f = real(0);
        }
        const real da_i = d_i * gate_slope(i);
        const real da_f = d_f * gate_slope(f);
        const real da_g = d_star * i * mask * candidate_slope(g);
        real d_before = d_star * f + d_kept;
        if (peephole != nullptr) {
            d_before += da_i * real_of(peephole[unit]) + da_f * real_of(peephole[hidden + unit]);
            real* d_own = d_peephole + (long long)sequence * 3 * hidden + unit;
            d_own[0] += da_i * c_previous;
            d_own[hidden] += da_f * c_previous;
            d_own[2 * hidden] += da_o * c;
        }
        dc[own + unit] = d_before;
        gate[unit] = stored(da_i);
        gate[hidden + unit] = stored(da_f);
        gate[2 * hidden + unit] = stored(da_g);
        gate[3 * hidden + unit] = stored(da_o);
    }

#if LAYERNORM
    __syncthreads();  // from here on a thread reads gate gradients that others wrote
    real* d_gain_input = d_norm + (long long)sequence * 10 * hidden;
    real* d_gain_recurrent = d_gain_input + 4 * hidden;
    real along[4] = {real(0), real(0), real(0), real(0)};  // as along_c: of p, p, r, r
    for (int column = first; column < 4 * hidden; column += stride) {
        const real da = real_of(gate[column]), n_p = real_of(p[column]), n_r = real_of(r[column]);
        const real d_p = da * real_of(gain_input[column]), d_r = da * real_of(gain_recurrent[column]);
        along[0] += d_p;
        along[1] += d_p * n_p;
        along[2] += d_r;
        along[3] += d_r * n_r;
        d_gain_input[column] += da * n_p;
        d_gain_recurrent[column] += da * n_r;
    }
    block_sums(along, partial);
    const real columns = real(4 * hidden);
    for (int column = first; column < 4 * hidden; column += stride) {
        const real da = real_of(gate[column]), n_p = real_of(p[column]), n_r = real_of(r[column]);
        const real d_p = da * real_of(gain_input[column]), d_r = da * real_of(gain_recurrent[column]);
        p[column] = stored(norms[4 * row] * (d_p - along[0] / columns - n_p * along[1] / columns));
        r[column] = stored(norms[4 * row + 1] * (d_r - along[2] / columns - n_r * along[3] / columns));
    }
#endif
}
