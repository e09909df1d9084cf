// Recurrent weights of which only a part fits on the chip: both wide kernels are made for them.
//
// A block has UNITS hidden units, and as many warps. What it holds of W_hh comes as fragments of four neighbouring
// columns in one row, one float4 for each thread: 4 * QUADS fragments of each thread, number 4 * k + gate for its k-th
// quad of them. KEPT of them stay in registers, PARKED in shared memory, where each thread reads what it wrote itself,
// and all others are read from memory in each pass over the block's sequences, STREAMED * 16 bytes of a thread. They
// are the same bytes each time, and each block's own, so they stay in L2 as far as that has room for all blocks' parts.
// The three kinds take turns, so that loads are on their way while what the chip holds is multiplied.
//
// Which weights come next does not depend on what other blocks hand over: the first DEPTH fragments are asked for
// before that is waited for.
#pragma once

#define WARPS 16
#define THREADS (32 * WARPS)
#define UNITS WARPS                               // hidden units of a block
#define FRAGMENTS (4 * QUADS)                     // of a thread
#define STREAMED (FRAGMENTS - KEPT - PARKED)
#define DEPTH (STREAMED < 4 ? STREAMED : 4)       // streamed fragments on their way: 32 KB of a block
#define SLOTS (DEPTH > 0 ? DEPTH : 1)

// Fragment f is the STREAMED_BEFORE(f)-th that is streamed if it is one, and so on.
#define STREAMED_BEFORE(f) ((f) * STREAMED / FRAGMENTS)
#define HELD_BEFORE(f) ((f) - STREAMED_BEFORE(f))
#define KEPT_BEFORE(f) (HELD_BEFORE(f) * KEPT / (KEPT + PARKED))
#define PARKED_BEFORE(f) (HELD_BEFORE(f) - KEPT_BEFORE(f))
#define IS_STREAMED(f) (STREAMED_BEFORE((f) + 1) > STREAMED_BEFORE(f))
#define IS_KEPT(f) (KEPT_BEFORE((f) + 1) > KEPT_BEFORE(f))
#define NTH_STREAMED(n) ((((n) + 1) * FRAGMENTS + STREAMED - 1) / (STREAMED ? STREAMED : 1) - 1)

// Four weights that nobody writes to. They go past the L1 cache, which they would only sweep out. The compiler must not
// know that they are the same in each step: it would fetch them before the first one, and they would have no place.
__device__ __forceinline__ float4 read_weights(const float* source, bool there) {
    float4 w = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#ifdef __CUDA_ARCH__
    asm volatile("{\n.reg .pred there;\nsetp.ne.s32 there, %5, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
                 : "+f"(w.x), "+f"(w.y), "+f"(w.z), "+f"(w.w)
                 : "l"(source), "r"((int)there));
#else
    if (there) w = make_float4(source[0], source[1], source[2], source[3]);
#endif
    return w;
}

// Where a thread's fragments are.
struct Fragments {
    const float* weight;  // W_hh
    unsigned first;       // place in it of gate 0, quad 0
    unsigned of_gate;     // floats from one gate to the next
    unsigned of_quad;     // and from one quad to the next
    int quads;            // that there are; beyond them all weights are zero

    __device__ __forceinline__ float4 read(int gate, int quad) const {
        return read_weights(weight + (first + gate * of_gate + quad * of_quad), quad < quads);
    }
    // Places that are computed where they are needed: kept from step to step, they would not fit beside the weights.
    __device__ __forceinline__ float4 read_afresh(int f) const { return read(afresh(f % 4), afresh(f / 4)); }
};

struct Weights {
    float4 kept[KEPT];
    float4 ahead[SLOTS];
    float4* parked;  // of this thread, the next one THREADS further on

    // `zero` is one of which the compiler knows nothing. Each fragment's place depends on what was loaded before it: with
    // all of them on their way at once, their addresses would take more registers than there are.
    __device__ __forceinline__ void hold(const Fragments& fragments, float4* shared, unsigned zero) {
        parked = shared + threadIdx.x;
#pragma unroll 1
        for (int f = 0; f < FRAGMENTS; ++f) {
            if (!IS_STREAMED(f) && !IS_KEPT(f)) parked[PARKED_BEFORE(f) * THREADS] = fragments.read(f % 4, f / 4);
        }
        unsigned after = 0;
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
            if (IS_STREAMED(f) || !IS_KEPT(f)) continue;
            float4& w = kept[KEPT_BEFORE(f) % KEPT];
            w = fragments.read(f % 4, f / 4 + after);
            after = __float_as_uint(w.x) & zero;
        }
    }

    // Asks for the first that are streamed.
    __device__ __forceinline__ void ask(const Fragments& fragments) {
#pragma unroll
        for (int n = 0; n < DEPTH; ++n) ahead[n] = fragments.read_afresh(NTH_STREAMED(n));
    }

    // use(k, w): the four gates' fragments of quad k.
    template <class Use>
    __device__ __forceinline__ void for_each_quad(const Fragments& fragments, Use use) {
#pragma unroll
        for (int k = 0; k < QUADS; ++k) {
            float4 w[4];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) {
                const int f = 4 * k + gate, n = STREAMED_BEFORE(f);
                if (IS_STREAMED(f)) {
                    w[gate] = ahead[n % SLOTS];
                    if (n + DEPTH < STREAMED) ahead[n % SLOTS] = fragments.read_afresh(NTH_STREAMED(n + DEPTH));
                } else if (IS_KEPT(f)) {
                    w[gate] = kept[KEPT_BEFORE(f) % KEPT];
                } else {
                    w[gate] = parked[PARKED_BEFORE(f) * THREADS];
                }
            }
            use(k, w);
        }
    }
};
