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

// Four weights that nobody writes to, or zeros. They go past the L1 cache, which they would only sweep out. The
// compiler must not know that they are the same in each step: it would fetch them before the first one.
__device__ __forceinline__ float4 read_weights(const float* source, bool there) {
    float4 w = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n"
        ".reg .pred there;\n"
        "setp.ne.s32 there, %5, 0;\n"
        "@there ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];\n"
        "}"
        : "+f"(w.x), "+f"(w.y), "+f"(w.z), "+f"(w.w)
        : "l"(source), "r"((int)there));
#else
    if (there) w = *(const float4*)source;
#endif
    return w;
}

// Where a thread's fragments are.
struct Fragments {
    const float* weight;  // (4*hidden, hidden) W_hh
    int hidden;
    int first;    // place in it of gate 0, quad 0; the other gates' are hidden rows further on
    int of_quad;  // floats from one quad to the next
    int quads;    // that there are; beyond them all weights are zero

    // `nothing` is zero, of which the compiler knows nothing. A fragment that is not wanted is not read.
    __device__ __forceinline__ float4 read(int f, unsigned nothing, bool wanted = true) const {
        const int gate = f % 4 + nothing, quad = f / 4 + nothing;
        return read_weights(weight + (first + gate * hidden * hidden + quad * of_quad), wanted && quad < quads);
    }
};

struct Weights {
    float4 kept[KEPT];
    float4 ahead[SLOTS];  // the next ones that are streamed, on their way
    float4* parked;       // the first of this thread, and the next ones each THREADS further on

    // `zero` is one of which the compiler knows nothing. A few at a time: with all of them on their way at once, they
    // or their addresses would take more registers than there are.
    __device__ __forceinline__ void hold(const Fragments& fragments, float4* shared, unsigned zero) {
        parked = shared + threadIdx.x;
#pragma unroll 1
        for (int first = 0; first < FRAGMENTS; first += 8) {
            float4 w[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) w[i] = fragments.read(first + i, 0, is_parked(first + i));
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (is_parked(first + i)) parked[PARKED_BEFORE(first + i) * THREADS] = w[i];
            }
        }
#pragma unroll
        for (int f = 0; f < FRAGMENTS; ++f) {
            if (IS_STREAMED(f) || !IS_KEPT(f)) continue;
            const int n = KEPT_BEFORE(f);
            const unsigned nothing = n < 4 ? 0u : __float_as_uint(kept[n < 4 ? 0 : n - 4].x) & zero;
            kept[n % KEPT] = fragments.read(f, nothing);
        }
    }
    static __device__ __forceinline__ bool is_parked(int f) {
        return f < FRAGMENTS && !IS_STREAMED(f) && !IS_KEPT(f);
    }

    // Asks for the first that are streamed.
    __device__ __forceinline__ void ask(const Fragments& fragments, unsigned nothing) {
#pragma unroll
        for (int n = 0; n < DEPTH; ++n) ahead[n] = fragments.read(NTH_STREAMED(n), nothing);
    }

    // use(k, nothing, w) multiplies the four gates' fragments of quad k, and gives back the bits of all its sums. What
    // is read next depends on them, in a way that comes to nothing: with the weights and states of many quads on their
    // way at once, there would not be enough registers. The first `bits` are any that change from step to step.
    template <class Use>
    __device__ __forceinline__ void for_each_quad(const Fragments& fragments, unsigned zero, unsigned bits, Use use) {
#pragma unroll
        for (int k = 0; k < QUADS; ++k) {
            const unsigned nothing = bits & zero;
            float4 w[4];
#pragma unroll
            for (int gate = 0; gate < 4; ++gate) {
                const int f = 4 * k + gate, n = STREAMED_BEFORE(f);
                if (IS_STREAMED(f)) {
                    w[gate] = ahead[n % SLOTS];
                    if (n + DEPTH < STREAMED) ahead[n % SLOTS] = fragments.read(NTH_STREAMED(n + DEPTH), nothing);
                } else if (IS_KEPT(f)) {
                    w[gate] = kept[KEPT_BEFORE(f) % KEPT];
                } else {
                    w[gate] = parked[PARKED_BEFORE(f) * THREADS + nothing];
                }
            }
            bits = use(k, nothing, w);
        }
    }
};
