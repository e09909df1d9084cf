// Fibers: stacks of their own that one OS thread goes back and forth between, and what both schedulers share.
#pragma once
#include "block.hpp"

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace host_cuda {

constexpr size_t fiber_guard_bytes = 4096;

struct Fiber {
#ifdef __x86_64__
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    char* stack = nullptr;  // its lowest byte, above a guard page; null for the OS thread's own
    size_t stack_bytes = 0;
    int number = -1;
    bool begun = false;
    int thread = -1;  // the one that it runs, -1 when it is free
};

// Where the OS thread is. A scheduler sets it at every switch.
struct Here {
    const Launch* launch = nullptr;
    Block* block = nullptr;
    int thread = -1;  // of the block
    bool together = false;
    Fiber home;
};
extern Here here;
extern uint64_t changes;  // writes to memory that somebody may be waiting for

void guard(char* memory);                                         // makes a guard page of what begins there
void give_stack(Fiber& fiber, char* memory, size_t stack_bytes);  // behind a guard page at `memory`
void begin(Fiber& fiber, void (*entry)());                        // `entry` calls arrived() first, and never returns
void jump(Fiber& from, Fiber& to);
void arrived();
void enter(Block& block, int thread);

// in_turn.cpp: blocks one after another.
std::string run_in_turn(const Launch& launch);
void wait_in_turn();
void yield_in_turn();
// together.cpp: all blocks of a cooperative launch at once, or all blocks of a cluster.
std::string run_together(const Launch& launch);
void wait_together();

}  // namespace host_cuda
