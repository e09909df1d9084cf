// Blocks of a cluster: their barrier, and numbers that one stores into another's shared memory. Compute capability 9.0
// and up.
//
// What the PTX documents promise, and what these kernels build on:
// - All blocks of a cluster run at the same time, so none of them is ever waited for in vain.
// - barrier.cluster.wait waits for all threads of the cluster that have not returned to arrive. It orders what was
//   written before, so it makes sure that the others have begun and set up their memory.
// - st.async stores a number and then counts its bytes at an mbarrier of the same block. Who has waited for the phase
//   of that mbarrier, with acquire, reads all numbers that were counted in it.
// - Another block's shared memory exists until that block returns: whatever is stored there has to be waited for there.
//
// A step does not meet at a barrier of the cluster: its arrival with release becomes MEMBAR.ALL.GPU in machine code,
// which waits for everything that the thread has written to global memory too. st.async waits for nothing; with it 256
// words went all to all in 0.31 us on an H200 (benchmarks/results/notes.md).
#pragma once

__device__ __forceinline__ int cluster_rank() {
#ifdef __CUDA_ARCH__
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
#else
    return (int)host_cuda::cluster_rank();
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#else
    host_cuda::cluster_arrive();
#endif
}

__device__ __forceinline__ void cluster_wait() {
#ifdef __CUDA_ARCH__
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
    host_cuda::cluster_wait();
#endif
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
#ifdef __CUDA_ARCH__
    return (unsigned)__cvta_generic_to_shared(pointer);
#else
    return 0;
#endif
}

// Stores `value` in block `rank`, where `place` is in this block, counted at its mbarrier that is where
// `barrier` is here.
__device__ __forceinline__ void send(float* place, unsigned long long* barrier, int rank, float value) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n\t.reg .u32 there, counter;\n\t"
        "mapa.shared::cluster.u32 there, %0, %2;\n\t"
        "mapa.shared::cluster.u32 counter, %1, %2;\n\t"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %3, [counter];\n\t}" ::"r"(
            shared_address(place)),
        "r"(shared_address(barrier)), "r"(rank), "r"(__float_as_uint(value))
        : "memory");
#else
    host_cuda::store_async(place, barrier, (unsigned)rank, value);
#endif
}

// The same of four words, or numbers, at a multiple of 16 bytes.
__device__ __forceinline__ void send_words(unsigned* place, unsigned long long* barrier, int rank, uint4 four) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n\t.reg .u32 there, counter;\n\t"
        "mapa.shared::cluster.u32 there, %0, %2;\n\t"
        "mapa.shared::cluster.u32 counter, %1, %2;\n\t"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [there], {%3, %4, %5, %6}, [counter];\n\t"
        "}" ::"r"(shared_address(place)),
        "r"(shared_address(barrier)), "r"(rank), "r"(four.x), "r"(four.y), "r"(four.z), "r"(four.w)
        : "memory");
#else
    host_cuda::store_async(place, barrier, (unsigned)rank, four.x);
    host_cuda::store_async(place + 1, barrier, (unsigned)rank, four.y);
    host_cuda::store_async(place + 2, barrier, (unsigned)rank, four.z);
    host_cuda::store_async(place + 3, barrier, (unsigned)rank, four.w);
#endif
}

__device__ __forceinline__ void send_four(float* place, unsigned long long* barrier, int rank, float4 four) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n\t.reg .u32 there, counter;\n\t"
        "mapa.shared::cluster.u32 there, %0, %2;\n\t"
        "mapa.shared::cluster.u32 counter, %1, %2;\n\t"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], {%3, %4, %5, %6}, [counter];\n\t"
        "}" ::"r"(shared_address(place)),
        "r"(shared_address(barrier)), "r"(rank), "f"(four.x), "f"(four.y), "f"(four.z), "f"(four.w)
        : "memory");
#else
    host_cuda::store_async(place, barrier, (unsigned)rank, four.x);
    host_cuda::store_async(place + 1, barrier, (unsigned)rank, four.y);
    host_cuda::store_async(place + 2, barrier, (unsigned)rank, four.z);
    host_cuda::store_async(place + 3, barrier, (unsigned)rank, four.w);
#endif
}

// One arrival ends a phase, once as many bytes as it announced have come. A barrier of the cluster has to follow.
__device__ __forceinline__ void barrier_init(unsigned long long* barrier) {
#ifdef __CUDA_ARCH__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    host_cuda::mbarrier_init(barrier, 1);
#endif
}

// That arrival. The phase before has to have been waited for.
__device__ __forceinline__ void barrier_expect(unsigned long long* barrier, int bytes) {
#ifdef __CUDA_ARCH__
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
#else
    host_cuda::mbarrier_arrive_expect(barrier, (unsigned)bytes);
#endif
}

// Until the phase of this parity, 0 of the first one, has ended. All blocks of a cluster run at the same time, so none
// waits long. One that does waits for what will never come: the launch ends with an error after 8 * 2^32 clocks, some
// twenty seconds. In PTX as a whole: for a loop with a way out the compiler would keep more registers.
__device__ __forceinline__ void barrier_wait(unsigned long long* barrier, int parity) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "{\n\t.reg .pred done, late;\n\t"
        ".reg .u32 begun, now;\n\t"
        "mov.u32 begun, %%clock_hi;\n"
        "AGAIN:\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
        "@done bra PASSED;\n\t"
        "mov.u32 now, %%clock_hi;\n\t"
        "sub.u32 now, now, begun;\n\t"
        "setp.gt.u32 late, now, 8;\n\t"
        "@late trap;\n\t"
        "bra AGAIN;\n"
        "PASSED:\n\t}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
#else
    while (!host_cuda::mbarrier_passed(barrier, (unsigned)parity)) host_cuda::yield();
#endif
}
