// Runs all blocks of a cooperative launch at once, or those of a cluster, one cluster after another: each of their
// threads is a fiber from the beginning.
//
// A thread runs until it waits or yields. Who was waiting in a warp goes on first (its fibers are in the cache), who
// was waiting at a barrier goes on after everybody else, and who yields, waiting for memory to change, comes back when
// nobody else is left: that is a round. Rounds in which no memory changes are counted, and too many are a deadlock.
// The threads of a late block run only when two rounds have changed nothing.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>

#include "fiber.hpp"

namespace host_cuda {

namespace {

constexpr size_t stack_bytes = 128 * 1024;
constexpr size_t blocks_described = 16;
constexpr uint64_t rounds_before_late = 2;

struct Queues {
    std::deque<int> ready, yielded;
};
struct Run {
    int first = 0;  // number of the first block, after which the others come
    std::vector<std::unique_ptr<Block>> blocks;
    Cluster cluster;            // of them all, if the launch has clusters
    std::vector<Fiber> fibers;  // of thread t of block first + b at b * threads + t
    int threads = 0;            // of a block
    int late = -1;              // the late block, less first
    Queues prompt, tardy;
    uint64_t changes_seen = 0, idle_rounds = 0, random = 1;
    bool spinning = false;  // ended because nothing changes any more
};
Run* run;

Queues& queues_of(int fiber) { return fiber / run->threads == run->late ? run->tardy : run->prompt; }

uint64_t random_number() {
    run->random ^= run->random << 13, run->random ^= run->random >> 7, run->random ^= run->random << 17;  // xorshift64
    return run->random;
}

// In random order one in eight comes from the other end, so that warps mix.
int take(std::deque<int>& queue) {
    const bool back = here.launch->thread_order == 2 && random_number() % 8 == 0;
    const int fiber = back ? queue.back() : queue.front();
    back ? queue.pop_back() : queue.pop_front();
    return fiber;
}

void in_order(std::vector<int>& threads) {
    if (here.launch->thread_order == 1) std::reverse(threads.begin(), threads.end());
    if (here.launch->thread_order != 2) return;
    for (size_t i = threads.size(); i > 1; --i) std::swap(threads[i - 1], threads[random_number() % i]);
}

// Puts the threads that the last arrival set free back into their queue. `number` is the block's, less first.
void collect_released(Block& block, int number) {
    if (block.released.empty()) return;
    std::vector<int>& released = block.released;
    in_order(released);
    std::deque<int>& queue = queues_of(number * run->threads).ready;
    const bool warp = released.size() <= 32;
    for (size_t i = 0; i < released.size(); ++i) {
        const int fiber = number * run->threads + released[warp ? released.size() - 1 - i : i];
        warp ? queue.push_front(fiber) : queue.push_back(fiber);
    }
    released.clear();
}

void next_round() {
    ++run->idle_rounds;
    for (Queues* queues : {&run->prompt, &run->tardy}) {
        queues->ready.insert(queues->ready.end(), queues->yielded.begin(), queues->yielded.end());
        queues->yielded.clear();
    }
}

// The next fiber, or -1 when there is none, or none that could still make a difference.
int next_fiber() {
    for (;;) {
        if (!run->prompt.ready.empty()) return take(run->prompt.ready);
        if (changes != run->changes_seen) run->changes_seen = changes, run->idle_rounds = 0;
        const bool others_first = !run->prompt.yielded.empty() && run->idle_rounds < rounds_before_late;
        if (!others_first && !run->tardy.ready.empty()) return take(run->tardy.ready);
        if (run->prompt.yielded.empty() && run->tardy.yielded.empty()) return -1;
        run->spinning = run->idle_rounds >= here.launch->spin_limit;
        if (run->spinning) return -1;
        next_round();
    }
}

Fiber& enter_fiber(int number) {
    Fiber& fiber = run->fibers[number];
    Block& block = *run->blocks[number / run->threads];
    enter(block, fiber.thread);
    block.threads[fiber.thread].state = State::ready;
    return fiber;
}

void go_on_with_the_next(Fiber& from) {
    Block& left = *here.block;
    if (!left.error.empty()) return jump(from, here.home);
    collect_released(left, from.number / run->threads);
    if (run->cluster.completed) {
        run->cluster.completed = false;
        for (size_t b = 0; b < run->blocks.size(); ++b) collect_released(*run->blocks[b], static_cast<int>(b));
    }
    const int next = next_fiber();
    if (next < 0) return jump(from, here.home);
    Fiber& fiber = enter_fiber(next);
    if (next != from.number) jump(from, fiber);
}

Fiber& own_fiber() { return run->fibers[here.block->threads[here.thread].fiber]; }

void work() {
    arrived();
    here.launch->call(here.launch->args);
    Fiber& self = own_fiber();
    changed();
    here.block->leave(here.thread);
    if (here.block->cluster) here.block->cluster->leave(*here.block, here.thread);
    go_on_with_the_next(self);
    abort();  // nobody comes back to a thread that has returned
}

constexpr size_t bytes_of_fiber = fiber_guard_bytes + stack_bytes;

// What lay on the stacks of earlier launches stays there: nobody may count on zeros, as on a GPU.
void need_stacks(Stacks& stacks, size_t count) {
    if (stacks.count >= count) return;
    if (stacks.memory) munmap(stacks.memory, stacks.count * bytes_of_fiber);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, count * bytes_of_fiber, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) {
        perror("host_cuda: no memory for the fibers' stacks");
        abort();
    }
    stacks = {static_cast<char*>(memory), count};
    for (size_t i = 0; i < count; ++i) guard(stacks.memory + i * bytes_of_fiber);
}

void prepare(const Launch& launch, const std::vector<int>& block_order) {
    const size_t threads = static_cast<size_t>(run->threads);
    for (int number : block_order) {
        Block& block = *run->blocks[number];
        block.keeps_released = true;
        const uint64_t seed = launch.seed + static_cast<uint64_t>(run->first + number);
        for (int t : permutation(run->threads, launch.thread_order, seed)) {
            Fiber& fiber = run->fibers[number * threads + t];
            fiber.number = number * run->threads + t;
            fiber.thread = t;
            block.threads[t].fiber = fiber.number;
            queues_of(fiber.number).ready.push_back(fiber.number);
        }
    }
}

std::string describe_end() {
    std::string text;
    size_t unfinished = 0;
    for (const auto& block : run->blocks) {
        if (!block->error.empty()) return block->error;
        if (block->live && unfinished++ < blocks_described) {
            text += (text.empty() ? "" : "; ") + block->describe_waiting();
        }
    }
    if (!unfinished) return "";
    if (unfinished > blocks_described) text += "; and " + std::to_string(unfinished - blocks_described) + " others";
    if (!run->spinning) return "deadlock in " + text;
    return "deadlock: nothing changed while all threads that could run came " + std::to_string(run->idle_rounds) +
           " times to host_cuda::yield(): " + text;
}

}  // namespace

void wait_together() {
    Fiber& self = own_fiber();
    if (here.block->threads[here.thread].state == State::yielding) {
        queues_of(self.number).yielded.push_back(self.number);
    }
    go_on_with_the_next(self);
}

namespace {

std::string run_blocks(const Launch& launch, int first, int blocks, const std::vector<int>& order) {
    Run all;
    run = &all;
    all.first = first;
    all.threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    all.fibers.resize(static_cast<size_t>(blocks * all.threads));
    char* next = launch.stacks->memory;
    for (Fiber& fiber : all.fibers) give_stack(fiber, next, stack_bytes), next += bytes_of_fiber;
    all.late = launch.late_block >= first && launch.late_block < first + blocks ? launch.late_block - first : -1;
    all.random = (launch.seed + static_cast<uint64_t>(first)) * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
    for (int b = 0; b < blocks; ++b) {
        all.blocks.emplace_back(new Block(launch, position(first + b, launch.grid)));
        if (launch.cluster == 1) continue;
        all.blocks.back()->cluster = &all.cluster;
        all.blocks.back()->rank = static_cast<unsigned>(b);
        all.cluster.blocks.push_back(all.blocks.back().get());
    }
    prepare(launch, order);
    for (Fiber& fiber : all.fibers) begin(fiber, work);
    jump(here.home, enter_fiber(next_fiber()));
    const std::string what = describe_end();
    run = nullptr;
    return what;
}

}  // namespace

std::string run_together(const Launch& launch) {
    const int blocks = static_cast<int>(launch.grid.x * launch.grid.y * launch.grid.z);
    const int size = launch.cooperative ? blocks : launch.cluster;
    need_stacks(*launch.stacks, static_cast<size_t>(size) * launch.block.x * launch.block.y * launch.block.z);
    const std::vector<int> groups = permutation(blocks / size, launch.block_order, launch.seed);
    for (int group : groups) {
        const uint64_t seed = launch.seed + static_cast<uint64_t>(group);
        const std::string what = run_blocks(launch, group * size, size, permutation(size, launch.block_order, seed));
        if (!what.empty()) return what;
    }
    return "";
}

}  // namespace host_cuda
