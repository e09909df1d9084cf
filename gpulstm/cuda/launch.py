"""Launch geometry: how many blocks of how many threads."""

THREADS = 256  # a multiple of the warp size that lets every supported device fill a multiprocessor


def one_thread_per(count: int) -> tuple[tuple[int], tuple[int]]:
    """(grid, block) of a one-dimensional launch with a thread for each of ``count`` elements, ``count`` > 0."""
    threads = min(THREADS, -(-count // 32) * 32)
    return (-(-count // threads),), (threads,)
