"""The front: where there is a GPU the same object launches through CuPy, here through the project's stand-in for it."""

import sys
import warnings

import numpy as np
import pytest

from tests.cuda_on_cpu import cupy_on_cpu
from tests.simulated import HEAD, kernels, run

ADD = (
    HEAD + "add(const float* x, float* y, int n) {\n int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
    " if (i < n) y[i] += x[i];\n}"
)


@pytest.fixture
def cupy():
    with cupy_on_cpu() as module:
        yield module


def test_without_cupy_or_without_a_gpu_the_simulator_runs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert kernels.kernel(ADD).on == "simulator"
    with pytest.raises(kernels.KernelError, match="there is no GPU here"):
        kernels.kernel(ADD, on="gpu")
    with pytest.raises(kernels.KernelError, match="got 'cpu'"):
        kernels.kernel(ADD, on="cpu")


def test_with_a_gpu_the_same_cell_runs_there(cupy, capsys):
    x, y = cupy.arange(40, dtype="float32"), cupy.ones(40, "float32")
    k = kernels.kernel(ADD)
    assert k.on == "gpu" and k.name == "add"
    k(2, 32, x, y, np.int32(40), order="reverse", strict=False)
    np.testing.assert_array_equal(y.get(), np.arange(40) + 1)
    assert cupy.on_cpu.launches == {"add": 1}
    assert k.findings == ()
    k.report()
    assert "add ran on the GPU. Counting is the simulator's: k = kernels.simulate(source)" in capsys.readouterr().out
    for ask in (lambda: k.counts, lambda: k.accesses, lambda: k.draw("x")):
        with pytest.raises(kernels.KernelError, match="Counting is the simulator's"):
            ask()


def test_the_simulator_takes_what_lies_on_the_gpu_and_puts_it_back(cupy):
    x, y = cupy.arange(40, dtype="float32"), cupy.ones(40, "float32")
    made = run(ADD, 2, 32, x, y, np.int32(40))
    np.testing.assert_array_equal(y.get(), np.arange(40) + 1)
    assert not cupy.on_cpu.launches and made.on == "simulator"
    assert made.counts.sectors_per_request("x") == 2.5  # of 32 and of 8 numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.zeros(40, np.float32)}, "wants a CuPy array of float32, and got a numpy array of float32"),
        ({2: 40}, "wants np.int32"),
        ({2: np.int64(40)}, "wants np.int32"),
    ],
)
def test_a_gpu_is_not_given_what_it_would_misread(cupy, change, message):
    arguments = [cupy.ones(40, "float32"), cupy.ones(40, "float32"), np.int32(40)]
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(kernels.KernelError, match=message):
        kernels.kernel(ADD)(2, 32, *arguments)
    with pytest.raises(kernels.KernelError, match="at most 1024 threads"):
        kernels.kernel(ADD)(2, 2048, *arguments)
    assert not cupy.on_cpu.launches


def test_a_syntax_error_is_told_before_the_gpus_compiler_sees_it(cupy):
    with pytest.raises(kernels.KernelError, match="Line 3: after this line"):
        kernels.kernel(ADD.replace("x[i];\n", "x[i]\n"))


class Recording:
    """A CuPy whose kernels only note how they were made and launched, or fail as they are told."""

    def __init__(self, cupy, failure=None):
        self.cuda, self.ndarray, self.made, self.launched, self.failure = cupy.cuda, cupy.ndarray, [], [], failure

    def RawKernel(self, source, name, **settings):
        self.made.append((name, settings))
        recording = self

        class Compiled:
            def compile(self):
                if isinstance(recording.failure, recording.cuda.compiler.CompileException):
                    raise recording.failure

            def __call__(self, grid, block, arguments, **settings):
                recording.launched.append((grid, block, settings))
                if isinstance(recording.failure, UserWarning):
                    warnings.warn(recording.failure, stacklevel=2)
                elif recording.failure is not None:
                    raise recording.failure

        return Compiled()


HEAD_OF_GRID = "#include <cooperative_groups.h>\n"
GRID = HEAD + "k(float* y) { cooperative_groups::this_grid().sync(); y[threadIdx.x + blockIdx.x * 32] = 1; }"


def recording(cupy, monkeypatch, failure=None):
    made = Recording(cupy, failure)
    monkeypatch.setattr(kernels.backend, "cupy_with_a_gpu", lambda: made)
    return made


def test_a_kernel_with_a_grid_barrier_is_launched_cooperatively(cupy, monkeypatch):
    """By the driver itself where CuPy lets it: CuPy's own such launch needs a library that pip does not bring."""
    fake = recording(cupy, monkeypatch)
    for without in ((), ("launchCooperativeKernel",)):
        for name in without:
            monkeypatch.delattr(cupy.cuda.driver, name)
        kernels.kernel(GRID)((2, 1), 32, cupy.zeros(64, "float32"), shared_mem=64)
    kernels.kernel(ADD)
    assert fake.made == [("k", {}), ("k", {"enable_cooperative_groups": True}), ("add", {})]
    assert fake.launched == [((2, 1, 1), (32, 1, 1), {"shared_mem": 64})] * 2


def test_a_barrier_of_the_grid_on_the_gpu(cupy):
    with pytest.raises(kernels.KernelError, match="all blocks must be on the GPU at once"):
        kernels.kernel(HEAD_OF_GRID + GRID)(1000, 1024, cupy.zeros(1000 * 32, "float32"))
    y = cupy.zeros(64, "float32")
    kernels.kernel(HEAD_OF_GRID + GRID)(2, 32, y)
    assert y.get().all() and cupy.on_cpu.launches == cupy.on_cpu.packed == {"k": 1}


def test_a_barrier_of_the_grid_where_cupy_launches(cupy, monkeypatch):
    """It leaves out blocks that do not fit, with a warning."""
    monkeypatch.delattr(cupy.cuda.driver, "launchCooperativeKernel")
    with pytest.raises(kernels.KernelError, match="all blocks must be on the GPU at once.*grid size will be reduced"):
        kernels.kernel(HEAD_OF_GRID + GRID)(1000, 1024, cupy.zeros(1000 * 32, "float32"))


def test_plain_numbers_beside_a_barrier_of_the_grid(cupy):
    """As CuPy hands them on, where the source is not looked at."""
    source = (
        HEAD_OF_GRID + HEAD + "k(float* y, double a, long long n, bool on) { cooperative_groups::this_grid().sync();"
    )
    y = cupy.zeros(2, "float32")
    k = kernels.kernel(source + " switch (1) { default: y[blockIdx.x] = a * n + on; } }")
    k(2, 1, y, 0.5, 6, True)
    assert y.get().tolist() == [4, 4] and cupy.on_cpu.packed == {"k": 1}


def test_what_only_the_gpus_compiler_understands_is_left_to_it(cupy, monkeypatch):
    fake = recording(cupy, monkeypatch)
    kernels.kernel(HEAD + "k(float* y) { switch (1) { default: y[0] = 1; } }")(1, 1, 7)
    assert len(fake.launched) == 1


def test_the_gpus_complaints_become_kernel_errors(cupy, monkeypatch):
    y = cupy.zeros(64, "float32")
    recording(cupy, monkeypatch, UserWarning("The grid size will be reduced from 9 to 2"))
    with pytest.raises(kernels.KernelError, match="all blocks must be on the GPU at once"):
        kernels.kernel(GRID)(2, 32, y)
    recording(cupy, monkeypatch, cupy.cuda.driver.CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS"))
    with pytest.raises(kernels.KernelError, match=r"ILLEGAL_ADDRESS. Which thread it was, kernels.simulate.* Restart"):
        kernels.kernel(GRID)(2, 32, y)
    recording(cupy, monkeypatch, cupy.cuda.compiler.CompileException("no such thing", GRID, "k", ()))
    with pytest.raises(kernels.KernelError, match="the GPU's compiler refuses this kernel"):
        kernels.kernel(GRID)
