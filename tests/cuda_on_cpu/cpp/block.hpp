// One block of threads: who waits for what, and when everybody who is awaited has come.
//
// No scheduling here. A driver (fibers.cpp, threads.cpp) runs the threads, calls arrive_*() and leave() one at a
// time, and lets a thread go on when its state is `ready` again.
#pragma once
#include <string>
#include <vector>

#include "host_cuda.hpp"

namespace host_cuda {

enum class State { fresh, ready, at_barrier, at_warp, done };

struct Thread {
    uint3 index;
    State state = State::fresh;
    int line = 0;  // in the kernel source, where it waits
    BarrierResult barrier{};
    WarpOp op{};
    unsigned mask = 0;
    unsigned source_lane = 0;
    uint64_t value = 0;
    WarpResult warp{};
    int fiber = -1;
};

struct Launch {
    void (*call)(void**);
    void** args;
    dim3 grid, block;
    size_t dynamic_bytes;
    int thread_order, block_order;  // 0 ascending, 1 descending, 2 random
    uint64_t seed;
};

class Block {
  public:
    Block(const Launch& launch, uint3 index);
    ~Block();
    Block(const Block&) = delete;

    size_t warps() const { return (threads.size() + 31) / 32; }
    void arrive_at_barrier(int t, int predicate, int line);
    void arrive_at_warp(int t, WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line);
    void leave(int t);
    bool stuck() const;  // somebody waits, and nobody is left who could come
    std::string describe_waiting() const;

    uint3 index;
    std::vector<Thread> threads;
    std::vector<void*> shared;
    void* dynamic = nullptr;
    int live;
    unsigned barriers_passed = 0;
    unsigned releases = 0;  // times that waiting threads became ready
    std::string error;

  private:
    void complete_barrier();
    void complete_warp(int warp);
    int waiting_at_barrier_ = 0;
};

std::string run_grid(const Launch& launch);  // the driver's; what went wrong, or ""
const char* name_of(WarpOp op);
std::vector<int> permutation(int count, int order, uint64_t seed);
uint3 position(int linear, dim3 extent);

}  // namespace host_cuda
