"""Kernels of lessons 12 to 14: gpulstm's own as text, and the learner's as their checks launch it."""

import re

import numpy as np

from lab import kernels
from lab.kinds import Stop, look

FEW_ROUNDS = 20_000  # of loops a thread: enough for any answer, and soon over for one that never ends


def library_kernel(file: str, **switches: int) -> str:
    """The text of a file of kernels/ for float32, with its headers in place and its #if lines decided.

    kernels.kernel(library_kernel("elementwise.cu"), "sigmoid") runs it; ``switches`` are DY=1 and the like, else 0.
    """
    from gpulstm.cuda import sources

    lines, stack = ["#define REAL float"], []
    for line in sources.read(file).split("\n"):
        if found := re.match(r"\s*#if (\w+)", line):
            stack.append(bool(switches.get(found[1], 0)))
        elif re.match(r"\s*#else", line):
            stack[-1] = not stack[-1]
        elif re.match(r"\s*#endif", line):
            stack.pop()
        elif all(stack) and not line.startswith("#line"):
            lines.append(line)
    return "\n".join(lines)


def told(*findings) -> str:
    """The simulator's first finding in one line."""
    found = findings[0]
    place = f"Line {found.line}, {found.text} - " if found.line and found.text else ""
    return " ".join(f"{place}{found.message}".split())


def build(source: str, name: str):
    """The kernel in the simulator; ends the check where it is not C."""
    try:
        return kernels.simulate(source)
    except kernels.KernelError as error:
        raise Stop(look(f"{name} is not a kernel yet. {told(*error.findings)}")) from None


def launch(kernel, grid, block, *arguments, order="in order") -> tuple:
    """Launches it and goes on after mistakes, which it returns; ends the check where it cannot even begin."""
    try:
        kernel(grid, block, *arguments, strict=False, order=order, limit=FEW_ROUNDS)
    except kernels.KernelError as error:
        if error.findings[0].kind == "launch":
            raise Stop(look(told(*error.findings))) from None
        return error.findings
    return kernel.findings


def gpu_differs(source: str, grid, block, *arguments, rtol=1e-5, atol=1e-6) -> str:
    """Nothing where there is no GPU, or it computes what the simulator has put into ``arguments``; else what is wrong.

    The last of ``arguments`` is a dict of the arrays that the kernel writes, by name; it gets fresh ones.
    """
    *arguments, written = arguments
    on_gpu = kernels.kernel(source)
    if on_gpu.on != "gpu":
        return ""
    import cupy

    fresh = {id(array): cupy.full(array.shape, -7, array.dtype) for array in written.values()}
    handed = [fresh.get(id(one), cupy.asarray(one) if isinstance(one, np.ndarray) else one) for one in arguments]
    try:
        on_gpu(grid, block, *handed)
    except kernels.KernelError as error:
        return told(*error.findings)
    for name, array in written.items():
        if not np.allclose(fresh[id(array)].get(), array, rtol=rtol, atol=atol, equal_nan=True):
            return (
                f"{name} is right in the simulator, and the GPU has other numbers: does a thread lean on another one?"
            )
    return ""
