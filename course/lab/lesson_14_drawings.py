"""Lesson 14: the tree of a reduction, drawn from the accesses to shared memory that the simulator has noted."""

import numpy as np

from lab import figures, kernels

TREE = """
extern "C" __global__ void tree(const float* x, float* total) {
    __shared__ float part[8];
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();
    }
    if (t == 0) total[0] = part[0];
}
"""
WIDE, HIGH, BOX = 1.15, 1.3, 0.42  # of a place, of a round, and a box's height


def picture():
    """The tree that sums eight numbers. A figure and its alt text."""
    kernel = kernels.simulate(TREE)
    kernel(1, 8, np.arange(8, dtype="float32"), np.zeros(1, "float32"))
    return tree(kernel)


def show_tree(kernel, *, step: int = 1) -> None:
    """Draws the tree of the kernel's last launch. ``step`` is how far apart the places lie, 32 in part[8][32]."""
    made = tree(kernel, step=step)
    if made is None:
        print("No tree to draw yet: thread 0 has added nothing from another place of part.")
    else:
        figures.show(*made)


def show_column_tree(source: str) -> None:
    """Draws how a column sum kernel folds its first column, from 19 rows of 40 columns; says it if that cannot be."""
    matrix, sums = np.ones((19, 40), "float32"), np.zeros(40, "float32")
    try:
        kernel = kernels.simulate(source)
        kernel(2, (32, 8), matrix, sums, np.int32(19), np.int32(40), strict=False, limit=20_000)
    except kernels.KernelError as error:
        print("Nothing to draw yet:", error)
        return
    show_tree(kernel, step=32)


def additions(kernel, step: int) -> list[list[tuple[int, int]]]:
    """Round by round which place was added to which: [[(from, to), ...], ...]."""
    seen = kernel.accesses
    seen = seen[(seen["array"] == "part") & (seen["block"] == 0) & (seen["thread"] % step == 0)]
    seen = seen[seen["element"] % step == 0]
    by_distance: dict[int, list[tuple[int, int]]] = {}
    for one in seen[seen["kind"] == "load"]:
        own, other = int(one["thread"]) // step, int(one["element"]) // step
        if other != own:
            by_distance.setdefault(other - own, []).append((other, own))
    return list(by_distance.values())


def missing(kernel) -> tuple[bool, bool]:
    """Whether the simulator misses a barrier before the first round, and one between the rounds."""
    races = [found.message for found in kernel.findings if found.kind == "race" and "part" in found.message]
    between = any("in the same line" in message for message in races)
    return any("in the same line" not in message for message in races), between


def tree(kernel, *, step: int = 1):
    """A figure and its alt text, or None if nothing was added."""
    rounds = additions(kernel, step)
    if not rounds:
        return None
    first, between = missing(kernel)
    places = 1 + max(max(pair) for pair in rounds[0])
    diagram = figures.Diagram(places * WIDE + 2.6, len(rounds) * HIGH + 1.0, scale=0.8)
    height = len(rounds) * HIGH + 0.5
    for place in range(places):
        diagram.box(f"0:{place}", (place + 0.5) * WIDE, height, f"part[{place}]", height=BOX, size=8)
    for number, pairs in enumerate(rounds, 1):
        _round(diagram, number, pairs, height - number * HIGH)
        lacking = first if number == 1 else between
        _barrier(diagram, height - (number - 0.5) * HIGH, places * WIDE, lacking)
    diagram.axes.set_xlim(0, places * WIDE + 2.6)
    return diagram.figure, _said(rounds, places, first, between)


def _round(diagram, number: int, pairs: list[tuple[int, int]], height: float) -> None:
    for other, own in pairs:
        diagram.box(f"{number}:{own}", (own + 0.5) * WIDE, height, f"part[{own}]", height=BOX, size=8, shade=1)
        for place in (own, other):
            source = next(f"{n}:{place}" for n in range(number - 1, -1, -1) if f"{n}:{place}" in diagram.boxes)
            x, y = diagram.boxes[source][:2]
            end = (own + 0.5) * WIDE + (0.0 if place == own else 0.25), height + BOX / 2
            diagram.arrow((x, y - BOX / 2), end, line="-" if place == own else "--")


def _barrier(diagram, height: float, width: float, lacking: bool) -> None:
    style = (
        {"color": "0.4", "linewidth": 1.5, "linestyle": ":"}
        if lacking
        else {"color": "0.4", "linewidth": 4, "linestyle": "-"}
    )
    diagram.axes.plot([0, width], [height, height], zorder=1, **style)
    label = "no barrier: a race" if lacking else "__syncthreads()"
    diagram.axes.text(width + 0.15, height, label, ha="left", va="center", fontsize=9)


def _said(rounds, places: int, first: bool, between: bool) -> str:
    sums = "; ".join(
        f"round {number}: " + ", ".join(f"part[{other}] to part[{own}]" for other, own in sorted(pairs))
        for number, pairs in enumerate(rounds, 1)
    )
    lacks = [where for where, is_so in (("before the first round", first), ("between the rounds", between)) if is_so]
    lines = "Before every round a thick line goes across, a barrier."
    if lacks:
        lines = f"A dotted line marks where a barrier is missing: {' and '.join(lacks)}."
    return f"""A tree over {places} places of shared memory, the array part. Arrows show what is added to what. {sums}.
    {lines}"""
