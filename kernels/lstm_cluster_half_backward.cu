// Backpropagation through all time steps of one LSTM layer in one launch, in float16 or bfloat16: the twin of
// lstm_cluster_half_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t]. da is rounded to 16 bits, as it is
// stored; sums, dh and dc are float32.
//
// Who owns what: a cluster of CLUSTER blocks owns `share` sequences, at most 8 * NTILES, and waits for no other
// cluster. A block owns UNITS hidden units, and the rows of W_hh of their four gates. It multiplies these by da of its
// own units, which makes a contribution to every dh, and hands to each block what that one's units get: 4 bytes for
// each of hidden units and each sequence come to every block. da itself, of which each block would need that of all
// units, is twice as much. A warp makes the contributions to 16 * MTILES units, and needs nothing of the other warps.
//
// A step: one thread for each own unit and sequence (several of them for a thread, where there are more) waits for the
// contributions, adds them up in the order of the blocks, and makes da; a barrier of the block; multiply; send the
// contributions, of four sequences at once. There are two copies of da and two places for contributions, used in turn,
// each place with an mbarrier that counts what has come. That is enough: who sends into a place again has received all
// of the step in between, which this block sent after the barrier that everybody reaches when the place has been read.
// A block that has no unit takes no part.
//
// Bytes per hidden unit and step: reads 4 gates of 2, c of 4 and dy of 2, writes 4 gates of 2; CLUSTER contributions of
// 4 cross to the unit's block through distributed shared memory.
//
// hidden is at most WIDTH, a multiple of 128 and of 16 * CLUSTER. The grid has CLUSTER blocks for every `share`
// sequences.
#define UNITS (WIDTH / CLUSTER)   // of a block
#define MTILES (WIDTH / 128)      // of a warp: 16 units each
#define KTILES (UNITS / 4)        // 16 gates each
#define PARTS 1
#include "cell_backward.cuh"
#include "cluster_product.cuh"
#include "registers.cuh"
#include "storage.cuh"

#define PLACES 2                                           // for contributions
#define CELLS ((UNITS * SEQUENCES + THREADS - 1) / THREADS)  // of a thread: an own unit of a sequence each

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1) lstm_cluster_half_backward(
    store* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const store* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse,                       // 1: the forward pass went from the last step to the first
    int share) {                       // sequences of a cluster
    extern __shared__ uint4 dynamic[];  // [PARKED] weights, contributions, da: see below
    __shared__ __align__(8) unsigned long long arrived[PLACES];
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, rank = cluster_rank();
    uint4* parked = dynamic + thread;
    // [PLACES][CLUSTER][SEQUENCES / 4][UNITS][4]: of a unit those of four sequences, of which sequence q is number
    // (q - unit / 8) % 4, so that 32 neighbouring units of one sequence lie in as many banks.
    float* contributions = (float*)(dynamic + PARKED);
    // [PLACES][SEQUENCES][ROW] words; number 4 * u + q of a row is gate q of unit u
    unsigned* da = (unsigned*)(contributions + PLACES * WIDTH * SEQUENCES);
    const int first_unit = rank * UNITS, first_output = warp * 16 * MTILES;
    const int first_sequence = blockIdx.x / CLUSTER * share;
    const int here = batch - first_sequence < share ? batch - first_sequence : share;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KEPT][4];
    hold_weights<2>(w, parked, lane / 4, lane % 4 * 4, unknown_zero(cells), [=](int row, int word) {
        const int to = first_output + row;  // and of two units from here on all four gates
        const auto pair = [=](int from, int gate) -> unsigned {
            if (from >= hidden || to >= hidden) return 0;
            const store* source = weight + ((gate * hidden + from) * hidden + to);  // 4 * 768^2 at most
            return pair_of(source[0], source[hidden * hidden]);
        };
        const int from = first_unit + word / 2;
        return make_uint4(pair(from, 0), pair(from, 2), pair(from + 1, 0), pair(from + 1, 2));
    });

    // A thread's e-th cell is number `thread + e * THREADS` of [SEQUENCES][UNITS].
    const auto unit_of = [&](int e) { return first_unit + (afresh(thread) + e * THREADS) % UNITS; };
    const auto column_of = [&](int e) { return (afresh(thread) + e * THREADS) / UNITS; };
    bool has_cells = false;
    float d_hidden[CELLS], d_cell[CELLS], c_after[CELLS];
    int length[CELLS];
    bool mine[CELLS];
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        const int unit = unit_of(e), sequence = first_sequence + column_of(e);
        mine[e] = unit < hidden && column_of(e) < here;
        has_cells |= mine[e];
        const long long at = (long long)sequence * hidden + unit;
        d_hidden[e] = mine[e] ? dh[at] : 0.0f;
        d_cell[e] = mine[e] ? dc[at] : 0.0f;
        c_after[e] = mine[e] ? cells[(reverse ? 0 : steps) * units + at] : 0.0f;
        length[e] = lengths && mine[e] ? lengths[sequence] : steps;
    }
    for (int i = thread; i < PLACES * SEQUENCES * ROW; i += THREADS) da[i] = 0;  // what nobody stores later on
    unsigned gates_if[CELLS], gates_go[CELLS];  // of the step that is still to come
    float c_before[CELLS], d_output[CELLS];
    const auto fetch = [&](int count) {
#pragma unroll
        for (int e = 0; e < CELLS; ++e) {
            gates_if[e] = gates_go[e] = 0;
            c_before[e] = d_output[e] = 0.0f;
            if (!mine[e] || count >= steps) continue;
            const int step = reverse ? count : steps - 1 - count, unit = unit_of(e);
            const long long row = (long long)step * batch + first_sequence + column_of(e);
            const store* gate = gates + row * 4 * hidden + unit;
            gates_if[e] = pair_of(gate[0], gate[hidden]);
            gates_go[e] = pair_of(gate[2 * hidden], gate[3 * hidden]);
            c_before[e] = cells[(row + reverse * (long long)batch) * hidden + unit];
            if (dy) d_output[e] = real_of(dy[row * dy_width + dy_offset + unit]);
        }
    };
    fetch(0);
    if (thread < PLACES) barrier_init(&arrived[thread]);
    cluster_arrive();  // nobody sends to a block that has not begun, or has not set up its memory
    cluster_wait();
    if (first_unit >= hidden) return;

    // Adds up what has come to place i.
    const auto collect = [&](int i) {
#pragma unroll
        for (int e = 0; e < CELLS; ++e) {
            if (!mine[e]) continue;
            const int unit = unit_of(e) - first_unit, column = column_of(e), at = (column + 4 * UNITS - unit / 8) % 4;
            const float* source = contributions + i * WIDTH * SEQUENCES + (column / 4 * UNITS + unit) * 4 + at;
#pragma unroll
            for (int block = 0; block < CLUSTER; ++block) {
                if (block * UNITS < hidden) d_hidden[e] += source[block * UNITS * SEQUENCES];
            }
        }
    };
    for (int first = 0; first < steps; first += PLACES) {
#pragma unroll 1
        for (int i = 0; i < PLACES; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? count : steps - 1 - count;
            if (has_cells && count > 0) {
                barrier_wait(&arrived[(i + 1) % PLACES], (count - 1) / PLACES & 1);
                collect((i + 1) % PLACES);
            }
#pragma unroll
            for (int e = 0; e < CELLS; ++e) {
                if (!mine[e]) continue;
                unsigned da_if = 0, da_go = 0;
                if (step < length[e]) {
                    const float of_gates[4] = {real_of(first_of(gates_if[e])), real_of(second_of(gates_if[e])),
                                               real_of(first_of(gates_go[e])), real_of(second_of(gates_go[e]))};
                    float d_gate[4];
                    const float d_h = d_hidden[e] + d_output[e];
                    d_cell[e] = cell_back(of_gates, c_before[e], c_after[e], d_h, d_cell[e], d_gate);
                    da_if = pair_of(stored(d_gate[0]), stored(d_gate[1]));
                    da_go = pair_of(stored(d_gate[2]), stored(d_gate[3]));
                    d_hidden[e] = 0.0f;
                }
                c_after[e] = c_before[e];
                unsigned* place = da + (i * SEQUENCES + column_of(e)) * ROW + (unit_of(e) - first_unit) * 2;
                *(uint2*)place = make_uint2(da_if, da_go);
            }
            if (thread == 0) {  // announces the contributions to this block's units from all blocks that have some
                const int left = hidden - afresh(first_unit), own_units = left < UNITS ? left : UNITS;
                barrier_expect(&arrived[i], 16 * ((here + 3) / 4) * own_units * ((hidden + UNITS - 1) / UNITS));
            }
            __syncthreads();
            fetch(count + 1);

            if (first_output < hidden) {  // a whole warp
                float d[NTILES][MTILES][4];
                multiply(d, w, parked, da + (i * SEQUENCES + lane / 4) * ROW + lane % 4 * 4);
#pragma unroll
                for (int m = 0; m < MTILES; ++m) {
                    // A lane has two sequences of two rows, and its neighbour the next two: one takes the first row.
                    const int me = afresh(lane), to = first_output + 16 * m + me / 4 + me % 2 * 8;
                    const int target = (first_output + 16 * m) / UNITS, unit = to - target * UNITS;
                    const int place = (i * CLUSTER + rank) * UNITS * SEQUENCES + (me % 4 / 2 * UNITS + unit) * 4;
#pragma unroll
                    for (int n = 0; n < NTILES; ++n) {
                        const float(&own)[4] = d[n][m];
                        const bool odd = me % 2;
                        const float got_0 = __shfl_xor_sync(0xFFFFFFFFu, odd ? own[0] : own[2], 1);
                        const float got_1 = __shfl_xor_sync(0xFFFFFFFFu, odd ? own[1] : own[3], 1);
                        float4 four = odd ? make_float4(got_0, got_1, own[2], own[3])
                                          : make_float4(own[0], own[1], got_0, got_1);
                        if (unit / 8 % 2) four = make_float4(four.y, four.z, four.w, four.x);
                        if (unit / 16 % 2) four = make_float4(four.z, four.w, four.x, four.y);
                        if (to >= hidden || 8 * n + me % 4 / 2 * 4 >= here) continue;
                        send_four(contributions + place + 8 * n * UNITS, &arrived[i], target, four);
                    }
                }
            }
            // While they are on their way, da is written from where it was put: registers are for the products.
#pragma unroll
            for (int e = 0; e < CELLS; ++e) {
                if (!mine[e]) continue;
                const int unit = unit_of(e);
                const long long row = (long long)step * batch + first_sequence + column_of(e);
                store* gate = gates + row * 4 * hidden + unit;
                const uint2 four = *(const uint2*)(da + (i * SEQUENCES + column_of(e)) * ROW + (unit - first_unit) * 2);
                gate[0] = first_of(four.x), gate[hidden] = second_of(four.x);
                gate[2 * hidden] = first_of(four.y), gate[3 * hidden] = second_of(four.y);
            }
        }
    }
    if (!has_cells) return;
    const int last = (steps - 1) % PLACES;  // when it has come, so has all that was sent here
    barrier_wait(&arrived[last], (steps - 1) / PLACES & 1);
    collect(last);
#pragma unroll
    for (int e = 0; e < CELLS; ++e) {
        const long long at = (long long)(first_sequence + column_of(e)) * hidden + unit_of(e);
        if (mine[e]) dh[at] = d_hidden[e], dc[at] = d_cell[e];
    }
}
