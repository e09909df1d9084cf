// Runs a launch on one OS thread: blocks one after another, and the threads of a block as fibers, in a chosen order.
//
// A worker fiber takes the next thread that has not begun, runs it to its end, and goes on with the next. Only when a
// thread has to wait does another fiber take over, so that a kernel without barriers is a plain loop.
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "block.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace host_cuda {

namespace {

constexpr size_t stack_bytes = 256 * 1024, guard_bytes = 4096;

struct Fiber {
    ucontext_t context;
    char* stack = nullptr;
    int number = -1;
    bool begun = false;
    int thread = -1;  // the one that it runs, -1 when it is free
};

struct Run {
    const Launch* launch = nullptr;
    Block* block = nullptr;
    std::vector<int> order;
    int cursor = 0;
    int current = -1;
    unsigned phase = 0;
    ucontext_t home;
};
Run run;
std::vector<std::unique_ptr<Fiber>> fibers;

#ifdef __SANITIZE_ADDRESS__
const void* home_bottom;
size_t home_size;
#endif

// AddressSanitizer has to know on which stack we are.
void jump(ucontext_t* from, ucontext_t* to, const Fiber* target) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    const void* bottom = target ? target->stack + guard_bytes : home_bottom;
    __sanitizer_start_switch_fiber(&fake_stack, bottom, target ? stack_bytes : home_size);
    swapcontext(from, to);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    (void)target;
    swapcontext(from, to);
#endif
}

void enter(int t) {
    run.current = t;
    threadIdx = run.block->threads[t].index;
}

// The next thread in the chosen order that can run, or -1.
int next_thread() {
    Block& block = *run.block;
    if (block.barriers_passed != run.phase) {
        run.phase = block.barriers_passed;
        run.cursor = 0;
        if (run.launch->thread_order == 2) {
            run.order = permutation(static_cast<int>(run.order.size()), 2, run.launch->seed + 7919 * run.phase);
        }
    }
    const int count = static_cast<int>(run.order.size());
    for (int i = 0; i < count; ++i) {
        const int t = run.order[run.cursor];
        run.cursor = run.cursor + 1 == count ? 0 : run.cursor + 1;
        if (block.threads[t].state == State::fresh || block.threads[t].state == State::ready) return t;
    }
    return -1;
}

void work();

Fiber* free_fiber() {
    for (auto& fiber : fibers) {
        if (fiber->thread < 0) return fiber.get();
    }
    fibers.emplace_back(new Fiber);
    Fiber* fiber = fibers.back().get();
    void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE)) {
        perror("host_cuda: no memory for a fiber's stack");
        abort();
    }
    fiber->stack = static_cast<char*>(memory);
    fiber->number = static_cast<int>(fibers.size()) - 1;
    return fiber;
}

// Leaves the fiber or home that is running for thread `t`, or for home when t is -1 or something is wrong.
void switch_to(int t, ucontext_t* from) {
    if (t < 0 || !run.block->error.empty()) {
        jump(from, &run.home, nullptr);
        return;
    }
    Thread& thread = run.block->threads[t];
    Fiber* fiber = thread.state == State::fresh ? free_fiber() : fibers[thread.fiber].get();
    if (thread.state == State::fresh) {
        thread.fiber = fiber->number;
        fiber->thread = t;
    }
    if (!fiber->begun) {
        fiber->begun = true;
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack + guard_bytes;
        fiber->context.uc_stack.ss_size = stack_bytes;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, work, 0);
    }
    enter(t);
    jump(from, &fiber->context, fiber);
}

void work() {
#ifdef __SANITIZE_ADDRESS__
    // Every fiber is first entered from home or from a fiber; only home's stack is not known to us beforehand.
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!home_bottom) home_bottom = bottom, home_size = size;
#endif
    Fiber* self = fibers[run.block->threads[run.current].fiber].get();
    for (;;) {
        run.launch->call(run.launch->args);
        const int finished = self->thread;
        run.block->leave(finished);
        const int t = run.block->error.empty() ? next_thread() : -1;
        if (t >= 0 && run.block->threads[t].state == State::fresh) {
            self->thread = t;
            run.block->threads[t].fiber = self->number;
            enter(t);
            continue;
        }
        self->thread = -1;
        switch_to(t, &self->context);
    }
}

void wait() {
    const int t = run.current;
    Fiber* self = fibers[run.block->threads[t].fiber].get();
    const int next = next_thread();
    if (next == t && run.block->error.empty()) return enter(t);
    switch_to(next, &self->context);
    // Whoever switched back has entered thread t.
}

}  // namespace

BarrierResult barrier(int predicate, int line) {
    const int t = run.current;
    run.block->arrive_at_barrier(t, predicate, line);
    wait();
    return run.block->threads[t].barrier;
}

WarpResult warp(WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line) {
    const int t = run.current;
    run.block->arrive_at_warp(t, op, mask, value, source_lane, line);
    wait();
    return run.block->threads[t].warp;
}

void fence() {}
unsigned lane() { return static_cast<unsigned>(run.current) % 32; }
void* static_shared(int slot) { return run.block->shared[slot]; }
void* dynamic_shared() { return run.block->dynamic; }

std::string run_grid(const Launch& launch) {
    gridDim = launch.grid;
    blockDim = launch.block;
    const int blocks = static_cast<int>(launch.grid.x * launch.grid.y * launch.grid.z);
    const int threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    const std::vector<int> block_order = permutation(blocks, launch.block_order, launch.seed);
    for (int number : block_order) {
        Block block(launch, position(number, launch.grid));
        blockIdx = block.index;
        run.launch = &launch;
        run.block = &block;
        run.order = permutation(threads, launch.thread_order, launch.seed + static_cast<uint64_t>(number));
        run.cursor = 0;
        run.phase = 0;
        switch_to(next_thread(), &run.home);
        if (block.error.empty() && block.live == 0) continue;
        for (auto& fiber : fibers) fiber->thread = -1, fiber->begun = false;  // those that wait will never go on
        return block.error.empty() ? "deadlock in " + block.describe_waiting() : block.error;
    }
    return "";
}

}  // namespace host_cuda
