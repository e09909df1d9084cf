"""Lesson 13: which thread of a warp asks for what, drawn from the simulator's own notes."""

import numpy as np

from lab import figures, kernels

SECTOR = 8  # float32 numbers
READ = """
extern "C" __global__ void read(const float* x, float* y, int stride) {
    y[threadIdx.x] = x[threadIdx.x * stride];
}
"""


def one_warp_reads(stride: int):
    """A warp reads every ``stride``-th number. A figure and its alt text."""
    kernel = kernels.simulate(READ)
    kernel(1, 32, np.ones(32 * stride, "float32"), np.ones(32, "float32"), np.int32(stride))
    return drawn(kernel, "x")


def sectors_of_stride(stride: int) -> float:
    """Sectors that a warp's request takes if its threads read every ``stride``-th number."""
    kernel = kernels.simulate(READ)
    kernel(1, 32, np.ones(32 * stride, "float32"), np.ones(32, "float32"), np.int32(stride))
    return kernel.counts.sectors_per_request("x")


def drawn(kernel, array: str, rows: int = 16):
    """The first request of the first warp to ``array``, with a line between sectors. A figure and its alt text."""
    figure = kernel.draw(array)
    axes = figure.axes[0]
    shown = min(rows, round(axes.get_ylim()[0]))
    for place in range(0, 33, SECTOR):
        axes.axvline(place, color="black", linewidth=2)
    axes.set_ylim(shown, 0)
    axes.set_xlabel("")
    figure.set_size_inches(10, 0.32 * shown + 0.9)
    mine = kernel.accesses[(kernel.accesses["array"] == array) & (kernel.accesses["warp"] == 0)]
    mine = mine[mine["request"] == mine["request"][0]]
    sectors = len(np.unique(mine["element"] // SECTOR))
    first = ", ".join(str(element) for element in mine["element"][:4])
    rest = "No element in them is unwanted."
    if sectors * SECTOR > len(mine):
        rest = "The other elements of these sectors are hatched: they come along, and this request does not want them."
    alt = f"""Squares are elements of {array}, 32 in a row, with a thick line after every 8: a sector. The 32 threads of
    one warp stand in the elements that they ask for; the first four ask for {first}. They touch {sectors} sectors.
    {rest}"""
    return figure, alt


def show_accesses(source: str, arrange) -> None:
    """Draws how a cell update kernel reads its gates, from 32 rows of 32 hidden units; says it if that cannot be."""
    from lab.lessons.lesson_13 import a_step

    *gates, c = a_step(32, 32)
    try:
        kernel = kernels.simulate(source)
        array = np.ascontiguousarray(arrange(*gates), "float32")
        kernel(8, 128, array.ravel(), c, c.copy(), c.copy(), np.int32(c.size), np.int32(32))
        if not kernel.counts.requests("gates"):
            print("This kernel does not touch an array called gates.")
            return
    except (kernels.KernelError, ValueError, TypeError) as error:
        print("Nothing to draw yet:", error)
        return
    figures.show(*drawn(kernel, "gates", rows=4))
