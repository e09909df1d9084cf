// One block of threads: who waits for what, and when everybody who is awaited has come.
//
// No scheduling here. A driver (fibers.cpp, threads.cpp) runs the threads, calls arrive_*() and leave() one at a
// time, and lets a thread go on when its state is `ready` again.
#pragma once
#include <string>
#include <vector>

#include "host_cuda.hpp"

namespace host_cuda {

enum class State { fresh, ready, at_barrier, at_warp, at_cluster, yielding, done };

// Where a lane keeps its share of a product D += A B while it waits for the other lanes.
struct Fragments {
    float* d;
    const unsigned *a, *b;
};

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
    Fragments fragments{};
    int fiber = -1;
    bool at_cluster_barrier = false;  // has arrived there, and not waited since
    unsigned cluster_phase = 0;       // in which it arrived
};

// Where the fibers of a cooperative launch have their stacks, from the first launch to the last, whichever library they
// are in: thousands of guard pages and page faults for each took longer than what the kernels computed.
struct Stacks {
    char* memory;
    size_t count;
};

struct Launch {
    void (*call)(void**);
    void** args;
    dim3 grid, block;
    size_t dynamic_bytes;
    int thread_order, block_order;  // 0 ascending, 1 descending, 2 random
    uint64_t seed;
    bool cooperative;     // all blocks are alive at once
    int late_block;       // the number of the block that runs last, or -1
    uint64_t spin_limit;  // rounds of host_cuda::yield() that change nothing, before they count as a deadlock
    int cluster;          // blocks of a cluster, along x; 1 where there are none
    Stacks* stacks;       // empty at first
};

class Block;

// The blocks of one cluster, and their barrier. cluster.cpp says what it checks.
class Cluster {
  public:
    void arrive(Block& block, int t, int line);
    bool wait(Block& block, int t, int line);  // false if the barrier has been passed already
    void leave(Block& block, int t);           // after the block's own leave()
    void* shared_of(Block& own, const void* address, unsigned rank, size_t bytes, const char*& wrong);

    std::vector<Block*> blocks;  // by rank
    unsigned phase = 0;          // barriers passed
    bool completed = false;      // a barrier was passed just now; the scheduler takes it back

  private:
    void complete();
    int arrived_ = 0;
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
    std::string describe_thread(int t) const;

    uint3 index;
    std::vector<Thread> threads;
    std::vector<void*> shared;
    void* dynamic = nullptr;
    size_t dynamic_bytes = 0;
    int live;
    unsigned barriers_passed = 0;
    unsigned releases = 0;  // times that waiting threads became ready
    std::vector<int> released;  // if wanted: the threads that became ready, for the scheduler to take
    bool keeps_released = false;
    std::string error;
    Cluster* cluster = nullptr;
    unsigned rank = 0;  // in the cluster

  private:
    friend class Cluster;
    void complete_barrier();
    void complete_group(int t);
    bool agree(int t, unsigned lanes);
    void release(int t);
    int waiting_at_barrier_ = 0;
    int waiting_in_warps_ = 0;
    std::vector<unsigned> at_warp_, gone_;  // of each warp, the lanes that wait in it, and those that never will
};

std::string run_grid(const Launch& launch);  // the driver's; what went wrong, or ""
const char* name_of(WarpOp op);
void multiply_fragments(WarpOp op, const Fragments (&lanes)[32]);  // matrix_product.cpp
std::vector<int> permutation(int count, int order, uint64_t seed);
uint3 position(int linear, dim3 extent);

}  // namespace host_cuda
