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
// MTILES units: of the two, each hands half of its sums to the other one, and finishes the other half. A tile of 16
// rows has the four gates of four units, i and f of a unit in neighbouring rows and its g and o 8 rows below. So a lane
// has i and g, or f and o, of a unit for two sequences; it exchanges those of one sequence with the lane that has the
// other two gates, and both have all four gates of one cell.
//
// A step: wait until h has come; multiply; hand over half of the sums; a barrier of the block; finish; send h of four
// units at once to all blocks of the cluster. There are two copies of h, used in turn, each with an mbarrier that
// counts what has come. That is enough: who sends into a copy again has received all of the step in between, which this
// block sent behind the barrier that its warps reach when they have read the copy. The same holds for the sums that
// warps hand over, of which there is one copy: who writes them again has received what this block's warps sent after
// they had read them. A warp or a block that has no unit takes no part.
//
// Bytes per hidden unit and step: reads 4 gates of 2, writes y of 2, with `keep` 4 gates and h of 2 and c of 4 too; h
// crosses to CLUSTER blocks through distributed shared memory, 2 bytes each.
//
// hidden is at most WIDTH, a multiple of 128 and of 16 * CLUSTER. The grid has CLUSTER blocks for every `share`
// sequences.
#define UNITS (WIDTH / CLUSTER)      // of a block
#define MTILES (UNITS / 16)          // of a warp
#define KTILES (WIDTH / 32)
#define PARTS 2
#include "cluster_product.cuh"
#include "storage.cuh"

#define TILES (MTILES * NTILES)      // sums of two warps, 16 rows x 8 sequences each
#define FINISHED ((TILES + 1) / 2)   // of them by a warp; the second may have one less
#define COPIES 2                     // of h
#define AHEAD COPIES                 // steps; what h does not take part in is fetched so early

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1) lstm_cluster_half_forward(
    store* gates,                      // (steps, batch, 4*hidden) W_ih x; activated in place with `keep`
    const store* __restrict__ weight,  // (4*hidden, hidden) W_hh
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
    extern __shared__ uint4 dynamic[];  // [PARKED] weights, [WARPS / 2][TILES][32] sums, h: see below
    __shared__ __align__(8) unsigned long long arrived[COPIES];
    const int thread = threadIdx.x, lane = thread % 32, rank = cluster_rank();
    const int group = thread / 64, part = thread / 32 % 2;  // two warps are a group, and each is one part of its sums
    uint4* parked = dynamic + thread;
    float4* sums = (float4*)(dynamic + PARKED) + group * TILES * 32 + lane;
    unsigned* h_now = (unsigned*)(dynamic + PARKED + WARPS / 2 * TILES * 32);  // [COPIES][SEQUENCES][ROW]
    const int first_unit = rank * UNITS + group * 4 * MTILES;  // of this warp
    const int first_sequence = blockIdx.x / CLUSTER * share;
    const int here = batch - first_sequence < share ? batch - first_sequence : share;
    const long long units = (long long)batch * hidden;

    unsigned w[MTILES][KEPT][4];
    const int first_word = part * 8 * KTILES + lane % 4 * 4;
    const unsigned zero = (size_t)cells % 4;
    const auto row_of = [=](int row) {  // null for a unit that does not exist
        const int unit = first_unit + row / 16 * 4 + row % 8 / 2, gate = row % 2 + row % 16 / 8 * 2;
        return unit < hidden ? weight + (gate * hidden + unit) * hidden : nullptr;  // 4 * 768^2 at most
    };
    if (hidden % 8 == 0 && (size_t)weight % 16 == 0) {
        hold_weights<4>(w, parked, lane / 4, first_word, zero, [=](int row, int word) {
            const store* source = row_of(row);
            return source && 2 * word < hidden ? *(const uint4*)(source + 2 * word) : make_uint4(0, 0, 0, 0);
        });
    } else {  // a caller's array may begin at an odd number
        hold_weights<2>(w, parked, lane / 4, first_word, zero, [=](int row, int word) {
            const store* source = row_of(row);
            const auto pair = [=](int column) -> unsigned {
                if (!source || column >= hidden) return 0;
                return pair_of(source[column], column + 1 < hidden ? source[column + 1] : store{0});
            };
            return make_uint4(pair(2 * word), pair(2 * word + 2), pair(2 * word + 4), pair(2 * word + 6));
        });
    }

    // A warp's e-th tile is number `part * FINISHED + e` of the group's, of which a lane finishes one cell.
    const auto tile_of = [&](int e) { return made_again(part) * FINISHED + e; };
    const auto tile_exists = [&](int tile) {
        return tile < TILES && first_unit + tile % MTILES * 4 < hidden && tile / MTILES * 8 < here;
    };
    const auto unit_of = [&](int tile) { return first_unit + tile % MTILES * 4 + made_again(lane) / 8; };
    const auto column_of = [&](int tile) {  // its sequence, counted from the first
        const int me = made_again(lane);
        return tile / MTILES * 8 + me % 4 * 2 + me / 4 % 2;
    };
    const int first_slot = keep && reverse ? steps : 0;
    float c[FINISHED];
    store h[FINISHED];
    int length[FINISHED];
    bool mine[FINISHED];
    unsigned bias_if[FINISHED], bias_go[FINISHED];
#pragma unroll
    for (int e = 0; e < FINISHED; ++e) {
        const int tile = tile_of(e), unit = unit_of(tile), sequence = first_sequence + column_of(tile);
        mine[e] = tile < TILES && unit < hidden && column_of(tile) < here;
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
    unsigned next_if[AHEAD][FINISHED], next_go[AHEAD][FINISHED];  // of a step that is still to come
    const auto fetch = [&](int i, int e, int count) {
        next_if[i][e] = next_go[i][e] = 0;
        if (!mine[e] || count >= steps) return;
        const int tile = tile_of(e), step = reverse ? steps - 1 - count : count;
        const long long row = (long long)step * batch + first_sequence + column_of(tile);
        const store* gate = gates + row * 4 * hidden + unit_of(tile);
        next_if[i][e] = pair_of(gate[0], gate[hidden]);
        next_go[i][e] = pair_of(gate[2 * hidden], gate[3 * hidden]);
    };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int e = 0; e < FINISHED; ++e) fetch(i, e, i);
    }
    if (thread < COPIES) barrier_init(&arrived[thread]);
    cluster_arrive();  // nobody sends to a block that has not begun, or has not set up its memory
    cluster_wait();
    if (rank * UNITS >= hidden) return;
    const bool takes_part = first_unit < hidden;  // a whole warp

    for (int first = 0; first < steps; first += COPIES) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int count = first + i;
            if (count >= steps) break;
            const int step = reverse ? steps - 1 - count : count, sends_to = (i + 1) % COPIES;
            const bool sends = count + 1 < steps;
            float4 own[FINISHED];
            if (takes_part) {
                if (count > 0) barrier_wait(&arrived[i], (count - 1) / COPIES & 1);
                if (thread == 0 && sends) barrier_expect(&arrived[sends_to], 8 * ((hidden + 3) / 4) * here);
                float d[NTILES][MTILES][4];
                multiply(d, w, parked, h_now + (i * SEQUENCES + lane / 4) * ROW + first_word);
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile) {
                    const float(&of_tile)[4] = d[tile / MTILES][tile % MTILES];
                    const float4 four = make_float4(of_tile[0], of_tile[1], of_tile[2], of_tile[3]);
                    if (tile / FINISHED == part) own[tile % FINISHED] = four;
                    else sums[tile * 32] = four;
                }
            }
            __syncthreads();
            if (!takes_part) continue;
#pragma unroll
            for (int e = 0; e < FINISHED; ++e) {
                const int tile = tile_of(e);
                if (!tile_exists(tile)) continue;  // of a whole warp
                const float4 other = sums[tile * 32];
                const float low[2] = {own[e].x + other.x, own[e].y + other.y};    // i or f of two sequences
                const float high[2] = {own[e].z + other.z, own[e].w + other.w};  // g or o
                const bool odd = made_again(lane) / 4 % 2;  // has f and o, and finishes the second sequence
                const float got_low = __shfl_xor_sync(0xFFFFFFFFu, odd ? low[0] : low[1], 4);
                const float got_high = __shfl_xor_sync(0xFFFFFFFFu, odd ? high[0] : high[1], 4);
                const unsigned in_if = next_if[i][e], in_go = next_go[i][e];
                const float input_i = real_of(first_of(in_if)) + real_of(first_of(bias_if[e]));
                const float input_f = real_of(second_of(in_if)) + real_of(second_of(bias_if[e]));
                const float input_g = real_of(first_of(in_go)) + real_of(first_of(bias_go[e]));
                const float input_o = real_of(second_of(in_go)) + real_of(second_of(bias_go[e]));
                const float in = sigmoid_of((odd ? got_low : low[0]) + input_i);
                const float forget = sigmoid_of((odd ? low[1] : got_low) + input_f);
                const float candidate = tanhf((odd ? got_high : high[0]) + input_g);
                const float out = sigmoid_of((odd ? high[1] : got_high) + input_o);
                if (mine[e] && step < length[e]) {
                    c[e] = fmaf(forget, c[e], in * candidate);
                    h[e] = stored(out * tanhf(c[e]));
                }
                __syncwarp();  // all lanes have read the sums
                if (sends) {   // four units of a sequence, whose lanes are 8 apart
                    const int me = made_again(lane), of_four = me / 8;
                    const unsigned bits = h[e].bits, neighbour = __shfl_xor_sync(0xFFFFFFFFu, bits, 8);
                    const unsigned pair = of_four % 2 ? neighbour | bits << 16 : bits | neighbour << 16;
                    const unsigned others = __shfl_xor_sync(0xFFFFFFFFu, pair, 16);
                    const int column = column_of(tile), word = (first_unit + tile % MTILES * 4) / 2;
                    unsigned* place = h_now + (sends_to * SEQUENCES + column) * ROW + word;
                    const unsigned first_two = of_four < 2 ? pair : others, last_two = of_four < 2 ? others : pair;
#pragma unroll
                    for (int target = 0; target < CLUSTER; target += 4) {
                        const int to = target + of_four;
                        if (column >= here || to * UNITS >= hidden) continue;  // which gets it if it has units
                        send_words(place, &arrived[sends_to], to, first_two, last_two);
                    }
                }
                // What nobody waits for is written while h is on its way.
                if (!mine[e]) continue;
                const bool runs = step < length[e];
                const int unit = unit_of(tile);
                const long long row = (long long)step * batch + first_sequence + column_of(tile);
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
            for (int e = 0; e < FINISHED; ++e) fetch(i, e, count + AHEAD);
        }
    }
    if (keep) return;  // all that was sent here has been waited for
#pragma unroll
    for (int e = 0; e < FINISHED; ++e) {
        const int tile = tile_of(e);
        const long long at = (long long)(first_sequence + column_of(tile)) * hidden + unit_of(tile);
        if (mine[e]) hiddens[at] = h[e], cells[at] = c[e];
    }
}
