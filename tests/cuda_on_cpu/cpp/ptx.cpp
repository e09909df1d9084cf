// The parts of ptx.hpp and ptx_memory.hpp that are no single expression.
#include "ptx.hpp"

#include <cfenv>
#include <string>
#include <unordered_map>

#include "fiber.hpp"

namespace ptx {

// ---- Approximations --------------------------------------------------------------------------------------------------
namespace {

// -1, 0 or 1, from the argument's bits.
int part_of_error(uint32_t bits) { return static_cast<int>((bits * 2654435761u >> 16) % 3) - 1; }

// `exact` rounded, and then `ulps` units in the last place beside that, up or down or not at all.
float beside(double exact, uint32_t argument, int ulps) {
    const float nearest = static_cast<float>(exact);
    if (nearest == 0.0f || !std::isfinite(nearest)) return nearest;
    const uint32_t bits = as_bits(nearest);
    if (!(bits & 0x7fffffu)) return nearest;  // powers of two come out exactly
    return bits_as_f32(bits + static_cast<uint32_t>(part_of_error(argument) * ulps));
}

}  // namespace

// NVIDIA, "Parallel Thread Execution ISA": rcp at most 1 ulp, rsqrt 2^-22.9, ex2 2^-22, lg2 2^-22 (absolute, near 1), div
// 2 ulp for divisors up to 2^126, all relative. Of ex2 only 1 ulp is taken: CUDA's expf and tanhf, which are made of it, are
// documented to be wrong by 2 at most.
float rcp_approx(float a) { return beside(1.0 / a, as_bits(a), 1); }
float rsqrt_approx(float a) { return beside(1.0 / ::sqrt(static_cast<double>(a)), as_bits(a), 1); }
float sqrt_approx(float a) { return beside(::sqrt(static_cast<double>(a)), as_bits(a), 1); }
float ex2_approx(float a) { return beside(::exp2(static_cast<double>(a)), as_bits(a), 1); }
float lg2_approx(float a) {
    const double exact = ::log2(static_cast<double>(a));
    return static_cast<float>(std::isfinite(exact) ? exact + part_of_error(as_bits(a)) * 0x1p-22 : exact);
}
float div_approx(float a, float b) {
    const float size = fabsf(b);
    if (size > 0x1p126f && std::isfinite(b)) return std::isinf(a) ? a * 0.0f : copysignf(0.0f, a) * copysignf(1.0f, b);
    return beside(static_cast<double>(a) / b, as_bits(a) ^ as_bits(b), 2);
}

// Of the argument only the upper word is read, and only the upper word of the result is written.
double rcp_approx(double a) {
    const double inverse = 1 / bits_as_f64(as_bits(a) & ~0xffffffffull);
    return inverse == inverse ? bits_as_f64(as_bits(inverse) & ~0xffffffffull) : inverse;
}

__attribute__((noinline)) float fma_down(float a, float b, float c) {
    const int before = fegetround();
    fesetround(FE_DOWNWARD);
    volatile float x = a, y = b, z = c;
    volatile float result = fmaf(x, y, z);
    fesetround(before);
    return result;
}

// ---- Shared memory ---------------------------------------------------------------------------------------------------
namespace {

[[noreturn]] void wrong(const char* what, uint64_t address, uint64_t bytes, int line) {
    static char text[160];
    snprintf(text, sizeof text, "%s: %llu bytes at %#llx", what, static_cast<unsigned long long>(bytes),
             static_cast<unsigned long long>(address));
    host_cuda::fail(text, line);
}

uint64_t up_to_16(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

Shared::Shared(const StaticShared& of, uint64_t static_bytes)
    : dynamic_start(shared_start + up_to_16(static_bytes)),
      statics_(of.slot < 0 ? nullptr : static_cast<char*>(host_cuda::static_shared(of.slot))),
      static_end_(shared_start + static_bytes) {}

char* Shared::at(uint64_t address, uint64_t bytes, int line) const {
    if (address % bytes) wrong("a shared address that is no multiple of the access's size", address, bytes, line);
    if (address >= shared_start && address + bytes <= static_end_) return statics_ + (address - shared_start);
    const uint64_t dynamic_end = dynamic_start + host_cuda::here.block->dynamic_bytes;
    if (address >= dynamic_start && address + bytes <= dynamic_end) {
        return static_cast<char*>(host_cuda::dynamic_shared()) + (address - dynamic_start);
    }
    wrong("an address outside of the block's shared memory", address, bytes, line);
}

uint32_t Shared::in_block(uint32_t address, uint32_t rank, int line) const {
    if (address >> rank_shift) wrong("mapa of an address that has been through mapa", address, 1, line);
    return address | (rank + 1) << rank_shift;
}

char* Shared::of_any_block(uint64_t address, uint64_t bytes, int line) const {
    const uint64_t own = address & ((1ull << rank_shift) - 1), rank = address >> rank_shift;
    char* place = at(own, bytes, line);
    return rank ? static_cast<char*>(host_cuda::shared_of(place, static_cast<unsigned>(rank - 1), bytes, line)) : place;
}

void Shared::store_async(uint64_t address, uint64_t barrier, const void* values, uint64_t bytes, int line) const {
    if (address >> rank_shift != barrier >> rank_shift) {
        wrong("st.async with an mbarrier in another block than the data", address, bytes, line);
    }
    store(of_any_block(address, bytes, line), values, bytes);
    auto* counter = reinterpret_cast<unsigned long long*>(of_any_block(barrier, 8, line));
    host_cuda::change_mbarrier(counter, [bytes](host_cuda::Mbarrier& state) { state.bytes -= static_cast<int>(bytes); });
}

// ---- Global memory ---------------------------------------------------------------------------------------------------
char* global(uint64_t address, uint64_t bytes, int line) {
    if (address < 4096) wrong("an access through a null pointer", address, bytes, line);
    if (address % bytes) wrong("a global address that is no multiple of the access's size", address, bytes, line);
    return reinterpret_cast<char*>(address);
}

namespace {

// What a launch has done to each 2 bytes of memory, the smallest numbers that kernels store side by side.
struct Page {
    static constexpr uint64_t bytes = 4096, each = 2;
    bool read_only[bytes / each] = {};
    uint32_t writer[bytes / each] = {};  // the number of the block that wrote last, from 1 on
    uint32_t when[bytes / each] = {};    // the fences of all blocks before that
};
uint32_t fences;
std::unordered_map<uint32_t, uint32_t> last_fence;  // of each block
std::unordered_map<uint64_t, Page> pages;
uint64_t last_number = ~0ull;
Page* last_page;

Page& page_of(uint64_t address) {
    if (address / Page::bytes != last_number) {
        last_number = address / Page::bytes;
        last_page = &pages[last_number];
    }
    return *last_page;
}

uint32_t own_number() { return 1 + blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); }

}  // namespace

void begin_launch() {
    pages.clear();
    last_number = ~0ull;
    fences = 0;
    last_fence.clear();
}

void fence() { last_fence[own_number()] = ++fences; }

void reads_only(uint64_t address, uint64_t bytes, int line) {
    for (uint64_t at = address; at < address + bytes; at += Page::each) {
        Page& page = page_of(at);
        const uint64_t word = at % Page::bytes / Page::each;
        if (page.writer[word]) wrong("ld.global.nc of what this launch has written", address, bytes, line);
        page.read_only[word] = true;
    }
}

void reads(uint64_t address, uint64_t bytes, int line) {
    for (uint64_t at = address; at < address + bytes; at += Page::each) {
        const Page& page = page_of(at);
        const uint64_t word = at % Page::bytes / Page::each;
        const uint32_t writer = page.writer[word];
        if (!writer || writer == own_number() || page.when[word] < last_fence[own_number()]) continue;
        wrong("a weak load of what another block has written, without a fence since", address, bytes, line);
    }
}

void writes(uint64_t address, uint64_t bytes, int line) {
    for (uint64_t at = address; at < address + bytes; at += Page::each) {
        Page& page = page_of(at);
        const uint64_t word = at % Page::bytes / Page::each;
        if (page.read_only[word]) wrong("a write to what this launch reads by ld.global.nc", address, bytes, line);
        page.writer[word] = own_number();
        page.when[word] = fences;
    }
}

void store(char* place, const void* values, uint64_t bytes) {
    if (!memcmp(place, values, bytes)) return;
    memcpy(place, values, bytes);
    host_cuda::changed();
}

void prefetched(uint64_t address, int line) {
    if (address < 4096) wrong("a prefetch through a null pointer", address, 1, line);
}

void check_launch(unsigned most_threads, int cluster) {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads > most_threads) wrong("more threads in a block than .maxntid allows", threads, most_threads, 0);
    if (cluster != host_cuda::here.launch->cluster) wrong("another cluster than .reqnctapercluster says", 0, 0, 0);
}

}  // namespace ptx
