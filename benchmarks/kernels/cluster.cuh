// Distributed shared memory and its barriers, in PTX: compute capability 9.0 and up.
// Addresses are 32-bit addresses of shared memory; a remote one names the block too.

#pragma once

// About half a second, after which a wait gives up.
const long long MOST_CYCLES = 1000000000ll;

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// The same place in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ unsigned remote_address(unsigned local, unsigned rank) {
    unsigned remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
    return remote;
}

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of all blocks of the cluster. Also orders their accesses to each other's shared memory.
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ unsigned load_shared_relaxed(unsigned local) {
    unsigned value;
    asm volatile("ld.relaxed.cluster.shared::cta.u32 %0, [%1];" : "=r"(value) : "r"(local) : "memory");
    return value;
}

__device__ __forceinline__ void store_remote_relaxed(unsigned remote, unsigned value) {
    asm volatile("st.relaxed.cluster.shared::cluster.u32 [%0], %1;" ::"r"(remote), "r"(value) : "memory");
}

// The store counts its bytes at the receiver's barrier when it has arrived there.
__device__ __forceinline__ void store_async(unsigned remote, unsigned value, unsigned remote_barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(remote),
                 "r"(value), "r"(remote_barrier)
                 : "memory");
}

__device__ __forceinline__ void store_async(unsigned remote, const uint4& v, unsigned remote_barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(remote),
        "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(remote_barrier)
        : "memory");
}

// One arrival ends a phase, once as many bytes as it announced have come. cluster_barrier() after this.
__device__ __forceinline__ void barrier_init(unsigned barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// False if the phase of this parity did not end in time.
__device__ __forceinline__ bool barrier_wait(unsigned barrier, unsigned parity) {
    long long start = 0;  // of the clock, which is read only where the first try came back without success
    for (;;) {
        unsigned done;
        asm volatile(
            "{\n\t.reg .pred p;\n\t"
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
            "selp.u32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
        if (done) return true;
        const long long now = clock64();
        if (start == 0) start = now;
        if (now - start > MOST_CYCLES) return false;
    }
}
