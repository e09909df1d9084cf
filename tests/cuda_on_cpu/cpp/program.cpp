// One launch as a process of its own, for the sanitizers: `program REQUEST RESULT`, or `program --describe`.
//
// REQUEST (written by launcher.py): a line with the kernel and its geometry, then for each region of memory a line
// "bytes lead" and the bytes, then for each argument "region offset". Region -1: the bytes of a scalar follow; -2: a null
// pointer; -3: the bytes of a struct follow, then how many pointers it holds, and "at region offset" for each of them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "block.hpp"

extern "C" const char* host_cuda_describe();
extern "C" void (*host_cuda_find(const char* name))(void**);

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define HOST_CUDA_POISON(address, bytes) __asan_poison_memory_region(address, bytes)
#else
#define HOST_CUDA_POISON(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace {

struct Region {
    char* memory;
    size_t bytes;
};

void need(bool condition, const char* what) {
    if (condition) return;
    fprintf(stderr, "host_cuda: %s\n", what);
    exit(4);
}

std::vector<char> read_bytes(FILE* file, size_t bytes) {
    std::vector<char> data(bytes + 1);
    need(fread(data.data(), 1, bytes, file) == bytes, "the request is cut short");
    return data;
}

// Exactly as large as the array; `lead` keeps the alignment that the array's address had.
Region read_region(FILE* file) {
    size_t bytes = 0, lead = 0;
    need(fscanf(file, "%zu %zu", &bytes, &lead) == 2 && fgetc(file) == '\n', "bad region");
    char* block = static_cast<char*>(malloc(lead + bytes));
    need(block != nullptr, "no memory");
    const std::vector<char> data = read_bytes(file, bytes);
    memcpy(block + lead, data.data(), bytes);
    HOST_CUDA_POISON(block, lead);
    return {block + lead, bytes};
}

// A struct by value: its pointers, which were those of another process, are set to this one's memory.
std::vector<char> read_struct(FILE* file, size_t bytes, const std::vector<Region>& memory) {
    std::vector<char> data = read_bytes(file, bytes);
    unsigned count = 0;
    need(fscanf(file, "%u", &count) == 1, "bad struct");
    for (unsigned i = 0; i < count; ++i) {
        size_t at = 0, region = 0, offset = 0;
        need(fscanf(file, "%zu %zu %zu", &at, &region, &offset) == 3, "bad pointer in a struct");
        char* pointer = memory[region].memory + offset;
        memcpy(data.data() + at, &pointer, sizeof pointer);
    }
    need(fgetc(file) == '\n', "bad struct");
    return data;
}

}  // namespace

int main(int count, char** words) {
    if (count == 2) return fputs(host_cuda_describe(), stdout) < 0;
    need(count == 3, "usage: program REQUEST RESULT");
    FILE* file = fopen(words[1], "rb");
    need(file != nullptr, "no request");
    char name[256];
    unsigned e[6], regions, arguments;
    size_t dynamic_bytes;
    int thread_order, block_order, cooperative, late_block, cluster;
    unsigned long long seed, spin_limit;
    need(fscanf(file, "%255s %u %u %u %u %u %u %zu %d %d %llu %d %d %llu %d %u %u", name, e, e + 1, e + 2, e + 3, e + 4,
                e + 5, &dynamic_bytes, &thread_order, &block_order, &seed, &cooperative, &late_block, &spin_limit,
                &cluster, &regions, &arguments) == 17,
         "bad request");
    std::vector<Region> memory;
    for (unsigned i = 0; i < regions; ++i) memory.push_back(read_region(file));

    std::vector<char*> pointers(arguments);
    std::vector<std::vector<char>> scalars(arguments);
    std::vector<void*> args(arguments);
    for (unsigned i = 0; i < arguments; ++i) {
        int region = 0;
        size_t offset = 0;
        need(fscanf(file, "%d %zu", &region, &offset) == 2 && fgetc(file) == '\n', "bad argument");
        if (region >= 0) pointers[i] = memory[static_cast<size_t>(region)].memory + offset;
        if (region == -1) scalars[i] = read_bytes(file, offset);
        if (region == -3) scalars[i] = read_struct(file, offset, memory);
        args[i] = scalars[i].empty() ? &pointers[i] : static_cast<void*>(scalars[i].data());
    }
    fclose(file);

    host_cuda::Stacks stacks{nullptr, 0};
    const host_cuda::Launch launch{host_cuda_find(name), args.data(), dim3(e[0], e[1], e[2]), dim3(e[3], e[4], e[5]),
                                   dynamic_bytes, thread_order, block_order, seed,
                                   cooperative != 0, late_block, spin_limit, cluster, &stacks};
    const std::string what = host_cuda::run_grid(launch);
    if (!what.empty()) {
        fprintf(stderr, "host_cuda: %s\n", what.c_str());
        return 3;
    }
    file = fopen(words[2], "wb");
    need(file != nullptr, "the result cannot be written");
    for (const Region& region : memory) fwrite(region.memory, 1, region.bytes, file);
    return fclose(file);
}
