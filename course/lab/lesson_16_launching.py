"""Lesson 16: the LSTM's loop over time in NumPy, launches that the check and the lesson share, and the picture."""

import numpy as np

from lab import figures, kernels
from lab.kinds import Stop, look
from lab.lesson_12_launching import FEW_ROUNDS, told


def with_hidden(source: str, hidden: int) -> str:
    """``source`` with HIDDEN as a number that the compiler knows. It goes in front of line 1, which stays line 1."""
    between = "" if source.startswith("\n") else "\n"
    return f"#define HIDDEN {hidden}{between}{source}"


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def forward_loop(a, weight_hh):
    """Lesson 08's forward pass for one sequence from zero states: a (time, 4*hidden) is W_ih x + b; gives every h."""
    hidden = weight_hh.shape[1]
    h = c = np.zeros(hidden)
    shown = []
    for now in a.astype("float64"):
        i, f, g, o = (now + weight_hh.astype("float64") @ h).reshape(4, hidden)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        shown.append(h)
    return np.array(shown)


def random_layer(steps: int, hidden: int, seed: int = 0):
    """a (steps, 4*hidden) and weight_hh (4*hidden, hidden), float32."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(steps, 4 * hidden)).astype("float32")
    return a, rng.normal(scale=1 / np.sqrt(hidden), size=(4 * hidden, hidden)).astype("float32")


def launch_all(source: str, a, weight_hh, threads: int, on=None, order: str = "in order", strict: bool = True):
    """One launch of the learner's kernel for all steps: h (steps + 1, hidden), whose row 0 is zero, and the kernel."""
    steps, hidden = len(a), weight_hh.shape[1]
    kernel = kernels.kernel(with_hidden(source, hidden), on=on)
    numbers = np
    if kernel.on == "gpu":
        import cupy as numbers
    h = numbers.zeros((steps + 1, hidden), dtype="float32")
    handed = (numbers.asarray(a), numbers.asarray(weight_hh), h, np.int32(steps))
    kernel(-(-hidden // threads), threads, *handed, strict=strict, order=order, limit=FEW_ROUNDS)
    return (h if kernel.on != "gpu" else h.get()), kernel


def tried(source: str, a, weight_hh, threads: int, **settings):
    """`launch_all`, whose mistakes end the check."""
    try:
        h, kernel = launch_all(source, a, weight_hh, threads, **settings)
    except kernels.KernelError as error:
        raise Stop(look(told(*error.findings))) from None
    return h, kernel


def where_weights_live(steps: int):
    """For each of ``steps`` a launch that fetches the weights, against one launch that keeps them. A figure and alt."""
    width = max(6.0, 1.75 * steps + 1.6)
    diagram = figures.Diagram(width, 5.4)
    for base, persistent in ((2.95, False), (0.15, True)):
        _half(diagram, base, steps, width, persistent)
    alt = f"""Two rows of {steps} time steps, each above a bar that is the GPU's memory, which holds the
    weights. In the upper row each step is a launch of its own: a thick arrow of weights goes up from memory to
    each of the {steps} steps, and c goes down to memory and up again between them, as h does. In the lower row
    one long box, a single launch, spans all steps. Only at its left end does a thick arrow of weights go up,
    once; weights and c stay inside. Between the steps stand {steps - 1} dotted vertical lines, grid barriers, and
    only h goes down and up at each."""
    return diagram.figure, alt


def _half(diagram, base, steps, width, persistent):
    name = "one launch" if persistent else "a launch for each step"
    diagram.box(f"memory{base}", width / 2, base + 0.25, "", width=width - 0.2, height=0.4, shade=1, round_=False)
    diagram.text(width / 2, base + 0.25, "memory: weights, h" if persistent else "memory: weights, h, c", size=9)
    diagram.text(width / 2, base + 2.28, name, size=11)
    if persistent:
        diagram.box("launch", width / 2 + 0.3, base + 1.65, "", width=width - 1.0, height=0.95, round_=False)
        diagram.arrow((0.35, base + 0.45), (0.35, base + 1.65), width=4)
        diagram.arrow((0.35, base + 1.65), (0.82, base + 1.65), width=4)
        diagram.text(0.35, base + 0.95, "weights", size=9, background=True)
    for t in range(steps):
        x = 1.75 * (t + 0.5) + 1.0
        inside = f"step {t}\nweights, c" if persistent else f"step {t}\nlaunch {t}"
        diagram.box(
            f"{base}step{t}", x, base + 1.65, inside, width=1.15, height=0.7, shade=0 if persistent else 2, size=9
        )
        if not persistent:
            diagram.arrow((x - 0.35, base + 0.45), (x - 0.35, base + 1.3), width=4)
            diagram.text(x - 0.35, base + 0.78, "weights", size=8, background=True)
        if t == steps - 1:
            continue
        middle, what = x + 0.875, "h" if persistent else "h, c"
        diagram.arrow((x + 0.42, base + 1.3), (middle - 0.06, base + 0.45), line="--")
        diagram.arrow((middle + 0.06, base + 0.45), (x + 1.75 - (0.42 if persistent else 0.5), base + 1.3), line="--")
        diagram.text(middle, base + 0.95, what, size=9)
        if persistent:
            diagram.axes.plot([middle, middle], [base + 1.2, base + 2.1], color="black", linestyle=":", linewidth=2.5)
