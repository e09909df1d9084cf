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

unsigned grid_arrivals;

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

size_t registered_bytes() {
    size_t sum = 0;
    for (const Slot& slot : slots()) sum += slot.bytes;
    return sum;
}

size_t shared_slot_bytes(size_t slot) { return slots()[slot].bytes; }

Block::Block(const Launch& launch, uint3 at) : index(at) {
    const int count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    threads.resize(count);
    for (int t = 0; t < count; ++t) threads[t].index = position(t, launch.block);
    live = count;
    at_warp_.assign(warps(), 0);
    gone_.assign(warps(), 0);
    if (count % 32) gone_.back() = ~0u << (count % 32);
    for (const Slot& slot : slots()) shared.push_back(allocate(slot.bytes, slot.alignment));
    // Exactly as large as the launch said: one byte more is a stranger's to AddressSanitizer.
    dynamic_bytes = launch.dynamic_bytes;
    if (dynamic_bytes) dynamic = allocate(dynamic_bytes, 16);
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
        release(static_cast<int>(&thread - threads.data()));
    }
    waiting_at_barrier_ = 0;
    ++barriers_passed;
    ++releases;
}

void Block::release(int t) {
    threads[t].state = State::ready;
    if (keeps_released) released.push_back(t);
}

void Block::arrive_at_warp(int t, WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line) {
    Thread& thread = threads[t];
    thread.state = State::at_warp;
    thread.line = line;
    thread.op = op;
    thread.mask = mask;
    thread.value = value;
    thread.source_lane = source_lane;
    at_warp_[t / 32] |= 1u << t % 32;
    ++waiting_in_warps_;
    if (!(mask >> (t % 32) & 1)) {
        error = "a thread is not in the mask that it passes: " + describe_waiting();
        return;
    }
    complete_group(t);
}

// Whether all of `lanes`, which wait, came with what thread t came with.
bool Block::agree(int t, unsigned lanes) {
    const Thread& one = threads[t];
    bool same_mask = true, same_op = true, product = false;
    for (int lane = 0; lane < 32; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        const Thread& other = threads[t / 32 * 32 + lane];
        same_mask = same_mask && other.mask == one.mask;
        same_op = same_op && other.op == one.op;
        product = product || is_product(other.op);
    }
    if (same_mask && !same_op && product) error = "different operations of a warp meet: " + describe_waiting();
    if (same_mask && same_op && product && lanes != ~0u) {
        error = "a product on the tensor cores takes all 32 lanes of a warp: " + describe_waiting();
    }
    return same_mask && same_op && error.empty();
}

// Lets the lanes in the mask of thread t go on, if all of them that are left have come.
void Block::complete_group(int t) {
    const int warp = t / 32, first = warp * 32;
    const unsigned lanes = threads[t].mask & ~gone_[warp];
    if ((lanes & ~at_warp_[warp]) || !agree(t, lanes)) return;
    if (is_product(threads[t].op)) {
        Fragments fragments[32];
        for (int lane = 0; lane < 32; ++lane) fragments[lane] = threads[first + lane].fragments;
        multiply_fragments(threads[t].op, fragments);
    }
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (lanes >> lane & 1) ballot |= static_cast<unsigned>(threads[first + lane].value != 0) << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        Thread& thread = threads[first + lane];
        const bool takes_part = lanes >> thread.source_lane & 1;
        thread.warp = {takes_part ? threads[first + thread.source_lane].value : ~uint64_t(0), ballot, lanes};
        release(first + lane);
        --waiting_in_warps_;
    }
    at_warp_[warp] &= ~lanes;
    ++releases;
}

void Block::leave(int t) {
    threads[t].state = State::done;
    gone_[t / 32] |= 1u << t % 32;
    --live;
    if (live == 0) return;
    complete_barrier();
    for (int lane = 0; lane < 32 && at_warp_[t / 32]; ++lane) {
        if (at_warp_[t / 32] >> lane & 1) complete_group(t / 32 * 32 + lane);
    }
}

bool Block::stuck() const { return live > 0 && waiting_at_barrier_ + waiting_in_warps_ == live; }

const char* name_of(WarpOp op) {
    if (is_product(op)) return "a product on the tensor cores";
    return op == WarpOp::sync ? "__syncwarp" : op == WarpOp::shuffle ? "a warp shuffle" : "a warp vote";
}

std::string Block::describe_thread(int t) const {
    char head[120];
    const uint3 at = threads[t].index;
    snprintf(head, sizeof head, "block (%u, %u, %u), thread (%u, %u, %u): ", index.x, index.y, index.z, at.x, at.y,
             at.z);
    return head;
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
        } else if (thread.state == State::at_cluster) {
            snprintf(where, sizeof where, "waiting at barrier.cluster (line %d)", thread.line);
        } else if (thread.state == State::yielding) {
            snprintf(where, sizeof where, "spinning (line %d)", thread.line);
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
