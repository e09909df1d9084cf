// Backpropagation through all time steps of one LSTM layer in one launch: the twin of lstm_cluster_forward.
//
// The formulas are those of lstm_backward_step.cu, and dh[t-1] = W_hh^T da[t].
//
// Who owns what: a cluster of CLUSTER blocks owns SEQUENCES sequences, and waits for no other cluster. A block owns
// UNITS hidden units, and the rows of W_hh of their four gates. It multiplies these by the gradients of its own gates,
// which makes a contribution to every dh, and hands to each block what that one's units get. So CLUSTER * UNITS words
// for each sequence leave a block; handing over the gates' gradients instead would be four times as many.
//
// Sixteen neighbouring lanes make the contributions to one unit of each block: a lane adds up SLICE of the block's
// rows, for CLUSTER units, with 16 * QUADS weights in registers. They hand their sums over such that each is left with
// one block's unit of one sequence, and stores it there.
//
// A step: one thread for each own unit and sequence waits for the contributions, adds them up in the order of the
// blocks, and makes the gradients of the gates; a barrier of the block; multiply; send the contributions. There are two
// places for contributions, used in turn, each with an mbarrier that counts what has come. That is enough: who sends
// into a place again has received all of the step in between, which this block sent after the barrier that everybody
// reaches when the place has been read. A block that has no unit takes no part.
//
// Bytes per hidden unit and step: reads 4 gates + 2 cells (+ 1 dy), writes 4 gates; CLUSTER contributions cross to the
// unit's block through distributed shared memory.
//
// hidden is at most 64 * QUADS. The grid has CLUSTER blocks of THREADS threads for every SEQUENCES sequences.
#include "cell_backward.cuh"
#include "cluster.cuh"
#include "lane_sums.cuh"
#include "registers.cuh"

#define LANES 16                    // that make the contributions to a unit
#define WIDTH (4 * LANES * QUADS)   // the largest number of hidden units
#define UNITS (WIDTH / CLUSTER)     // of a block
#define THREADS (LANES * UNITS)
#define SLICE (4 * UNITS / LANES)   // rows of a lane
#define VECTOR (SLICE % 4 == 0 ? 4 : SLICE % 2 == 0 ? 2 : 1)  // rows that are loaded at once
#define MOST (LANES / CLUSTER < 4 ? LANES / CLUSTER : 4)
#define TOGETHER (SEQUENCES < MOST ? SEQUENCES : MOST)  // sequences that are multiplied at the same time
#define PLACES 2                    // for contributions
#define AHEAD PLACES                // steps; what dh does not take part in is fetched so early
#define IN_FLIGHT 32                // weights that are on their way at the same time, at most

struct __align__(4 * VECTOR) Rows {
    float at[VECTOR];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1) lstm_cluster_backward(
    float* gates,                      // (steps, batch, 4*hidden) activated gates; pre-activation gradients in place
    const float* __restrict__ weight,  // (4*hidden, hidden) W_hh
    const float* __restrict__ cells,   // (steps + 1, batch, hidden)
    const float* __restrict__ dy,      // (steps, batch, dy_width), or null
    float* dh,                         // (batch, hidden) gradient of the final h; becomes the initial one's
    float* dc,                         // (batch, hidden) the same of c
    const int* __restrict__ lengths,   // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int dy_width,
    int dy_offset,
    int reverse) {                     // 1: the forward pass went from the last step to the first
    __shared__ __align__(16) float da[PLACES][SEQUENCES][4 * UNITS];  // row 4 * u + q is gate q of unit u
    __shared__ float contributions[PLACES][CLUSTER][SEQUENCES][UNITS];
    __shared__ __align__(8) unsigned long long arrived[PLACES];
    const int thread = threadIdx.x, lane = thread % LANES, group = thread / LANES, rank = cluster_rank();
    const long long units = (long long)batch * hidden;

    float w[CLUSTER][SLICE];  // of the block's rows and unit `group` of each block
    // Where a weight stands depends on those before it, by a number that is zero, of which the compiler knows nothing:
    // with all of them on their way at once, their addresses would take more registers than there are.
    unsigned before = 0, after = 0;
    const unsigned zero = unknown_zero(cells);
#pragma unroll
    for (int block = 0; block < CLUSTER; ++block) {
#pragma unroll
        for (int k = 0; k < SLICE; ++k) {
            const int row = VECTOR * (LANES * (k / VECTOR) + lane) + k % VECTOR;
            const int from = rank * UNITS + row / 4, to = block * UNITS + group + (int)after;
            const bool inside = from < hidden && to < hidden;
            w[block][k] = inside ? weight[((long long)(row % 4) * hidden + from) * hidden + to] : 0.0f;
            before |= __float_as_uint(w[block][k]);
            if ((block * SLICE + k) % IN_FLIGHT == IN_FLIGHT - 1) after = before & zero;
        }
    }

    const int first_sequence = blockIdx.x / CLUSTER * SEQUENCES;

    // Of which unit and sequence a thread makes the gates' gradients, if of any.
    const int unit = rank * UNITS + thread % UNITS, sequence = first_sequence + thread / UNITS;
    const bool owner = thread < UNITS * SEQUENCES && unit < hidden && sequence < batch;
    float d_hidden = owner ? dh[(long long)sequence * hidden + unit] : 0.0f;
    float d_cell = owner ? dc[(long long)sequence * hidden + unit] : 0.0f;
    const int length = lengths && owner ? lengths[sequence] : steps;
    for (int i = thread; i < PLACES * SEQUENCES * 4 * UNITS; i += THREADS) (&da[0][0][0])[i] = 0.0f;

    float item[AHEAD][7];  // four gates, c before and after, dy
    const auto fetch = [&](float(&now)[7], int count) {
        if (!owner || count >= steps) return;
        const int me = afresh(thread), at = rank * UNITS + me % UNITS;
        const long long row = (long long)(reverse ? count : steps - 1 - count) * batch + first_sequence + me / UNITS;
        const float *gate = gates + row * 4 * hidden + at, *cell = cells + row * hidden + at;
#pragma unroll
        for (int j = 0; j < 4; ++j) now[j] = gate[j * hidden];
        now[4] = cell[reverse * units];
        now[5] = cell[(1 - reverse) * units];
        now[6] = dy ? dy[row * dy_width + dy_offset + at] : 0.0f;
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) fetch(item[i], i);
    if (thread < PLACES) barrier_init(&arrived[thread]);
    cluster_arrive();  // nobody sends to a block that has not begun, or has not set up its memory
    cluster_wait();
    if (rank * UNITS >= hidden) return;

    for (int first = 0; first < steps; first += PLACES) {
#pragma unroll
        for (int i = 0; i < PLACES; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? count : steps - 1 - count;
            float(&now)[7] = item[i];
            if (owner) {
                if (count > 0) {
                    barrier_wait(&arrived[(i + 1) % PLACES], (count - 1) / PLACES & 1);
#pragma unroll
                    for (int block = 0; block < CLUSTER; ++block) {
                        if (block * UNITS < hidden) d_hidden += (&contributions[(i + 1) % PLACES][block][0][0])[thread];
                    }
                }
                float d_gate[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                if (step < length) {
                    const float of_gates[4] = {now[0], now[1], now[2], now[3]};
                    d_cell = cell_back(of_gates, now[4], now[5], d_hidden + now[6], d_cell, d_gate);
                    d_hidden = 0.0f;
                }
                ((float4*)&da[i][0][0])[thread] = make_float4(d_gate[0], d_gate[1], d_gate[2], d_gate[3]);
            }
            if (thread == 0) {  // announces the contributions to this block's units from all blocks that have some
                const int end = afresh(rank) * UNITS + UNITS, own_units = UNITS - (end > hidden ? end - hidden : 0);
                const int left = batch - afresh(first_sequence), here = left < SEQUENCES ? left : SEQUENCES;
                barrier_expect(&arrived[i], 4 * ((hidden + UNITS - 1) / UNITS) * own_units * here);
            }
            __syncthreads();
            fetch(now, count + AHEAD);

#pragma unroll
            for (int s0 = 0; s0 < SEQUENCES; s0 += TOGETHER) {
                float sums[CLUSTER * TOGETHER];
#pragma unroll
                for (int j = 0; j < CLUSTER * TOGETHER; ++j) sums[j] = 0.0f;
#pragma unroll
                for (int k = 0; k < SLICE; k += VECTOR) {
#pragma unroll
                    for (int s = 0; s < TOGETHER; ++s) {
                        const Rows rows = *(const Rows*)&da[i][s0 + s][LANES * k + VECTOR * lane];
#pragma unroll
                        for (int block = 0; block < CLUSTER; ++block) {
#pragma unroll
                            for (int v = 0; v < VECTOR; ++v) sums[CLUSTER * s + block] += w[block][k + v] * rows.at[v];
                        }
                    }
                }
                const float sum = reduce_scatter<LANES>(sums, lane);
                const int me = afresh(thread), target = me % CLUSTER, s = s0 + me % LANES / CLUSTER % TOGETHER;
                const bool exists = target * UNITS + me / LANES < hidden && first_sequence + s < batch;
                if (exists && me % LANES < CLUSTER * TOGETHER) {
                    send(&contributions[i][rank][s][me / LANES], &arrived[i], target, sum);
                }
            }
            if (owner) {  // while they are on their way; from where it was put, to have registers for the products
                const float4 four = ((const float4*)&da[i][0][0])[thread];
                const int me = afresh(thread);
                const long long row = (long long)step * batch + first_sequence + me / UNITS;
                float* gate = gates + row * 4 * hidden + rank * UNITS + me % UNITS;
                gate[0] = four.x, gate[hidden] = four.y, gate[2 * hidden] = four.z, gate[3 * hidden] = four.w;
            }
        }
    }
    if (!owner) return;
    const int last = (steps - 1) % PLACES;  // when it has come, so has all that was sent here
    barrier_wait(&arrived[last], (steps - 1) / PLACES & 1);
    for (int block = 0; block * UNITS < hidden; ++block) d_hidden += (&contributions[last][block][0][0])[thread];
    dh[(long long)sequence * hidden + unit] = d_hidden;
    dc[(long long)sequence * hidden + unit] = d_cell;
}
