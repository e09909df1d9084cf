"""The stand-in's events and its ``cupyx.profiler``: they tell this machine's time, as strictly as CUDA does a GPU's."""

import numpy as np
import pytest

from tests.cuda_on_cpu import cupy_on_cpu


@pytest.fixture
def cupy():
    with cupy_on_cpu() as module:
        yield module


def test_an_event_says_no_time_until_somebody_has_waited_for_it(cupy):
    begin, end, untimed = cupy.cuda.Event(), cupy.cuda.Event(), cupy.cuda.Event(disable_timing=True)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(begin, end)
    for event in (begin, end, untimed):
        event.record()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorNotReady"):
        cupy.cuda.get_elapsed_time(begin, end)
    end.synchronize()
    assert 0 <= cupy.cuda.get_elapsed_time(begin, end) < 60_000
    untimed.synchronize()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(begin, untimed)


def test_benchmark_runs_as_often_as_it_is_asked_to(cupy):
    from cupyx.profiler import benchmark

    runs = []
    found = benchmark(runs.append, (1,), n_repeat=3, n_warmup=2)
    assert len(runs) == 5 and found.name == "append"
    assert found.gpu_times.shape == (1, 3) and found.cpu_times.shape == (3,)
    assert (found.gpu_times >= 0).all() and type(found.gpu_times) is np.ndarray
