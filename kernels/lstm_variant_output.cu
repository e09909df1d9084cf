// One time step's hidden state behind its projection, forward and backward; what the first step's product reads; and
// the end of backpropagation. lstm_variant_hidden.cuh has the equations. One thread owns one feature of one sequence.
// Gradients that are handed back in time are `real`, and count twice among the bytes where the rest has 16 bits.
//
// REPLAYED  for a captured graph: as in lstm_variant_cell_forward.cu
#include "lstm_variant_hidden.cuh"
#include "storage.cuh"

// h* is m @ weight_hr.T. Bytes per feature, in units of sizeof(store): reads 1 (+ 1 h with zoneout); writes 1 h + 1 y,
// and in training 1 h_in.
extern "C" __global__ void lstm_variant_output_forward(
    const store* h_star,  // (batch, width) hidden state before zoneout
    store* h,            // (batch, width) hidden state, replaced by this step's
    store* y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    store* h_in,         // (steps, batch, width) what each step's product reads, or null: then that is h
    const int* lengths,  // (batch,) steps that a sequence has, or null
    int step,            // index into y
    int time,            // the same step counted from the sequence's beginning, to compare with lengths
    int next_step,       // the step that comes next, or -1
    int batch,
    int width,
    int y_width,
    int y_offset,
#if REPLAYED
    const unsigned int* draw,  // (4,) instead of the four numbers that follow
#else
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int first_time,
#endif
    unsigned int zone_threshold,
    real zone_share,
    unsigned int dropout_threshold,
    real dropout_scale) {
    const long long index = flat_thread_index();
    if (index >= (long long)batch * width) return;
    const int sequence = int(index / width);
    const bool running = lengths == nullptr || time < lengths[sequence];
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    const HiddenForward hidden = {
        h, y, h_in, lengths, step, time, next_step, batch, width, y_width, y_offset,
        draws, {zone_threshold, zone_share}, {dropout_threshold, dropout_scale}};
    hidden.put(sequence, int(index % width), running, real_of(h_star[index]));
}

// A GEMM then makes dm = dh* @ weight_hr. Bytes per feature, in units of sizeof(store): reads 1 dh + 1 product
// (+ 1 dy); writes 1 dh + 1 dh*.
extern "C" __global__ void lstm_variant_output_backward(
    store* dh_star,       // (steps, batch, width) gradient of h*, zero where a sequence is over
    real* dh,             // (batch, width) gradient of h[t], but for product; replaced by what passes by the step
    const real* product,  // (batch, width) the later step's dr @ weight_hh
    const store* dy,      // (steps, batch, dy_width) gradient of the output, or null
    const int* lengths,   // (batch,) steps that a sequence has, or null
    int step,
    int later_step,       // the step that was done before this one, or INT_MAX
    int batch,
    int width,
    int dy_width,
    int dy_offset,
#if REPLAYED
    const unsigned int* draw,  // (4,) instead of the four numbers that follow
#else
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int first_time,
#endif
    unsigned int zone_threshold,
    real zone_share,
    unsigned int dropout_threshold,
    real dropout_scale) {
    const long long index = flat_thread_index();
    const long long features = (long long)batch * width;
    if (index >= features) return;
    const int sequence = int(index / width);
    const bool running = lengths == nullptr || step < lengths[sequence];
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    const HiddenBackward hidden = {
        dh, product, dy, lengths, step, later_step, batch, width, dy_width, dy_offset,
        draws, {zone_threshold, zone_share}, {dropout_threshold, dropout_scale}};
    dh_star[step * features + index] = stored(hidden.take(sequence, int(index % width), running));
}

// What the first step asks of the initial h, added to what passed by it: dh += product * hidden_mask.
// Bytes per feature, in units of sizeof(real): reads 2, writes 1.
extern "C" __global__ void lstm_variant_initial_gradient(
    real* dh,             // (batch, width)
    const real* product,  // (batch, width) the first step's dr @ weight_hh
    const int* lengths,   // (batch,) steps that a sequence has, or null
    int first_step,       // 0, or in reverse the last
    int batch,
    int width,
#if REPLAYED
    const unsigned int* draw,  // (4,) instead of the four numbers that follow
#else
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int first_time,
#endif
    unsigned int dropout_threshold,
    real dropout_scale) {
    const long long index = flat_thread_index();
    if (index >= (long long)batch * width) return;
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    const HiddenBackward hidden = {
        dh, product, nullptr, lengths, 0, first_step, batch, width, 0, 0,
        draws, {0, real(0)}, {dropout_threshold, dropout_scale}};
    dh[index] = hidden.total(int(index / width), int(index % width));
}

// What the product of a stretch's first step reads: h as it is by then, with its mask. Bytes per feature, in units of
// sizeof(real): reads 1, writes 1.
extern "C" __global__ void lstm_variant_first_input(
    const store* h,      // (batch, width)
    store* h_in,         // (steps, batch, width)
    const int* lengths,  // (batch,) steps that a sequence has, or null
    int first_step,      // 0, or in reverse the last
    int batch,
    int width,
#if REPLAYED
    const unsigned int* draw,  // (4,) instead of the four numbers that follow
#else
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream,
    unsigned int first_time,
#endif
    unsigned int dropout_threshold,
    real dropout_scale) {
    const long long index = flat_thread_index();
    if (index >= (long long)batch * width) return;
#if REPLAYED
    const Stream draws = stream_at(draw);
#else
    const Stream draws = {seed_low, seed_high, stream, first_time};
#endif
    // Zero where the step does nothing: 0 * NaN would spoil the weights' gradient.
    const int sequence = int(index / width);
    const Dropout dropout = {dropout_threshold, dropout_scale};
    real state = real_of(h[index]);
    if (lengths != nullptr && first_step >= lengths[sequence]) state = real(0);
    else if (dropout.is_on()) state *= dropout.factor(philox(draws, int(index % width), sequence, WHOLE_SEQUENCE).x0);
    h_in[(long long)first_step * (batch * (long long)width) + index] = stored(state);
}
