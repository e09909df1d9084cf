#include "block.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

dim3 blockDim;
dim3 gridDim;
HOST_CUDA_PER_THREAD uint3 threadIdx;
HOST_CUDA_PER_THREAD uint3 blockIdx;

namespace host_cuda {

namespace {

struct Slot {
    size_t bytes, alignment;
};
std::vector<Slot>& slots() {  // a function, since kernels register theirs before this file's statics may exist
    static std::vector<Slot> all;
    return all;
}

void* allocate(size_t bytes, size_t alignment) {
    void* memory = nullptr;
    if (posix_memalign(&memory, std::max<size_t>(alignment, 16), bytes)) abort();
    memset(memory, 0xff, bytes);  // NaN or -1: shared memory is not initialised
    return memory;
}

}  // namespace

int register_shared(size_t bytes, size_t alignment) {
    slots().push_back({bytes, alignment});
    return static_cast<int>(slots().size()) - 1;
}

Block::Block(const Launch& launch, uint3 at) : index(at) {
    const int count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    threads.resize(count);
    for (int t = 0; t < count; ++t) threads[t].index = position(t, launch.block);
    live = count;
    for (const Slot& slot : slots()) shared.push_back(allocate(slot.bytes, slot.alignment));
    // Exactly as large as the launch said: one byte more is a stranger's to AddressSanitizer.
    if (launch.dynamic_bytes) dynamic = allocate(launch.dynamic_bytes, 16);
}

Block::~Block() {
    for (void* memory : shared) free(memory);
    free(dynamic);
}

void Block::arrive_at_barrier(int t, int predicate, int line) {
    threads[t].state = State::at_barrier;
    threads[t].line = line;
    threads[t].value = predicate != 0;
    ++waiting_at_barrier_;
    complete_barrier();
}

void Block::complete_barrier() {
    if (waiting_at_barrier_ == 0 || waiting_at_barrier_ < live) return;
    BarrierResult result{0, 0};
    int line = 0;
    for (const Thread& thread : threads) {
        if (thread.state != State::at_barrier) continue;
        if (line && thread.line != line) {
            error = "__syncthreads() in a branch that not all threads take: " + describe_waiting();
            return;
        }
        line = thread.line;
        result.nonzero += thread.value != 0;
        ++result.arrived;
    }
    for (Thread& thread : threads) {
        if (thread.state != State::at_barrier) continue;
        thread.barrier = result;
        thread.state = State::ready;
    }
    waiting_at_barrier_ = 0;
    ++barriers_passed;
    ++releases;
}

void Block::arrive_at_warp(int t, WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line) {
    Thread& thread = threads[t];
    thread.state = State::at_warp;
    thread.line = line;
    thread.op = op;
    thread.mask = mask;
    thread.value = value;
    thread.source_lane = source_lane;
    if (!(mask >> (t % 32) & 1)) {
        error = "a thread is not in the mask that it passes: " + describe_waiting();
        return;
    }
    complete_warp(t / 32);
}

void Block::complete_warp(int warp) {
    const int first = warp * 32, end = std::min<int>(first + 32, static_cast<int>(threads.size()));
    for (int t = first; t < end; ++t) {
        const Thread leader = threads[t];
        if (leader.state != State::at_warp) continue;
        unsigned lanes = 0, ballot = 0;
        bool complete = true;
        for (int other = first; other < end && complete; ++other) {
            const Thread& thread = threads[other];
            if (!(leader.mask >> (other - first) & 1) || thread.state == State::done) continue;
            complete = thread.state == State::at_warp && thread.mask == leader.mask && thread.op == leader.op;
            lanes |= 1u << (other - first);
            ballot |= static_cast<unsigned>(thread.value != 0) << (other - first);
        }
        if (!complete) continue;
        for (int other = first; other < end; ++other) {
            if (!(lanes >> (other - first) & 1)) continue;
            const unsigned source = threads[other].source_lane;
            const bool takes_part = lanes >> source & 1;
            threads[other].warp = {takes_part ? threads[first + source].value : ~uint64_t(0), ballot, lanes};
            threads[other].state = State::ready;
        }
        ++releases;
    }
}

void Block::leave(int t) {
    threads[t].state = State::done;
    --live;
    if (live == 0) return;
    complete_barrier();
    complete_warp(t / 32);
}

bool Block::stuck() const {
    if (live == 0) return false;
    for (const Thread& thread : threads) {
        if (thread.state == State::fresh || thread.state == State::ready) return false;
    }
    return true;
}

const char* name_of(WarpOp op) {
    return op == WarpOp::sync ? "__syncwarp" : op == WarpOp::shuffle ? "a warp shuffle" : "a warp vote";
}

// "threads 0-31: waiting at __syncthreads (line 7); threads 32-63: waiting at a warp shuffle, mask ffffffff (line 9)"
std::string Block::describe_waiting() const {
    char head[80];
    snprintf(head, sizeof head, "block (%u, %u, %u): ", index.x, index.y, index.z);
    std::string text = head;
    const int count = static_cast<int>(threads.size());
    auto place = [this](int t) {
        const Thread& thread = threads[t];
        char where[120] = "";
        if (thread.state == State::at_barrier) {
            snprintf(where, sizeof where, "waiting at __syncthreads (line %d)", thread.line);
        } else if (thread.state == State::at_warp) {
            snprintf(where, sizeof where, "waiting at %s, mask %08x (line %d)", name_of(thread.op),
                     thread.mask, thread.line);
        } else {
            snprintf(where, sizeof where, thread.state == State::done ? "returned" : "ready");
        }
        return std::string(where);
    };
    for (int t = 0; t < count;) {
        int last = t;
        while (last + 1 < count && place(last + 1) == place(t)) ++last;
        text += (t ? "; " : "");
        text += last > t ? "threads " + std::to_string(t) + "-" + std::to_string(last) : "thread " + std::to_string(t);
        text += ": " + place(t);
        t = last + 1;
    }
    return text;
}

std::vector<int> permutation(int count, int order, uint64_t seed) {
    std::vector<int> result(count);
    std::iota(result.begin(), result.end(), 0);
    if (order == 1) std::reverse(result.begin(), result.end());
    if (order == 2) {
        uint64_t state = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
        for (int i = count - 1; i > 0; --i) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64
            std::swap(result[i], result[state % (i + 1)]);
        }
    }
    return result;
}

uint3 position(int linear, dim3 extent) {
    const unsigned n = static_cast<unsigned>(linear);
    return {n % extent.x, n / extent.x % extent.y, n / extent.x / extent.y};
}

}  // namespace host_cuda
