// Accesses to memory that other threads write at the same time: relaxed atomics, single words, and matrix fragments.
#pragma once

namespace host_cuda {

// Compare and swap on the bits, since the host has no atomic operations on floating-point numbers.
template <class T, class Change>
T atomic_change(T* address, Change change) {
    T before;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    for (;;) {
        T after = change(before);
        if (__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            if (memcmp(&before, &after, sizeof(T))) changed();
            return before;
        }
    }
}

// One access to a word of device memory that other threads may be writing: never torn, and no race.
template <class T>
T load_relaxed(const T* address) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a word is 4 or 8 bytes");
    T value;
    __atomic_load(address, &value, __ATOMIC_RELAXED);
    return value;
}
template <class T>
struct Same {
    typedef T type;  // a type that is not deduced: the address alone says what the value becomes
};
template <class T>
void store_relaxed(T* address, typename Same<T>::type value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a word is 4 or 8 bytes");
    T before;
    __atomic_exchange(address, &value, &before, __ATOMIC_RELAXED);
    if (memcmp(&before, &value, sizeof(T))) changed();
}
// Four words, each of them on its own: a GPU promises no more.
inline void load_relaxed_v4(const unsigned* address, unsigned (&words)[4], int line = __builtin_LINE()) {
    if (reinterpret_cast<uintptr_t>(address) % 16) fail("a load of 16 bytes from no multiple of 16", line);
    for (int i = 0; i < 4; ++i) words[i] = load_relaxed(address + i);
}

// Accesses to the shared memory of block `rank` of the cluster, at the place that `own` is in this block's. Plain ones:
// only a barrier orders them.
template <class T>
void store_cluster(T* own, unsigned rank, typename Same<T>::type value, int line = __builtin_LINE()) {
    *static_cast<T*>(shared_of(own, rank, sizeof(T), line)) = value;
    changed();
}
template <class T>
T load_cluster(const T* own, unsigned rank, int line = __builtin_LINE()) {
    return *static_cast<const T*>(shared_of(own, rank, sizeof(T), line));
}

// An mbarrier: a phase ends when all arrivals and all announced bytes have come. Bytes may come before they are announced.
struct Mbarrier {
    int bytes;                  // announced and not come yet
    unsigned char left, count;  // arrivals that this phase still needs, and that each needs
    unsigned short phase;
};
template <class Change>
void change_mbarrier(unsigned long long* address, Change change) {
    unsigned long long before = __atomic_load_n(address, __ATOMIC_RELAXED), after;
    do {
        Mbarrier state = from_bits<Mbarrier>(before);
        change(state);
        if (state.left == 0 && state.bytes == 0) ++state.phase, state.left = state.count;
        after = to_bits(state);
    } while (!__atomic_compare_exchange_n(address, &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    changed();
}
inline void mbarrier_init(unsigned long long* address, unsigned count) {
    const unsigned char arrivals = static_cast<unsigned char>(count);
    __atomic_store_n(address, to_bits(Mbarrier{0, arrivals, arrivals, 0}), __ATOMIC_RELEASE);
}
inline void mbarrier_arrive_expect(unsigned long long* address, unsigned bytes) {
    change_mbarrier(address, [bytes](Mbarrier& state) { state.bytes += static_cast<int>(bytes), --state.left; });
}
// Whether the phase of this parity has ended, and not the one after it.
inline bool mbarrier_passed(unsigned long long* address, unsigned parity) {
    return (from_bits<Mbarrier>(__atomic_load_n(address, __ATOMIC_ACQUIRE)).phase & 1u) != parity;
}
// st.async: a store into block `rank`, which counts its bytes at that block's mbarrier.
template <class T>
void store_async(T* own, unsigned long long* own_barrier, unsigned rank, typename Same<T>::type value,
                 int line = __builtin_LINE()) {
    store_cluster(own, rank, value, line);
    auto* barrier = static_cast<unsigned long long*>(shared_of(own_barrier, rank, sizeof *own_barrier, line));
    change_mbarrier(barrier, [](Mbarrier& state) { state.bytes -= static_cast<int>(sizeof(T)); });
}

// d += A B on the tensor cores, by all lanes of a warp together. matrix_product.cpp says who has which elements.
#define HOST_CUDA_PRODUCT(NAME, OP)                                                                                  \
    inline void NAME(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) { \
        multiply(WarpOp::OP, d, a, b, line);                                                                        \
    }
HOST_CUDA_PRODUCT(mma_m16n8k8_tf32, product_tf32)
HOST_CUDA_PRODUCT(mma_m16n8k16_f16, product_f16)
HOST_CUDA_PRODUCT(mma_m16n8k16_bf16, product_bf16)
#undef HOST_CUDA_PRODUCT

}  // namespace host_cuda

#define HOST_CUDA_ATOMIC(NAME, T, RESULT) \
    inline T NAME(T* address, T value) {  \
        return host_cuda::atomic_change(address, [value](T old) -> T { return RESULT; }); \
    }
#define HOST_CUDA_ATOMIC_INTEGERS(NAME, RESULT) \
    HOST_CUDA_ATOMIC(NAME, int, RESULT)         \
    HOST_CUDA_ATOMIC(NAME, unsigned, RESULT)    \
    HOST_CUDA_ATOMIC(NAME, unsigned long long, RESULT)
inline int host_cuda_wrapping_add(int a, int b) {  // an atomicAdd wraps round; `a + b` would be undefined
    return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
HOST_CUDA_ATOMIC(atomicAdd, int, host_cuda_wrapping_add(old, value))
HOST_CUDA_ATOMIC(atomicAdd, unsigned, old + value)
HOST_CUDA_ATOMIC(atomicAdd, unsigned long long, old + value)
HOST_CUDA_ATOMIC(atomicAdd, float, old + value)
HOST_CUDA_ATOMIC(atomicAdd, double, old + value)
HOST_CUDA_ATOMIC_INTEGERS(atomicMax, old < value ? value : old)
HOST_CUDA_ATOMIC_INTEGERS(atomicMin, value < old ? value : old)
HOST_CUDA_ATOMIC_INTEGERS(atomicExch, (static_cast<void>(old), value))
HOST_CUDA_ATOMIC_INTEGERS(atomicOr, old | value)
HOST_CUDA_ATOMIC_INTEGERS(atomicAnd, old & value)
HOST_CUDA_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
#undef HOST_CUDA_ATOMIC_INTEGERS
#undef HOST_CUDA_ATOMIC

namespace host_cuda {

// grid_group::sync() as CUDA's header has it: the block meets, its first thread waits for all other blocks' first
// threads, and the block meets again.
inline void grid_barrier(int line) {
    if (!is_cooperative()) fail("grid.sync() in a launch that is not cooperative", line);
    if (barrier(0, line).arrived != blockDim.x * blockDim.y * blockDim.z) {
        fail("grid.sync() after other threads of the block have returned", line);
    }
    if (threadIdx.x + threadIdx.y + threadIdx.z == 0) {
        const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
        fence();
        const unsigned all = (atomicAdd(&grid_arrivals, 1u) / blocks + 1) * blocks;
        while (load_relaxed(&grid_arrivals) < all) yield(line);
        fence();
    }
    barrier(0, line);
}

}  // namespace host_cuda

#define HOST_CUDA_CAS(T)                                                                               \
    inline T atomicCAS(T* address, T expected, T desired) {                                                       \
        const bool same = expected == desired;                                                                    \
        const bool stored =                                                                                       \
            __atomic_compare_exchange(address, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);    \
        if (stored && !same) host_cuda::changed();                                                                \
        return expected;                                                                                          \
    }
HOST_CUDA_CAS(int)
HOST_CUDA_CAS(unsigned)
HOST_CUDA_CAS(unsigned long long)
#undef HOST_CUDA_CAS
