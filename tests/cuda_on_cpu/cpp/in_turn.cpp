// Runs blocks one after another, and the threads of a block as fibers in a chosen order.
//
// A worker fiber takes the next thread that has not begun, runs it to its end, and goes on with the next. Only when a
// thread has to wait does another fiber take over, so that a kernel without barriers is a plain loop.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "fiber.hpp"

namespace host_cuda {

namespace {

constexpr size_t stack_bytes = 256 * 1024;

struct Run {
    std::vector<int> order;
    int cursor = 0;
    unsigned phase = 0;
    uint64_t changes_seen = 0, yields = 0;  // since that change
};
Run run;
std::vector<std::unique_ptr<Fiber>> fibers;

bool can_run(State state) { return state == State::fresh || state == State::ready || state == State::yielding; }

// The next thread in the chosen order that can run, or -1.
int next_thread() {
    Block& block = *here.block;
    if (block.barriers_passed != run.phase) {
        run.phase = block.barriers_passed;
        run.cursor = 0;
        if (here.launch->thread_order == 2) {
            run.order = permutation(static_cast<int>(run.order.size()), 2, here.launch->seed + 7919 * run.phase);
        }
    }
    const int count = static_cast<int>(run.order.size());
    for (int i = 0; i < count; ++i) {
        const int t = run.order[run.cursor];
        run.cursor = run.cursor + 1 == count ? 0 : run.cursor + 1;
        if (can_run(block.threads[t].state)) return t;
    }
    return -1;
}

void work();

Fiber* free_fiber() {
    for (auto& fiber : fibers) {
        if (fiber->thread < 0) return fiber.get();
    }
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void* memory = mmap(nullptr, fiber_guard_bytes + stack_bytes, protection, flags, -1, 0);
    if (memory == MAP_FAILED) {
        perror("host_cuda: no memory for a fiber's stack");
        abort();
    }
    fibers.emplace_back(new Fiber);
    Fiber* fiber = fibers.back().get();
    fiber->number = static_cast<int>(fibers.size()) - 1;
    guard(static_cast<char*>(memory));
    give_stack(*fiber, static_cast<char*>(memory), stack_bytes);
    return fiber;
}

// Leaves the fiber or home that is running for thread `t`, or for home when t is -1 or something is wrong.
void switch_to(int t, Fiber& from) {
    if (t < 0 || !here.block->error.empty()) return jump(from, here.home);
    Thread& thread = here.block->threads[t];
    Fiber* fiber = thread.state == State::fresh ? free_fiber() : fibers[thread.fiber].get();
    if (thread.state == State::fresh) {
        thread.fiber = fiber->number;
        fiber->thread = t;
    }
    if (!fiber->begun) begin(*fiber, work);
    enter(*here.block, t);
    jump(from, *fiber);
}

void work() {
    arrived();
    Fiber* self = fibers[here.block->threads[here.thread].fiber].get();
    for (;;) {
        here.launch->call(here.launch->args);
        const int finished = self->thread;
        run.yields = 0;
        here.block->leave(finished);
        const int t = here.block->error.empty() ? next_thread() : -1;
        if (t >= 0 && here.block->threads[t].state == State::fresh) {
            self->thread = t;
            here.block->threads[t].fiber = self->number;
            enter(*here.block, t);
            continue;
        }
        self->thread = -1;
        switch_to(t, *self);
    }
}

}  // namespace

void wait_in_turn() {
    const int t = here.thread;
    Fiber* self = fibers[here.block->threads[t].fiber].get();
    const int next = next_thread();
    if (next == t && here.block->error.empty()) return enter(*here.block, t);
    switch_to(next, *self);
    // Whoever switched back has entered thread t.
}

// Only a thread of the same block can end this one's waiting.
void yield_in_turn() {
    if (changes != run.changes_seen) run.changes_seen = changes, run.yields = 0;
    Block& block = *here.block;
    if (++run.yields > here.launch->spin_limit * static_cast<uint64_t>(block.live)) {
        block.error = "deadlock, and a block of a launch that is not cooperative can wait for its own threads only: " +
                      block.describe_waiting();
    }
    wait_in_turn();
    block.threads[here.thread].state = State::ready;
}

std::string run_in_turn(const Launch& launch) {
    const int blocks = static_cast<int>(launch.grid.x * launch.grid.y * launch.grid.z);
    const int threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    const std::vector<int> block_order = permutation(blocks, launch.block_order, launch.seed);
    for (int number : block_order) {
        Block block(launch, position(number, launch.grid));
        here.block = &block;
        run.order = permutation(threads, launch.thread_order, launch.seed + static_cast<uint64_t>(number));
        run.cursor = 0;
        run.phase = 0;
        run.changes_seen = changes, run.yields = 0;
        switch_to(next_thread(), here.home);
        if (block.error.empty() && block.live == 0) continue;
        for (auto& fiber : fibers) fiber->thread = -1, fiber->begun = false;  // those that wait will never go on
        return block.error.empty() ? "deadlock in " + block.describe_waiting() : block.error;
    }
    return "";
}

}  // namespace host_cuda
