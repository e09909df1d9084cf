// 2^x and 1 / x, one instruction each of the unit for special functions. Both are off by some 2^-22 of their value (PTX
// ISA, ex2.approx and rcp.approx); the CPU computes them to the last place.
#pragma once

__device__ __forceinline__ float power_of_two(float exponent) {
#ifdef __CUDA_ARCH__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
#else
    return exp2f(exponent);
#endif
}

__device__ __forceinline__ float reciprocal(float number) {
#ifdef __CUDA_ARCH__
    float found;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(number));
    return found;
#else
    return 1.0f / number;
#endif
}
