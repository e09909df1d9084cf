// All time steps of one small LSTM layer in one launch: a block has the whole of W_hh in its registers.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: a block owns one sequence, and waits for no other block. Four neighbouring lanes own a hidden unit.
// Each has a quarter of the sums over h, those of all four gates, so that what it reads of h serves four times; then
// each is left with one gate (quarter_products.cuh), and all of them have c and h. The hidden states are in shared
// memory, twice, so that one barrier per step is enough; a thread's 16 * QUADS weights are in registers.
//
// As many blocks share a multiprocessor as its registers hold: while one waits for its barrier, its shuffles or its
// shared memory, another one multiplies.
//
// What a step reads from memory is one number per lane, does not depend on h, and is fetched AHEAD steps before it is
// used.
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 h + 1 y, in training 4 gates + 1 cell too.
//
// hidden is at most 16 * QUADS; a block has 32 threads for every 8 hidden units.
//
// OPTIONS  recurrent dropout and zoneout, by the equations of persistent_options.cuh, so written that a step's chain of
//          dependent instructions is as long as without them: what masks h is in the weights that read it, and what
//          stays of c and h is known before the gates are. The unit's four lanes draw for four steps at once, one
//          step each, four steps before, while the products' sums come together. Only the steps that a sequence has
//          are run. With `keep` `hiddens` receives what the products read, h with its mask and zero where a step does
//          nothing; h itself is in `state`.
//
// PEEPHOLES  beside OPTIONS: peepholes and coupled gates too. The output gate's peephole makes the chain longer.
//
// BIDIRECTIONAL  the second half of the blocks run the second direction of the layer, which goes through time the other
//          way; nobody waits for a block of the other direction.
//
// FLOAT16, BFLOAT16  (storage.cuh) gates, weights, bias, h and y have 16 bits, each rounded once to the nearest; with
//          OPTIONS what `hiddens` receives is rounded again where its mask is on it. Sums and the cell state are
//          float32, and weights are in registers as float32: two of them in one would take an instruction more for
//          each product.
#include "own_gate.cuh"
#include "persistent_options.cuh"
#include "quarter_products.cuh"
#include "registers.cuh"
#include "storage.cuh"

#define AHEAD 4  // even, since two buffers take turns, and as many steps as lanes draw for

// As it is once it has been stored: the products read what y has.
__device__ __forceinline__ float rounded(float h) { return real_of(stored(h)); }

#if OPTIONS
#if PEEPHOLES
__device__ __forceinline__ float coupled_or(const Options& options, float in, float forget) {
    return options.coupled ? 1.0f - in : forget;
}
#else
__device__ __forceinline__ float coupled_or(const Options&, float, float forget) { return forget; }
#endif
#endif

// A cell state, which is float32, or something else, if this lane writes at all.
__device__ __forceinline__ void write_real(char* place, float value, bool writes, bool is_cell) {
    if (writes && (is_cell || sizeof(store) == sizeof(float))) *(float*)place = value;
    if (writes && !is_cell && sizeof(store) != sizeof(float)) *(store*)place = stored(value);
}

extern "C" __global__ void __launch_bounds__(64 * QUADS, BLOCKS_TOGETHER) lstm_resident_forward(
    store* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight, // (4*hidden, hidden) W_hh
    const store* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* hiddens,                   // the same of h
    store* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
#if BIDIRECTIONAL  // the same of the second direction, which writes the columns of y behind those of the first
    store* gates_2,
    const store* weight_2,
    const store* bias_2,
    float* cells_2,
    store* hiddens_2,
#endif
#if OPTIONS
    store* state,                     // (batch, hidden) the initial h; becomes the final one
#if PEEPHOLES
    const store* __restrict__ peephole,  // (3*hidden,) w_i, w_f, w_o, or null
#endif
    Options options,
#if BIDIRECTIONAL
    store* state_2,
#if PEEPHOLES
    const store* peephole_2,
#endif
    unsigned stream_2,
#endif
#endif
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time) {                 // the time of step 0, to compare with lengths
#if BIDIRECTIONAL
    const bool second = blockIdx.x >= batch;
    const int sequence = second ? blockIdx.x - batch : blockIdx.x;
    if (second) {
#if OPTIONS
        state = state_2, options.stream = stream_2;
#endif
#if PEEPHOLES
        peephole = peephole_2;
#endif
        gates = gates_2, weight = weight_2, bias = bias_2, cells = cells_2, hiddens = hiddens_2;
        y_offset += hidden, reverse = !reverse;
    }
#else
    const int sequence = blockIdx.x;
#endif
    __shared__ __align__(16) float h_now[2][4 * PITCH];
    const int thread = threadIdx.x, unit = thread / 4, part = thread % 4, gate = part;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden, own = (long long)sequence * hidden + unit;

    float w[4][PART];
    quarters_of_rows(w, weight, unit, part, hidden);
    const float b = bias && exists ? real_of(bias[(gate ^ 2) * hidden + unit]) : 0.0f;  // of the gate of sum 2
#if PEEPHOLES
    const bool peeps = peephole && exists && gate != 2;
    const float peep = peeps ? real_of(peephole[(gate < 2 ? gate : 2) * hidden + unit]) : 0.0f;
#endif

    const long long first_slot = keep && reverse ? steps * units : 0;
    float c = exists ? cells[first_slot + own] : 0.0f;
#if OPTIONS
    float h = exists ? real_of(state[own]) : 0.0f;
#else
    float h = exists ? real_of(hiddens[first_slot + own]) : 0.0f;
#endif
    for (int i = thread; i < 2 * 4 * PITCH; i += blockDim.x) (&h_now[0][0])[i] = 0.0f;
    __syncthreads();
    float* const handed = &h_now[0][place_of(unit)];
    const float* const quarter = &h_now[0][part * PITCH];
#if OPTIONS
    const float mask = hidden_mask(options, draw_for_sequence(options, unit, sequence));
    if (part == 0 && exists) *handed = mask;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < PART; ++k) {
        const float of_column = quarter[k];
#pragma unroll
        for (int j = 0; j < 4; ++j) w[j][k] *= of_column;
    }
    __syncthreads();
#endif
    if (part == 0 && exists) *handed = h;

    // What a lane reads and writes of a step is this many bytes times the step behind where that of step 0 is. Lanes
    // without a unit read what the last unit reads, and write nothing.
    const unsigned gate_bytes = 4u * batch * hidden * sizeof(store);
    store* const gate_of_0 =
        made_once(gates + (long long)sequence * 4 * hidden + gate * hidden + (exists ? unit : hidden - 1));

    // Four lanes have the same h and c: each writes it somewhere else, if anywhere.
    const bool to_y = part == 1, to_cells = part == 3;
    const bool hands = exists && part == 0, writes = exists && (to_y || (part > 1 && keep)), keeps = exists && keep;
    const unsigned out_size = to_cells ? sizeof(float) : sizeof(store);
    const unsigned out_bytes = made_once((unsigned)batch * (to_y ? y_width : hidden) * out_size);
    const long long slot_of_0 = own + (1 - reverse) * units;  // of what follows step 0
    char* const of_0 = to_cells ? (char*)(cells + slot_of_0) : (char*)(hiddens + slot_of_0);
    char* const out_of_0 = made_once(to_y ? (char*)(y + (long long)sequence * y_width + y_offset + unit) : of_0);

    const int direction = made_once(reverse ? -1 : 1), ahead = made_once(AHEAD * direction);
#if OPTIONS
    const int running = lengths ? min(max(lengths[sequence] - first_time, 0), steps) : steps;
    int step = reverse ? running - 1 : 0;
#else
    const int running = steps;
    int step = reverse ? steps - 1 : 0;
    const int length = lengths ? lengths[sequence] - first_time : steps;
#endif
    store next[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        next[i] = i < running ? *at_step(gate_of_0, step + direction * i, gate_bytes) : stored(0.0f);
    }
    __syncthreads();

#if OPTIONS
    const Zones zones(options);
    const float own_mask = part == 2 ? mask : 1.0f;  // of what this lane writes of h
    const auto draw = [&](int first) {
        return zones.always | bits_of_step(options, words_at(options, unit, sequence, options.first_draw + first));
    };
    unsigned drawn, drawn_next = draw(step + direction * part);  // for one of four steps, each lane its own
    // What the steps are left with that the sequence does not have.
    const auto rest = [&]() {
#pragma unroll 1
        for (int missing = running; missing < steps; ++missing) {
            // In reverse the last one of them hands the initial h to the first step that there is.
            const float of_h = part == 2 && reverse && missing == running && running > 0 ? h * mask : 0.0f;
            write_real(at_step(out_of_0, missing, out_bytes), to_cells ? c : of_h, writes, to_cells);
        }
    };
    if (reverse) rest();
#endif
    for (int left = running; left > 0; left -= AHEAD) {
#if OPTIONS
        drawn = drawn_next;
#endif
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (left <= i) break;
#if !OPTIONS
            const bool runs = step < length;
#endif
            float a = own_sum(real_of(next[i]), b, w, quarter + i % 2 * 4 * PITCH);
            if (left > i + AHEAD) next[i] = *at_step(gate_of_0, step + ahead, gate_bytes);
#if OPTIONS
            const unsigned now = __shfl_sync(0xFFFFFFFFu, drawn, i, 4);
            if (i == 1) drawn_next = draw(step + direction * (AHEAD - i + part));
            const float c_kept = zones.c_share * c, h_kept = zones.h_share * h;
#endif
#if PEEPHOLES
            if (peephole && gate < 2) a += peep * c;
#endif
            float activated = activated_gate(gate, a);
            const float in = __shfl_sync(0xFFFFFFFFu, activated, 0, 4);
            const float forget = __shfl_sync(0xFFFFFFFFu, activated, 1, 4);
            const float candidate = __shfl_sync(0xFFFFFFFFu, activated, 2, 4);
#if OPTIONS
            const float kept = coupled_or(options, in, forget);
            const float c_star = fmaf(kept, c, in * candidate_mask(options, now) * candidate);
#endif
#if PEEPHOLES
            if (gate == 1) activated = kept;
            if (peephole && gate == 3) activated = sigmoid_of(a + peep * c_star);
#endif
            const float out = __shfl_sync(0xFFFFFFFFu, activated, 3, 4);
            float shown;
#if OPTIONS
            const float h_star = out * tanhf(c_star);
            const float c_mixed = fmaf(1.0f - zones.c_share, c_star, c_kept);
            const float h_mixed = fmaf(1.0f - zones.h_share, h_star, h_kept);
            c = now & C_STAYS ? c_mixed : c_star;
            h = rounded(now & H_STAYS ? h_mixed : h_star);
            shown = to_cells ? c : h * own_mask;
            if (keeps) *at_step(gate_of_0, step, gate_bytes) = stored(activated);
#else
            if (runs) {
                c = fmaf(forget, c, in * candidate);
                h = rounded(out * tanhf(c));
                shown = to_cells ? c : h;
                if (keeps) *at_step(gate_of_0, step, gate_bytes) = stored(activated);
            } else {
                shown = to_cells ? c : to_y ? 0.0f : h;
            }
#endif
            if (hands) handed[(i + 1) % 2 * 4 * PITCH] = h;
            char* const out_at = at_step(out_of_0, step, out_bytes);
            write_real(out_at, shown, writes, to_cells);
            step += direction;
            __syncthreads();
        }
    }
#if OPTIONS
    if (!reverse) rest();
    if (!reverse && part == 2 && running > 0) {  // no product reads the h of the last step that there is
        write_real(at_step(out_of_0, running - 1, out_bytes), 0.0f, writes, false);
    }
#endif
    if (!exists) return;
#if OPTIONS
    if (part == 0) state[own] = stored(h);
#endif
    if (keep) return;
#if !OPTIONS
    if (part == 0) hiddens[own] = stored(h);
#endif
    if (part == 1) cells[own] = c;
}
