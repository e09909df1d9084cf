// The arithmetic that CUDA offers under its own names.
#pragma once

namespace host_cuda {

// What cvt.f32.f16 and cvt.rn.f16.f32 do. A NaN loses its sign, since the first is an addition in machine code.
inline float float_of_f16(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest > 0x7c00u) return from_bits<float>(0x7fffffffu);
    if (rest == 0x7c00u) return from_bits<float>(sign | 0x7f800000u);
    const float scaled = from_bits<float>(rest << 13) * 5.192296858534828e33f;  // 2^112 moves the bias from 15 to 127
    return sign ? -scaled : scaled;
}
inline unsigned short f16_of_float(float x) {
    const unsigned sign = static_cast<unsigned>(to_bits(x)) >> 16 & 0x8000u;
    const float size = fabsf(x);
    unsigned rest;
    if (x != x) return 0x7fffu;
    if (size >= 65520.0f) {  // halfway between the largest number and what would be the next
        rest = 0x7c00u;
    } else if (size < 6.103515625e-5f) {  // below 2^-14, subnormal: a multiple of 2^-24
        rest = static_cast<unsigned>(nearbyintf(size * 16777216.0f));
    } else {
        const unsigned word = static_cast<unsigned>(to_bits(size));
        rest = (word + 0xfffu + (word >> 13 & 1u) - (112u << 23)) >> 13;  // ties go to even
    }
    return static_cast<unsigned short>(sign | rest);
}

}  // namespace host_cuda

template <class A, class B> auto min(A a, B b) -> decltype(a + b) { return b < a ? b : a; }
template <class A, class B> auto max(A a, B b) -> decltype(a + b) { return a < b ? b : a; }

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> void __stcs(T* address, T value) { *address = value; }
template <class T> void __stcg(T* address, T value) { *address = value; }

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline float __int_as_float(int x) { return host_cuda::from_bits<float>(host_cuda::to_bits(x)); }
inline float __uint_as_float(unsigned x) { return host_cuda::from_bits<float>(host_cuda::to_bits(x)); }
inline int __float_as_int(float x) { return host_cuda::from_bits<int>(host_cuda::to_bits(x)); }
inline unsigned __float_as_uint(float x) { return host_cuda::from_bits<unsigned>(host_cuda::to_bits(x)); }
