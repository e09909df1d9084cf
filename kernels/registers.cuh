// Numbers of which the compiler knows nothing. Kernels that keep weights in registers have none to spare, and a
// compiler that sees how numbers come about keeps what it makes of them in registers from step to step.
#pragma once

// The number itself: what is made of it is made where it stands, and made again in each step.
__device__ __forceinline__ int afresh(int number) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(number));
#endif
    return number;
}

// Zero. `numbers` is a pointer to numbers of two bytes or more, whose place is a multiple of two bytes: a caller's
// array of 16 bits may begin between two words. Loads whose place depends, by way of `&` with it, on what was loaded
// before are not all on their way at once: they, or their addresses, would take more registers than there are.
__device__ __forceinline__ unsigned unknown_zero(const void* numbers) { return (size_t)numbers % 2; }

// The number, or the address, itself: what it was made of is not looked at again where it is used, so it stays in its
// register. Outside of a loop, for what the compiler would rather make again in each step.
template <class Number>
__device__ __forceinline__ Number made_once(Number number) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(number));
#endif
    return number;
}
__device__ __forceinline__ float made_once(float number) {  // in a loop: what it is made of is not waited for later on
#ifdef __CUDA_ARCH__
    asm volatile("" : "+f"(number));
#endif
    return number;
}
template <class Item>
__device__ __forceinline__ Item* made_once(Item* address) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+l"(address));
#endif
    return address;
}

// The address itself, which has been through made_once: loads and stores need not find out what memory it is in.
template <class Item>
__device__ __forceinline__ Item* in_global_memory(Item* address) {
#ifdef __CUDA_ARCH__
    __builtin_assume(__isGlobal(address));
#endif
    return address;
}

// What follows `of_0`, which is step 0's and has been through made_once, by `bytes` for each step: one instruction.
template <class Item>
__device__ __forceinline__ Item* at_step(Item* of_0, unsigned step, unsigned bytes) {
    return in_global_memory((Item*)((char*)of_0 + (unsigned long long)step * bytes));
}
