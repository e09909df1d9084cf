// Runs a launch on one OS thread, every CUDA thread as a fiber: switching, and what a kernel calls.
//
// Who is next is decided in in_turn.cpp (blocks one after another) and together.cpp (cooperative launches).
#include "fiber.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace host_cuda {

Here here;
uint64_t changes;

#ifdef __x86_64__
// Keeps what a function call has to keep, and goes on where `to` was left. Unlike swapcontext, it is no system call.
extern "C" void host_cuda_switch(void** from, void* to);
asm(R"(
    .text
    .hidden host_cuda_switch
    .globl host_cuda_switch
    .type host_cuda_switch, @function
host_cuda_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size host_cuda_switch, .-host_cuda_switch
)");

void begin(Fiber& fiber, void (*entry)()) {
    fiber.begun = true;
    // Fibers' stacks lie a multiple of the page size apart; the same depth of each must not share one set of the cache.
    const size_t offset = static_cast<size_t>(fiber.number % 32) * 128;
    void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes - offset);
    *--top = nullptr;  // the return address of `entry`, which gives it the alignment that a called function expects
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fiber.stack_pointer = top;
}
#else
void begin(Fiber& fiber, void (*entry)()) {
    fiber.begun = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = fiber.stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}
#endif

void guard(char* memory) {
    if (mprotect(memory, fiber_guard_bytes, PROT_NONE)) {
        perror("host_cuda: no guard page for a fiber's stack");
        abort();
    }
}

void give_stack(Fiber& fiber, char* memory, size_t stack_bytes) {
    fiber.stack = memory + fiber_guard_bytes;
    fiber.stack_bytes = stack_bytes;
}

// AddressSanitizer has to know on which stack we are.
void jump(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef __x86_64__
    host_cuda_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void arrived() {
#ifdef __SANITIZE_ADDRESS__
    // The first fiber is entered from home, whose stack is not known to us beforehand.
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!here.home.stack) {
        here.home.stack = static_cast<char*>(const_cast<void*>(bottom));
        here.home.stack_bytes = size;
    }
#endif
}

void enter(Block& block, int thread) {
    here.block = &block;
    here.thread = thread;
    threadIdx = block.threads[thread].index;
    blockIdx = block.index;
}

namespace {

Thread& wait() {
    Thread& thread = here.block->threads[here.thread];
    here.together ? wait_together() : wait_in_turn();
    return thread;  // whoever switched back has entered it again
}

}  // namespace

BarrierResult barrier(int predicate, int line) {
    here.block->arrive_at_barrier(here.thread, predicate, line);
    return wait().barrier;
}

WarpResult warp(WarpOp op, unsigned mask, uint64_t value, unsigned source_lane, int line) {
    here.block->arrive_at_warp(here.thread, op, mask, value, source_lane, line);
    return wait().warp;
}

void multiply(WarpOp op, float* d, const unsigned* a, const unsigned* b, int line) {
    here.block->threads[here.thread].fragments = {d, a, b};
    here.block->arrive_at_warp(here.thread, op, 0xffffffffu, 0, lane(), line);
    wait();
}

void yield(int line) {
    Thread& thread = here.block->threads[here.thread];
    thread.state = State::yielding;
    thread.line = line;
    here.together ? wait_together() : yield_in_turn();
}

void cluster_arrive(int line) {
    if (!here.block->cluster) fail("barrier.cluster in a kernel without __cluster_dims__", line);
    here.block->cluster->arrive(*here.block, here.thread, line);
    if (!here.block->error.empty()) wait();
}

void cluster_wait(int line) {
    if (!here.block->cluster) fail("barrier.cluster in a kernel without __cluster_dims__", line);
    if (here.block->cluster->wait(*here.block, here.thread, line)) wait();
}

unsigned cluster_rank(int line) {
    if (!here.block->cluster) fail("%cluster_ctarank in a kernel without __cluster_dims__", line);
    return here.block->rank;
}

void* shared_of(const void* address, unsigned rank, size_t bytes, int line) {
    if (!here.block->cluster) fail("mapa in a kernel without __cluster_dims__", line);
    const char* wrong;
    void* place = here.block->cluster->shared_of(*here.block, address, rank, bytes, wrong);
    if (wrong) fail(wrong, line);
    return place;
}

void fail(const char* what, int line) {
    here.block->error = here.block->describe_thread(here.thread) + what + " (line " + std::to_string(line) + ")";
    wait();
    abort();  // nobody goes on after an error
}

bool is_cooperative() { return here.launch->cooperative; }
void changed() { ++changes; }
long long tick() {
    static long long ticks;
    return ++ticks;
}
void fence() {}
unsigned lane() { return static_cast<unsigned>(here.thread) % 32; }
void* static_shared(int slot) { return here.block->shared[slot]; }
void* dynamic_shared() { return here.block->dynamic; }

std::string run_grid(const Launch& launch) {
    gridDim = launch.grid;
    blockDim = launch.block;
    here.launch = &launch;
    here.together = launch.cooperative || launch.cluster > 1;
    changes = 0;
    grid_arrivals = 0;
    return here.together ? run_together(launch) : run_in_turn(launch);
}

}  // namespace host_cuda
