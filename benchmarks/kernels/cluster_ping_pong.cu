// Two blocks of a cluster, one thread each, hand a number to and fro through each other's shared memory; each adds one.
// Whoever gives up goes to the last barrier like all others, so that no block leaves while another may write to it.
//
// CLUSTER: blocks in the cluster. The grid is one cluster.

#include "cluster.cuh"
#include "words.cuh"

// By remote stores, and polling the own shared memory.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) cluster_ping_pong_polling(
    unsigned* result,  // (3,) the last number, multiprocessor of block 0, of the partner
    unsigned* failed,  // (1,) set where a wait gave up
    int partner,       // block of the cluster that block 0 plays with, not 0
    int turns
) {
    __shared__ unsigned inbox;
    const unsigned own = shared_address(&inbox);
    const int rank = (int)cluster_rank();
    inbox = 0;
    cluster_barrier();
    if (rank == 0 || rank == partner) {
        const unsigned theirs = remote_address(own, rank == 0 ? partner : 0);
        unsigned number = 0;
        unsigned tries = 0;
        for (int turn = 0; turn < turns && tries < MOST_TRIES; ++turn) {
            if (rank == 0) store_remote_relaxed(theirs, number + 1);
            const unsigned awaited = 2 * turn + (rank == 0 ? 2 : 1);
            tries = 0;
            while ((number = load_shared_relaxed(own)) != awaited && tries < MOST_TRIES) ++tries;
            if (rank != 0) store_remote_relaxed(theirs, number + 1);
        }
        if (tries == MOST_TRIES) *failed = 1;
        result[rank == 0 ? 1 : 2] = multiprocessor();
        if (rank == 0) result[0] = number;
    }
    cluster_barrier();
}

// By st.async, and waiting at an mbarrier that counts the bytes.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) cluster_ping_pong_async(
    unsigned* result,  // (3,) as above
    unsigned* failed,  // (1,)
    int partner,
    int turns
) {
    __shared__ unsigned inbox;
    __shared__ unsigned long long arrived;
    const unsigned own = shared_address(&inbox), own_barrier = shared_address(&arrived);
    const int rank = (int)cluster_rank();
    inbox = 0;
    barrier_init(own_barrier);
    cluster_barrier();
    if (rank == 0 || rank == partner) {
        const unsigned other = rank == 0 ? partner : 0;
        const unsigned theirs = remote_address(own, other), their_barrier = remote_address(own_barrier, other);
        unsigned number = 0;
        bool came = true;
        for (int turn = 0; turn < turns && came; ++turn) {
            barrier_expect(own_barrier, 4);
            if (rank == 0) store_async(theirs, number + 1, their_barrier);
            came = barrier_wait(own_barrier, turn & 1);
            number = load_shared_relaxed(own);
            if (rank != 0) store_async(theirs, number + 1, their_barrier);
        }
        if (!came) *failed = 1;
        result[rank == 0 ? 1 : 2] = multiprocessor();
        if (rank == 0) result[0] = number;
    }
    cluster_barrier();
}
