"""What the CPU spends on a launch, whatever the GPU then does."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.gpu import REPEATS, Gpu, Report, source

CALLS = 200  # in a row, fewer than a stream queues: none of them waits for the GPU
SEQUENCES, HIDDEN = 16, 64


def cpu(gpu: Gpu, report: Report) -> None:
    for count in (5, 18, 55):
        report.measure(f"CPU, launch of a RawKernel with {count} arguments", "us", partial(_launch, gpu, count))
    report.measure("CPU, gpulstm.cuda.packed.Kernel.launch with 9 arrays and 6 ints", "us", lambda: _packed(gpu))
    report.measure("CPU, RawKernel with the same", "us", lambda: _packed(gpu, by_cupy=True))
    for count in (5, 18, 55):
        report.measure(f"CPU, gpulstm.cuda.packed.Series with {count} arguments", "us", partial(_series, gpu, count))
    report.measure("CPU, gpulstm.cuda.gemm.Gemm", "us", lambda: _gemm(gpu))
    report.measure("CPU, cupy.matmul", "us", lambda: _matmul(gpu, with_out=False))
    report.measure("CPU, cupy.matmul with out", "us", lambda: _matmul(gpu, with_out=True))
    for nodes in (1, 100, 1000):
        report.measure(f"CPU, Graph.launch of {nodes} kernels", "us", partial(_graph, gpu, nodes))


def _microseconds(gpu: Gpu, call: Callable[[], object], calls: int | None = None) -> list[float]:
    found, calls = [], calls or CALLS
    for _ in range(REPEATS + 1):
        gpu.stream.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - start) / calls * 1e6)
    gpu.stream.synchronize()
    return found[1:]


def _launch(gpu: Gpu, count: int) -> list[float]:
    function = gpu.cupy.RawModule(code=source("many_arguments.cu")).get_function(f"arguments_{count}")
    args = _arguments(gpu, count)
    return _microseconds(gpu, lambda: function((1,), (32,), args))


def _packed(gpu: Gpu, by_cupy: bool = False) -> list[float]:
    from gpulstm.cuda.packed import Kernel

    function = Kernel(gpu.cupy, gpu.cupy.RawModule(code=source("many_arguments.cu")).get_function("arguments_15"))
    arrays = (gpu.empty(32, dtype="float32"),) * 9
    if by_cupy:
        args = (*arrays, *(np.int32(1),) * 6)
        return _microseconds(gpu, lambda: function((1, 1, 1), (32, 1, 1), args))
    return _microseconds(gpu, lambda: function.launch((1, 1, 1), (32, 1, 1), arrays, (1,) * 6))


def _series(gpu: Gpu, count: int) -> list[float]:
    """One int of them changes."""
    from gpulstm.cuda.packed import Kernel, Series

    function = gpu.cupy.RawModule(code=source("many_arguments.cu")).get_function(f"arguments_{count}")
    launch = Series(Kernel(gpu.cupy, function), (1, 1, 1), (32, 1, 1), _arguments(gpu, count), 1, 1)
    return _microseconds(gpu, lambda: launch(1))


def _arguments(gpu: Gpu, count: int) -> tuple:
    """As the kernels want them: an array, an int and an array, in groups of five and three."""
    array, number = gpu.empty(32, dtype="float32"), np.int32(1)
    five, three = (array, number, array, number, array), (array, number, array)
    eighteen = five * 3 + three
    return {5: five, 18: eighteen, 55: eighteen * 3 + (array,)}[count]


def _gemm(gpu: Gpu) -> list[float]:
    from gpulstm.cuda.gemm import Gemm, matrix

    a, b, out = (gpu.empty(*shape, dtype="float32") for shape in _shapes())
    product = Gemm(gpu.cupy, "float32")
    matrices = matrix(a), matrix(b), matrix(out)
    return _microseconds(gpu, lambda: product(*matrices))


def _matmul(gpu: Gpu, with_out: bool) -> list[float]:
    a, b, out = (gpu.empty(*shape, dtype="float32") for shape in _shapes())
    return _microseconds(gpu, lambda: gpu.cupy.matmul(a, b, out=out if with_out else None))


def _shapes() -> tuple[tuple[int, int], ...]:
    return (SEQUENCES, HIDDEN), (HIDDEN, 4 * HIDDEN), (SEQUENCES, 4 * HIDDEN)


def _graph(gpu: Gpu, nodes: int) -> list[float]:
    kernel, args = gpu.kernel("arguments_5"), _arguments(gpu, 5)
    kernel(1, 32, args)  # loads the kernel, which a capture does not allow
    gpu.stream.synchronize()
    gpu.stream.begin_capture()
    try:
        for _ in range(nodes):
            kernel(1, 32, args)
    finally:
        graph = gpu.stream.end_capture()
    graph.upload(gpu.stream)
    return _microseconds(gpu, lambda: graph.launch(gpu.stream), calls=10)
