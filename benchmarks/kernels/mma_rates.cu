// How fast mma.sync and the ordinary multiply-add go from registers alone. A warp owns TILES * COLUMNS accumulators of
// 16 x 8, and multiplies TILES fragments of A with COLUMNS fragments of B in each round. The values are random signs
// and mantissas: zeros would draw less power, and the clock would be higher than in real use.
// result is written so that nothing is left out.

const int TILES = 4;
const int COLUMNS = 2;

struct Sums {
    float d[4];
};

// Any 32 bits that differ between threads and places.
__device__ __forceinline__ unsigned scrambled(unsigned place) {
    unsigned x = (blockIdx.x * blockDim.x + threadIdx.x) * 0x9E3779B1u + place * 0x85EBCA6Bu;
    x ^= x >> 15;
    return x * 0x2C1B3C6Du;
}

// The kept bits are random, the exponent is that of 1: values in [1, 2) with either sign.
__device__ __forceinline__ unsigned tf32_bits(unsigned place) { return (scrambled(place) & 0x807FE000u) | 0x3F800000u; }
__device__ __forceinline__ unsigned fp16_bits(unsigned place) { return (scrambled(place) & 0x83FF83FFu) | 0x3C003C00u; }
__device__ __forceinline__ unsigned bf16_bits(unsigned place) { return (scrambled(place) & 0x807F807Fu) | 0x3F803F80u; }

__device__ __forceinline__ void multiply_tf32(Sums& s, const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(s.d[0]), "+f"(s.d[1]), "+f"(s.d[2]), "+f"(s.d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_fp16(Sums& s, const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(s.d[0]), "+f"(s.d[1]), "+f"(s.d[2]), "+f"(s.d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_bf16(Sums& s, const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(s.d[0]), "+f"(s.d[1]), "+f"(s.d[2]), "+f"(s.d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float total_of(const Sums& s) { return s.d[0] + s.d[1] + s.d[2] + s.d[3]; }

#define RATE_KERNEL(name, bits, multiply)                                                        \
    extern "C" __global__ void __launch_bounds__(512) name(float* result, int rounds) {          \
        unsigned a[TILES][4], b[COLUMNS][2];                                                     \
        Sums sums[TILES][COLUMNS] = {};                                                          \
        _Pragma("unroll") for (int i = 0; i < TILES * 4; ++i) a[i / 4][i % 4] = bits(i);         \
        _Pragma("unroll") for (int i = 0; i < COLUMNS * 2; ++i) b[i / 2][i % 2] = bits(100 + i); \
        for (int round = 0; round < rounds; ++round) {                                           \
            _Pragma("unroll") for (int i = 0; i < TILES * COLUMNS; ++i)                          \
                multiply(sums[i % TILES][i / TILES], a[i % TILES], b[i / TILES]);                \
        }                                                                                        \
        float total = 0;                                                                         \
        _Pragma("unroll") for (int i = 0; i < TILES * COLUMNS; ++i)                              \
            total += total_of(sums[i % TILES][i / TILES]);                                       \
        result[blockIdx.x * blockDim.x + threadIdx.x] = total;                                   \
    }

RATE_KERNEL(mma_tf32, tf32_bits, multiply_tf32)
RATE_KERNEL(mma_fp16, fp16_bits, multiply_fp16)
RATE_KERNEL(mma_bf16, bf16_bits, multiply_bf16)

__device__ __forceinline__ unsigned rounded_to_tf32(float x) {
    unsigned bits;
    asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// float32 from three TF32 products, hi*hi + hi*lo + lo*hi. A (the weights) is split once; B (the hidden state) in every
// round, for TILES tiles: 1 column, 3 * TILES mma in a round.
extern "C" __global__ void __launch_bounds__(512) mma_fp32_by_three_tf32(float* result, int rounds) {
    unsigned a_high[TILES][4], a_low[TILES][4];
    unsigned b[2];
    Sums sums[TILES] = {};
#pragma unroll
    for (int i = 0; i < TILES * 4; ++i) {
        const float value = __uint_as_float((scrambled(i) & 0x807FFFFFu) | 0x3F800000u);
        a_high[i / 4][i % 4] = rounded_to_tf32(value);
        a_low[i / 4][i % 4] = rounded_to_tf32(value - __uint_as_float(a_high[i / 4][i % 4]));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = (scrambled(100 + i) & 0x807FFFFFu) | 0x3F800000u;
    for (int round = 0; round < rounds; ++round) {
        unsigned b_high[2], b_low[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float value = __uint_as_float(b[i] ^ round);  // another one in each round, or it would be split once
            b_high[i] = rounded_to_tf32(value);
            b_low[i] = rounded_to_tf32(value - __uint_as_float(b_high[i]));
        }
#pragma unroll
        for (int i = 0; i < TILES; ++i) multiply_tf32(sums[i], a_high[i], b_low);
#pragma unroll
        for (int i = 0; i < TILES; ++i) multiply_tf32(sums[i], a_low[i], b_high);
#pragma unroll
        for (int i = 0; i < TILES; ++i) multiply_tf32(sums[i], a_high[i], b_high);
    }
    float total = 0;
#pragma unroll
    for (int i = 0; i < TILES; ++i) total += total_of(sums[i]);
    result[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// 32 multiply-adds of each thread in a round, 16 of them independent of each other.
extern "C" __global__ void __launch_bounds__(512) fma_fp32(float* result, int rounds) {
    float sums[16] = {};
    float a[2], b[16];
#pragma unroll
    for (int i = 0; i < 2; ++i) a[i] = __uint_as_float((scrambled(i) & 0x807FFFFFu) | 0x3F800000u);
#pragma unroll
    for (int i = 0; i < 16; ++i) b[i] = __uint_as_float((scrambled(100 + i) & 0x807FFFFFu) | 0x3F800000u);
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i % 16] = fmaf(a[i / 16], b[i % 16], sums[i % 16]);
    }
    float total = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) total += sums[i];
    result[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
