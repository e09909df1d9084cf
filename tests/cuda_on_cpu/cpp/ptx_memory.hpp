// Memory as PTX sees it: the addresses of shared memory, alignment, and loads that promise that nobody writes there.
#pragma once
#include "host_cuda.hpp"

namespace ptx {

constexpr uint64_t shared_start = 1024;  // as in ptx_operands.py
constexpr int rank_shift = 24;           // a shared address has rank + 1 here if `mapa` made it, 0 if it is one's own

// The static shared memory of a source, registered while the library is loaded.
struct StaticShared {
    explicit StaticShared(size_t bytes) : slot(bytes ? host_cuda::register_shared(bytes, 128) : -1) {}
    const int slot;
};

// A thread's view of shared memory: static variables from shared_start on, and the dynamic part behind them.
class Shared {
  public:
    Shared(const StaticShared& of, uint64_t static_bytes);
    char* at(uint64_t address, uint64_t bytes, int line) const;  // fails outside, and for an address that is not aligned
    uint32_t in_block(uint32_t address, uint32_t rank, int line) const;  // mapa
    void store_async(uint64_t address, uint64_t barrier, const void* values, uint64_t bytes, int line) const;

    const uint64_t dynamic_start;

  private:
    char* of_any_block(uint64_t address, uint64_t bytes, int line) const;
    char* const statics_;
    const uint64_t static_end_;
};

char* global(uint64_t address, uint64_t bytes, int line);  // fails for null, and for an address that is not aligned

// Which places of global memory a launch reads and writes. ld.global.nc may come from a cache that sees no writes, so that
// nobody may write there during the whole launch; a weak load may come from a cache that does not see what other blocks have
// written since this block's last fence.
void begin_launch();
void reads_only(uint64_t address, uint64_t bytes, int line);
void reads(uint64_t address, uint64_t bytes, int line);
void writes(uint64_t address, uint64_t bytes, int line);

void fence();  // of the GPU or the cluster

void store(char* place, const void* values, uint64_t bytes);  // that somebody may be waiting for
void prefetched(uint64_t address, int line);
void check_launch(unsigned most_threads, int cluster);

// Lets other threads go on when a thread looks at a place for the second time: it waits for somebody to write there.
class Watch {
  public:
    void look(uint64_t address, int line) {
        bool again = count_ == most;
        for (int i = 0; i < count_; ++i) again = again || seen_[i] == address;
        if (again) {
            host_cuda::yield(line);
            count_ = 0;
        }
        seen_[count_++] = address;
    }

  private:
    static constexpr int most = 32;
    uint64_t seen_[most];
    int count_ = 0;
};

}  // namespace ptx
