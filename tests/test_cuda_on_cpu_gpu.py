"""What the CPU stand-in pretends its GPU to be, and what becomes of a cooperative launch that does not fit it."""

import numpy as np
import pytest

from gpulstm.cuda import own_cublas
from gpulstm.cuda.gemm import matrix
from tests.cuda_on_cpu import InvalidMemory, cupy_on_cpu

SOURCE = """
extern "C" __global__ void mark(int* blocks) {
    __shared__ int here[256];
    here[threadIdx.x % 256] = 1;
    blocks[blockIdx.x + gridDim.x * blockIdx.y] = here[threadIdx.x % 256];
}
"""
STATIC = 1024  # bytes of `here`


@pytest.fixture
def cupy():
    with cupy_on_cpu(multiprocessors=3, shared_memory_optin=100 * 1024, compute_capability="86") as module:
        yield module


def load(cupy, cooperative=True):
    return cupy.RawModule(code=SOURCE, enable_cooperative_groups=cooperative).get_function("mark")


def test_the_device_is_what_was_asked_for(cupy):
    device = cupy.cuda.Device()
    assert device.compute_capability == "86"
    assert (device.attributes["ComputeCapabilityMajor"], device.attributes["ComputeCapabilityMinor"]) == (8, 6)
    assert device.attributes["MultiProcessorCount"] == 3
    assert device.attributes["MaxSharedMemoryPerBlockOptin"] == 100 * 1024
    assert device.attributes["CooperativeLaunch"]
    with cupy_on_cpu() as usual:
        assert usual.cuda.Device(1).attributes["MultiProcessorCount"] == 16
        assert usual.cuda.Device(1).attributes["MaxSharedMemoryPerBlockOptin"] == 227 * 1024
        assert usual.cuda.Device(1).compute_capability == "90"


@pytest.mark.parametrize("mode", ["fibers", "asan"])
def test_the_occupancy_counts_threads_and_shared_memory(mode):
    with cupy_on_cpu(mode, shared_memory_optin=100 * 1024) as cupy:
        kernel = load(cupy)
        assert kernel.shared_size_bytes == STATIC
        occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
        counts = [occupancy(kernel.kernel.ptr, threads, 0) for threads in (1024, 1000, 512, 33, 1)]
        assert counts == [2, 2, 4, 32, 32]
        # 101 KiB for all blocks; each takes its static and dynamic shared memory and 1 KiB.
        sizes = {99 * 1024: 1, 99 * 1024 + 1: 0, 48 * 1024: 2, 49 * 1024: 1, 18 * 1024: 5}
        assert {size: occupancy(kernel.kernel.ptr, 32, size) for size in sizes} == sizes
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_HANDLE"):
            occupancy(1, 32, 0)


def test_a_grid_that_does_not_fit_is_made_smaller_with_a_warning(cupy):
    blocks = cupy.zeros(8, "int32")
    load(cupy)((6,), (1024,), (blocks,))
    np.testing.assert_array_equal(blocks.get(), [1] * 6 + [0] * 2)
    blocks.fill(0)
    with pytest.warns(UserWarning, match="grid size will be reduced from 7 to 6, as the specified grid size exceeds"):
        load(cupy)((7,), (1024,), (blocks,))
    np.testing.assert_array_equal(blocks.get(), [1] * 6 + [0] * 2)
    load(cupy, cooperative=False)((8,), (1024,), (blocks,))
    np.testing.assert_array_equal(blocks.get(), [1] * 8)


def test_a_grid_that_does_not_fit_and_has_two_dimensions_is_refused(cupy):
    blocks = cupy.zeros(8, "int32")
    load(cupy)((3, 2), (1024,), (blocks,))
    with pytest.raises(ValueError, match=r"The specified grid size \(4 \* 2 \* 1\) exceeds the limit \(6\)"):
        load(cupy)((4, 2), (1024,), (blocks,))


def test_shared_memory_decides_what_fits(cupy):
    kernel, blocks = load(cupy), cupy.zeros(4, "int32")
    kernel.max_dynamic_shared_size_bytes = 99 * 1024
    kernel((3,), (32,), (blocks,), shared_mem=99 * 1024)
    with pytest.warns(UserWarning, match="reduced from 4 to 3"):
        kernel((4,), (32,), (blocks,), shared_mem=99 * 1024)


def test_more_shared_memory_than_the_device_has_is_refused(cupy):
    kernel = load(cupy)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=f"INVALID_VALUE: mark: .*the device has {99 * 1024}"):
        kernel.max_dynamic_shared_size_bytes = 99 * 1024 + 1
    assert kernel.max_dynamic_shared_size_bytes == 48 * 1024 - STATIC
    with cupy_on_cpu(shared_memory_optin=8 * 1024), pytest.warns(UserWarning, match="reduced from 1 to 0"):
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="no block fits"):
            kernel((1,), (32,), (cupy.zeros(1, "int32"),), shared_mem=8 * 1024)


def test_memory_is_set_byte_by_byte(cupy):
    a = cupy.zeros(6, "uint32")
    stream = cupy.cuda.get_current_stream().ptr
    cupy.cuda.runtime.memsetAsync(a.data.ptr + 4, 0xFF, 12, stream)
    np.testing.assert_array_equal(a.get(), [0, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0])
    cupy.cuda.runtime.memsetAsync(a.data.ptr, 0, 0, stream)
    with pytest.raises(InvalidMemory, match="memsetAsync: 25 bytes"):
        cupy.cuda.runtime.memsetAsync(a.data.ptr, 0, 25, stream)


def test_memory_is_copied_within_the_device(cupy):
    source, target = cupy.asarray(np.arange(6, dtype="int32")), cupy.zeros(4, "int32")
    runtime, stream = cupy.cuda.runtime, cupy.cuda.get_current_stream().ptr
    runtime.memcpyAsync(target.data.ptr + 4, source.data.ptr + 12, 12, runtime.memcpyDeviceToDevice, stream)
    np.testing.assert_array_equal(target.get(), [0, 3, 4, 5])
    with pytest.raises(InvalidMemory, match="memcpyAsync: 20 bytes"):
        runtime.memcpyAsync(target.data.ptr, source.data.ptr, 20, runtime.memcpyDeviceToDevice, stream)
    with pytest.raises(ValueError, match="kind must be memcpyDeviceToHost or memcpyDeviceToDevice"):
        runtime.memcpyAsync(target.data.ptr, source.data.ptr, 4, 1, stream)


def test_rows_are_copied_within_the_device(cupy):
    source, target = cupy.asarray(np.arange(12, dtype="int32").reshape(3, 4)), cupy.zeros((3, 2), "int32")
    runtime, stream = cupy.cuda.runtime, cupy.cuda.get_current_stream().ptr
    within = runtime.memcpyDeviceToDevice
    runtime.memcpy2DAsync(target.data.ptr, 8, source.data.ptr + 4, 16, 8, 3, within, stream)
    np.testing.assert_array_equal(target.get(), [[1, 2], [5, 6], [9, 10]])
    with pytest.raises(InvalidMemory, match="memcpy2DAsync: "):
        runtime.memcpy2DAsync(target.data.ptr, 8, source.data.ptr + 12, 16, 8, 3, within, stream)
    with pytest.raises(ValueError, match="InvalidPitch"):
        runtime.memcpy2DAsync(target.data.ptr, 8, source.data.ptr, 16, 12, 2, within, stream)


def test_memory_is_copied_to_pinned_memory(cupy):
    source, pinned = cupy.asarray(np.arange(6, dtype="int32")), cupy.cuda.alloc_pinned_memory(8)
    runtime, stream = cupy.cuda.runtime, cupy.cuda.get_current_stream().ptr
    runtime.memcpyAsync(pinned.ptr, source.data.ptr + 8, 8, runtime.memcpyDeviceToHost, stream)
    np.testing.assert_array_equal(np.frombuffer(pinned, np.int32, 2), [2, 3])
    with pytest.raises(InvalidMemory, match="pinned memory"):
        runtime.memcpyAsync(source.data.ptr, source.data.ptr, 4, runtime.memcpyDeviceToHost, stream)


def test_pinned_memory_is_for_numpy_to_look_at(cupy):
    pinned = cupy.cuda.alloc_pinned_memory(12)
    values = np.frombuffer(pinned, np.uint32, 3)
    assert np.frombuffer(pinned, np.uint8).size > 12
    assert values.ctypes.data == pinned.ptr
    assert values.all()  # not cleared
    cupy.arange(3, dtype="uint32").get(out=values, blocking=False)
    np.testing.assert_array_equal(values, [0, 1, 2])


def test_what_is_asked_for_on_another_stream_than_the_current_one_is_refused(cupy):
    """On a GPU nothing would order it after what went before."""
    a, b, runtime = cupy.zeros((2, 2), "float32"), cupy.ones((2, 2), "float32"), cupy.cuda.runtime
    held, other = cupy.empty(1024, "uint8"), cupy.cuda.Stream(non_blocking=True)
    of_other = own_cublas.OwnGemm(0, "float32", other.ptr, held)
    for asked in (
        lambda: runtime.memsetAsync(a.data.ptr, 0, 4, other.ptr),
        lambda: runtime.memcpyAsync(a.data.ptr, b.data.ptr, 4, runtime.memcpyDeviceToDevice, other.ptr),
        lambda: runtime.memcpy2DAsync(a.data.ptr, 8, b.data.ptr, 8, 4, 2, runtime.memcpyDeviceToDevice, other.ptr),
        lambda: of_other(matrix(b), matrix(b), matrix(a)),
    ):
        with pytest.raises(RuntimeError, match="is asked for on stream"):
            asked()
        with other:
            asked()
    assert (a.get() == 2).all()
