// Clusters: blocks that are alive together, meet at a barrier, and write into each other's shared memory.
//
// The barrier is that of PTX, in two halves: a thread arrives, does something else if it likes, and waits. It is passed
// when all threads of the cluster that have not returned have arrived. To arrive twice, or to wait without having
// arrived, is undefined in PTX and an error here. So is reaching into a block that may not have begun, which is any
// other block before the first barrier, and into one that has returned.
#include "block.hpp"

namespace host_cuda {

size_t shared_slot_bytes(size_t slot);  // block.cpp

void Cluster::arrive(Block& block, int t, int line) {
    Thread& thread = block.threads[t];
    thread.line = line;
    if (thread.at_cluster_barrier) {
        block.error = block.describe_thread(t) + "arrives at barrier.cluster again before it has waited (line " +
                      std::to_string(line) + ")";
        return;
    }
    thread.at_cluster_barrier = true;
    thread.cluster_phase = phase;
    ++arrived_;
    complete();
}

bool Cluster::wait(Block& block, int t, int line) {
    Thread& thread = block.threads[t];
    thread.line = line;
    if (!thread.at_cluster_barrier) {
        block.error = block.describe_thread(t) + "waits at barrier.cluster without having arrived (line " +
                      std::to_string(line) + ")";
        return true;
    }
    if (thread.cluster_phase != phase) {
        thread.at_cluster_barrier = false;
        return false;
    }
    thread.state = State::at_cluster;
    return true;
}

void Cluster::leave(Block& block, int t) {
    const Thread& thread = block.threads[t];
    if (thread.at_cluster_barrier && thread.cluster_phase == phase) --arrived_;
    complete();
}

void Cluster::complete() {
    int live = 0;
    for (const Block* block : blocks) live += block->live;
    if (arrived_ == 0 || arrived_ < live) return;
    arrived_ = 0;
    ++phase;
    completed = true;
    for (Block* block : blocks) {
        for (size_t t = 0; t < block->threads.size(); ++t) {
            if (block->threads[t].state != State::at_cluster) continue;
            block->threads[t].at_cluster_barrier = false;
            block->release(static_cast<int>(t));
        }
        ++block->releases;
    }
}

// The same place in the shared memory of block `rank`; null and why, if there is none.
void* Cluster::shared_of(Block& own, const void* address, unsigned rank, size_t bytes, const char*& wrong) {
    wrong = nullptr;
    if (rank >= blocks.size()) wrong = "there is no block of this rank in the cluster";
    if (reinterpret_cast<uintptr_t>(address) % bytes) wrong = "an address that is no multiple of the access's size";
    if (wrong) return nullptr;
    Block& other = *blocks[rank];
    if (&other != &own && phase == 0) wrong = "that block may not have begun: no barrier.cluster has been passed yet";
    if (other.live == 0) wrong = "that block has returned, and its shared memory with it";
    if (wrong) return nullptr;
    const char* place = static_cast<const char*>(address);
    for (size_t slot = 0; slot <= own.shared.size(); ++slot) {
        const bool dynamic = slot == own.shared.size();
        const char* begin = static_cast<const char*>(dynamic ? own.dynamic : own.shared[slot]);
        const size_t size = dynamic ? own.dynamic_bytes : shared_slot_bytes(slot);
        if (!begin || place < begin || place + bytes > begin + size) continue;
        return static_cast<char*>(dynamic ? other.dynamic : other.shared[slot]) + (place - begin);
    }
    wrong = "an address that is not in the block's shared memory";
    return nullptr;
}

}  // namespace host_cuda
