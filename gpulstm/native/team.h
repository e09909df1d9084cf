// The threads of one call, and a barrier for them. They are OpenMP's; its own barrier may put threads to sleep, which
// costs more than a time step.
#pragma once

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>

#define SPINS 4000  // loads in vain before the other thread is given the processor

typedef struct {
    int size;
    atomic_int arrived, turn;
} Team;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Everything that the threads wrote before it can be read by all of them after it.
static inline void barrier(Team* team) {
    if (team->size == 1) return;
    const int turn = atomic_load_explicit(&team->turn, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->turn, turn + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->turn, memory_order_acquire) == turn; ++spins) {
        if (spins < SPINS) {
            relax();
        } else {
            sched_yield();
        }
    }
}

// The share [first, end) of `count` things that thread `id` takes.
static inline long share(long count, int id, int size) { return count * id / size; }
