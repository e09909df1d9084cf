// All time steps of one LSTM layer in one launch, in float16 or bfloat16: a cluster of blocks holds W_hh on its chips.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Stored in 16 bits: gates, weights, bias, h and y, each rounded once to the nearest. In float32: products' sums, what
// a step computes, and the cell state, which stays in a register.
//
// Who owns what: a cluster of CLUSTER blocks owns `share` sequences, at most 8 * NTILES, and waits for no other
// cluster. A block owns UNITS hidden units, all four gates of each. Two warps share out the sum over h for the same 4 *
// MTILES units. A tile of 16 rows of weights has the four gates of four units, two of a unit in rows that one lane has
// the sums of. The sums go through shared memory, and a thread finishes one unit of one sequence, or several: such that
// neighbouring threads have neighbouring units, and what they read and write of global memory lies together.
//
// A step: wait until h has come; multiply; a barrier of the block; add up both warps' sums and finish; send h of eight
// units at once to all blocks of the cluster. There are two copies of h, used in turn, each with an mbarrier that
// counts what has come. That is enough: who sends into a copy again has received all of the step in between, which this
// block sent behind the barrier that its warps reach when they have read the copy. The same holds for the sums, of
// which there is one copy: who writes them again has received what this block sent after it had read them. A warp or a
// block that has no unit takes no part.
//
// Bytes per hidden unit and step: reads 4 gates of 2, writes y of 2, with `keep` 4 gates and h of 2 and c of 4 too; h
// crosses to CLUSTER blocks through distributed shared memory, 2 bytes each.
//
// hidden is at most WIDTH, a multiple of 128 and of 16 * CLUSTER. Weights are read eight at a time, from multiples of
// 16 bytes. The grid has CLUSTER blocks for every `share` sequences.
#define UNITS (WIDTH / CLUSTER)  // of a block
#define MTILES (UNITS / 16)      // of a warp
#define KTILES (WIDTH / 32)
#define PARTS 2
#include "cluster_product.cuh"
#include "registers.cuh"
#include "storage.cuh"

#define SUMS (4 * UNITS + 4)                                 // of one sequence: such that no two lanes share a bank
#define CELLS ((UNITS * SEQUENCES + THREADS - 1) / THREADS)  // of a thread: an own unit of a sequence each
#define COPIES 2                                             // of h
#define AHEAD COPIES  // steps; what h does not take part in is fetched so early

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1) lstm_cluster_half_forward(
    store* gates,                      // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh, and zeros up to a multiple of 8 columns
    const store* __restrict__ bias,    // (4*hidden,) or null
    float* cells,                      // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    store* hiddens,                    // the same of h
    store* __restrict__ y,             // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                          // 1: for the backward pass, activated gates and all states are kept
    int reverse,                       // 1: from the last step to the first
    int first_time,                    // the time of step 0, to compare with lengths
    int share) {                       // sequences of a cluster
    extern __shared__ uint4 dynamic[];  // [PARKED] weights, sums, h: see below
    __shared__ __align__(8) unsigned long long arrived[COPIES];
    const int thread = threadIdx.x, lane = thread % 32, rank = cluster_rank();
    const int group = thread / 64, part = thread / 32 % 2;  // two warps are a group, and each is one part of its sums
    uint4* parked = dynamic + thread;
    float* sums = (float*)(dynamic + PARKED);  // [PARTS][SEQUENCES][SUMS]; number 4 * u + q is gate q of unit u
    unsigned* h_now = (unsigned*)(sums + PARTS * SEQUENCES * SUMS);  // [COPIES][SEQUENCES][ROW]
    const int first_unit = rank * UNITS, warps_first = group * 4 * MTILES;  // of the block; of the warp, within it
    const int first_sequence = blockIdx.x / CLUSTER * share;
    const int here = batch - first_sequence < share ? batch - first_sequence : share;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KEPT][4];
    const int first_word = part * 8 * KTILES + lane % 4 * 4;
    const unsigned zero = unknown_zero(cells);
    const int pitch = (hidden + 7) / 8 * 8;
    hold_weights<4>(w, parked, lane / 4, first_word, zero, [=](int row, int word) {
        const int unit = first_unit + warps_first + row / 16 * 4 + row % 8 / 2, gate = row % 2 * 2 + row % 16 / 8;
        const store* source = weight + ((gate * hidden + unit) * pitch + 2 * word);  // 4 * 768^2 at most
        return unit < hidden && 2 * word < hidden ? *(const uint4*)source : make_uint4(0, 0, 0, 0);
    });

    // A thread's e-th cell is number `thread + e * THREADS` of [SEQUENCES][UNITS].
    const auto unit_of = [&](int e) { return first_unit + (afresh(thread) + e * THREADS) % UNITS; };
    const auto column_of = [&](int e) { return (afresh(thread) + e * THREADS) / UNITS; };
    const int first_slot = keep && reverse ? steps : 0;
    float c[CELLS];
    store h[CELLS];
    int length[CELLS];
    bool mine[CELLS];
    unsigned bias_if[CELLS], bias_go[CELLS];
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        const int unit = unit_of(e), sequence = first_sequence + column_of(e);
        mine[e] = unit < hidden && column_of(e) < here;
        const long long at = first_slot * units + (long long)sequence * hidden + unit;
        c[e] = mine[e] ? cells[at] : 0.0f;
        h[e] = mine[e] ? hiddens[at] : store{0};
        length[e] = lengths && mine[e] ? lengths[sequence] - first_time : steps;
        bias_if[e] = bias_go[e] = 0;
        if (bias && mine[e]) {
            bias_if[e] = pair_of(bias[unit], bias[hidden + unit]);
            bias_go[e] = pair_of(bias[2 * hidden + unit], bias[3 * hidden + unit]);
        }
    }
    for (int i = thread; i < COPIES * SEQUENCES * ROW; i += THREADS) {  // what nobody stores later on is 0
        const int column = i % ROW * 2, sequence = i / ROW;
        unsigned word = 0;
        if (sequence < here && column < hidden) {  // the first copy's
            const long long row = first_slot * (long long)batch + first_sequence + sequence;
            const store* source = hiddens + (row * hidden + column);
            word = pair_of(source[0], column + 1 < hidden ? source[1] : store{0});
        }
        h_now[i] = word;
    }
    unsigned next_if[AHEAD][CELLS], next_go[AHEAD][CELLS];  // of a step that is still to come
    const auto fetch = [&](int i, int e, int count) {
        next_if[i][e] = next_go[i][e] = 0;
        if (!mine[e] || count >= steps) return;
        const long long row = (long long)(reverse ? steps - 1 - count : count) * batch + first_sequence + column_of(e);
        const store* gate = gates + row * 4 * hidden + unit_of(e);
        next_if[i][e] = pair_of(gate[0], gate[hidden]);
        next_go[i][e] = pair_of(gate[2 * hidden], gate[3 * hidden]);
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int e = 0; e < CELLS; ++e) fetch(i, e, i);
    }
    if (thread < COPIES) barrier_init(&arrived[thread]);
    cluster_arrive();  // nobody sends to a block that has not begun, or has not set up its memory
    cluster_wait();
    if (first_unit >= hidden) return;
    const bool multiplies = first_unit + warps_first < hidden;  // a whole warp

    for (int first = 0; first < steps; first += COPIES) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? steps - 1 - count : count, sends_to = (i + 1) % COPIES;
            const bool sends = count + 1 < steps;
            if (multiplies) {
                if (count > 0) barrier_wait(&arrived[i], (count - 1) / COPIES & 1);
                if (thread == 0 && sends) barrier_expect(&arrived[sends_to], 16 * ((hidden + 7) / 8) * here);
                float d[NTILES][MTILES][4];
                multiply(d, w, parked, h_now + (i * SEQUENCES + lane / 4) * ROW + first_word);
                const int me = afresh(lane), column = me % 4 * 2, two = me / 4;  // two gates of a unit
                float2* target = (float2*)(sums + (part * SEQUENCES + column) * SUMS) + 2 * warps_first + two;
#pragma unroll
                for (int n = 0; n < NTILES; ++n) {
#pragma unroll
                    for (int m = 0; m < MTILES; ++m) {
                        target[4 * n * SUMS + 8 * m] = make_float2(d[n][m][0], d[n][m][2]);
                        target[4 * n * SUMS + 8 * m + SUMS / 2] = make_float2(d[n][m][1], d[n][m][3]);
                    }
                }
            }
            __syncthreads();
#pragma unroll
            for (int e = 0; e < CELLS; ++e) {
                float in = 0.0f, forget = 0.0f, candidate = 0.0f, out = 0.0f;
                const bool runs = step < length[e];
                if (mine[e]) {
                    const float* place = sums + column_of(e) * SUMS + 4 * (unit_of(e) - first_unit);
                    const float4 a = *(const float4*)place, b = *(const float4*)(place + SEQUENCES * SUMS);
                    const unsigned in_if = next_if[i][e], in_go = next_go[i][e];
                    const float input_i = real_of(first_of(in_if)) + real_of(first_of(bias_if[e]));
                    const float input_f = real_of(second_of(in_if)) + real_of(second_of(bias_if[e]));
                    const float input_g = real_of(first_of(in_go)) + real_of(first_of(bias_go[e]));
                    const float input_o = real_of(second_of(in_go)) + real_of(second_of(bias_go[e]));
                    in = sigmoid_of(a.x + b.x + input_i), forget = sigmoid_of(a.y + b.y + input_f);
                    candidate = tanhf(a.z + b.z + input_g), out = sigmoid_of(a.w + b.w + input_o);
                    if (runs) {
                        c[e] = fmaf(forget, c[e], in * candidate);
                        h[e] = stored(out * tanhf(c[e]));
                    }
                }
                __syncwarp();  // all lanes have read the sums
                if (sends) {   // eight neighbouring lanes have eight units of a sequence
                    const int me = afresh(lane);
                    const unsigned own = h[e].bits, neighbour = __shfl_xor_sync(0xFFFFFFFFu, own, 1);
                    const unsigned pair = me % 2 ? neighbour | own << 16 : own | neighbour << 16;
                    const unsigned next_pair = __shfl_xor_sync(0xFFFFFFFFu, pair, 2);
                    const bool second = me & 2, last = me & 4;  // of two pairs, and of two fours
                    const unsigned low = second ? next_pair : pair, high = second ? pair : next_pair;
                    const unsigned other_low = __shfl_xor_sync(0xFFFFFFFFu, low, 4);
                    const unsigned other_high = __shfl_xor_sync(0xFFFFFFFFu, high, 4);
                    const uint4 four = last ? make_uint4(other_low, other_high, low, high)
                                            : make_uint4(low, high, other_low, other_high);
                    const int column = column_of(e), unit = unit_of(e) & ~7;
                    unsigned* place = h_now + (sends_to * SEQUENCES + column) * ROW + unit / 2;
#pragma unroll
                    for (int target = 0; target < CLUSTER; target += 8) {
                        const int to = target + me % 8;  // which gets it if it has units
                        if (column >= here || unit >= hidden || to >= CLUSTER || to * UNITS >= hidden) continue;
                        send_words(place, &arrived[sends_to], to, four);
                    }
                }
                // What nobody waits for is written while h is on its way.
                if (!mine[e]) continue;
                const int unit = unit_of(e);
                const long long row = (long long)step * batch + first_sequence + column_of(e);
                y[row * y_width + y_offset + unit] = runs ? h[e] : store{0};
                if (!keep) continue;
                const long long after = (row + (1 - reverse) * (long long)batch) * hidden + unit;  // its slot
                hiddens[after] = h[e];
                cells[after] = c[e];
                if (!runs) continue;
                store* gate = gates + row * 4 * hidden + unit;
                gate[0] = stored(in), gate[hidden] = stored(forget);
                gate[2 * hidden] = stored(candidate), gate[3 * hidden] = stored(out);
            }
#pragma unroll
            for (int e = 0; e < CELLS; ++e) fetch(i, e, count + AHEAD);
        }
    }
    if (keep) return;  // all that was sent here has been waited for
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        const long long at = (long long)(first_sequence + column_of(e)) * hidden + unit_of(e);
        if (mine[e]) hiddens[at] = h[e], cells[at] = c[e];
    }
}
