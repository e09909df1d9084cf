// Keeps the GPU busy for a while, so that what is measured is queued behind it before it starts.

extern "C" __global__ void hold(int cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {
    }
}
