"""NVRTC without a GPU, through CuPy's binding: CUDA source to PTX."""

import importlib.util
from functools import cache
from pathlib import Path

from .tf32_rounding import rounded

AS_CUPY_DOES = ("-ftz=true",)


class NvrtcMissing(RuntimeError):
    """There is no CuPy, or it finds no NVRTC."""


@cache
def binding():
    """(module, "") or (None, why not). To be called first while `import cupy` means CuPy."""
    try:
        import cupy  # noqa: F401 - it finds the library
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # ImportError without CuPy; what CuPy raises without the library differs by version
        return None, f"{type(error).__name__}: {error}"
    return nvrtc, ""


@cache
def include_options() -> tuple[str, ...]:
    """The headers that the wheels of CUDA bring, for kernels that include cuda_bf16.h and the like."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else []
    return tuple(f"-I{path}" for folder in folders for path in sorted(Path(folder).glob("*/include")))


def version() -> str:
    """Of NVRTC. Raises NvrtcMissing."""
    return ".".join(map(str, _required().getVersion()))


def ptx(source: str, options: tuple[str, ...], architecture: str) -> str:
    """The PTX of ``source`` for compute capability ``architecture`` ("90"), with the lines of the source in it; with
    `tf32_rounding.ROUNDING` behind it ("90 with rounding"), of a GPU that rounds operands of TF32.

    Raises NvrtcMissing, or ValueError with the compiler's message.
    """
    nvrtc = _required()
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    capability, _, rounding = architecture.partition(" ")
    target = (f"--gpu-architecture=compute_{capability}", "--generate-line-info")
    try:
        nvrtc.compileProgram(program, (*target, *AS_CUPY_DOES, *options, *include_options()))
        text = nvrtc.getPTX(program)
        text = text.decode() if isinstance(text, bytes) else text
        return rounded(text) if rounding else text
    except nvrtc.NVRTCError as error:
        raise ValueError(f"{error}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)


def _required():
    nvrtc, reason = binding()
    if nvrtc is None:
        raise NvrtcMissing(f'{reason}; the PTX of the kernels needs it: pip install "gpulstm[kernelcheck]"')
    return nvrtc
