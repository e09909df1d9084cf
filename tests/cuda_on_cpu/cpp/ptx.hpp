// What the instructions of PTX do, for kernels that NVRTC has compiled to it and ptx_source.py has turned into C++.
//
// Arithmetic is what PTX promises, not more: subnormal numbers are flushed where the instruction says so, a NaN that is
// computed is the one that GPUs compute, and instructions with `.approx` are wrong by as much as PTX allows them to be.
#pragma once
#include "host_cuda.hpp"
#include "ptx_memory.hpp"

namespace ptx {

// ---- Bits ------------------------------------------------------------------------------------------------------------
inline uint32_t as_bits(float x) { return host_cuda::from_bits<uint32_t>(host_cuda::to_bits(x)); }
inline uint64_t as_bits(double x) { return host_cuda::to_bits(x); }
inline float bits_as_f32(uint32_t bits) { return host_cuda::from_bits<float>(bits); }
inline double bits_as_f64(uint64_t bits) { return host_cuda::from_bits<double>(bits); }
static const float unused_f32 = bits_as_f32(0xffc0dddd);
static const double unused_f64 = bits_as_f64(0xfff8dddddddddddd);

inline uint32_t joined(uint16_t low, uint16_t high) { return static_cast<uint32_t>(high) << 16 | low; }
inline uint64_t joined(uint32_t low, uint32_t high) { return static_cast<uint64_t>(high) << 32 | low; }

inline float flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; }
inline double flush(double x) { return x; }  // PTX has no .ftz for double
inline float canonical(float x) { return x == x ? x : bits_as_f32(0x7fffffffu); }
inline double canonical(double x) { return x == x ? x : bits_as_f64(0x7fffffffffffffffull); }

// ---- Floating-point numbers ------------------------------------------------------------------------------------------
template <class T> T add(T a, T b) { return a + b; }
template <class T> T sub(T a, T b) { return a - b; }
template <class T> T mul(T a, T b) { return a * b; }
template <class T> T div(T a, T b) { return a / b; }
template <class T> T neg(T a) { return -a; }
template <class T> T rcp(T a) { return 1 / a; }
inline float abs(float a) { return fabsf(a); }
inline double abs(double a) { return ::fabs(a); }
inline float copysign(float sign, float size) { return copysignf(size, sign); }  // PTX has them the other way round
inline double copysign(double sign, double size) { return ::copysign(size, sign); }
inline float sqrt(float a) { return sqrtf(a); }
inline double sqrt(double a) { return ::sqrt(a); }
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return ::fma(a, b, c); }
float fma_down(float a, float b, float c);  // rounded towards minus infinity
inline float min(float a, float b) { return fminf(a, b); }  // a NaN loses
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return ::fmin(a, b); }
inline double max(double a, double b) { return ::fmax(a, b); }

// Within the error that PTX states, and by a different part of it for each argument (but the same each time).
float rcp_approx(float a);
double rcp_approx(double a);
float rsqrt_approx(float a);
float sqrt_approx(float a);
float ex2_approx(float a);
float lg2_approx(float a);
float div_approx(float a, float b);

inline float nearest_integer(float a) { return nearbyintf(a); }
inline float saturated(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }  // a NaN becomes 0
inline float f32_of_f16(uint16_t bits) { return host_cuda::float_of_f16(bits); }
inline uint16_t f16_of_f32(float x) { return host_cuda::f16_of_float(x); }
inline uint16_t bf16_of_f32(float x) {  // to the nearest, ties to even
    if (x != x) return 0x7fffu;
    const uint32_t word = as_bits(x);
    return static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
}
inline uint32_t tf32_of_f32(float x) {  // to the nearest, ties away from zero
    if (x != x) return 0x7fffffffu;
    const uint32_t word = as_bits(x);
    return (word & 0x7f800000u) == 0x7f800000u ? word : (word + 0x1000u) & ~0x1fffu;
}

// ---- Integers, modulo 2^n --------------------------------------------------------------------------------------------
template <class T> using Unsigned = typename std::make_unsigned<T>::type;
template <class T> T add_integer(T a, T b) { return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b)); }
template <class T> T sub_integer(T a, T b) { return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b)); }
template <class T> T neg_integer(T a) { return sub_integer<T>(0, a); }
template <class T> T abs_integer(T a) { return a < 0 ? neg_integer(a) : a; }
template <class T> T min_integer(T a, T b) { return b < a ? b : a; }
template <class T> T max_integer(T a, T b) { return a < b ? b : a; }
// A division by zero is no error: a compiler may divide before it knows whether anybody wants the quotient.
template <class T> T div_integer(T a, T b) {
    if (b == 0) return static_cast<T>(-1);
    return std::is_signed<T>::value && b == static_cast<T>(-1) ? neg_integer(a) : static_cast<T>(a / b);
}
template <class T> T rem_integer(T a, T b) {
    if (b == 0) return a;
    return std::is_signed<T>::value && b == static_cast<T>(-1) ? 0 : static_cast<T>(a % b);
}

template <class T> T mul_lo(T a, T b) {
    return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <class T> struct Twice;  // the type of twice as many bits
template <> struct Twice<int16_t> { typedef int32_t type; };
template <> struct Twice<uint16_t> { typedef uint32_t type; };
template <> struct Twice<int32_t> { typedef int64_t type; };
template <> struct Twice<uint32_t> { typedef uint64_t type; };
template <> struct Twice<int64_t> { typedef __int128 type; };
template <> struct Twice<uint64_t> { typedef unsigned __int128 type; };
template <class T> typename Twice<T>::type mul_wide(T a, T b) { return static_cast<typename Twice<T>::type>(a) * b; }
template <class T> T mul_hi(T a, T b) { return static_cast<T>(mul_wide(a, b) >> 8 * sizeof(T)); }

// Bits that are shifted further than there are: zero, or the sign.
template <class T> T shl(T value, uint32_t amount) {
    return amount >= 8 * sizeof(T) ? static_cast<T>(0) : static_cast<T>(static_cast<Unsigned<T>>(value) << amount);
}
template <class T> T shr(T value, uint32_t amount) {
    const uint32_t most = 8 * sizeof(T) - 1;
    if (amount > most) return std::is_signed<T>::value ? static_cast<T>(value >> most) : static_cast<T>(0);
    return static_cast<T>(value >> amount);
}

// The lowest `length` bits of `bits`, from `position` on in place of those of `into`.
template <class T> T insert_bits(T bits, T into, uint32_t position, uint32_t length) {
    position &= 255u, length &= 255u;
    const T mask = shl(length >= 8 * sizeof(T) ? static_cast<T>(-1) : static_cast<T>(shl<T>(1, length) - 1), position);
    return static_cast<T>((shl(bits, position) & mask) | (into & ~mask));
}

// Each byte of the result is one of the eight of b and a, as a nibble of `selector` says; its upper bit asks for the sign.
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = joined(a, b);
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t which = selector >> 4 * i & 15u;
        const uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (which & 7u)) & 255u;
        result |= (which & 8u ? (byte & 128u ? 255u : 0u) : byte) << 8 * i;
    }
    return result;
}

// ---- Shuffles: `c` has the last lane of a segment and, eight bits up, the mask of what separates segments ------------
struct Segment {
    uint32_t lane, first, last;
    Segment(uint32_t c, bool up) : lane(host_cuda::lane()) {
        const uint32_t mask = c >> 8 & 31u, clamp = c & 31u;
        first = lane & mask;
        last = first | (clamp & ~mask);
        if (up) first = last;  // for which `c` says where the segment begins
    }
};
inline uint32_t shuffled(uint32_t value, uint32_t source, bool inside, uint32_t mask, int line) {
    const uint32_t from = inside ? source : host_cuda::lane();
    return static_cast<uint32_t>(host_cuda::warp(host_cuda::WarpOp::shuffle, mask, value, from, line).value);
}
inline uint32_t shuffle_bfly(uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool& inside, int line) {
    const Segment segment(c, false);
    const uint32_t source = segment.lane ^ (b & 31u);
    inside = source <= segment.last;
    return shuffled(a, source, inside, mask, line);
}
inline uint32_t shuffle_idx(uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool& inside, int line) {
    const Segment segment(c, false);
    const uint32_t source = segment.first | (b & 31u & ~(c >> 8 & 31u));
    inside = source <= segment.last;
    return shuffled(a, source, inside, mask, line);
}
inline uint32_t shuffle_down(uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool& inside, int line) {
    const Segment segment(c, false);
    const uint32_t source = segment.lane + (b & 31u);
    inside = source <= segment.last;
    return shuffled(a, source, inside, mask, line);
}
inline uint32_t shuffle_up(uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool& inside, int line) {
    const Segment segment(c, true);
    const int32_t source = static_cast<int32_t>(segment.lane) - static_cast<int32_t>(b & 31u);
    inside = source >= static_cast<int32_t>(segment.first);
    return shuffled(a, static_cast<uint32_t>(source), inside, mask, line);
}

}  // namespace ptx
