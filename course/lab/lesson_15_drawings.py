"""Lesson 15: what goes through memory, as a diagram, as a timeline of bytes, and under a roofline."""

import matplotlib.pyplot as plt
import numpy as np

from lab import figures, kernels

# Measured on one NVIDIA H200: benchmarks/results/notes.md, "Floors".
H200_BYTES = 4.30e12  # a second, copied in its memory
H200_FLOPS = 53e12  # a second, float32, multiply-adds from registers


def through_memory():
    """Four kernels that hand their results on through memory, beside one that keeps them. A figure and its alt text."""
    diagram = figures.Diagram(10.4, 3.1)
    diagram.box("memory", 5.2, 0.45, "", width=10.2, height=0.6, shade=1, round_=False)
    diagram.text(5.2, 0.33, "memory", size=10)
    steps = [("activate", "a", "i f g o"), ("update_cell", "i f g c", "c'"), ("squash", "c'", "tanh c'")]
    steps.append(("show", "o, tanh c'", "h"))
    for number, (name, reads, writes) in enumerate(steps):
        _kernel(diagram, 1.0 + 1.85 * number, name, reads, writes)
    _kernel(diagram, 9.25, "lstm_step", "a c", "c' h", shade=2)
    diagram.axes.axvline(8.05, ymin=0.28, ymax=0.97, color="0.5", linestyle=":")
    alt = """Below, a bar: memory. Above it four boxes side by side, kernels, each with one arrow up, what it
    reads, and one down, what it writes. activate reads a and writes i, f, g, o. update_cell reads i, f, g and c
    and writes the new c. squash reads the new c and writes its tanh. show reads o and that tanh, and writes h. To
    the right of a dotted line stands a single box, lstm_step: it reads a and c, and writes the new c and h."""
    return diagram.figure, alt


def _kernel(diagram, x, name, reads, writes, shade=0):
    diagram.box(name, x, 2.55, name, width=1.5, height=0.6, shade=shade)
    diagram.arrow((x - 0.38, 0.75), (x - 0.38, 2.25))
    diagram.arrow((x + 0.38, 2.25), (x + 0.38, 0.75), line="--")
    diagram.text(x - 0.38, 1.25, reads, size=9, background=True)
    diagram.text(x + 0.38, 1.75, writes, size=9, background=True)


def timeline(*lanes):
    """Lanes of (title, [(kernel, loads, stores), ...]), per hidden unit: bytes from left to right. A figure and its
    alt text."""
    figure, axes = plt.subplots(figsize=(9.6, 0.9 + 0.95 * len(lanes)))
    told = []
    for row, (title, parts) in enumerate(lanes):
        end = 0
        for name, loads, stores in parts:
            begin = end
            for many, shade, hatch in ((loads, "white", ""), (stores, figures.GREYS[1], "////")):
                axes.barh(-row, 4 * many, 0.5, end, facecolor=shade, hatch=hatch, edgecolor="black", linewidth=0.7)
                end += 4 * many
            axes.plot([begin, begin], [-row - 0.34, -row + 0.34], color="black", linewidth=3, linestyle="-")
            axes.text(begin + 0.4, -row + 0.33, name, ha="left", va="bottom", fontsize=9)
        launches = "1 launch" if len(parts) == 1 else f"{len(parts)} launches"
        axes.text(end + 0.8, -row, f"{end:.0f} bytes, {launches}", ha="left", va="center", fontsize=9)
        each = ", ".join(f"{name} {4 * loads:.0f} read and {4 * stores:.0f} written" for name, loads, stores in parts)
        told.append(f"{title}: {each}, together {end:.0f} bytes in {launches}.")
    axes.set_yticks([-row for row in range(len(lanes))], [title for title, _ in lanes])
    axes.set(
        xlim=(-0.6, 92), ylim=(0.4 - len(lanes), 0.75), xlabel="bytes for each hidden unit, one kernel after another"
    )
    axes.tick_params(axis="y", length=0)
    alt = f"""Bars from left to right, the longer the more bytes go through memory for a hidden unit; plain is
    read, hatched is written, and a thick stroke is a launch. {" ".join(told)}"""
    return figure, alt


def per_unit(counts, units: int) -> tuple[float, float]:
    return counts.loads() / units, counts.stores() / units


def counted(source: str):
    """The learner's kernel with 32 rows of 32 units in the simulator: its counts, or None, which is explained."""
    from lab.lessons.lesson_15 import a_step

    a, c = a_step(32, 32)
    try:
        kernel = kernels.simulate(source)
        kernel(8, 128, a, c, c.copy(), c.copy(), np.int32(c.size), np.int32(32))
        if kernel.counts.loads() and kernel.counts.stores():
            return kernel.counts
        print("Nothing to draw yet: the kernel reads or writes nothing.")
    except (kernels.KernelError, ValueError, TypeError) as error:
        print("Nothing to draw yet:", error)
    return None


def product_intensity(batch: int, hidden: int = 1024) -> float:
    """Operations for each byte of h @ weight_hh.T in float32, if each number is moved once."""
    operations = 2 * batch * 4 * hidden * hidden
    return operations / (4 * (4 * hidden * hidden + batch * hidden + batch * 4 * hidden))


def roofline(points: dict[str, float], batch: int = 32):
    """The H200's measured roof, ``points`` as name: operations for each byte, and the matrix product at ``batch``. A
    figure and its alt text."""
    figure, axes = plt.subplots(figsize=(8.4, 3.8))
    ridge = H200_FLOPS / H200_BYTES
    x = np.geomspace(0.1, 200, 400)
    axes.loglog(x, np.minimum(x * H200_BYTES, H200_FLOPS) / 1e12, color="black", linewidth=2)
    axes.axvline(ridge, color="0.5", linestyle=":", linewidth=1)
    axes.text(ridge * 0.93, 0.33, f"{ridge:.0f}", ha="right", fontsize=9)
    axes.text(0.105, 1.3, "memory is the limit", rotation=26, fontsize=9, rotation_mode="anchor")
    axes.text(190, 62, "arithmetic is the limit", ha="right", fontsize=9)
    points = {**points, f"matrix product, batch {batch}": product_intensity(batch)}
    told = []
    for (name, intensity), marker in zip(points.items(), "sD^o", strict=False):
        height = min(intensity * H200_BYTES, H200_FLOPS) / 1e12
        axes.plot(intensity, height, marker, color="black", markersize=9, markerfacecolor="white", linestyle="none")
        axes.annotate(name, (intensity, height), (9, -13), textcoords="offset points", fontsize=9)
        told.append(f"{name}, {intensity:.2g} operations for each byte, at most {height:.2g} trillion a second")
    axes.set(
        xlim=(0.1, 200), ylim=(0.25, 120), xlabel="operations for each byte", ylabel="$10^{12}$ operations a second"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    alt = f"""Both axes are logarithmic: operations for each byte against the most operations a second. A line
    rises with the bandwidth until {ridge:.0f} operations a byte and is flat from there on, at 53 trillion. Points
    on it: {"; ".join(told)}."""
    return figure, alt
