// The part of CUDA C++ that the kernels use, for a host compiler. Included before the kernel source.
//
// Only declarations that kernels need stand here, so that a kernel compiles in a fraction of a second; who runs
// the threads is in fibers.cpp (one OS thread, deterministic) or threads.cpp (one OS thread each, for TSan).
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>

#include "host_cuda_types.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))

enum { warpSize = 32 };

struct Float16;  // arrays of 16 bits, if the source has them: structs of these names
struct BFloat16;

namespace host_cuda {

struct BarrierResult {
    unsigned nonzero;  // threads that arrived with a predicate other than 0
    unsigned arrived;
};
struct WarpResult {
    uint64_t value;   // of the source lane; all bits set where that lane takes no part (undefined in CUDA)
    unsigned ballot;  // lanes that came with a value other than 0
    unsigned lanes;   // lanes that took part
};
enum class WarpOp { sync, shuffle, vote, product_tf32, product_f16, product_bf16 };
inline bool is_product(WarpOp op) { return op >= WarpOp::product_tf32; }

BarrierResult barrier(int predicate, int line);
WarpResult warp(WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line);
void multiply(WarpOp op, float* d, const unsigned* a, const unsigned* b, int line);  // with the other 31 lanes
void fence();
void yield(int line = __builtin_LINE());  // lets other threads go on; what a loop that waits for memory must do
void changed();                           // memory that somebody may be waiting for has another value now
[[noreturn]] void fail(const char* what, int line);
long long tick();
int register_shared(size_t bytes, size_t alignment);
size_t registered_bytes();
void* static_shared(int slot);
void* dynamic_shared();
unsigned lane();
void cluster_arrive(int line = __builtin_LINE());  // barrier.cluster, in its two halves
void cluster_wait(int line = __builtin_LINE());
unsigned cluster_rank(int line = __builtin_LINE());
void* shared_of(const void* address, unsigned rank, size_t bytes, int line);  // the same place in another block
bool is_cooperative();           // whether all blocks of this launch are alive together
extern unsigned grid_arrivals;  // of blocks at the barriers of this launch's grid, so far

// One slot per __shared__ variable (NUMBER counts them in the source), registered while the library is loaded,
// so that a block can allocate all of them before its threads start: no lock, hence no order, between threads.
template <class T, int NUMBER>
struct Shared {
    static const int slot;
    static T& get() { return *static_cast<T*>(static_shared(slot)); }
};
template <class T, int NUMBER>
const int Shared<T, NUMBER>::slot = register_shared(sizeof(T), alignof(T));

template <class T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}
template <class T>
T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// `source` as CUDA computes it inside a segment of `width` lanes; a source outside the segment is the lane itself.
template <class T>
T shuffle(unsigned mask, T value, int source, int width, int line) {
    const int here = static_cast<int>(lane());
    const int segment = here & ~(width - 1);
    const bool inside = source >= segment && source < segment + width;
    return from_bits<T>(warp(WarpOp::shuffle, mask, to_bits(value), inside ? source : here, line).value);
}

// What Python asks for each parameter: the kind of the type, as the compiler sees it.
template <class T> struct Kind;
#define HOST_CUDA_KIND(T, TEXT) \
    template <> struct Kind<T> { static const char* text() { return TEXT; } };
HOST_CUDA_KIND(bool, "b1")
HOST_CUDA_KIND(signed char, "i1")
HOST_CUDA_KIND(unsigned char, "u1")
HOST_CUDA_KIND(short, "i2")
HOST_CUDA_KIND(unsigned short, "u2")
HOST_CUDA_KIND(int, "i4")
HOST_CUDA_KIND(unsigned int, "u4")
HOST_CUDA_KIND(long, "i8")
HOST_CUDA_KIND(unsigned long, "u8")
HOST_CUDA_KIND(long long, "i8")
HOST_CUDA_KIND(unsigned long long, "u8")
HOST_CUDA_KIND(float, "f4")
HOST_CUDA_KIND(double, "f8")
HOST_CUDA_KIND(Float16, "f2")
HOST_CUDA_KIND(BFloat16, "V2")
#undef HOST_CUDA_KIND
template <class T> struct Kind<const T> : Kind<T> {};
template <class T> struct Kind<T*> {
    static const char* text() {
        static const char name[] = {'*', Kind<T>::text()[0], Kind<T>::text()[1], 0};
        return name;
    }
};

}  // namespace host_cuda

inline void __syncthreads(int line = __builtin_LINE()) { host_cuda::barrier(0, line); }
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return static_cast<int>(host_cuda::barrier(predicate, line).nonzero);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return host_cuda::barrier(predicate, line).nonzero != 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    const host_cuda::BarrierResult result = host_cuda::barrier(predicate, line);
    return result.nonzero == result.arrived;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    host_cuda::warp(host_cuda::WarpOp::sync, mask, 0, host_cuda::lane(), line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, int line = __builtin_LINE()) {
    const int segment = static_cast<int>(host_cuda::lane()) & ~(width - 1);
    return host_cuda::shuffle(mask, value, segment + (source & (width - 1)), width, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
    return host_cuda::shuffle(mask, value, static_cast<int>(host_cuda::lane() - delta), width, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
    return host_cuda::shuffle(mask, value, static_cast<int>(host_cuda::lane() + delta), width, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize, int line = __builtin_LINE()) {
    return host_cuda::shuffle(mask, value, static_cast<int>(host_cuda::lane()) ^ lane_mask, width, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return host_cuda::warp(host_cuda::WarpOp::vote, mask, predicate != 0, host_cuda::lane(), line).ballot;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    const host_cuda::WarpResult result =
        host_cuda::warp(host_cuda::WarpOp::vote, mask, predicate != 0, host_cuda::lane(), line);
    return result.ballot == result.lanes;
}
inline unsigned __activemask() = delete;  // has no meaning without lockstep

inline void __threadfence() { host_cuda::fence(); }
inline void __threadfence_block() { host_cuda::fence(); }
inline void __threadfence_system() { host_cuda::fence(); }

inline void __nanosleep(unsigned, int line = __builtin_LINE()) { host_cuda::yield(line); }
[[noreturn]] inline void __trap(int line = __builtin_LINE()) { host_cuda::fail("__trap()", line); }
inline long long clock64() { return host_cuda::tick(); }  // counts its calls: time does not exist here

#include "host_cuda_math.hpp"
#include "host_cuda_memory.hpp"
