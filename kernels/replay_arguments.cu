// What is another one in each replay of a captured graph, written to where the graph's launches read it: a graph holds
// the arguments of its launches, and a launch that comes before it has its own.
//
// One thread owns one sequence; the first one also writes the four words of a Stream (philox.cuh).
// 4 + 4 bytes for each sequence, and 16 for the words.
#include "common.cuh"

extern "C" __global__ void replay_arguments(
    unsigned int* draw,         // (4,) whose random words the launches draw, or null if they draw none
    int* lengths_left,          // (batch,) steps that a sequence has left, counted from the replay's first one, or null
    const int* lengths,         // (batch,) steps that it has, or null; negative numbers are sequences long over
    int first_step,             // of the replay, in the time that lengths count
    int first_draw,             // the same in the time that random words count
    int batch,
    unsigned int seed_low,
    unsigned int seed_high,
    unsigned int stream) {
    const int sequence = int(flat_thread_index());
    if (sequence == 0 && draw != nullptr) {
        draw[0] = seed_low;
        draw[1] = seed_high;
        draw[2] = stream;
        draw[3] = (unsigned int)first_draw;
    }
    if (sequence < batch && lengths_left != nullptr) lengths_left[sequence] = lengths[sequence] - first_step;
}
