// All time steps of one LSTM layer in one launch, in float32: a cluster of blocks has W_hh in its registers.
//
//     a = W_ih x + W_hh h[t-1] + b        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
//     c[t] = f * c[t-1] + i * g           h[t] = o * tanh(c[t])
//
// Who owns what: a cluster of CLUSTER blocks owns SEQUENCES sequences, and waits for no other cluster. A block owns
// UNITS hidden units, all four gates of each. Sixteen neighbouring lanes own a unit: each has a sixteenth of the sum
// over h, 4 * QUADS columns of the four gates, with 16 * QUADS weights in registers. Every h that a lane loads takes
// part in four products; with one product for each, loading would take four times as long as multiplying. The lanes
// hand their sums over such that each is left with one gate of one of up to four sequences, and finishes that.
//
// A step: wait until h has come; multiply; finish; send h to all blocks of the cluster. There are two copies of h, used
// in turn, each with an mbarrier that counts what has come. That is enough: who sends into a copy again has received
// all of the step in between, and every warp of this block sends its part of that step only after it has read the copy.
// So a warp that has no unit, and would send nothing, does not take part; nor does a block that has none.
//
// Why plain multiplications: measured on an H200, the tensor cores make a float32 product 1.6 times as fast as these
// (85 against 53 TFLOP/s), but for 8 sequences at a time, so that below 5 sequences in a cluster they are slower. Where
// there are more, their time counts less than that of handing over: 0.31 us for one sequence at hidden 256, and 0.16 us
// of multiplying for each. (benchmarks/results/notes.md)
//
// Bytes per hidden unit and step: reads 4 gates, writes 1 y, with `keep` 4 gates + 1 h + 1 cell too; h crosses to
// CLUSTER blocks through distributed shared memory.
//
// hidden is at most 64 * QUADS. The grid has CLUSTER blocks of THREADS threads for every SEQUENCES sequences.
#include "cluster.cuh"
#include "lane_sums.cuh"
#include "own_gate.cuh"
#include "registers.cuh"

#define LANES 16                                // of a hidden unit
#define WIDTH (4 * LANES * QUADS)               // the largest number of hidden units
#define UNITS (WIDTH / CLUSTER)                 // of a block
#define THREADS (LANES * UNITS)
#define TOGETHER (SEQUENCES < 4 ? SEQUENCES : 4)  // sequences that are multiplied at the same time
#define PASSES (SEQUENCES / TOGETHER)
#define COPIES (LANES / (4 * TOGETHER))         // lanes that have the same gate of the same sequence
#define AHEAD 2  // steps; what h does not take part in is fetched so early. As many as there are copies of h

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1) lstm_cluster_forward(
    float* gates,                     // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const float* __restrict__ weight, // (4*hidden, hidden) W_hh
    const float* __restrict__ bias,   // (4*hidden,) or null
    float* cells,                     // with `keep` (steps + 1, batch, hidden), else (batch, hidden)
    float* hiddens,                   // the same of h
    float* __restrict__ y,            // (steps, batch, y_width) output; this direction's columns start at y_offset
    const int* __restrict__ lengths,  // (batch,) steps that a sequence has, or null
    int steps,
    int batch,
    int hidden,
    int y_width,
    int y_offset,
    int keep,                         // 1: for the backward pass, activated gates and all states are kept
    int reverse,                      // 1: from the last step to the first
    int first_time) {                 // the time of step 0, to compare with lengths
    __shared__ __align__(16) float h_now[AHEAD][SEQUENCES][WIDTH];
    __shared__ __align__(8) unsigned long long arrived[AHEAD];
    const int thread = threadIdx.x, lane = thread % LANES, local = thread / LANES, rank = cluster_rank();
    const int unit = rank * UNITS + local, gate = lane % 4;
    const bool exists = unit < hidden;
    const long long units = (long long)batch * hidden;

    float w[4][QUADS][4];  // column 4 * (LANES * q + lane) + v: neighbouring lanes load neighbouring h's
#pragma unroll
    for (int g = 0; g < 4; ++g) {
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int column = 4 * (LANES * q + lane) + v;
                const bool inside = exists && column < hidden;
                w[g][q][v] = inside ? weight[((long long)g * hidden + unit) * hidden + column] : 0.0f;
            }
        }
    }
    const float b = bias && exists ? bias[gate * hidden + unit] : 0.0f;

    // A lane finishes one sequence in each pass.
    const int first_sequence = blockIdx.x / CLUSTER * SEQUENCES;
    const int first_slot = keep && reverse ? steps : 0;
    float c[PASSES], h[PASSES], activated[PASSES];
    int length[PASSES];
    bool mine[PASSES];  // the last cluster may have fewer sequences
    const int column_of_lane = lane / 4 % TOGETHER, copy = lane / (4 * TOGETHER);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
        const int sequence = first_sequence + pass * TOGETHER + column_of_lane;
        mine[pass] = exists && sequence < batch;
        const long long at = first_slot * units + (long long)sequence * hidden + unit;
        c[pass] = mine[pass] ? cells[at] : 0.0f;
        h[pass] = mine[pass] ? hiddens[at] : 0.0f;
        length[pass] = lengths && mine[pass] ? lengths[sequence] - first_time : steps;
        activated[pass] = 0.0f;
    }
    for (int i = thread; i < AHEAD * SEQUENCES * WIDTH; i += THREADS) {  // what nobody stores later on is 0
        const int column = i % WIDTH, sequence = first_sequence + i / WIDTH;
        const bool begins = i < SEQUENCES * WIDTH && column < hidden && sequence < batch;
        (&h_now[0][0][0])[i] = begins ? hiddens[first_slot * units + (long long)sequence * hidden + column] : 0.0f;
    }
    float next[AHEAD][PASSES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int step = reverse ? steps - 1 - i : i, sequence = first_sequence + pass * TOGETHER + column_of_lane;
            const long long row = (long long)step * batch + sequence;
            next[i][pass] = mine[pass] && i < steps ? gates[row * 4 * hidden + gate * hidden + unit] : 0.0f;
        }
    }
    if (thread < AHEAD) barrier_init(&arrived[thread]);
    cluster_arrive();  // nobody sends to a block that has not begun, or has not set up its memory
    cluster_wait();
    const bool takes_part = rank * UNITS + thread / 32 * (32 / LANES) < hidden;  // a whole warp

    for (int first = 0; first < steps && takes_part; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? steps - 1 - count : count, sends_to = (i + 1) % AHEAD;
            const bool sends = count + 1 < steps;
            if (count > 0) barrier_wait(&arrived[i], (count - 1) / AHEAD & 1);
            if (thread == 0 && sends) {
                const int left = batch - afresh(first_sequence);
                barrier_expect(&arrived[sends_to], 4 * hidden * (left < SEQUENCES ? left : SEQUENCES));
            }
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                float sums[4 * TOGETHER];
#pragma unroll
                for (int j = 0; j < 4 * TOGETHER; ++j) sums[j] = 0.0f;
#pragma unroll
                for (int q = 0; q < QUADS; ++q) {
#pragma unroll
                    for (int s = 0; s < TOGETHER; ++s) {
                        const float* source = &h_now[i][pass * TOGETHER + s][4 * (LANES * q + lane)];
                        const float4 four = *(const float4*)source;
#pragma unroll
                        for (int g = 0; g < 4; ++g) {
                            float& sum = sums[4 * s + g];
                            sum += w[g][q][0] * four.x;
                            sum += w[g][q][1] * four.y;
                            sum += w[g][q][2] * four.z;
                            sum += w[g][q][3] * four.w;
                        }
                    }
                }
                const float a = reduce_scatter<LANES>(sums, lane) + (next[i][pass] + b);
                activated[pass] = activated_gate(gate, a);
                const int first_lane = thread % 32 & ~3;
                const float in = __shfl_sync(0xFFFFFFFFu, activated[pass], first_lane);
                const float forget = __shfl_sync(0xFFFFFFFFu, activated[pass], first_lane + 1);
                const float candidate = __shfl_sync(0xFFFFFFFFu, activated[pass], first_lane + 2);
                const float out = __shfl_sync(0xFFFFFFFFu, activated[pass], first_lane + 3);
                if (step < length[pass]) {
                    c[pass] = fmaf(forget, c[pass], in * candidate);
                    h[pass] = out * tanhf(c[pass]);
                }
                __syncwarp();  // all lanes have read
                if (!(mine[pass] && sends)) continue;
                const int me = afresh(thread), first_target = me % 4 + me % LANES / (4 * TOGETHER) * 4;
                float* place = &h_now[sends_to][pass * TOGETHER + me % LANES / 4 % TOGETHER][rank * UNITS + me / LANES];
#pragma unroll
                for (int target = 0; target < CLUSTER; target += 4 * COPIES) {
                    const int to = first_target + target;  // which gets it if it has units
                    if (to < CLUSTER && to * UNITS < hidden) send(place, &arrived[sends_to], to, h[pass]);
                }
            }
            // What nobody waits for is written, and read, while h is on its way.
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                if (!mine[pass]) continue;
                const int me = afresh(thread), role = me % 4, at = rank * UNITS + me / LANES;
                const int sequence = first_sequence + pass * TOGETHER + me % LANES / 4 % TOGETHER;
                const long long row = (long long)step * batch + sequence;
                const long long after = (row + (1 - reverse) * (long long)batch) * hidden + at;  // its slot
                const bool runs = step < length[pass];
                float* gate_now = gates + row * 4 * hidden + role * hidden + at;
                if (me % LANES < 4 * TOGETHER) {  // the first of the copies; four lanes have the same h and c
                    if (role == 1) y[row * y_width + y_offset + at] = runs ? h[pass] : 0.0f;
                    if (role == 0 && keep) hiddens[after] = h[pass];
                    if (role == 2 && keep) cells[after] = c[pass];
                    if (keep && runs) *gate_now = activated[pass];
                }
                const long long move = (reverse ? -AHEAD : AHEAD) * (long long)batch * 4 * hidden;
                if (count + AHEAD < steps) next[i][pass] = gate_now[move];
            }
        }
    }
    if (keep) return;  // all that was sent here has been waited for
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
        const int sequence = first_sequence + pass * TOGETHER + column_of_lane;
        const long long at = (long long)sequence * hidden + unit;
        if (mine[pass] && copy == 0 && gate == 0) hiddens[at] = h[pass];
        if (mine[pass] && copy == 0 && gate == 2) cells[at] = c[pass];
    }
}
