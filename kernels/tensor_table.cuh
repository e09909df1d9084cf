// Many tensors in one launch: a table of pointers and sizes, handed over by value as a kernel's argument.
//
// Nothing is uploaded: the table travels with the launch. The tensors are cut into chunks of CHUNK elements, numbered
// through all tensors, and a block owns a chunk, so that a launch has one grid whatever the tensors' sizes. A table is
// TABLE_TENSORS long, such that it and the other arguments stay below the 4096 bytes that every launch may carry.
//
// gpulstm/cuda/tensor_table.py fills the table and has the same numbers.
#pragma once
#include "common.cuh"

#define TABLE_TENSORS 88
#define CHUNK 1024

struct TensorTable {
    real* target[TABLE_TENSORS];          // (size,), what the kernel changes: parameters, or gradients to be clipped
    const real* gradient[TABLE_TENSORS];  // (size,), or null where the kernel does not read it
    real* first[TABLE_TENSORS];           // (size,), momentum or Adam's m, or null
    real* second[TABLE_TENSORS];          // (size,), Adam's v, or null
    long long size[TABLE_TENSORS];        // elements, at least 1
    int first_chunk[TABLE_TENSORS];       // chunks of all tensors before this one
    int count;                            // tensors in the table, at least 1
    int chunks;                           // of all tensors together
};

struct Chunk {
    int tensor;
    long long begin, end;  // elements of that tensor
};

// Which elements are a chunk's: the last tensor that begins at or before it, by bisection. All threads of a block take
// the same way, and the table lies in constant memory.
__device__ __forceinline__ Chunk chunk_of(const TensorTable& table, int chunk) {
    int low = 0, high = table.count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (table.first_chunk[middle] <= chunk)
            low = middle;
        else
            high = middle - 1;
    }
    const long long begin = (long long)(chunk - table.first_chunk[low]) * CHUNK;
    const long long size = table.size[low];
    return {low, begin, begin + CHUNK < size ? begin + CHUNK : size};
}
