// Two blocks of one thread each hand a number to and fro through L2; each adds one. The word is its own flag.
// Every turn has two new words in lines of their own, as every time step has. All other blocks leave at once.

#include "words.cuh"

const int LINE = 32;  // words

extern "C" __global__ void flag_ping_pong(
    unsigned* words,   // (turns, 2, LINE) all UNWRITTEN
    unsigned* result,  // (3,) the last number, multiprocessor of block 0, of the partner
    unsigned* failed,  // (1,) set where a wait gave up
    int partner,       // block that block 0 plays with, not 0
    int turns
) {
    if (blockIdx.x != 0 && blockIdx.x != partner) return;
    const bool first = blockIdx.x == 0;
    unsigned number = 0;
    for (int turn = 0; turn < turns; ++turn) {
        unsigned* const to_partner = words + (size_t)turn * 2 * LINE;
        unsigned* const from_partner = to_partner + LINE;
        if (first) store_relaxed(to_partner, number + 1);
        const unsigned* const awaited = first ? from_partner : to_partner;
        unsigned tries = 0;
        do number = load_relaxed(awaited);
        while (number == UNWRITTEN && ++tries < MOST_TRIES);
        if (number == UNWRITTEN) {
            *failed = 1;
            return;
        }
        if (!first) store_relaxed(from_partner, number + 1);
    }
    result[first ? 1 : 2] = multiprocessor();
    if (first) result[0] = number;
}
