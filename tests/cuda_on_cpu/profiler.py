"""``cupyx.profiler``: how often something runs, and what is handed back, as in CuPy; the times are this machine's."""

import time
from math import inf

import numpy as np

from . import device


class Result:
    """CuPy's, as far as it is used: seconds, ``cpu_times`` (repeats,) and ``gpu_times`` (devices, repeats)."""

    def __init__(self, name, cpu_times, gpu_times) -> None:
        self.name, self.cpu_times, self.gpu_times = name, np.array(cpu_times), np.array([gpu_times])


def benchmark(func, args=(), kwargs={}, n_repeat=10000, *, name=None, n_warmup=10, max_duration=inf, devices=None):  # noqa: B006
    if not (isinstance(args, tuple) and isinstance(n_repeat, int) and isinstance(n_warmup, int)):
        raise ValueError("`args` should be of tuple type, `n_repeat` and `n_warmup` integers.")
    if devices is not None or max_duration != inf:
        raise NotImplementedError("the stand-in has benchmark on the current device, and without max_duration")
    for _ in range(n_warmup):
        func(*args, **kwargs)
    cpu_times, gpu_times = [], []
    for _ in range(n_repeat):
        begin, end = device.Event(), device.Event()
        begin.record()
        began = time.perf_counter()
        func(*args, **kwargs)
        cpu_times.append(time.perf_counter() - began)
        end.record()
        end.synchronize()
        gpu_times.append(device.get_elapsed_time(begin, end) / 1000)
    return Result(name or func.__name__, cpu_times, gpu_times)
