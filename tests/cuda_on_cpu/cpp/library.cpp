// What Python calls in the shared library.
#include <cstdio>

#include "block.hpp"

#ifdef HOST_CUDA_PTX
#include "ptx_memory.hpp"
#endif

extern "C" __attribute__((visibility("default"))) int host_cuda_launch(
    void (*call)(void**), void** args, const unsigned* extents, size_t dynamic_bytes, int thread_order,
    int block_order, unsigned long long seed, int cooperative, int late_block, unsigned long long spin_limit,
    int cluster, host_cuda::Stacks* stacks, char* message, size_t message_bytes) {
    const host_cuda::Launch launch{call, args, dim3(extents[0], extents[1], extents[2]),
                                   dim3(extents[3], extents[4], extents[5]), dynamic_bytes,
                                   thread_order, block_order, seed,
                                   cooperative != 0, late_block, spin_limit, cluster, stacks};
#ifdef HOST_CUDA_PTX
    ptx::begin_launch();
#endif
    const std::string what = host_cuda::run_grid(launch);
    if (what.empty()) return 0;
    snprintf(message, message_bytes, "%s", what.c_str());
    return 1;
}
