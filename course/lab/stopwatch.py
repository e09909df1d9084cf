"""How long something takes, on the processor or on a GPU."""

import time


def seconds(run, xp, times: int = 20) -> float:
    """What ``run()`` takes, which computes with ``xp``: cupy or numpy.

    A GPU answers before it is done. So two of its events take the time, one before ``times`` runs and one behind them,
    and the mean is returned; a run to warm up comes first. While the GPU works, Python asks for the next run already:
    its own microseconds count only where they are more than the run's. On the processor it is the shortest of them.
    """
    run()
    if not hasattr(xp, "cuda"):
        return min(_by_the_clock(run) for _ in range(times))
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(begin, end) / 1000 / times  # it says milliseconds


def _by_the_clock(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
