// Kernels that do nothing, to time what the CPU does for each launch: arrays and ints take turns as parameters.

#define FIVE(n) float *a##n, int b##n, float *c##n, int d##n, float *e##n
#define EIGHTEEN(n) FIVE(n##0), FIVE(n##1), FIVE(n##2), float *f##n, int g##n, float *h##n

extern "C" __global__ void arguments_5(FIVE(0)) {}
extern "C" __global__ void arguments_18(EIGHTEEN(0)) {}
extern "C" __global__ void arguments_55(EIGHTEEN(0), EIGHTEEN(1), EIGHTEEN(2), float* last) {}

// As the schedules with one launch have them: all arrays come first.
#define THREE(type, n) type a##n, type b##n, type c##n
extern "C" __global__ void arguments_15(
    THREE(float*, 0), THREE(float*, 1), THREE(float*, 2), THREE(int, 3), THREE(int, 4)) {}
