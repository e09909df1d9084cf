"""What it costs to hand a hidden state from one time step to the next, in four ways."""

from functools import cache, partial

import numpy as np

from benchmarks.gpu import CLUSTERS, VECTORS, Gpu, Report

MICRO = 1e6
LINKS = 500  # fewer than the launches that a stream queues, so that a held GPU can have all of them waiting
BARRIERS = 2000
TURNS = 4000
STEPS = 256
THREADS = 512  # of a block in an all-to-all, as in the kernels
LINE = 32  # words


class GaveUp(RuntimeError):
    """A kernel waited longer than anything should take."""


def checked(failed, found, expected) -> None:
    """Raises unless the kernel waited for everything it needed, and found what it should."""
    if failed.get().any():
        raise GaveUp("a wait inside the kernel reached its bound")
    if not np.array_equal(found, expected):
        raise ValueError(f"wrong values arrived: expected {expected}, got {found}")


def boundary(gpu: Gpu, report: Report) -> None:
    for blocks, threads in ((1, 32), (gpu.multiprocessors, 256)):
        what = f"{blocks} x {threads} threads"
        report.measure(f"kernel boundary, loop, {what}", "us", partial(_chain, gpu, blocks, threads, 0))
        report.measure(
            f"kernel boundary, queued beforehand, {what}",
            "us",
            partial(_chain, gpu, blocks, threads, 20_000_000),
        )
        report.measure(f"kernel boundary, graph, {what}", "us", partial(_graph, gpu, blocks, threads))


def _links(gpu: Gpu, blocks: int, threads: int):
    """(array that the chain begins and ends in, function that launches the chain)."""
    kernel = gpu.kernel("next_value")
    values = gpu.empty(2, blocks, threads, dtype="float32")
    there, back = (values[0], values[1]), (values[1], values[0])

    def launch() -> None:
        for _ in range(LINKS // 2):
            kernel(blocks, threads, there)
            kernel(blocks, threads, back)

    return values, launch


def _chain(gpu: Gpu, blocks: int, threads: int, hold: int) -> list[float]:
    values, launch = _links(gpu, blocks, threads)
    seconds = gpu.seconds(launch, lambda: gpu.fill(values, 0), hold)
    _check_chain(values)
    return [s / LINKS * MICRO for s in seconds]


def _graph(gpu: Gpu, blocks: int, threads: int) -> list[float]:
    values, launch = _links(gpu, blocks, threads)
    launch()  # loads the kernel, which a capture does not allow
    gpu.stream.synchronize()
    gpu.stream.begin_capture()
    try:
        launch()
    finally:
        graph = gpu.stream.end_capture()
    graph.upload(gpu.stream)
    seconds = gpu.seconds(lambda: graph.launch(gpu.stream), lambda: gpu.fill(values, 0), 20_000_000)
    _check_chain(values)
    return [s / LINKS * MICRO for s in seconds]


def _check_chain(values) -> None:
    if not (values[0].get() == LINKS).all():
        raise ValueError(f"wrong values at the end of the chain: expected {LINKS}, got {values[0].get()}")


def barrier(gpu: Gpu, report: Report) -> None:
    for blocks in (2, 16, 64, 132):
        report.measure(f"grid barrier, {blocks} blocks", "us", partial(_barrier, gpu, blocks))


def _barrier(gpu: Gpu, blocks: int, threads: int = 128) -> list[float]:
    _fits(gpu, blocks)
    kernel = gpu.kernel("grid_barrier", shared=gpu.one_each)
    arrived, failed = gpu.empty(1), gpu.empty(1)
    values, result = gpu.empty(2, blocks, threads), gpu.empty(blocks, threads)
    args = (arrived, values, result, failed, np.int32(BARRIERS))
    seconds = gpu.seconds(lambda: kernel(blocks, threads, args), lambda: gpu.fill(arrived, 0))
    checked(failed, result.get(), np.full((blocks, threads), BARRIERS))
    return [s / BARRIERS * MICRO for s in seconds]


def _fits(gpu: Gpu, blocks: int) -> None:
    if blocks > gpu.multiprocessors:
        raise ValueError(
            f"{blocks} blocks that wait for each other need as many multiprocessors: {gpu.multiprocessors}"
        )


def flags(gpu: Gpu, report: Report) -> None:
    last = gpu.multiprocessors - 1
    partners = sorted({partner for partner in (1, 2, 3, 5, 8, 16, 33, 66, 100, last) if 0 < partner <= last})
    medians: dict[int, tuple[float, list[int]]] = {}
    report.measure(
        f"flag ping-pong, one way, over {len(partners)} pairs",
        "us",
        lambda: [_ping_pong(gpu, partner, medians) for partner in partners],
        pairs=medians,
    )
    for hidden in (256, 1024):
        for sequences in (1, 8, 32):
            for blocks in (2, 16, 33, 66, 132):
                report.measure(
                    f"flag all-to-all, a step: H {hidden}, N {sequences}, {blocks} blocks",
                    "us",
                    partial(_all_to_all, gpu, hidden, sequences, blocks),
                )


def _ping_pong(gpu: Gpu, partner: int, medians: dict) -> float:
    kernel = gpu.kernel("flag_ping_pong", shared=gpu.one_each)
    words, result, failed = gpu.empty(TURNS, 2, LINE), gpu.empty(3), gpu.empty(1)
    args = (words, result, failed, np.int32(partner), np.int32(TURNS))
    seconds = gpu.seconds(lambda: kernel(gpu.multiprocessors, 1, args), lambda: gpu.fill(words, 0xFF))
    found = result.get()
    checked(failed, found[0], 2 * TURNS)
    median = float(np.median(seconds)) / (2 * TURNS) * MICRO
    medians[partner] = median, found[1:].tolist()  # with the two multiprocessors
    return median


@cache
def expected_checksums(words: int, vectors: int) -> np.ndarray:
    """What each thread (THREADS,) of an all-to-all of ``words`` words has read, combined by exclusive or."""
    index = np.arange(words, dtype=np.uint64) * 0x85EBCA6B
    total = np.zeros(words, np.uint64)
    for step in range(STEPS):
        total ^= ((index + step * 0x9E3779B1) & 0xFFFFFFFF) >> 1
    padded = np.zeros(vectors * THREADS, np.uint32)
    padded[: words // 4] = np.bitwise_xor.reduce(total.reshape(-1, 4), axis=1)
    return np.bitwise_xor.reduce(padded.reshape(vectors, THREADS), axis=0)


def _vectors(words: int) -> int:
    return next(n for n in VECTORS if n * THREADS * 4 >= words)


def _all_to_all(gpu: Gpu, hidden: int, sequences: int, blocks: int) -> list[float]:
    _fits(gpu, blocks)
    words = sequences * hidden
    vectors = _vectors(words)
    kernel = gpu.kernel("flag_all_to_all", shared=gpu.one_each, VECTORS=vectors)
    states, checksums, failed = gpu.empty(STEPS, sequences, hidden), gpu.empty(blocks, THREADS), gpu.empty(1)
    args = (states, checksums, failed, np.int32(sequences), np.int32(hidden), np.int32(STEPS))
    seconds = gpu.seconds(lambda: kernel(blocks, THREADS, args), lambda: gpu.fill(states, 0xFF))
    checked(failed, checksums.get(), np.tile(expected_checksums(words, vectors), (blocks, 1)))
    return [s / STEPS * MICRO for s in seconds]


def cluster(gpu: Gpu, report: Report) -> None:
    for size in CLUSTERS:
        for how in ("polling", "async"):
            for partner in sorted({1, size - 1}):
                report.measure(
                    f"cluster ping-pong, one way, {how}: blocks 0 and {partner} of {size}",
                    "us",
                    partial(_cluster_ping_pong, gpu, size, how, partner),
                )
        for hidden, sequences in ((256, 1), (256, 8), (256, 32), (1024, 1), (1024, 8)):
            for clusters in (1, 64 // size):
                report.measure(
                    f"cluster all-to-all, a step: H {hidden}, N {sequences}, {clusters} x {size} blocks",
                    "us",
                    partial(_cluster_all_to_all, gpu, hidden, sequences, size, clusters),
                )


def _cluster_ping_pong(gpu: Gpu, size: int, how: str, partner: int) -> list[float]:
    kernel = gpu.kernel(f"cluster_ping_pong_{how}", shared=gpu.one_each, CLUSTER=size)
    result, failed = gpu.empty(3), gpu.empty(1)
    args = (result, failed, np.int32(partner), np.int32(TURNS))
    seconds = gpu.seconds(lambda: kernel(size, 1, args))
    checked(failed, result.get()[0], 2 * TURNS)
    return [s / (2 * TURNS) * MICRO for s in seconds]


def _cluster_all_to_all(gpu: Gpu, hidden: int, sequences: int, size: int, clusters: int) -> list[float]:
    _fits(gpu, clusters * size)
    words = sequences * hidden
    vectors = _vectors(words)
    shared = max(2 * 4 * words, gpu.one_each)  # two slots of 4-byte words
    kernel = gpu.kernel("cluster_all_to_all", shared=shared, CLUSTER=size, VECTORS=vectors)
    blocks = clusters * size
    checksums, failed = gpu.empty(blocks, THREADS), gpu.empty(1)
    args = (checksums, failed, np.int32(sequences), np.int32(hidden), np.int32(STEPS))
    seconds = gpu.seconds(lambda: kernel(blocks, THREADS, args))
    checked(failed, checksums.get(), np.tile(expected_checksums(words, vectors), (blocks, 1)))
    return [s / STEPS * MICRO for s in seconds]
