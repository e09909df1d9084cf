"""What a bug report needs."""

import platform
import sys

from . import blas

PACKAGES = (
    *("numpy", "array-api-compat", "cupy-cuda12x", "cupy-cuda13x", "ml_dtypes"),
    *("torch", "jax", "onnx", "safetensors"),
)
NOT_COMPILED = "a proj_size that is not folded into weight_hh"


def show_config() -> None:
    """Prints versions, the GPU, which engine takes which arrays, and whether the kernels compile.

    This is the one function here that imports cupy by itself, because the question is whether it works.
    """
    print("\n".join(report()))


def report() -> list[str]:
    """The lines of `show_config`."""
    from . import __version__

    lines = [f"gpulstm {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    products, *advice = blas.lines()
    lines += [f"NumPy arrays: {_cpu()}; {products}", *advice, *_cupy_lines()]
    lines.append("other array-API arrays: the equations, in that library's own operations")
    return lines


def _version(package: str) -> str | None:
    from importlib import metadata  # a tenth of a second, which importing this package need not take

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    from .native import library

    found = library.load()
    if found is None:
        return f"NumPy engine; no compiled one: {library.why_not()}"
    return f"compiled for this processor, {found.threads} threads; NumPy engine for {NOT_COMPILED}"


def _cupy_lines() -> list[str]:
    try:
        import cupy
    except ImportError as error:
        reason = str(error).splitlines()[0] if "cupy" in sys.modules or _has_cupy() else "cupy is not installed"
        return [f"CuPy arrays: none; {reason}"]
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy has one exception type for each CUDA library
        return [f"CuPy arrays: none; CuPy {cupy.__version__} finds no GPU: {error}"]
    lines = [
        f"CuPy arrays: CuPy engine; CUDA runtime {_cuda(cupy.cuda.runtime.runtimeGetVersion())}, "
        f"driver {_cuda(cupy.cuda.runtime.driverGetVersion())}"
    ]
    for number in range(count):
        lines.append(f"GPU {number}: {_gpu(cupy, number)}; kernels {_compiles(cupy, number)}")
    return lines


def _has_cupy() -> bool:
    return any(_version(name) for name in ("cupy", "cupy-cuda12x", "cupy-cuda13x"))


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _gpu(cupy, number: int) -> str:
    found = cupy.cuda.runtime.getDeviceProperties(number)
    name = found["name"].decode() if isinstance(found["name"], bytes) else found["name"]
    memory = found["totalGlobalMem"] / 2**30
    return f"{name}, compute capability {found['major']}.{found['minor']}, {memory:.1f} GiB"


def _compiles(cupy, number: int) -> str:
    """Compiles one small kernel for the device, and says what went wrong if it did."""
    from .cuda.modules import kernel

    try:
        with cupy.cuda.Device(number):
            kernel("sigmoid", "float32")
    except Exception as error:  # whatever it is, it belongs in the report
        return f"do not compile: {type(error).__name__}: {error}"
    return "compile"
