"""How fast the GPU reads, copies and multiplies."""

from functools import partial

import numpy as np

from benchmarks.gpu import Gpu, Report

TERA = 1e-12
TILES, COLUMNS = 4, 2  # as in mma_rates.cu
WARPS = 16
L2_THREADS = 1024
VECTOR = 16  # bytes

# name -> (floating-point operations of a warp in a round, rounds)
RATES = {
    "mma_tf32": (TILES * COLUMNS * 2 * 16 * 8 * 8, 20_000),
    "mma_fp32_by_three_tf32": (TILES * 2 * 16 * 8 * 8, 10_000),
    "mma_fp16": (TILES * COLUMNS * 2 * 16 * 8 * 16, 20_000),
    "mma_bf16": (TILES * COLUMNS * 2 * 16 * 8 * 16, 20_000),
    "fma_fp32": (32 * 2 * 32, 20_000),
}


def l2(gpu: Gpu, report: Report) -> None:
    blocks = gpu.multiprocessors
    sizes = {
        "all SMs read the same 100 KB": (100 * 1024 // VECTOR, False, 201),
        "all SMs read the same 4 MB": (4 * 1024 * 1024 // VECTOR, False, 7),
        "each SM reads its part of 30 MB": (30_000_000 // blocks // VECTOR, True, 101),
    }
    for name, (vectors, apart, passes) in sizes.items():
        report.measure(
            f"L2, {name}",
            "TB/s",
            partial(_l2, gpu, vectors, apart, passes),
            vectors=vectors,
            passes=passes,
        )


def _l2(gpu: Gpu, vectors: int, apart: bool, passes: int) -> list[float]:
    """``vectors`` are read by each block, of its own or the same, ``passes`` times, an odd number."""
    blocks = gpu.multiprocessors
    kernel = gpu.kernel("l2_read", shared=gpu.one_each)
    parts = blocks if apart else 1
    host = np.random.default_rng(0).integers(0, 2**32, (parts, vectors * 4), dtype=np.uint32)
    data, sums = gpu.cupy.asarray(host), gpu.empty(blocks, L2_THREADS)
    args = (data, sums, np.int32(vectors), np.int32(vectors if apart else 0), np.int32(passes))
    seconds = gpu.seconds(lambda: kernel(blocks, L2_THREADS, args))
    found = np.bitwise_xor.reduce(sums.get(), axis=1)
    if not (found == np.bitwise_xor.reduce(host, axis=1)).all():
        raise ValueError(f"wrong sums of the words that were read: {found}")
    return [blocks * vectors * VECTOR * passes / s * TERA for s in seconds]


def hbm(gpu: Gpu, report: Report) -> None:
    size = min(4 << 30, gpu.runtime.memGetInfo()[0] // 4)
    report.measure("HBM copy, bytes read and written", "TB/s", lambda: _copy(gpu, size), bytes=size)


def _copy(gpu: Gpu, size: int) -> list[float]:
    from_, to = gpu.empty(size, dtype="uint8", fill=1), gpu.empty(size, dtype="uint8")
    seconds = gpu.seconds(lambda: to.data.copy_from_device_async(from_.data, size, gpu.stream))
    if to[-1:].get()[0] != 1:
        raise ValueError("the copy did not arrive")
    return [2 * size / s * TERA for s in seconds]


def gemm(gpu: Gpu, report: Report, size: int = 8192) -> None:
    generator = np.random.default_rng(0)
    a, b = (2 * generator.random((size, size), np.float32) - 1 for _ in range(2))
    for name in ("float32", "TF32", "float16", "bfloat16"):
        report.measure(f"cuBLAS, {name}, {size}^3", "TFLOP/s", partial(_gemm, gpu, name, a, b))


def stored(name: str, x: np.ndarray) -> np.ndarray:
    """float32 values in the memory format of a GEMM; bfloat16, cut off, as integers of 16 bits."""
    if name == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(np.float16) if name == "float16" else x


def values(name: str, x: np.ndarray) -> np.ndarray:
    """What `stored` numbers mean, in float64."""
    if name == "bfloat16":
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def _gemm(gpu: Gpu, name: str, a: np.ndarray, b: np.ndarray) -> list[float]:
    """Row-major a @ b, which is b^T @ a^T for the column-major cuBLAS. All add up in float32."""
    cublas = gpu.cupy.cuda.cublas
    kinds = {"float32": 0, "TF32": 0, "float16": 2, "bfloat16": 14}  # of cudaDataType
    compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if name == "TF32" else cublas.CUBLAS_COMPUTE_32F
    kind, size = kinds[name], len(a)
    a, b = stored(name, a), stored(name, b)
    device_a, device_b = gpu.cupy.asarray(a), gpu.cupy.asarray(b)
    out = gpu.empty(size, size, dtype=a.dtype.name)
    one, zero = np.array(1, np.float32), np.array(0, np.float32)
    handle = gpu.cupy.cuda.device.get_cublas_handle()

    def launch() -> None:
        n = cublas.CUBLAS_OP_N
        factors = (device_b.data.ptr, kind, size, device_a.data.ptr, kind, size)
        result = (out.data.ptr, kind, size, compute, cublas.CUBLAS_GEMM_DEFAULT)
        cublas.gemmEx(handle, n, n, size, size, size, one.ctypes.data, *factors, zero.ctypes.data, *result)

    seconds = gpu.seconds(launch)
    found = values(name, out[0].get())[:8]
    expected = values(name, a[0]) @ values(name, b[:, :8])
    if not np.allclose(found, expected, rtol=0.02, atol=0.02 * size**0.5):
        raise ValueError(f"wrong product: expected {expected}, got {found}")
    return [2 * size**3 / s * TERA for s in seconds]


def mma(gpu: Gpu, report: Report) -> None:
    for name in RATES:
        report.measure(f"registers only, all SMs: {name}", "TFLOP/s", partial(_rate, gpu, name))


def _rate(gpu: Gpu, name: str) -> list[float]:
    operations, rounds = RATES[name]
    kernel = gpu.kernel(name, shared=gpu.one_each)
    blocks = gpu.multiprocessors
    result = gpu.empty(blocks, WARPS * 32, dtype="float32")
    seconds = gpu.seconds(lambda: kernel(blocks, WARPS * 32, (result, np.int32(rounds))))
    if not np.isfinite(result.get()).all() or not result.get().any():
        raise ValueError("the sums are not finite, or all are zero")
    return [operations * rounds * WARPS * blocks / s * TERA for s in seconds]
