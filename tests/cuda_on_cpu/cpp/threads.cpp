// Runs a launch with one OS thread for each CUDA thread, so that ThreadSanitizer sees them race.
//
// This file is compiled without instrumentation, and its own lock is hidden from ThreadSanitizer: the only order
// between threads that it may know is the order that CUDA promises, which is stated below with acquire and release.
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "block.hpp"

extern "C" {
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}

namespace host_cuda {

namespace {

constexpr int threads_alive = 256;  // of blocks that need not be: ThreadSanitizer takes a millisecond for each
constexpr int blocks_alive = 2;      // at least, or clusters, so that neighbours may race
constexpr int patience_seconds = 60;  // of a thread at a cluster's barrier, which nobody else looks after

struct ThreadBlock;
struct ThreadCluster;
struct Task {
    const Launch* launch;
    ThreadBlock* block;
    int thread;
    unsigned barriers, warp_syncs, cluster_barriers;  // passed
};
__thread Task* task;

// The blocks that are alive together. An OS thread takes one task of each wave, since making a thread costs far more
// than what it runs; between waves all of them meet, so that none races with another wave.
struct Wave {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t opened = PTHREAD_COND_INITIALIZER, started = PTHREAD_COND_INITIALIZER;
    pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
    unsigned number = 0;  // of waves so far
    bool last = false;    // there is none after this one
    int to_start = 0, to_finish = 0;
    uint64_t yields = 0, yields_allowed = 0;  // since memory changed last
    std::vector<Task> tasks;
    std::vector<std::unique_ptr<ThreadBlock>> blocks;
    std::vector<std::unique_ptr<ThreadCluster>> clusters;
    char begin_tag = 0, end_tag = 0;
};
Wave wave;

struct ThreadBlock {
    ThreadBlock(const Launch& launch, uint3 index) : block(launch, index), warp_tags(3 * block.warps()) {
        for (size_t i = 0; i <= block.warps(); ++i) released.push_back(PTHREAD_COND_INITIALIZER);
    }
    Block block;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    std::vector<pthread_cond_t> released;  // each warp's, and of the barrier
    char barrier_tags[2] = {};
    std::vector<char> warp_tags;
    ThreadCluster* cluster = nullptr;
};
struct ThreadCluster {
    Cluster cluster;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t passed = PTHREAD_COND_INITIALIZER;
    char tags[2] = {};
};
char fence_tag;

class Lock {
  public:
    explicit Lock(pthread_mutex_t& mutex) : mutex_(mutex) {
        AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
        pthread_mutex_lock(&mutex_);
    }
    ~Lock() {
        pthread_mutex_unlock(&mutex_);
        AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
    }
    void wait(pthread_cond_t& condition) { pthread_cond_wait(&condition, &mutex_); }
    bool wait_until(pthread_cond_t& condition, const timespec& end) {
        return pthread_cond_timedwait(&condition, &mutex_, &end) == 0;
    }

  private:
    pthread_mutex_t& mutex_;
};

// Waiting threads cannot be unwound, and this is a process of its own. Called with a lock held.
[[noreturn]] void end(const std::string& what) {
    fprintf(stderr, "host_cuda: %s\n", what.c_str());
    fflush(stderr);
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);  // else ThreadSanitizer complains about that too
    _exit(3);
}

void check(const Block& block) {
    if (block.error.empty() && !block.stuck()) return;
    end(block.error.empty() ? "deadlock in " + block.describe_waiting() : block.error);
}

void wait_until_ready(Lock& lock, ThreadBlock& own, Thread& thread, size_t where) {
    check(own.block);
    if (thread.state == State::ready) pthread_cond_broadcast(&own.released[where]);  // the last one to come
    while (thread.state != State::ready) lock.wait(own.released[where]);
}

// Called with the block's lock held, which always comes before the cluster's.
void leave_block(ThreadBlock& own) {
    Block& block = own.block;
    const unsigned before = block.releases;
    block.leave(task->thread);
    if (block.releases != before) {
        for (pthread_cond_t& condition : own.released) pthread_cond_broadcast(&condition);
    }
    check(block);
}

// Both at once: a thread that is gone and still counts as arrived would let the others pass one arrival too early.
void leave_block_and_cluster(ThreadBlock& own) {
    Lock lock(own.cluster->mutex);
    leave_block(own);
    own.cluster->cluster.leave(own.block, task->thread);
    pthread_cond_broadcast(&own.cluster->passed);
}

void run_task() {
    Block& block = task->block->block;
    threadIdx = block.threads[task->thread].index;
    blockIdx = block.index;
    {
        Lock lock(wave.mutex);  // all start together: a thread that runs alone to its end races with nobody
        if (--wave.to_start == 0) pthread_cond_broadcast(&wave.started);
        while (wave.to_start > 0) lock.wait(wave.started);
    }
    task->launch->call(task->launch->args);
    changed();
    Lock lock(task->block->mutex);
    if (task->block->cluster) {
        leave_block_and_cluster(*task->block);
    } else {
        leave_block(*task->block);
    }
}

void* run_thread(void* place) {
    for (unsigned waves = 1;; ++waves) {
        {
            Lock lock(wave.mutex);
            while (wave.number < waves) lock.wait(wave.opened);
            const size_t own = reinterpret_cast<size_t>(place);
            if (own >= wave.tasks.size()) return nullptr;  // the last wave may be smaller
            task = &wave.tasks[own];
        }
        const bool last = wave.last;
        __tsan_acquire(&wave.begin_tag);
        run_task();
        __tsan_release(&wave.end_tag);
        {
            Lock lock(wave.mutex);
            if (--wave.to_finish == 0) pthread_cond_signal(&wave.finished);
        }
        if (last) return nullptr;
    }
}

void run_wave(const Launch& launch, const std::vector<int>& numbers, bool last, std::vector<pthread_t>& handles) {
    std::vector<std::unique_ptr<ThreadBlock>>& blocks = wave.blocks;
    std::vector<Task>& tasks = wave.tasks;
    blocks.clear();
    wave.clusters.clear();
    tasks.clear();
    for (int number : numbers) {
        blocks.emplace_back(new ThreadBlock(launch, position(number, launch.grid)));
        const int count = blocks.back()->block.live;
        for (int t : permutation(count, launch.thread_order, launch.seed + static_cast<uint64_t>(number))) {
            tasks.push_back(Task{&launch, blocks.back().get(), t, 0, 0, 0});
        }
        if (launch.cluster == 1) continue;
        if (number % launch.cluster == 0) wave.clusters.emplace_back(new ThreadCluster);  // in order of rank
        Block& block = blocks.back()->block;
        block.cluster = &wave.clusters.back()->cluster;
        block.rank = static_cast<unsigned>(number % launch.cluster);
        block.cluster->blocks.push_back(&block);
        blocks.back()->cluster = wave.clusters.back().get();
    }
    wave.to_start = wave.to_finish = static_cast<int>(tasks.size());
    wave.yields = 0;
    wave.yields_allowed = launch.spin_limit * tasks.size();
    wave.last = last;
    __tsan_release(&wave.begin_tag);
    {
        Lock lock(wave.mutex);
        ++wave.number;
        pthread_cond_broadcast(&wave.opened);
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 512 * 1024);
    while (handles.size() < tasks.size()) {  // in the first wave
        handles.emplace_back();
        if (pthread_create(&handles.back(), &attributes, run_thread, reinterpret_cast<void*>(handles.size() - 1))) {
            perror("host_cuda: no more OS threads");
            _exit(3);
        }
    }
    {
        Lock lock(wave.mutex);
        while (wave.to_finish > 0) lock.wait(wave.finished);
    }
    __tsan_acquire(&wave.end_tag);
}

}  // namespace

// The runtime's lock hides everything while it is held, acquire and release too: they stand outside.
BarrierResult barrier(int predicate, int line) {
    ThreadBlock& own = *task->block;
    Thread& thread = own.block.threads[task->thread];
    // Two tags in turn: a fast thread that is at the next barrier already must not appear to order a slow one here.
    char* tag = &own.barrier_tags[task->barriers++ % 2];
    __tsan_release(tag);
    {
        Lock lock(own.mutex);
        own.block.arrive_at_barrier(task->thread, predicate, line);
        wait_until_ready(lock, own, thread, own.block.warps());
    }
    __tsan_acquire(tag);
    return thread.barrier;
}

WarpResult warp(WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line) {
    ThreadBlock& own = *task->block;
    Thread& thread = own.block.threads[task->thread];
    // Two tags in turn again, for whole warps; parts of a warp share a third, which shows a little too much order.
    const bool whole = mask == 0xffffffffu;
    char* tag = &own.warp_tags[3 * (task->thread / 32) + (whole ? task->warp_syncs % 2 : 2)];
    // Only __syncwarp orders memory; a shuffle or a vote exchanges its values and nothing else.
    const bool orders = op == WarpOp::sync;
    if (orders) __tsan_release(tag);
    {
        Lock lock(own.mutex);
        own.block.arrive_at_warp(task->thread, op, mask, value, source_lane, line);
        wait_until_ready(lock, own, thread, static_cast<size_t>(task->thread / 32));
    }
    if (orders) __tsan_acquire(tag);
    if (orders && whole) ++task->warp_syncs;
    return thread.warp;
}

void multiply(WarpOp op, float* d, const unsigned* a, const unsigned* b, int line) {
    ThreadBlock& own = *task->block;
    Thread& thread = own.block.threads[task->thread];
    Lock lock(own.mutex);
    thread.fragments = {d, a, b};
    own.block.arrive_at_warp(task->thread, op, 0xffffffffu, 0, lane(), line);
    wait_until_ready(lock, own, thread, static_cast<size_t>(task->thread / 32));
}

void yield(int line) {
    Thread& thread = task->block->block.threads[task->thread];
    thread.line = line;
    thread.state = State::yielding;
    if (__atomic_add_fetch(&wave.yields, 1, __ATOMIC_RELAXED) > wave.yields_allowed) {
        Lock lock(wave.mutex);  // held to the end: one message is enough
        std::string text = "deadlock: nothing changes any more: ";
        for (const auto& other : wave.blocks) {
            if (other->block.live) text += other->block.describe_waiting() + "; ";
        }
        end(text.substr(0, text.size() - 2));
    }
    sched_yield();
    thread.state = State::ready;
}

namespace {

ThreadCluster& own_cluster(const char* what, int line) {
    if (!task->block->cluster) fail(what, line);
    return *task->block->cluster;
}

}  // namespace

// Two tags in turn, as for a block's barrier.
void cluster_arrive(int line) {
    ThreadCluster& own = own_cluster("barrier.cluster in a kernel without __cluster_dims__", line);
    Block& block = task->block->block;
    __tsan_release(&own.tags[task->cluster_barriers % 2]);
    Lock lock(own.mutex);
    own.cluster.arrive(block, task->thread, line);
    if (!block.error.empty()) host_cuda::end(block.error);  // and not std::end
    pthread_cond_broadcast(&own.passed);
}

void cluster_wait(int line) {
    ThreadCluster& own = own_cluster("barrier.cluster in a kernel without __cluster_dims__", line);
    Block& block = task->block->block;
    {
        Lock lock(own.mutex);
        timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += patience_seconds;
        if (own.cluster.wait(block, task->thread, line)) {
            if (!block.error.empty()) host_cuda::end(block.error);
            while (block.threads[task->thread].state != State::ready) {
                if (lock.wait_until(own.passed, limit)) continue;
                end("deadlock: a barrier of the cluster is not passed: " + block.describe_waiting());
            }
        }
    }
    __tsan_acquire(&own.tags[task->cluster_barriers++ % 2]);
}

unsigned cluster_rank(int line) {
    own_cluster("%cluster_ctarank in a kernel without __cluster_dims__", line);
    return task->block->block.rank;
}

void* shared_of(const void* address, unsigned rank, size_t bytes, int line) {
    ThreadCluster& own = own_cluster("mapa in a kernel without __cluster_dims__", line);
    const char* wrong;
    void* place = own.cluster.shared_of(task->block->block, address, rank, bytes, wrong);
    if (wrong) fail(wrong, line);
    return place;
}

void fail(const char* what, int line) {
    Lock lock(wave.mutex);
    end(task->block->block.describe_thread(task->thread) + what + " (line " + std::to_string(line) + ")");
}

bool is_cooperative() { return task->launch->cooperative; }
void changed() { __atomic_store_n(&wave.yields, 0, __ATOMIC_RELAXED); }
long long tick() {
    static long long ticks;
    return __atomic_add_fetch(&ticks, 1, __ATOMIC_RELAXED);
}

// More order than CUDA gives, since every fence meets every other: enough for "the last block sums up".
void fence() {
    __tsan_acquire(&fence_tag);
    __tsan_release(&fence_tag);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

unsigned lane() { return static_cast<unsigned>(task->thread) % 32; }
void* static_shared(int slot) { return task->block->block.shared[slot]; }
void* dynamic_shared() { return task->block->block.dynamic; }

std::string run_grid(const Launch& launch) {
    gridDim = launch.grid;
    blockDim = launch.block;
    grid_arrivals = 0;
    const int blocks = static_cast<int>(launch.grid.x * launch.grid.y * launch.grid.z);
    const int threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    std::vector<int> order;
    for (int cluster : permutation(blocks / launch.cluster, launch.block_order, launch.seed)) {
        for (int rank = 0; rank < launch.cluster; ++rank) order.push_back(cluster * launch.cluster + rank);
    }
    const int clusters = std::max(blocks_alive, threads_alive / (threads * launch.cluster));
    const int together = launch.cooperative ? blocks : clusters * launch.cluster;
    std::vector<pthread_t> handles;
    for (int first = 0; first < blocks; first += together) {
        const int end = std::min(blocks, first + together);
        run_wave(launch, std::vector<int>(order.begin() + first, order.begin() + end), end == blocks, handles);
    }
    for (pthread_t handle : handles) pthread_join(handle, nullptr);
    return "";
}

}  // namespace host_cuda
